"""A rolling restart: one node at a time gives its leaderships away, is restarted by whoever runs it, and catches up.

    evacuate          -> restart                     -> settle              -> evacuate the next one, or done
    it leads nothing     its process is another one     all is well again

A manager starts no processes: `restart` waits until the node reports a shorter uptime than the process before would have.
The next node's turn comes only when every shard has its leader and all its replicas in step, so no two replicas of a
shard are away at once.

A node that is gone or removed when its turn comes is skipped. One that goes for good while it is restarted ends the
operation: what has cost one node may cost the next one as well.
"""

from __future__ import annotations

from msgspec.structs import replace

from shoal_shardmanager.control.observed import ObservedState
from shoal_shardmanager.control.operations.leaders import handed_over
from shoal_shardmanager.control.operations.outcome import Note, Outcome, end, go, wait
from shoal_shardmanager.control.rows import NodeState, OperationRow, RollingRestart, State, Step
from shoal_shardmanager.control.state import ClusterState


def advance(row: OperationRow, work: RollingRestart, state: ClusterState, observed: ObservedState) -> Outcome:
    """Return what comes next."""
    now = observed.wall_ms
    if row.undo:
        return end(row, State.CANCELLED, now, f"{row.undo}; {_restarted(work)}")
    node = current_node(work)
    known = state.nodes.get(node)
    removed = known is None or known.state is NodeState.REMOVED
    gone = known is not None and known.state is NodeState.GONE
    if removed or (gone and row.step is Step.EVACUATE):
        return _next(row, replace(work, skipped=(*work.skipped, node)), now)
    if gone:
        left = " ".join(work.nodes[work.done :])
        reason = f"node {node} has been away for longer than `gone_after`, and counts as gone"
        return end(
            row,
            State.FAILED,
            now,
            f"{reason}; {_restarted(work)}: bring it back, or let its replicas be replaced, and go on with "
            f"`shoal rolling-restart {left}`",
        )
    match row.step:
        case Step.EVACUATE:
            return _evacuate(row, work, node, state, observed)
        case Step.RESTART:
            return _restart(row, work, node, state, observed)
        case _:
            problem = unwell(state, observed)
            return _wait(work, f"{node} is back; {problem}") if problem else _next(row, work, now)


def current_node(work: RollingRestart) -> str:
    """Return whose turn it is."""
    return work.nodes[work.done]


def unwell(state: ClusterState, observed: ObservedState) -> str:
    """Return what speaks against taking a node away; "": every shard has its leader and all its replicas in step."""
    leaders = observed.leaders()
    for shard in state.map.shards:
        leader = leaders.get(shard.id)
        if leader is None:
            return f"shard {shard.id} reports no leader"
        if not leader.replica.membership_committed:
            return f"a change of membership of shard {shard.id} is under way"
        behind = leader.behind(state.settings.catch_up_entries)
        if behind:
            return f"the replica of shard {shard.id} on {behind[0]} is not in step{_absent(behind[0], state, observed)}"
    return ""


def _absent(node: str, state: ClusterState, observed: ObservedState) -> str:
    known = state.nodes.get(node)
    if known is not None and known.state is NodeState.GONE:
        return ", and the node is gone"
    return "" if observed.fresh(node) is not None else ", and the node does not answer"


def _restarted(work: RollingRestart) -> str:
    """Return how many nodes were restarted, and which were not, though it was their turn."""
    skipped = f" ({', '.join(work.skipped)}: skipped, since gone or removed)" if work.skipped else ""
    return f"{work.done - len(work.skipped)} of {len(work.nodes)} nodes were restarted{skipped}"


def _evacuate(
    row: OperationRow, work: RollingRestart, node: str, state: ClusterState, observed: ObservedState
) -> Outcome:
    status = observed.fresh(node)
    if status is None:
        return _wait(work, f"node {node} does not answer: it is skipped once it counts as gone{_after(state)}")
    problem = unwell(state, observed)
    if problem:
        return _wait(work, f"{problem}: {node} is not taken away now")
    requests, _ = handed_over(node, row.id, state, observed)
    if requests:
        return Outcome(requests=requests, note=_note(work, f"{node} still leads {len(requests)} shards"))
    begun = replace(row, arguments=replace(work, uptime_ms=status.uptime_ms))
    return go(begun, Step.RESTART, observed.wall_ms)


def _restart(
    row: OperationRow, work: RollingRestart, node: str, state: ClusterState, observed: ObservedState
) -> Outcome:
    status = observed.fresh(node)
    # Half of the first uptime lies between a process that was restarted and one that was not, whatever the clocks of two
    # managers differ by.
    elapsed = observed.asked_ms(node) - row.step_ms
    if status is not None and status.uptime_ms < work.uptime_ms // 2 + elapsed:
        return go(row, Step.SETTLE, observed.wall_ms)
    requests, _ = handed_over(node, row.id, state, observed)
    waiting = f"restart node {node} now"
    if status is None:
        waiting = f"node {node} is away, and is to come back before it counts as gone{_after(state)}"
    return Outcome(requests=requests, note=_note(work, waiting))


def _next(row: OperationRow, work: RollingRestart, now: int) -> Outcome:
    done = work.done + 1
    if done == len(work.nodes):
        last = replace(work, done=done)
        if last.skipped:
            return end(row, State.DONE, now, _restarted(last))
        return end(row, State.DONE, now, f"{done} nodes were restarted, one after the other")
    moved = replace(row, arguments=replace(work, done=done, uptime_ms=0))
    if row.step is Step.EVACUATE:
        return Outcome(changes=(moved,))
    settled = moved if row.step is Step.SETTLE else replace(moved, step=Step.SETTLE)
    return go(settled, Step.EVACUATE, now)


def _after(state: ClusterState) -> str:
    return f", after {state.settings.gone_after_ms / 1000:g}s"


def _note(work: RollingRestart, waiting: str) -> Note:
    return Note(waiting, len(work.nodes) - work.done, len(work.nodes), "nodes")


def _wait(work: RollingRestart, reason: str) -> Outcome:
    return wait(reason, left=len(work.nodes) - work.done, total=len(work.nodes), unit="nodes")
