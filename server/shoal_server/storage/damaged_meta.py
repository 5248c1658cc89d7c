"""Damaged rows of the meta family that are of one replica: it fails, and the worst is stored that they may have said.

Of a row that is stored twice one copy is as good as two: the other is written anew from it, and nothing has failed.

What is stored in place of others goes to disk together with the failure, so that whoever opens the replica, now or after a
crash, finds rows that bind it at least as much as those did that are gone:

- term and vote, what one that was dropped here had promised: that nobody knows what it has promised. It gives no vote and
  takes no entries, now or later: see `put_forgotten`.
- where the log begins, how the replica has failed: of the log nothing is believed, up to its end.
- how it came here: not with its shard, and it knows enough to vote once its log has the membership that is on the map.
- what it has lost: that may be anything, so it gives no vote until it is replaced.
- entries that are not to be applied: none. Its rows come with a snapshot of who has not applied them, either.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from shoal.shardmap import Shard

from shoal_server.invariants import invariant
from shoal_server.storage.applied_state import AppliedState, load_applied_state
from shoal_server.storage.dropped_replicas import STORED_TWICE
from shoal_server.storage.engine import Batch, Damaged, Engine
from shoal_server.storage.layout import (
    KEYSPACE_BYTES,
    LogStart,
    encode_log_start,
    load_log_start,
    load_number,
    log_start_key,
    staging_key,
    strays_key,
)
from shoal_server.storage.log_store import last_stored_entry
from shoal_server.storage.meta_rows import DamageRule, MetaKind
from shoal_server.storage.promises import FORGOTTEN_PROMISES, put_forgotten
from shoal_server.storage.replica_failure import (
    ANY_INDEX,
    FailureKind,
    ReplicaFailure,
    load_failure,
    put_failure,
    put_lost_to,
)
from shoal_server.storage.replica_rows import load_origin, load_staged, origin_of_newcomer, put_origin, put_strays
from shoal_server.storage.skipped_entries import drop_skipped, load_skipped

LOADERS: dict[MetaKind, Callable[[Engine, int], object]] = {
    **{rows.kind: rows.load for rows in STORED_TWICE},
    MetaKind.LOG_START: load_log_start,
    MetaKind.ORIGIN: load_origin,
    MetaKind.FAILURE: load_failure,
    MetaKind.SKIPPED: load_skipped,
    MetaKind.STAGING: load_staged,
    MetaKind.STRAYS: lambda engine, shard: load_number(engine, strays_key(shard), KEYSPACE_BYTES),
}
"""What reads the row that a shard has of a kind, and raises `Damaged` where it cannot."""
_FORGETTING = frozenset({MetaKind.HARD_STATE, MetaKind.DROPPED, MetaKind.FORGOTTEN})
"""Whose rows may have said anything of votes."""

invariant(
    LOADERS.keys() == {kind for kind in MetaKind if kind.rule is not DamageRule.NODE_REFUSES},
    "every kind of row that is of one replica is looked at",
)


def set_right(engine: Engine, shard: Shard) -> ReplicaFailure | None:
    """Look at all rows that the node has of a replica in its meta family; return how it has failed by those, or None.

    None of them is damaged afterwards. To be called before any of them is gone by.
    """
    damaged: dict[MetaKind, str] = {}
    for rows in STORED_TWICE:
        with suppress(Damaged):
            rows.mend(engine, shard.id)
    for kind, load in LOADERS.items():
        try:
            load(engine, shard.id)
        except Damaged as error:
            # Not the error itself, whose traceback would keep the engine open.
            damaged[kind] = str(error)
    if not damaged:
        return None
    state: AppliedState | None = None
    with suppress(Damaged):
        state = load_applied_state(engine, shard.id)
    failure = _failure(engine, shard, damaged, state)
    batch = engine.batch()
    if failure is not None:
        put_failure(batch, engine, shard.id, failure)
    for kind in damaged:
        _replace(batch, engine, shard, kind)
    engine.write(batch)
    return failure


def _failure(
    engine: Engine, shard: Shard, damaged: dict[MetaKind, str], state: AppliedState | None
) -> ReplicaFailure | None:
    """Return how a replica has failed of which rows are `damaged`; None: nothing is lost by them."""
    failing = {kind: problem for kind, problem in damaged.items() if kind.rule is DamageRule.REPLICA_FAILS}
    if not failing:
        return None
    before = None if MetaKind.FAILURE in failing else load_failure(engine, shard.id)
    lost_to = 0 if before is None else before.log_lost_to
    if failing.keys() & {MetaKind.LOG_START, MetaKind.FAILURE}:
        lost_to = max(lost_to, _end_of_log(engine, shard.id, state))
    reason = "; ".join(f"{kind.what} cannot be read: {problem}" for kind, problem in failing.items())
    if _FORGETTING & failing.keys():
        reason = f"{FORGOTTEN_PROMISES}; {reason}"
    return ReplicaFailure(FailureKind.DAMAGED, reason, 0 if state is None else state.index, lost_to)


def _replace(batch: Batch, engine: Engine, shard: Shard, kind: MetaKind) -> None:
    """Store what is to be gone by in place of the damaged row of a kind; of a failure the caller has stored that."""
    for rows in STORED_TWICE:
        if rows.kind is kind:
            rows.delete(batch, engine, shard.id)
    if kind in _FORGETTING:
        put_forgotten(batch, engine, shard.id)
    elif kind is MetaKind.LOG_START:
        batch.put(log_start_key(shard.id), encode_log_start(LogStart(0, 0)), engine.meta)
    elif kind is MetaKind.ORIGIN:
        put_origin(batch, engine, shard.id, origin_of_newcomer(shard))
    elif kind is MetaKind.LOST:
        put_lost_to(batch, engine, shard.id, ANY_INDEX)
    elif kind is MetaKind.SKIPPED:
        drop_skipped(batch, engine, shard.id)
    elif kind is MetaKind.STAGING or kind is MetaKind.STRAYS:
        put_strays(batch, engine, shard.id, shard.keyspace)
        batch.delete(staging_key(shard.id), engine.meta)
    else:
        invariant(kind is MetaKind.FAILURE, "every kind of row has something in its place")


def _end_of_log(engine: Engine, shard: int, state: AppliedState | None) -> int:
    """Return up to where a log may have been acknowledged of which it is not known where it begins."""
    try:
        last = last_stored_entry(engine, shard)
    except Damaged:
        return ANY_INDEX
    if last is not None:
        return max(1, last.index)
    # Only what was applied is cut off.
    return ANY_INDEX if state is None else max(1, state.index)
