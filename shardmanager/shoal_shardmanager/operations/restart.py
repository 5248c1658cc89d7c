"""A rolling restart: one node at a time gives its leaderships away, is restarted by whoever runs it, and catches up.

    evacuate          -> restart                     -> settle              -> evacuate the next one, or done
    it leads nothing     its process is another one     all is well again

A manager starts no processes: `restart` waits until the node reports a shorter uptime than the process before would have.
The next node's turn comes only when every shard has its leader and all its replicas in step, so no two replicas of a
shard are away at once.
"""

from __future__ import annotations

from msgspec.structs import replace

from shoal_shardmanager.operations.leaders import handed_over
from shoal_shardmanager.operations.outcome import Note, Outcome, end, go, wait
from shoal_shardmanager.rows import NodeState, OperationRow, RollingRestart, State, Step
from shoal_shardmanager.state import ClusterState
from shoal_shardmanager.view import View


def advance(row: OperationRow, work: RollingRestart, state: ClusterState, view: View) -> Outcome:
    """Return what comes next."""
    now = view.wall_ms
    if row.undo:
        return end(row, State.CANCELLED, now, f"{row.undo}; {work.done} of {len(work.nodes)} nodes were restarted")
    node = current_node(work)
    known = state.nodes.get(node)
    if known is None or known.state is NodeState.REMOVED:
        return _next(row, work, now)
    match row.step:
        case Step.EVACUATE:
            return _evacuate(row, work, node, state, view)
        case Step.RESTART:
            return _restart(row, work, node, state, view)
        case _:
            problem = unwell(state, view)
            return _wait(work, f"{node} is back; {problem}") if problem else _next(row, work, now)


def current_node(work: RollingRestart) -> str:
    """Return whose turn it is."""
    return work.nodes[work.done]


def unwell(state: ClusterState, view: View) -> str:
    """Return what speaks against taking a node away; "": every shard has its leader and all its replicas in step."""
    leaders = view.leaders()
    for shard in state.map.shards:
        leader = leaders.get(shard.id)
        if leader is None:
            return f"shard {shard.id} reports no leader"
        if not leader.replica.membership_committed:
            return f"a change of membership of shard {shard.id} is under way"
        behind = leader.behind(state.settings.catch_up_entries)
        if behind:
            return f"the replica of shard {shard.id} on {behind[0]} is not in step"
    return ""


def _evacuate(row: OperationRow, work: RollingRestart, node: str, state: ClusterState, view: View) -> Outcome:
    status = view.fresh(node)
    if status is None:
        return _wait(work, f"node {node} is silent: nothing is restarted while it is away")
    problem = unwell(state, view)
    if problem:
        return _wait(work, f"{problem}: {node} is not taken away now")
    requests, _ = handed_over(node, row.id, state, view)
    if requests:
        return Outcome(requests=requests, note=_note(work, f"{node} still leads {len(requests)} shards"))
    begun = replace(row, arguments=replace(work, uptime_ms=status.uptime_ms))
    return go(begun, Step.RESTART, view.wall_ms)


def _restart(row: OperationRow, work: RollingRestart, node: str, state: ClusterState, view: View) -> Outcome:
    status = view.fresh(node)
    # Half of the first uptime lies between a process that was restarted and one that was not, whatever the clocks of two
    # managers differ by.
    elapsed = view.asked_ms(node) - row.step_ms
    if status is not None and status.uptime_ms < work.uptime_ms // 2 + elapsed:
        return go(row, Step.SETTLE, view.wall_ms)
    requests, _ = handed_over(node, row.id, state, view)
    waiting = f"restart node {node} now" if status is not None else f"node {node} is away, and is to come back"
    return Outcome(requests=requests, note=_note(work, waiting))


def _next(row: OperationRow, work: RollingRestart, now: int) -> Outcome:
    done = work.done + 1
    if done == len(work.nodes):
        return end(row, State.DONE, now, f"{len(work.nodes)} nodes were restarted, one after the other")
    moved = replace(row, arguments=replace(work, done=done, uptime_ms=0))
    if row.step is Step.EVACUATE:
        return Outcome(changes=(moved,))
    settled = moved if row.step is Step.SETTLE else replace(moved, step=Step.SETTLE)
    return go(settled, Step.EVACUATE, now)


def _note(work: RollingRestart, waiting: str) -> Note:
    return Note(waiting, len(work.nodes) - work.done, len(work.nodes), "nodes")


def _wait(work: RollingRestart, reason: str) -> Outcome:
    return wait(reason, left=len(work.nodes) - work.done, total=len(work.nodes), unit="nodes")
