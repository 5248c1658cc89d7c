"""`shoal log-level`: how much a process logs, changed while it runs."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from shoal.admin.connection import AdminConnection
from shoal.admin.survey import fetch_shard_map
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import DEFAULT_URL, UrlOption, admin_options
from shoal.cli.output import print_line
from shoal.options import Options


class LogLevel(StrEnum):
    """From which severity on events are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("log-level")(log_level)


def log_level(
    node: Annotated[
        str, typer.Argument(metavar="NODE", help="The node's id; or HOST:PORT of a node's or manager's own address.")
    ],
    level: Annotated[LogLevel, typer.Argument(help="Events of this severity and worse are logged.")],
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Set what a process logs, until it ends."""
    asyncio.run(_set(admin_options(url), node, level))
    print_line(f"{node} logs from {level.value} on")


async def _set(options: Options, node: str, level: LogLevel) -> None:
    address, tls = node, options.tls_context()
    if ":" not in node:
        shard_map = await fetch_shard_map(options.seeds, options.timeout, tls)
        known = {each.id: each.address for each in shard_map.nodes}
        if node not in known:
            raise CommandFailed(f"no node {node!r}; there are {', '.join(sorted(known))}", ExitCode.NOT_FOUND)
        address = known[node]
    async with await AdminConnection.open(address, options.timeout, tls) as connection:
        await connection.set_log_level(level.value)
