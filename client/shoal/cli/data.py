"""`shoal get`, `put`, `delete`, `increment`: one key at a time, or all with a prefix."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer

from shoal import Client, key_absent
from shoal import put as put_of
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import (
    DEFAULT_URL,
    ConsistencyOption,
    JsonOption,
    KeyArgument,
    Safety,
    StalenessOption,
    TtlOption,
    UrlOption,
    argument_bytes,
    checked_ttl,
    level_of,
    parse_ttl,
    seconds_of,
)
from shoal.cli.output import print_json, print_line, shown, write_bytes
from shoal.cli.rows import EncodedRow, encoded_key, encoded_row
from shoal.protocol.messages import MAX_FRAME_BYTES
from shoal.results import WriteResult


class EntryView(EncodedRow, omit_defaults=True, kw_only=True):
    """What `get --json` prints. `expires_at` is in seconds of Unix time, `staleness` in seconds."""

    seq: int
    expires_at: float | None
    staleness: float
    served_by: str


class WriteView(EncodedRow, omit_defaults=True, kw_only=True):
    """What `put --json` and `delete --json` print."""

    seq: int
    durability: str


class SumView(EncodedRow, omit_defaults=True, kw_only=True):
    """What `increment --json` prints."""

    sum: int


class DeletedPrefixView(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What `delete --prefix --json` prints."""

    prefix: str | None = None
    prefix_base64: str | None = None
    microshards: int


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("get")(get)
    app.command("put")(put)
    app.command("delete")(delete)
    # Or a negative number would be taken for an option.
    app.command("increment", context_settings={"ignore_unknown_options": True})(increment)


def get(
    key: KeyArgument,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
    consistency: ConsistencyOption = None,
    max_staleness: StalenessOption = None,
) -> None:
    """Print the value of a key.

    Its bytes are printed as they are; only on a terminal a newline follows. Exit code 3: there is no such key.
    """
    wanted = argument_bytes(key)
    with Client(url) as db:
        entry = db.get_entry(wanted, consistency=level_of(consistency), max_staleness=seconds_of(max_staleness))
    if entry is None:
        raise no_such_key(wanted)
    if as_json:
        row = msgspec.structs.asdict(encoded_row(wanted, entry.value))
        print_json(
            EntryView(
                **row,
                seq=entry.seq,
                expires_at=entry.expires_at,
                staleness=entry.staleness,
                served_by=entry.served_by,
            )
        )
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
    ttl: TtlOption = None,
    durability: Annotated[
        Safety, typer.Option("--durability", help="quorum: on disk at a majority; fast: queued at the leader.")
    ] = Safety.QUORUM,
    if_absent: Annotated[
        bool,
        typer.Option("--if-absent", help="Only if the key has no value; else nothing is done, and the exit code is 4."),
    ] = False,
) -> None:
    """Set a key to a value."""
    if if_absent and durability is Safety.FAST:
        raise typer.BadParameter("a write that depends on what is there cannot be fast", param_hint="--if-absent")
    wanted = argument_bytes(key)
    data = _read_stdin() if value == "-" else argument_bytes(value)
    seconds = parse_ttl(ttl)
    with Client(url) as db:
        if if_absent:
            result = db.write([put_of(wanted, data, seconds)], when=[key_absent(wanted)])
        else:
            result = db.put(wanted, data, ttl=seconds, durability=durability.value)
    _print_write("put", wanted, result, as_json)


def delete(
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="The key; its bytes are taken as given.")] = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="PREFIX", help="Instead of a key: all keys that begin with this.")
    ] = None,
) -> None:
    """Delete a key, or all keys with a prefix; deleting what is not there is no error."""
    if key is not None and prefix is None:
        wanted = argument_bytes(key)
        with Client(url) as db:
            result = db.delete(wanted)
        _print_write("deleted", wanted, result, as_json)
    elif prefix is not None and key is None:
        _delete_prefix(argument_bytes(prefix), url, as_json)
    else:
        raise typer.BadParameter("say either a key or --prefix", param_hint="KEY")


def _delete_prefix(prefix: bytes, url: str, as_json: bool) -> None:
    with Client(url) as db:
        microshards = db.delete_prefix(prefix)
    if as_json:
        encoded = encoded_key(prefix)
        print_json(DeletedPrefixView(prefix=encoded.key, prefix_base64=encoded.key_base64, microshards=microshards))
    else:
        print_line(f"deleted all keys that begin with {shown(prefix)}")


def increment(
    key: KeyArgument,
    by: Annotated[int, typer.Argument(metavar="BY", help="What to add, also negative.")] = 1,
    ttl: Annotated[
        str | None,
        typer.Option(
            metavar="TTL",
            callback=checked_ttl,
            help="When a counter that begins with this expires, such as 30 (seconds) or 10m; 0: never. Others keep theirs.",
        ),
    ] = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Add to the integer that a key holds (none: 0), and print the sum."""
    wanted = argument_bytes(key)
    seconds = parse_ttl(ttl)
    with Client(url) as db:
        total = db.increment(wanted, by, ttl=seconds)
    if as_json:
        print_json(SumView(**msgspec.structs.asdict(encoded_key(wanted)), sum=total))
    else:
        print_line(str(total))


def no_such_key(key: bytes) -> CommandFailed:
    """How a command ends that found nothing under a key."""
    return CommandFailed(f"no such key: {shown(key)}", ExitCode.NOT_FOUND)


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
