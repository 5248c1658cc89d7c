"""`shoal scan`: rows in key order, printed as they arrive, in constant memory."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from shoal import Client
from shoal.cli.options import (
    DEFAULT_URL,
    ConsistencyOption,
    StalenessOption,
    UrlOption,
    argument_bytes,
    level_of,
    seconds_of,
)
from shoal.cli.output import shown
from shoal.cli.rows import encode_key, encode_row

JsonLinesOption = Annotated[
    bool, typer.Option("--json", help="Print JSON Lines, as `shoal export` does and `shoal import` reads.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("scan")(scan)


def scan(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="What the keys begin with; all, without it.")] = "",
    url: UrlOption = DEFAULT_URL,
    as_json: JsonLinesOption = False,
    start: Annotated[str | None, typer.Option("--start", metavar="KEY", help="The first key.")] = None,
    end: Annotated[str | None, typer.Option("--end", metavar="KEY", help="The key to end before.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=0, help="The most rows.")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="From the last key down.")] = False,
    keys_only: Annotated[bool, typer.Option("--keys-only", help="Keys without their values.")] = False,
    consistency: ConsistencyOption = None,
    max_staleness: StalenessOption = None,
) -> None:
    """Print rows in the order of their keys.

    One a line: the key, a tab and the value, with what is not printable as escapes. Each page is of one instant; what
    is written meanwhile may or may not be in those that follow.
    """
    with Client(url) as db:
        rows = db.scan(
            argument_bytes(prefix),
            start=None if start is None else argument_bytes(start),
            end=None if end is None else argument_bytes(end),
            limit=limit,
            reverse=reverse,
            keys_only=keys_only,
            consistency=level_of(consistency),
            max_staleness=seconds_of(max_staleness),
        )
        out = sys.stdout.buffer
        out.writelines(_keys(rows, as_json) if keys_only else _rows(rows, as_json))
        out.flush()


def _keys(keys: Iterable[bytes], as_json: bool) -> Iterator[bytes]:
    for key in keys:
        yield encode_key(key) if as_json else shown(key).encode() + b"\n"


def _rows(rows: Iterable[tuple[bytes, bytes]], as_json: bool) -> Iterator[bytes]:
    for key, value in rows:
        yield encode_row(key, value) if as_json else f"{shown(key)}\t{shown(value)}\n".encode()
