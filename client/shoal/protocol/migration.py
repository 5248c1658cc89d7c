"""What a migrator says to nodes to move microshards from one shard to another: docs/decisions/0011-moving-microshards.md.

A *migration* moves microshards from its *source* shard to its *target* shard, of one keyspace. Each of these requests is
for the leader of the shard that it names (`not_leader` or `wrong_shard` with the route, otherwise), and is an entry of
that shard's log, except for `ReadMoving`. Every step may be repeated, by the same migrator or by another one that takes
over: what is done already is answered by `Done` and does nothing. `invalid_argument` says why a step is refused; it did
nothing then. Anything else that goes wrong leaves it open whether the step was taken: ask again.

The whole course, where nothing is cancelled:

1. `BeginIncoming` to the target, then `BeginOutgoing` to the source;
2. over and over, `ReadMoving` with the target's cursor and `StoreMoved` with what it answered and the target's number; now
   and then `BeginOutgoing` with a cursor that is stored, so that the journal does not grow without end;
3. when a `MovingRows` came with `done` and few rows, `SealMicroshards` to the source: from here on only forward;
4. go on with 2 until a `MovingRows` came with `cursor.complete`, and store that one, too;
5. `AdoptMicroshards` to the target;
6. when that is done, and never before, `ForgetMoved` to the source.

Who takes over finds the cursor and the number in the target's `ReplicaStatus.incoming`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from shoal.bounds import (
    MAX_KEY,
    MAX_MOVED,
    Bytes,
    Count,
    CursorBytes,
    LogIndexOrNone,
    MicroshardNumber,
    MigrationId,
    MovedSeq,
    PageNumber,
    RangeBound,
    RequestNumber,
    ShardId,
    Version,
)
from shoal.shardmap import Ranges

MovedRow: TypeAlias = tuple[MicroshardNumber, Annotated[bytes, Meta(max_length=MAX_KEY)], bytes | None]
"""(microshard, key, row as stored), None where the source has none by now."""

ClearedRange: TypeAlias = tuple[MicroshardNumber, RangeBound, RangeBound]
"""(microshard, start, end): every key of [start, end) (an empty `end`: to the last) was removed at the source."""


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """As in `shoal.protocol.messages`, which this module may not import."""


class MigrationCursor(_Message, frozen=True):
    """How far the copy of a migration's rows has come. Migrators pass it on and look at `complete` alone.

    Args:
        mark: the index of the source's log up to which the target has everything, once the scan is over; -1: nothing is
            read yet.
        scanned: the scan of all rows is over, and what follows is what has changed since.
        after: where in the scan, or in the journal of changes, to go on; b"" at its beginning, or behind `mark`.
        seq: the source's position when it was read last.
        complete: that was after the seal, and nothing follows.
        ranges: the microshards that the source gives. The target stores no page of others than it takes.
    """

    mark: LogIndexOrNone = -1
    scanned: bool = False
    after: CursorBytes = b""
    seq: MovedSeq = 0
    complete: bool = False
    ranges: Ranges = ()


UNREAD = MigrationCursor()


class BeginIncoming(_Message, frozen=True, tag=23):
    """Have the target shard expect the microshards `ranges` of shard `source`, as migration number `migration`.

    Refused where the shard is in another migration, has one of the microshards, or has ended this migration before.
    """

    request: RequestNumber
    shard: ShardId
    migration: MigrationId
    source: ShardId
    ranges: Ranges


class BeginOutgoing(_Message, frozen=True, tag=24):
    """Have the source shard keep a journal of what changes in the microshards `ranges`, which shard `target` is to get.

    Refused where the shard is in another migration, lacks one of the microshards, or has ended this migration before.
    Sent again with the cursor of a page that the target has stored, it lets the source forget what the journal has up to
    there; nodes that know nothing of `confirmed` keep the journal to the end.
    """

    request: RequestNumber
    shard: ShardId
    migration: MigrationId
    target: ShardId
    ranges: Ranges
    confirmed: MigrationCursor = UNREAD


class ReadMoving(_Message, frozen=True, tag=25):
    """Read what the target lacks, from where `cursor` stands: answered by `MovingRows`. For the source, a strong read.

    Args:
        max_bytes: about how much to answer; a node has a limit of its own, and one row is always answered.
    """

    request: RequestNumber
    shard: ShardId
    migration: MigrationId
    cursor: MigrationCursor
    max_bytes: Bytes


class StoreMoved(_Message, frozen=True, tag=26):
    """Have the target store what a `MovingRows` answered: remove the `cleared` ranges, then store the `rows`.

    `number` counts these from 1. The target takes the next one only: a lower number is there already, a higher one is
    refused. `cursor` is that of the same `MovingRows`, and `behind` the one that it was asked for with: a page that was not
    read from where the target stands is refused, since two migrators may have given two pages one number. None: unknown.
    """

    request: RequestNumber
    shard: ShardId
    migration: MigrationId
    number: PageNumber
    cleared: Annotated[list[ClearedRange], Meta(max_length=MAX_MOVED)]
    rows: Annotated[list[MovedRow], Meta(max_length=MAX_MOVED)]
    cursor: MigrationCursor
    behind: MigrationCursor | None = None


class SealMicroshards(_Message, frozen=True, tag=27):
    """Have the source shard part with the microshards: it serves them no more. Refused after a cancellation.

    Its nodes then route by a map of at least `map_version` in which they are the target's.
    """

    request: RequestNumber
    shard: ShardId
    migration: MigrationId
    map_version: Version


class AdoptMicroshards(_Message, frozen=True, tag=28):
    """Have the target serve the microshards: refused until it has stored everything that was there at the seal.

    Its next seqs are above those of the source at the seal. Its nodes then route by a map of at least `map_version` in
    which the microshards are the target's.
    """

    request: RequestNumber
    shard: ShardId
    migration: MigrationId
    map_version: Version


class ForgetMoved(_Message, frozen=True, tag=29):
    """Have the source remove the rows it has given away. Only after the target's answer to `AdoptMicroshards`."""

    request: RequestNumber
    shard: ShardId
    migration: MigrationId


class CancelMigration(_Message, frozen=True, tag=30):
    """Have a shard, be it source or target, give a migration up, and never begin it if it has not begun.

    To be asked of the source first: refused where that is sealed, or the target complete; then it must go forward.
    """

    request: RequestNumber
    shard: ShardId
    migration: MigrationId


MigrationStep: TypeAlias = (
    BeginIncoming | BeginOutgoing | StoreMoved | SealMicroshards | AdoptMicroshards | ForgetMoved | CancelMigration
)


class MovingRows(_Message, frozen=True, tag=49):
    """What a `ReadMoving` found, all of one instant, to be stored in one `StoreMoved`.

    Args:
        cursor: where to go on.
        done: nothing follows for now: all that had changed by then is in this answer.
        sealed: the source is sealed.
    """

    request: RequestNumber
    cleared: Annotated[list[ClearedRange], Meta(max_length=MAX_MOVED)]
    rows: Annotated[list[MovedRow], Meta(max_length=MAX_MOVED)]
    cursor: MigrationCursor
    done: bool
    sealed: bool


class MigrationStatus(_Message, frozen=True):
    """A migration as one of its shards has it.

    Args:
        other: the other shard.
        sealed: on the source: it has parted with the microshards.
        number: on the target: that of the next `StoreMoved`.
        rows, bytes: on the target: of the rows stored so far, those stored again counted again.
    """

    migration: MigrationId
    other: ShardId
    ranges: Ranges
    sealed: bool = False
    number: PageNumber = 1
    cursor: MigrationCursor = MigrationCursor()
    rows: Count = 0
    bytes: Count = 0


class MigrationEnd(IntEnum):
    """How a migration ended for one of its shards."""

    CANCELLED = 1
    FORGOTTEN = 2
    """The source has given the microshards away, and removed the rows."""
    ADOPTED = 3
    """The target has them."""


class EndedMigration(_Message, frozen=True):
    """A migration that one of its shards is done with."""

    migration: MigrationId
    end: MigrationEnd
