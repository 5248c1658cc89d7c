"""The `shoal` command: its parts, how they are loaded, and how failures end the process.

Commands that need more than the client are loaded only when they are asked for: `shoal get` imports no server, and
works where no server is installed; there, `shoal up` says what to install.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from shoal.cli import cluster, data, expiring, exporting, hot, importing, log_level, scanning, skipping
from shoal.cli.failures import CommandFailed, ExitCode, exit_code_of
from shoal.cli.options import CafileOption, CertfileOption, KeyfileOption
from shoal.cli.output import note, print_line
from shoal.errors import ShoalError

EPILOG = (
    "Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 not found, 4 condition or conflict, "
    "5 unavailable or unhealthy, 6 deadline, 7 outcome unknown (a write that may have been done), "
    "8 incomplete (`export --skip-unavailable`: stderr says what is missing)."
)


@dataclass(frozen=True, slots=True)
class LazyPart:
    """Commands that `module.register(app)` adds, and the extra of the distribution that they need."""

    commands: tuple[str, ...]
    module: str
    extra: str


LAZY_PARTS = (
    LazyPart(("up", "down", "node", "new-cluster-id"), "shoal_server.cli", "server"),
    LazyPart(
        (
            "manager",
            "keyspace",
            "split",
            "merge",
            "move",
            "move-microshards",
            "settle",
            "rebalance",
            "drain",
            "undrain",
            "remove-node",
            "failover",
            "rolling-restart",
            "operations",
            "cancel",
            "why",
            "settings",
        ),
        "shoal_shardmanager.cli.commands",
        "server",
    ),
    LazyPart(("doctor",), "shoal_shardmanager.cli.doctor", "server"),
    LazyPart(("bench",), "shoal_chaos.bench.cli", "chaos"),
    LazyPart(("chaos",), "shoal_chaos.cli", "chaos"),
)


class ShoalGroup(TyperGroup):
    """The root command: finds lazy commands, and turns errors into one line and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, in the order that help shows them."""
        return [*super().list_commands(ctx), *(name for part in LAZY_PARTS for name in part.commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, loading the part that it belongs to."""
        part = next((part for part in LAZY_PARTS if cmd_name in part.commands), None)
        if part is None:
            return super().get_command(ctx, cmd_name)
        return _load(part).commands[cmd_name]

    def invoke(self, ctx: Any) -> Any:
        """Run the command; the one place where errors become exit codes."""
        try:
            return super().invoke(ctx)
        except ShoalError as error:
            note(f"shoal: {_one_line(error)}")
            raise typer.Exit(exit_code_of(error)) from error
        except CommandFailed as error:
            note(f"shoal: {error}")
            raise typer.Exit(error.exit_code) from error
        except OSError as error:
            # Of the system: a folder that may not be made, a disk that is full. Readers of a pipe who go are click's affair.
            if error.errno is None or isinstance(error, BrokenPipeError):
                raise
            note(f"shoal: {f'{error.filename}: ' if error.filename else ''}{error.strerror}")
            raise typer.Exit(ExitCode.FAILED) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _load(part: LazyPart) -> TyperGroup:
    app = typer.Typer()
    try:
        importlib.import_module(part.module).register(app)
    except ModuleNotFoundError as error:
        for name in part.commands:
            app.command(name, help=f"Needs shoal\\[{part.extra}].")(_missing(name, part.extra, str(error)))
    return get_group(app)


def _missing(command: str, extra: str, reason: str) -> Any:
    def missing() -> None:
        raise CommandFailed(f"`shoal {command}` needs more than the client ({reason}): pip install 'shoal[{extra}]'")

    return missing


app = typer.Typer(
    name="shoal",
    cls=ShoalGroup,
    help="Shoal, a sharded, replicated key-value database.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _part in (data, scanning, expiring, importing, exporting, cluster, hot, skipping, log_level):
    _part.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_line(importlib.metadata.version("shoal"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    cafile: CafileOption = None,  # `options.checked_url` adds these three to addresses
    certfile: CertfileOption = None,
    keyfile: KeyfileOption = None,
) -> None:
    """Shoal, a sharded, replicated key-value database."""


def main() -> None:
    """Run the command line and exit."""
    sys.exit(app())
