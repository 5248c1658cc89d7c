"""Operations made of many moves: drain, heal, rebalance. Placement says which; each is an operation of its own.

Round by round: ask placement, begin its next steps as parts, go on while some of them run, ask again. A part that is stuck
keeps its shard and nothing else: placement is asked again as soon as no other part runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from shoal_shardmanager import placement
from shoal_shardmanager.control.observed import ObservedState, elapsed_ms
from shoal_shardmanager.control.operations.outcome import Note, Outcome, end, wait
from shoal_shardmanager.control.placement_input import SILENT
from shoal_shardmanager.control.rows import (
    Drain,
    Heal,
    MoveLeader,
    MoveReplica,
    NodeState,
    OperationRow,
    Rebalance,
    State,
    Step,
)
from shoal_shardmanager.control.state import ClusterState, RowChange

PlannedMoves = Drain | Heal | Rebalance

ROUND_STEPS_MAX = 64
"""How many parts one round begins: what a change of circumstances can make pointless."""
STUCK_MS = 30_000
"""A part that has not gone on for so long is waited for no more."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What placement answered for an operation, and when (monotonic). It serves for one round.

    Args:
        without: active nodes that did not answer then, and so were given nothing.
    """

    plan: placement.Plan
    at_ms: int
    without: tuple[str, ...] = ()


def planned_from(plan: placement.Plan, known: placement.State, at_ms: int) -> Planned:
    """Return the plan that placement made of what was known."""
    active = placement.NodeState.ACTIVE
    return Planned(
        plan, at_ms, tuple(node.id for node in known.nodes if node.state is active and node.closed == SILENT)
    )


def mode_of(work: PlannedMoves) -> placement.Mode:
    """Return how placement is to be asked."""
    if isinstance(work, Rebalance) and work.leaders_only:
        return placement.Mode.LEADERS
    return placement.Mode.EMERGENCY if isinstance(work, Heal) else placement.Mode.PERIODIC


def advance(
    row: OperationRow, work: PlannedMoves, state: ClusterState, observed: ObservedState, planned: Planned | None
) -> Outcome:
    """Return what comes next; `planned` None: there is no plan for what is now, and one is being made."""
    now = observed.wall_ms
    parts = state.children(row.id)
    active = [part for part in parts if elapsed_ms(part.step_ms, now) < STUCK_MS]
    over = _end(row, work, state, observed)
    if over is not None and not parts:
        return over
    if row.undo:
        if parts:
            return wait(f"its last {len(parts)} moves are ending", left=len(parts), unit="moves")
        return end(row, State.CANCELLED, now, row.undo, *_node_after_cancel(work, state, now))
    left = remaining(work, state, observed)
    unit = "moves" if isinstance(work, Rebalance) else "replicas"
    if active:
        return wait(f"{len(active)} moves are under way", left=left, unit=unit)
    if planned is None:
        return Outcome(note=Note("placement is asked", left, unit=unit), wants_plan=True)
    wanted = list(usable(work, planned.plan, state))[:ROUND_STEPS_MAX]
    if wanted and over is None:
        return Outcome(changes=tuple(_parts(row, wanted, state, now)), note=Note(f"beginning {len(wanted)} moves"))
    if parts:
        stuck = ", ".join(str(part.id) for part in parts[:4])
        return wait(f"operation {stuck} does not go on; see `shoal operations {parts[0].id}`", left=left, unit=unit)
    reasons = placement.described(planned.plan.refusals)
    if isinstance(work, Rebalance):
        if planned.without:
            return wait(f"node {planned.without[0]} does not answer, and is given nothing: it may be the one to fill")
        what = "leaders are as even as they get" if work.leaders_only else "everything is as even as it gets"
        done = what + (f"; not possible: {reasons}" if reasons else "")
        return end(row, State.DONE, now, done)
    return wait(reasons or "placement finds nothing to move now", left=left, unit=unit)


def remaining(work: PlannedMoves, state: ClusterState, observed: ObservedState) -> int:
    """Return how many replicas still have to leave the node; -1: not known, as of a rebalancing."""
    if isinstance(work, Rebalance):
        return -1
    mapped = {shard.id for shard in state.map.shards if work.node in shard.replicas}
    status = observed.fresh(work.node)
    if status is not None and not isinstance(work, Heal):
        mapped |= {replica.shard for replica in status.replicas}
    return len(mapped)


def usable(work: PlannedMoves, plan: placement.Plan, state: ClusterState) -> Iterable[placement.PlannedStep]:
    """Yield those steps of a plan that serve the operation, and can begin now."""
    taken: set[int] = set()
    busy = state.busy(healing=isinstance(work, Heal))
    for step in plan.steps:
        # One node is emptied in whatever order the caps allow; other plans rely on the order of their waves.
        if (step.wave > 0 and not isinstance(work, Drain)) or step.shard in taken:
            continue
        if step.shard in busy or not _still_fits(step, state):
            continue
        source = "" if isinstance(step, placement.AddReplica) else step.source
        if isinstance(work, Drain) and source != work.node:
            continue
        if isinstance(work, Heal) and source not in ("", work.node):
            continue
        taken.add(step.shard)
        yield step


def _still_fits(step: placement.PlannedStep, state: ClusterState) -> bool:
    """Whether a step makes sense on the map and the nodes as they are by now."""
    shard = state.shard(step.shard)
    if shard is None:
        return False
    source = "" if isinstance(step, placement.AddReplica) else step.source
    target = "" if isinstance(step, placement.RemoveReplica) else step.target
    if source and source not in shard.replicas:
        return False
    if not target:
        return True
    known = state.nodes.get(target)
    takes_replica = not isinstance(step, placement.TransferLeader)
    return known is not None and known.state is NodeState.ACTIVE and takes_replica != (target in shard.replicas)


def part_of(step: placement.PlannedStep) -> MoveReplica | MoveLeader:
    """Return a step of placement as the arguments of an operation."""
    match step:
        case placement.MoveReplica():
            return MoveReplica(step.shard, step.source, step.target, step.role is placement.Role.VOTER)
        case placement.AddReplica():
            return MoveReplica(step.shard, "", step.target, step.role is placement.Role.VOTER)
        case placement.RemoveReplica():
            return MoveReplica(step.shard, step.source, "", step.role is placement.Role.VOTER)
        case placement.TransferLeader():
            return MoveLeader(step.shard, step.target)


def _parts(
    row: OperationRow, wanted: list[placement.PlannedStep], state: ClusterState, now: int
) -> Iterable[RowChange]:
    first = state.counters.next_operation
    yield replace(state.counters, next_operation=first + len(wanted))
    for number, step in enumerate(wanted, start=first):
        yield OperationRow(
            number, part_of(step), State.RUNNING, Step.QUEUED, now, now, parent=row.id, reason=step.reason
        )


def _end(row: OperationRow, work: PlannedMoves, state: ClusterState, observed: ObservedState) -> Outcome | None:
    """Return how the operation ends, if what is was asked for is so."""
    now = observed.wall_ms
    if isinstance(work, Rebalance):
        return None
    node = state.nodes.get(work.node)
    if node is None or node.state is NodeState.REMOVED:
        return end(row, State.FAILED, now, f"node {work.node} is no more")
    if isinstance(work, Heal) and node.state is not NodeState.GONE:
        return end(row, State.DONE, now, f"node {work.node} has come back")
    if remaining(work, state, observed):
        return None
    if isinstance(work, Heal):
        return end(row, State.DONE, now, f"no shard has a replica on node {work.node} any more")
    if observed.fresh(work.node) is None and node.state is not NodeState.GONE:
        return wait(f"node {work.node} is silent: its report must say that it is empty")
    if node.state is NodeState.GONE:
        return end(row, State.DONE, now, f"node {work.node} is gone, and holds nothing that counts")
    emptied = replace(node, state=NodeState.DRAINED, since_ms=now, before=NodeState.ACTIVE)
    return end(row, State.DONE, now, f"node {work.node} is empty", emptied)


def _node_after_cancel(work: PlannedMoves, state: ClusterState, now: int) -> tuple[RowChange, ...]:
    if not isinstance(work, Drain):
        return ()
    node = state.nodes[work.node]
    if node.state is not NodeState.DRAINING:
        return ()
    return (replace(node, state=NodeState.ACTIVE, since_ms=now, before=NodeState.ACTIVE),)
