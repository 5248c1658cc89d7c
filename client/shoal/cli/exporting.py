"""`shoal export`: every row of a keyspace as JSON Lines, page by page from the shards' leaders, in constant memory.

Each page is read strongly. The export as a whole is not of one instant: what is written while it runs may or may not be
in it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from ssl import SSLContext
from typing import Annotated, BinaryIO

import typer

from shoal.admin import AdminConnection, NotLeader
from shoal.cli.failures import CommandFailed
from shoal.cli.options import DEFAULT_URL, UrlOption, admin_options
from shoal.cli.output import note
from shoal.cli.progress import Progress
from shoal.cli.rows import encode_row
from shoal.errors import DeadlineExceeded, Internal, KeyspaceNotFound, Overloaded, ShoalError, Unavailable
from shoal.options import Options
from shoal.protocol.messages import Page
from shoal.shardmap import Routes, Shard
from shoal.survey import fetch_shard_map

PAGE_ROWS = 2048
RETRY_SECONDS = 0.1
ATTEMPT_SECONDS = 2.0
"""How long one node may be silent before the next is asked."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    url: UrlOption = DEFAULT_URL,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file, which appears when it is complete.")
    ] = None,
) -> None:
    """Print all rows of the keyspace.

    They are printed as JSON Lines, in the form that `shoal import` reads. Each page is read strongly; what is written
    while the export runs may or may not be in it.
    """
    options = admin_options(url)
    with _destination(output) as stream:
        rows = asyncio.run(_export(options, stream))
    note(f"exported {rows} rows" + (f" to {output}" if output else ""))


async def _export(options: Options, stream: BinaryIO) -> int:
    tls = options.tls_context()
    routes = Routes(await fetch_shard_map(options.seeds, options.timeout, tls))
    keyspace = routes.keyspaces_by_name.get(options.keyspace)
    if keyspace is None:
        known = ", ".join(sorted(routes.keyspaces_by_name))
        raise KeyspaceNotFound(f"no keyspace {options.keyspace!r} in cluster {routes.map.cluster!r}; it has {known}")
    shards = [shard for shard in routes.map.shards if shard.keyspace == keyspace.id]
    rows = 0
    with Progress(f"export {keyspace.name}", len(shards)) as progress:
        for done, shard in enumerate(shards):
            async for page in _Pages(routes, options.timeout, tls).of(shard):
                stream.writelines(encode_row(key, value) for key, value in zip(page.keys, page.values, strict=True))
                rows += len(page.keys)
                progress.update(done, rows)
        progress.update(len(shards), rows)
    stream.flush()
    return rows


class _Pages:
    """Reads a shard's pages from its leader, and from the next one where that changes."""

    def __init__(self, routes: Routes, timeout_seconds: float, tls: SSLContext | None) -> None:
        self._routes = routes
        self._timeout_seconds = timeout_seconds
        self._tls = tls

    async def of(self, shard: Shard) -> AsyncIterator[Page]:
        """Yield the pages of `shard`, in order.

        Raises:
            ShoalError: no leader gave the next page within the timeout.
        """
        microshard, after, done = -1, b"", False
        connection: AdminConnection | None = None
        try:
            while not done:
                connection, page = await self._next(shard, microshard, after, connection)
                yield page
                done = page.done
                if page.keys:
                    microshard, after = page.microshards[-1], page.keys[-1]
        finally:
            if connection is not None:
                connection.close()

    async def _next(
        self, shard: Shard, microshard: int, after: bytes, connection: AdminConnection | None
    ) -> tuple[AdminConnection, Page]:
        """Read the page after a cursor, over `connection` or else from whoever leads."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_seconds
        candidates = [shard.leader or shard.voters[0], *shard.voters]
        while True:
            try:
                if connection is None:
                    node = candidates[0]
                    candidates = [*candidates[1:], node]
                    connection = await AdminConnection.open(
                        self._routes.nodes[node].address, min(self._timeout_seconds, ATTEMPT_SECONDS), self._tls
                    )
                page = await connection.read_page(
                    shard.id, shard.keyspace, microshard=microshard, after=after, max_rows=PAGE_ROWS
                )
                if not page.keys and not page.done:
                    raise Internal(f"{connection.address} sent an empty page of shard {shard.id} that is not the last")
                return connection, page
            except (Unavailable, DeadlineExceeded, Overloaded) as error:
                if connection is not None:
                    connection.close()
                    connection = None
                if loop.time() + RETRY_SECONDS >= deadline:
                    raise
                if isinstance(error, NotLeader) and error.route is not None and error.route.leader:
                    candidates.insert(0, error.route.leader)
                await asyncio.sleep(RETRY_SECONDS)


@contextmanager
def _destination(output: Path | None) -> Iterator[BinaryIO]:
    """Yield where to write: standard output, or a file that takes its name only once everything is in it."""
    if output is None:
        yield sys.stdout.buffer
        return
    partial = output.with_name(output.name + ".partial")
    try:
        with partial.open("wb") as stream:
            yield stream
        partial.replace(output)
    except ShoalError:
        raise  # one of them is an OSError, too: DeadlineExceeded
    except OSError as error:
        raise CommandFailed(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
