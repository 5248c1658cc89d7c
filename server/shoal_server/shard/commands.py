"""What the log entries of a shard say: the commands its state machine applies, as a leader encoded them.

An entry holds the commands of one turn. `operations` stay as the client encoded them: a replica that has not yet to
apply them never decodes them. The leader has checked sizes and routes, and adds each operation's microshard, so that
replicas need not compute it again.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

COMMANDS_VERSION = 1
"""Format of entries; an entry of a newer one stops the replica that cannot read it (`UnknownCommands`)."""


class OpenSessionCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Open a deduplication session; its id is decided when it is applied."""


class WriteCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Apply `operations` (an encoded `list[Operation]`) once per (session, number); `microshards` runs beside them."""

    session: int
    number: int
    microshards: list[int]
    operations: msgspec.Raw


Command: TypeAlias = OpenSessionCommand | WriteCommand


class Commands(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The payload of one COMMAND entry."""

    version: int
    commands: list[Command]


class UnknownCommands(Exception):
    """A log entry cannot be read: it is of a newer format, or damaged. The replica must not go on without it."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Commands)


def encode_commands(commands: list[Command]) -> bytes:
    """Encode the payload of one entry."""
    return _encoder.encode(Commands(COMMANDS_VERSION, commands))


def decode_commands(payload: bytes) -> list[Command]:
    """Decode the payload of one entry.

    Raises:
        UnknownCommands: the payload is of a newer format or no payload of ours.
    """
    try:
        decoded = _decoder.decode(payload)
    except msgspec.MsgspecError as error:
        raise UnknownCommands(f"a log entry cannot be decoded ({error}): written by a newer Shoal?") from error
    if decoded.version > COMMANDS_VERSION:
        raise UnknownCommands(f"a log entry has format {decoded.version}; this Shoal reads up to {COMMANDS_VERSION}")
    return decoded.commands
