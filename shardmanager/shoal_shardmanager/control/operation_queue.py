"""The queue of operations that wait for their turn: which may begin, as far as the caps of moves under way allow. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shoal_server.invariants import InvariantViolated

from shoal_shardmanager.control.observed import elapsed_ms
from shoal_shardmanager.control.operations import replica
from shoal_shardmanager.control.operations.outcome import end, go
from shoal_shardmanager.control.rows import (
    MergeShards,
    MoveLeader,
    MoveMicroshards,
    MoveReplica,
    NodeState,
    OperationRow,
    State,
    Step,
)
from shoal_shardmanager.control.state import ClusterState, RowChange, changed

STUCK_MS = 30_000
"""A move that waits for so long at one step no longer counts against the caps: it moves nothing."""


def begun(state: ClusterState, stuck: frozenset[int], now_ms: int) -> Iterable[RowChange]:
    """Let queued operations begin, the oldest first, as far as the caps allow.

    Args:
        stuck: migrations that do not go on: they copy nothing.
    """
    moving = _Moving(0, {})
    for row in state.running():
        if _counts(row, stuck, now_ms):
            moving.add(_filled(row, state))
    for row in state.running():
        if row.step is not Step.QUEUED or row.undo:
            continue
        work = row.arguments
        filled = _filled(row, state)
        if isinstance(work, MoveLeader):
            outcome = go(row, Step.TRANSFER, now_ms)
        elif isinstance(work, MoveReplica) and (reason := _pointless(work, state)):
            outcome = end(row, State.FAILED, now_ms, reason)
        elif isinstance(work, MoveReplica | MoveMicroshards | MergeShards):
            if not moving.admits(filled, state):
                continue
            moving.add(filled)
            if isinstance(work, MoveReplica):
                outcome = replica.begin(row, work, state, now_ms)
            else:
                outcome = go(row, Step.COPY, now_ms)
        else:
            raise InvariantViolated(f"a {row.kind} does not wait in the queue")
        state = changed(state, outcome.changes)
        yield from outcome.changes


def _pointless(work: MoveReplica, state: ClusterState) -> str:
    """Return why a move is not to begin at all, or "": what was so when it was queued need not be so any more."""
    if state.shard(work.shard) is None:
        return f"shard {work.shard} is no more"
    target = state.nodes.get(work.target)
    if work.target and (target is None or target.state is not NodeState.ACTIVE):
        how = "no more" if target is None else target.state
        return f"node {work.target} is {how} by now, and is given nothing new"
    return ""


def _counts(row: OperationRow, stuck: frozenset[int], now_ms: int) -> bool:
    if isinstance(row.arguments, MoveReplica):
        return row.step is not Step.QUEUED and elapsed_ms(row.step_ms, now_ms) < STUCK_MS
    return row.migrates and row.step in (Step.COPY, Step.SEAL) and row.id not in stuck


def _filled(row: OperationRow, state: ClusterState) -> tuple[str, ...]:
    """Return the nodes that an operation gives work: those that read or write rows in bulk."""
    work = row.arguments
    if isinstance(work, MoveReplica):
        return tuple(node for node in (work.source, work.target) if node)
    if isinstance(work, MoveMicroshards | MergeShards):
        target = state.shard(work.target)
        return target.replicas if target is not None else ()
    return ()


@dataclass(slots=True)
class _Moving:
    """How many moves are under way, in all and by node."""

    total: int
    by_node: dict[str, int]

    def admits(self, nodes: tuple[str, ...], state: ClusterState) -> bool:
        settings = state.settings
        return self.total < settings.moves_per_cluster and all(
            self.by_node.get(node, 0) < settings.moves_per_node for node in nodes
        )

    def add(self, nodes: tuple[str, ...]) -> None:
        self.total += 1
        for node in nodes:
            self.by_node[node] = self.by_node.get(node, 0) + 1
