"""Change who leads: one shard to a chosen node, or all that a node leads to others."""

from __future__ import annotations

from shoal_shardmanager.control.node_requests import Transfer
from shoal_shardmanager.control.observed import ObservedState
from shoal_shardmanager.control.operations.outcome import Note, Outcome, ask, end, wait
from shoal_shardmanager.control.operations.replica import avoided, is_dead
from shoal_shardmanager.control.rows import Failover, MoveLeader, OperationRow, State
from shoal_shardmanager.control.state import ClusterState


def transfer(row: OperationRow, work: MoveLeader, state: ClusterState, observed: ObservedState) -> Outcome:
    """Return what comes next for a `MoveLeader`."""
    now = observed.wall_ms
    if state.shard(work.shard) is None:
        return end(row, State.FAILED, now, f"shard {work.shard} is no more")
    if row.undo:
        return end(row, State.CANCELLED, now, row.undo)
    leader = observed.leader(work.shard)
    if leader is None:
        return wait(f"shard {work.shard} reports no leader")
    if leader.node == work.target:
        return end(row, State.DONE, now, f"{work.target} leads shard {work.shard}")
    if is_dead(work.target, state):
        return end(row, State.FAILED, now, f"node {work.target} is gone")
    if work.target not in leader.voters:
        return end(row, State.FAILED, now, f"{work.target} is no voter of shard {work.shard} any more")
    status = observed.fresh(work.target)
    if status is not None and status.not_leading:
        return end(row, State.FAILED, now, f"node {work.target} takes no leaderships: {status.not_leading}")
    request = Transfer(leader.node, work.shard, work.target, row.id)
    return ask(request, waiting=f"{leader.node} hands shard {work.shard} to {work.target}")


def evacuate(row: OperationRow, work: Failover, state: ClusterState, observed: ObservedState) -> Outcome:
    """Return what comes next for a `Failover`."""
    now = observed.wall_ms
    if row.undo:
        return end(row, State.CANCELLED, now, row.undo)
    led = [shard for shard, leader in observed.leaders().items() if leader.node == work.node]
    if not led:
        if observed.fresh(work.node) is None and (open_ones := _leaderless(work.node, state, observed)):
            return wait(f"node {work.node} is silent, and {open_ones} of its shards report no other leader yet")
        return end(row, State.DONE, now, f"node {work.node} leads nothing")
    requests, held = handed_over(work.node, row.id, state, observed)
    stuck = f"; no other voter can take over shards {', '.join(map(str, held[:8]))} now" if held else ""
    note = Note(f"{work.node} still leads {len(led)} shards{stuck}", len(led), -1, "leaders")
    return Outcome(requests=requests, note=note)


def handed_over(
    node: str, operation: int, state: ClusterState, observed: ObservedState
) -> tuple[tuple[Transfer, ...], list[int]]:
    """Return the requests that take all leaderships from a node, and the shards that no other voter can lead now."""
    avoid = avoided(state, observed) | {node}
    requests: list[Transfer] = []
    held: list[int] = []
    for shard, leader in sorted(observed.leaders().items()):
        if leader.node != node:
            continue
        successors = leader.successors(avoid)
        if successors:
            # Turn by turn, so that not all of them end up on one node.
            best = [successor for successor in successors if (successor in avoid) == (successors[0] in avoid)]
            requests.append(Transfer(node, shard, best[shard % len(best)], operation))
        else:
            held.append(shard)
    return tuple(requests), held


def _leaderless(node: str, state: ClusterState, observed: ObservedState) -> int:
    leaders = observed.leaders()
    return sum(node in shard.voters and shard.id not in leaders for shard in state.map.shards)
