"""`shoal get`, `put`, `delete`: one key at a time."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer

from shoal import Client
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import DEFAULT_URL, JsonOption, KeyArgument, UrlOption, argument_bytes
from shoal.cli.output import print_json, print_line, shown, write_bytes
from shoal.cli.rows import EncodedRow, encoded_key, encoded_row
from shoal.protocol.messages import MAX_FRAME_BYTES
from shoal.results import WriteResult


class EntryView(EncodedRow, omit_defaults=True, kw_only=True):
    """What `get --json` prints."""

    seq: int
    served_by: str


class WriteView(EncodedRow, omit_defaults=True, kw_only=True):
    """What `put --json` and `delete --json` print."""

    seq: int
    durability: str


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("get")(get)
    app.command("put")(put)
    app.command("delete")(delete)


def get(key: KeyArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Print the value of a key.

    Its bytes are printed as they are; only on a terminal a newline follows. Exit code 3: there is no such key.
    """
    wanted = argument_bytes(key)
    with Client(url) as db:
        entry = db.get_entry(wanted)
    if entry is None:
        raise CommandFailed(f"no such key: {shown(wanted)}", ExitCode.NOT_FOUND)
    if as_json:
        row = msgspec.structs.asdict(encoded_row(wanted, entry.value))
        print_json(EntryView(**row, seq=entry.seq, served_by=entry.served_by))
        return
    write_bytes(entry.value)
    if sys.stdout.isatty():
        write_bytes(b"\n")


def put(
    key: KeyArgument,
    value: Annotated[
        str,
        typer.Argument(help="The value; `-` reads it from standard input. Put `--` before one that begins with `-`."),
    ],
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Set a key to a value."""
    wanted = argument_bytes(key)
    data = _read_stdin() if value == "-" else argument_bytes(value)
    with Client(url) as db:
        result = db.put(wanted, data)
    _print_write("put", wanted, result, as_json)


def delete(key: KeyArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Delete a key; deleting what is not there is no error."""
    wanted = argument_bytes(key)
    with Client(url) as db:
        result = db.delete(wanted)
    _print_write("deleted", wanted, result, as_json)


def _read_stdin() -> bytes:
    data = sys.stdin.buffer.read(MAX_FRAME_BYTES + 1)
    if len(data) > MAX_FRAME_BYTES:
        raise CommandFailed(f"standard input has more than {MAX_FRAME_BYTES} bytes: too large for any value")
    return data


def _print_write(done: str, key: bytes, result: WriteResult, as_json: bool) -> None:
    if as_json:
        print_json(WriteView(**msgspec.structs.asdict(encoded_key(key)), seq=result.seq, durability=result.durability))
    else:
        print_line(f"{done} {shown(key)} at seq {result.seq}")
