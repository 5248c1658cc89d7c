"""Cancel an operation, and what is part of it."""

from __future__ import annotations

from msgspec.structs import replace

from shoal_shardmanager.control.operations import migrate
from shoal_shardmanager.control.operations.outcome import ended
from shoal_shardmanager.control.operations.replica import UNDOABLE, undone
from shoal_shardmanager.control.requests.model import Refused, Why
from shoal_shardmanager.control.rows import (
    Drain,
    Failover,
    Heal,
    MergeShards,
    MoveLeader,
    MoveMicroshards,
    MoveReplica,
    OperationRow,
    Rebalance,
    RollingRestart,
    SplitShard,
    State,
    Step,
)
from shoal_shardmanager.control.state import ClusterState, RowChange


def cancel(number: int, state: ClusterState, now_ms: int) -> tuple[RowChange, ...]:
    """Return the rows that cancel an operation, and what is part of it.

    Raises:
        Refused: there is no such operation, it has ended, or it is past the point of no return.
    """
    row = state.operations.get(number)
    if row is None:
        raise Refused(Why.NOT_FOUND, f"there is no operation {number}; `shoal operations` lists them")
    if not row.running:
        raise Refused(
            Why.CONFLICT, f"operation {number} has ended already, {row.state}: `shoal operations {number}` shows how"
        )
    if row.undo:
        raise Refused(Why.CONFLICT, f"operation {number} is being undone already: {row.undo}")
    changes = [_cancelled(row, now_ms, "cancelled")]
    for part in state.children(number):
        if not part.undo and (part.step in UNDOABLE or part.step is Step.TRANSFER):
            changes.append(_cancelled(part, now_ms, f"operation {number}, whose part it is, was cancelled"))
    return tuple(changes)


def _cancelled(row: OperationRow, now_ms: int, reason: str) -> OperationRow:
    if row.step is Step.QUEUED:
        return ended(row, State.CANCELLED, now_ms, reason)
    work = row.arguments
    if isinstance(work, MoveReplica):
        if row.step in UNDOABLE and work.target:
            return undone(row, reason, now_ms, cancelled=True)
        raise Refused(
            Why.REFUSED,
            f"operation {row.id} is at step {row.step}, where it can only go on: its new replica serves already; "
            "let it end, and move the shard back",
        )
    if isinstance(work, MoveMicroshards | MergeShards):
        if row.step is Step.COPY:
            return migrate.undone(row, reason, now_ms)
        back = f"`shoal move-microshards --from {work.target} --to {work.source}` moves microshards back"
        if isinstance(work, MergeShards):
            back = f"`shoal split {work.target}` parts them again"
        raise Refused(
            Why.REFUSED,
            f"operation {row.id} is at step {row.step}, where it can only go on: shard {work.source} has parted with its "
            f"microshards; let it end: {back}",
        )
    if isinstance(work, SplitShard):
        raise Refused(
            Why.REFUSED,
            f"operation {row.id} cannot be cancelled: shard {work.shard} may be split already; let it end: "
            f"`shoal merge {work.shard} {work.child}` undoes it",
        )
    if isinstance(work, RollingRestart | Drain | Heal | Rebalance | Failover | MoveLeader):
        return replace(row, undo=reason, cancelled=True)
    raise Refused(Why.REFUSED, f"a {row.kind} cannot be cancelled: all that is left is that every node hears of it")
