"""What the log entries of a shard say: the commands its state machine applies, as a leader encoded them.

An entry holds the commands of one turn. `operations` stay as the client encoded them: a replica that has not yet to
apply them never decodes them. The leader has checked sizes and routes, and adds what replicas could not agree on by
themselves: the microshard of each key, the time, and the settings in force.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import msgspec
from shoal.bounds import (
    Count,
    CursorBytes,
    DurationMs,
    EncodedOperations,
    LogIndex,
    MicroshardNumber,
    MigrationId,
    PageNumber,
    ShardId,
    Token,
    UnixMs,
    Version,
    Word,
    WriteNumber,
)
from shoal.protocol.comparison import Divergence
from shoal.protocol.frames import operations_decoder
from shoal.protocol.messages import Atomic, Delete, DeleteRange, Operation, Put, RangeUnchanged, SessionId
from shoal.protocol.migration import UNREAD, ClearedRange, MigrationCursor, MovedRow
from shoal.shardmap import Ranges, Shard

from shoal_server.storage.session_rows import SessionOwner

COMMANDS_VERSION = 1
"""Format of entries; an entry of a newer one stops the replica that cannot read it (`UnknownCommands`)."""

CLOCK_MS_MAX = 1 << 44
"""No clock of an entry is later (Unix milliseconds; in the year 2527), so that an expiry fits where it is stored."""

PLAIN = frozenset((Put, Delete))
"""Operations that read nothing, always succeed, and have no result."""


class OpenSessionCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Open a deduplication session, under an id that the leader has drawn.

    `capacity`: how many sessions the shard then remembers at the most, by the leader's settings. `owner`: who opened it.
    """

    session: SessionId
    owner: SessionOwner
    capacity: Count


class WriteCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Apply `operations` (an encoded `list[Operation]`) once per (session, number).

    `microshards` are those of the keys that `named_keys` yields of the operations, in that order. `identity`: of whom it
    is, where TLS has proven that, else empty.
    """

    session: SessionId
    number: WriteNumber
    microshards: list[MicroshardNumber]
    operations: EncodedOperations
    identity: Token = b""


class PurgeCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Remove expired rows: (microshard, expiry, key) as the expiry index has them. A row with another expiry stays."""

    rows: list[tuple[MicroshardNumber, UnixMs, bytes]]


class SplitCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Split `child` off, which has some of the shard's microshards; route by a map of `map_version` from then on."""

    child: Shard
    map_version: Version


class BeginIncomingCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Expect microshards of shard `source`: see `shoal.protocol.migration`, as with the other steps of a migration."""

    migration: MigrationId
    source: ShardId
    ranges: Ranges


class BeginOutgoingCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Keep a journal of what changes in microshards that shard `target` is to get; it has it up to `confirmed`."""

    migration: MigrationId
    target: ShardId
    ranges: Ranges
    confirmed: MigrationCursor = UNREAD


class StoreMovedCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """Clear ranges and store rows of microshards that the shard is to get."""

    migration: MigrationId
    number: PageNumber
    cleared: list[ClearedRange]
    rows: list[MovedRow]
    cursor: MigrationCursor
    behind: MigrationCursor | None = None


class SealCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """Part with the microshards; route by a map of at least `map_version` from then on."""

    migration: MigrationId
    map_version: Version


class AdoptCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """Serve the microshards; route by a map of at least `map_version` from then on."""

    migration: MigrationId
    map_version: Version


class ForgetCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """Remove what is left of the microshards that the shard has parted with."""

    migration: MigrationId


class CancelCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """Give a migration up."""

    migration: MigrationId


class SetClockCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """Set the shard's clock back to `clock_ms`, if it still is at `seen_ms` or later: a wrong wall clock had set it.

    What follows in the log goes by the earlier time: rows that had expired by the wrong one, and were not removed yet, are
    there again.
    """

    clock_ms: UnixMs
    seen_ms: UnixMs


class DigestCursor(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where in a replica's rows a digest begins, or goes on: behind the key `after` (b"": before the first) of a `place`.

    Places are numbered in the order in which they are gone through: see `shoal_server.node.digests`.
    """

    place: Count = 0
    after: CursorBytes = b""


class DigestCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    """Let every replica make a digest of the rows behind `cursor`, as they are when this entry is applied.

    Args:
        compared_index: a round in which all replicas had the same rows began at this entry, 0 where none is known. What
            they differed in before is over.
        divergence: what they differ in, and nobody knows which are right; None: nothing but what is known already.
    """

    cursor: DigestCursor
    compared_index: LogIndex = 0
    divergence: Divergence | None = None


class FoundCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=14):
    """Call the cluster `cluster_id`, unless an earlier entry has given it an id: see `shoal_server.node.founding`."""

    cluster_id: Word


MigrationCommand: TypeAlias = (
    BeginIncomingCommand
    | BeginOutgoingCommand
    | StoreMovedCommand
    | SealCommand
    | AdoptCommand
    | ForgetCommand
    | CancelCommand
)
Command: TypeAlias = (
    OpenSessionCommand
    | WriteCommand
    | PurgeCommand
    | SplitCommand
    | SetClockCommand
    | DigestCommand
    | FoundCommand
    | MigrationCommand
)


class Commands(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The payload of one COMMAND entry.

    Args:
        clock_ms: what the leader took for the time when it proposed the entry, in Unix milliseconds (node/wall_clock.py).
        default_ttl_ms: the keyspace's then, 0 for none.
    """

    version: Count
    clock_ms: UnixMs
    default_ttl_ms: DurationMs
    commands: list[Command]


class UnknownCommands(Exception):
    """A log entry cannot be read: it is of a newer format, or damaged. The replica must not go on without it."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Commands)


def encode_commands(commands: Commands) -> bytes:
    """Encode the payload of one entry."""
    return _encoder.encode(commands)


def decode_commands(payload: bytes) -> Commands:
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
    return decoded


def decode_operations(command: WriteCommand) -> list[Operation]:
    """Decode the operations of a write.

    Raises:
        UnknownCommands: one of them is of a kind that this Shoal does not know.
    """
    try:
        return operations_decoder.decode(command.operations)
    except msgspec.MsgspecError as error:
        raise UnknownCommands(f"a write in the log cannot be decoded ({error}): written by a newer Shoal?") from error


def named_keys(operations: list[Operation]) -> Iterator[bytes]:
    """Yield every key that operations name, conditions included, in the order in which they are applied."""
    for operation in operations:
        if isinstance(operation, Atomic):
            for condition in operation.conditions:
                if not isinstance(condition, RangeUnchanged):
                    yield condition.key
            for part in operation.operations:
                yield part.key
        elif not isinstance(operation, DeleteRange):
            yield operation.key


def named_ranges(operations: list[Operation]) -> Iterator[DeleteRange | RangeUnchanged]:
    """Yield what of operations is about a range of keys, conditions included."""
    for operation in operations:
        if isinstance(operation, Atomic):
            for condition in operation.conditions:
                if isinstance(condition, RangeUnchanged):
                    yield condition
        elif isinstance(operation, DeleteRange):
            yield operation
