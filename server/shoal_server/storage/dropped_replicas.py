"""What a node remembers of a replica that it has dropped: enough to break no promise, should one of its shard come back.

A vote, and an acknowledged entry, bind the node, not the rows that it has deleted since. The memory of a shard is one small
row, stored twice. The next replica of the shard here takes it up, and then gives no vote before its log is as far again.
"""

from __future__ import annotations

from typing import Any

import msgspec
from shoal.bounds import Count, LogIndex, Name, Term

from shoal_server.invariants import invariant
from shoal_server.raft.messages import HardState
from shoal_server.storage.decoding import RowCodec
from shoal_server.storage.engine import Batch, Damaged, Engine
from shoal_server.storage.layout import FORMAT, group_key
from shoal_server.storage.meta_rows import DamageRule, MetaKind
from shoal_server.storage.promises import (
    EVERY_SHARD,
    FORGOTTEN,
    HARD_STATES,
    has_forgotten,
    load_hard_state,
    put_hard_state,
)
from shoal_server.storage.replica_failure import LOST, lost_to_at_worst, put_lost_to
from shoal_server.storage.replica_rows import is_stored
from shoal_server.storage.twice import TwiceStored


class DroppedReplica(msgspec.Struct, frozen=True, array_like=True):
    """Of a replica that was dropped: its term, its vote in it, and up to where it may have acknowledged entries."""

    term: Term
    vote: Name
    acknowledged_to: LogIndex
    format: Count = FORMAT


_codec = RowCodec(DroppedReplica, "meta", FORMAT)
DROPPED = TwiceStored(MetaKind.DROPPED, _codec.encode, _codec.decode)

STORED_TWICE: tuple[TwiceStored[Any], ...] = (HARD_STATES, LOST, DROPPED, FORGOTTEN)
invariant(
    {rows.kind for rows in STORED_TWICE} == {kind for kind in MetaKind if kind.stored_twice},
    "it is known how each kind that is stored twice is read",
)


def put_dropped(batch: Batch, engine: Engine, shard: int, dropped: DroppedReplica) -> None:
    """Remember a replica in the batch that drops it."""
    DROPPED.put(batch, engine, shard, dropped)


def load_dropped(engine: Engine, shard: int) -> DroppedReplica | None:
    """Return what is remembered of a replica that was dropped, if no other one of its shard has come since."""
    return DROPPED.load(engine, shard)


def is_remembered(engine: Engine, shard: int) -> bool:
    """Say whether there was a replica of a shard here, which was dropped, as far as anybody can know.

    Whoever asks would found a shard if there was none.
    """
    return DROPPED.is_there(engine, shard) or has_forgotten(engine, shard) or has_forgotten(engine, EVERY_SHARD)


def has_never_had(engine: Engine, shard: int) -> bool:
    """Say whether the node has promised nothing in a shard: nothing says that it has a replica of it, or had one.

    What its folder knows is all: a folder in another's place is not let in under the node's id, and no id is used twice.
    """
    if has_forgotten(engine, EVERY_SHARD) or any(rows.is_there(engine, shard) for rows in STORED_TWICE):
        return False
    of_replicas = [kind for kind in MetaKind if kind.rule is DamageRule.REPLICA_FAILS and not kind.stored_twice]
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
        put_hard_state(batch, engine, shard, HardState(dropped.term, dropped.vote))
    if dropped.acknowledged_to:
        put_lost_to(batch, engine, shard, max(dropped.acknowledged_to, lost_to_at_worst(engine, shard)))
    DROPPED.delete(batch, engine, shard)
    engine.write(batch)
