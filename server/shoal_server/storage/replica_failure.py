"""That a replica has failed, and why: as it is known while the process runs, and stored beside the replica's rows."""

from __future__ import annotations

from enum import Enum

import msgspec
from shoal.protocol.bounds import (
    Count,
    Text,
)

from shoal_server.storage.decoding import RowDecoder
from shoal_server.storage.engine import Batch, Damaged, Engine
from shoal_server.storage.layout import FORMAT, NUMBER_BYTES, failure_key, load_number, lost_key
from shoal_server.storage.log_store import GroupLogStore


class FailureKind(Enum):
    """What has befallen a replica. `STORED` ones are known after a restart, too; the other is met again by itself."""

    DAMAGED = "damaged"
    """Rows or log entries cannot be read: they are not what was written."""
    DIVERGED = "diverged"
    """Its rows are not those of the other replicas at the same position."""
    STUCK = "stuck"
    """A committed entry cannot be applied."""


STORED = frozenset({FailureKind.DAMAGED, FailureKind.DIVERGED})

ANY_INDEX = (1 << 63) - 1
"""In place of an index: nobody knows up to where."""


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
    log_lost_to: Count = 0
    format: Count = FORMAT

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.reason}"


_encoder = msgspec.msgpack.Encoder()
_decoder = RowDecoder(ReplicaFailure, "meta", FORMAT)


def put_failure(batch: Batch, engine: Engine, shard: int, failure: ReplicaFailure) -> None:
    """Store that the replica of `shard` has failed, in place of what was stored before."""
    batch.put(failure_key(shard), _encoder.encode(failure), engine.meta)
    if failure.log_lost_to:
        lost_to = max(failure.log_lost_to, lost_to_at_worst(engine, shard))
        put_lost_to(batch, engine, shard, lost_to)


def put_lost_to(batch: Batch, engine: Engine, shard: int, lost_to: int) -> None:
    """Store that entries up to `lost_to` may have been acknowledged and lost since."""
    batch.put(lost_key(shard), lost_to.to_bytes(NUMBER_BYTES, "big"), engine.meta)


def drop_failure(batch: Batch, engine: Engine, shard: int) -> None:
    """Forget a failure: the replica is whole again. What it may have acknowledged and lost it does not forget."""
    batch.delete(failure_key(shard), engine.meta)


def load_failure(engine: Engine, shard: int) -> ReplicaFailure | None:
    """Return how the replica of `shard` has failed, or None."""
    return _decoder.load(engine, failure_key(shard))


def load_lost_to(engine: Engine, shard: int) -> int:
    """Return up to where entries may have been acknowledged and lost since, 0 where none were.

    Raises:
        Damaged: it cannot be read.
    """
    return load_number(engine, lost_key(shard), NUMBER_BYTES) or 0


def lost_to_at_worst(engine: Engine, shard: int) -> int:
    """Return what `load_lost_to` does; `ANY_INDEX` where that cannot be read."""
    try:
        return load_lost_to(engine, shard)
    except Damaged:
        return ANY_INDEX


def regained(engine: Engine, shard: int) -> None:
    """Forget that entries were lost: the log is that far again."""
    batch = engine.batch()
    batch.delete(lost_key(shard), engine.meta)
    engine.write(batch)


def acknowledged_to(store: GroupLogStore) -> int:
    """Return up to where a log may have been acknowledged."""
    try:
        return max(1, store.load_last_index())
    except Damaged as error:
        if error.family != "log":
            raise
        return ANY_INDEX
