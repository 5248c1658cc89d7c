"""That a replica has failed, and why: as it is known while the process runs, and stored beside the replica's rows."""

from __future__ import annotations

from enum import Enum

import msgspec
from shoal.bounds import MAX_INDEX, MAX_TEXT, Count, LogIndex, Text

from shoal_server.storage.decoding import NotARow, RowCodec
from shoal_server.storage.engine import Batch, Damaged, Engine
from shoal_server.storage.layout import FORMAT, NUMBER_BYTES, failure_key
from shoal_server.storage.log_store import GroupLogStore
from shoal_server.storage.meta_rows import MetaKind
from shoal_server.storage.twice import TwiceStored


class FailureKind(Enum):
    """What has befallen a replica. `STORED` ones are known after a restart, too; the other is met again by itself."""

    DAMAGED = "damaged"
    """Rows or log entries cannot be read: they are not what was written."""
    DIVERGED = "diverged"
    """Its rows are not those of the other replicas at the same position."""
    STUCK = "stuck"
    """A committed entry cannot be applied."""


STORED = frozenset({FailureKind.DAMAGED, FailureKind.DIVERGED})

ANY_INDEX = MAX_INDEX
"""In place of an index: nobody knows up to where. No log comes so far, and it can be stored as any other index."""


class ReplicaFailure(msgspec.Struct, frozen=True, array_like=True):
    """Why a replica serves nothing.

    Args:
        reason: in words, with what to look at.
        at_index: what the replica had applied, or the entry that it could not apply.
        log_lost_to: entries up to here may have been acknowledged and are not in the log any more; 0: the log is whole.
    """

    kind: FailureKind
    reason: Text
    at_index: Count
    log_lost_to: LogIndex = 0
    format: Count = FORMAT

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.reason}"


_codec = RowCodec(ReplicaFailure, "meta", FORMAT)


def _encode_lost_to(lost_to: int) -> bytes:
    return lost_to.to_bytes(NUMBER_BYTES, "big")


def _decode_lost_to(_: bytes, row: bytes) -> int:
    if len(row) != NUMBER_BYTES or not 0 < (lost_to := int.from_bytes(row, "big")) <= MAX_INDEX:
        raise NotARow(f"{row.hex()} is no index that a log comes to")
    return lost_to


LOST = TwiceStored(MetaKind.LOST, _encode_lost_to, _decode_lost_to)


def put_failure(batch: Batch, engine: Engine, shard: int, failure: ReplicaFailure) -> None:
    """Store that the replica of `shard` has failed, in place of what was stored before."""
    stored = msgspec.structs.replace(failure, reason=failure.reason[:MAX_TEXT])
    batch.put(failure_key(shard), _codec.encode(stored), engine.meta)
    if failure.log_lost_to:
        lost_to = max(failure.log_lost_to, lost_to_at_worst(engine, shard))
        put_lost_to(batch, engine, shard, lost_to)


def put_lost_to(batch: Batch, engine: Engine, shard: int, lost_to: int) -> None:
    """Store that entries up to `lost_to` may have been acknowledged and lost since."""
    LOST.put(batch, engine, shard, lost_to)


def drop_failure(batch: Batch, engine: Engine, shard: int) -> None:
    """Forget a failure: the replica is whole again. What it may have acknowledged and lost it does not forget."""
    batch.delete(failure_key(shard), engine.meta)


def load_failure(engine: Engine, shard: int) -> ReplicaFailure | None:
    """Return how the replica of `shard` has failed, or None."""
    return _codec.load(engine, failure_key(shard))


def load_lost_to(engine: Engine, shard: int) -> int:
    """Return up to where entries may have been acknowledged and lost since, 0 where none were.

    Raises:
        Damaged: it cannot be read.
    """
    return LOST.load(engine, shard) or 0


def lost_to_at_worst(engine: Engine, shard: int) -> int:
    """Return what `load_lost_to` does; `ANY_INDEX` where that cannot be read."""
    try:
        return load_lost_to(engine, shard)
    except Damaged:
        return ANY_INDEX


def regained(engine: Engine, shard: int) -> None:
    """Forget that entries were lost: the log is that far again."""
    batch = engine.batch()
    LOST.delete(batch, engine, shard)
    engine.write(batch)


def acknowledged_to(store: GroupLogStore) -> int:
    """Return up to where a log may have been acknowledged."""
    try:
        return max(1, store.load_last_index())
    except Damaged as error:
        if error.family != "log":
            raise
        return ANY_INDEX
