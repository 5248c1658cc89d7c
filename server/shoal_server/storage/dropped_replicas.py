"""What a node remembers of a replica that it has dropped: enough to break no promise, should one of its shard come back.

A vote, and an acknowledged entry, bind the node, not the rows that it has deleted since. The memory of a shard is one small
row; it is taken up by the next replica of the shard here, which then gives no vote before its log is as far again.
"""

from __future__ import annotations

import msgspec
from shoal.protocol.bounds import Count, LogIndex, Term, Word

from shoal_server.raft.messages import HardState
from shoal_server.storage.decoding import RowDecoder
from shoal_server.storage.engine import Batch, Damaged, Engine
from shoal_server.storage.layout import (
    FORMAT,
    dropped_key,
    encode_hard_state,
    group_key,
    hard_state_key,
    load_hard_state,
)
from shoal_server.storage.meta_rows import DamageRule, MetaKind
from shoal_server.storage.replica_failure import lost_to_at_worst, put_lost_to
from shoal_server.storage.replica_rows import is_stored


class DroppedReplica(msgspec.Struct, frozen=True, array_like=True):
    """Of a replica that was dropped: its term, its vote in it, and up to where it may have acknowledged entries."""

    term: Term
    vote: Word
    acknowledged_to: LogIndex
    format: Count = FORMAT


_encoder = msgspec.msgpack.Encoder()
_decoder = RowDecoder(DroppedReplica, "meta", FORMAT)


def put_dropped(batch: Batch, engine: Engine, shard: int, dropped: DroppedReplica) -> None:
    """Remember a replica in the batch that drops it."""
    batch.put(dropped_key(shard), _encoder.encode(dropped), engine.meta)


def load_dropped(engine: Engine, shard: int) -> DroppedReplica | None:
    """Return what is remembered of a replica that was dropped, if no other one of its shard has come since."""
    return _decoder.load(engine, dropped_key(shard))


def is_remembered(engine: Engine, shard: int) -> bool:
    """Say whether there was a replica of a shard here, which was dropped."""
    try:
        return engine.get(engine.meta, dropped_key(shard)) is not None
    except Damaged:
        # Whoever asks would found a shard if there was none.
        return True


def has_never_had(engine: Engine, shard: int) -> bool:
    """Say whether the node has promised nothing in a shard: nothing says that it has a replica of it, or had one.

    What its folder knows is all: a folder in another's place is not let in under the node's id, and no id is used twice.
    """
    of_replicas = [kind for kind in MetaKind if kind.rule is DamageRule.REPLICA_FAILS]
    try:
        said = any(engine.get(engine.meta, group_key(kind, shard)) is not None for kind in of_replicas)
    except Damaged:
        return False
    return not said and not is_stored(engine, shard)


def take_up_dropped(engine: Engine, shard: int) -> None:
    """Bind the replica of a shard that is about to be opened by what one that was dropped had promised."""
    dropped = load_dropped(engine, shard)
    if dropped is None:
        return
    batch = engine.batch()
    if load_hard_state(engine, shard).term <= dropped.term:
        batch.put(hard_state_key(shard), encode_hard_state(HardState(dropped.term, dropped.vote)), engine.meta)
    if dropped.acknowledged_to:
        put_lost_to(batch, engine, shard, max(dropped.acknowledged_to, lost_to_at_worst(engine, shard)))
    batch.delete(dropped_key(shard), engine.meta)
    engine.write(batch)
