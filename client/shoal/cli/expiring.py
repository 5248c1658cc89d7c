"""`shoal ttl`, `touch`: how long a key lives, and how long it is to live."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
import typer

from shoal import Client
from shoal.cli.data import no_such_key
from shoal.cli.options import DEFAULT_URL, JsonOption, KeyArgument, UrlOption, argument_bytes, checked_ttl, parse_ttl
from shoal.cli.output import print_json, print_line, shown
from shoal.cli.rows import EncodedRow, encoded_key


class LifetimeView(EncodedRow, omit_defaults=True, kw_only=True):
    """What `ttl --json` and `touch --json` print, in seconds; None: it never expires."""

    ttl: float | None


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("ttl")(ttl)
    app.command("touch")(touch)


def ttl(key: KeyArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Print the seconds until a key expires, or `never`.

    Exit code 3: there is no such key.
    """
    wanted = argument_bytes(key)
    with Client(url) as db:
        entry = db.get_entry(wanted)
    if entry is None:
        raise no_such_key(wanted)
    left = None if entry.expires_at is None else max(0.0, entry.expires_at - time.time())
    if as_json:
        _print_lifetime(wanted, left)
    else:
        print_line("never" if left is None else f"{left:.3f}")


def touch(
    key: KeyArgument,
    ttl: Annotated[
        str,
        typer.Argument(
            metavar="TTL",
            callback=checked_ttl,
            help="Time until it expires, such as 30 (seconds), 500ms or 10m; 0: never.",
        ),
    ],
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Let a key expire after a time, counted from now.

    Exit code 3: there is no such key.
    """
    wanted = argument_bytes(key)
    seconds = parse_ttl(ttl)
    with Client(url) as db:
        found = db.touch(wanted, seconds)
    if not found:
        raise no_such_key(wanted)
    if as_json:
        _print_lifetime(wanted, seconds or None)
    else:
        print_line(f"{shown(wanted)} expires in {seconds:g} s" if seconds else f"{shown(wanted)} never expires")


def _print_lifetime(key: bytes, left: float | None) -> None:
    print_json(LifetimeView(**msgspec.structs.asdict(encoded_key(key)), ttl=left))
