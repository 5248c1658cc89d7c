"""Move, add or remove one replica of a shard: the new one is filled and votes before the old one loses its vote.

    queued -> route -> add -> catch-up -> promote -> hand-over -> demote -> remove -> drop
              map      log    snapshot,   a voter    the old one  a follower  out of   its rows
              knows    has    log         more       leads no     again       the log  are gone
              target   it                            more

One retires at the end: the source, or, where the operation goes back ("undo"), the target. Up to `promote` it can go back;
from `demote` on it goes through, since by then the new replica is as good as the old one.
"""

from __future__ import annotations

from msgspec.structs import replace
from shoal.shardmap import Shard
from shoal_server.invariants import invariant

from shoal_shardmanager.control.node_requests import ADD_FOLLOWER, DEMOTE, PROMOTE, REMOVE, ChangeMember, Drop, Transfer
from shoal_shardmanager.control.observed import Leading, ObservedState
from shoal_shardmanager.control.operations.outcome import Outcome, ask, end, go, wait
from shoal_shardmanager.control.rows import MoveReplica, NodeState, OperationRow, State, Step
from shoal_shardmanager.control.state import ClusterState, with_follower, with_shards, without_replica

UNDOABLE = frozenset(
    {
        Step.QUEUED,
        Step.ROUTE,
        Step.ADD,
        Step.CATCH_UP,
        Step.PROMOTE,
        Step.HAND_OVER,
    }
)
DEAD = frozenset({NodeState.GONE, NodeState.REMOVED})


def begin(row: OperationRow, work: MoveReplica, state: ClusterState, now_ms: int) -> Outcome:
    """Leave the queue: from here on the map routes to the target, so that it and the leader can find each other."""
    shard = state.shard(work.shard)
    invariant(shard is not None, "a move begins on a shard that is there")
    if not work.target or shard is None:
        return go(row, Step.HAND_OVER, now_ms)
    shard_map = with_shards(state.map, [with_follower(shard, work.target)])
    return go(row, Step.ROUTE, now_ms, shard_map, map_version=shard_map.version)


def advance(row: OperationRow, work: MoveReplica, state: ClusterState, observed: ObservedState) -> Outcome:
    """Return what comes next."""
    now = observed.wall_ms
    shard = state.shard(work.shard)
    if shard is None:
        return end(row, State.FAILED, now, f"shard {work.shard} is no more")
    if not row.undo and work.target and row.step in UNDOABLE and is_dead(work.target, state):
        return Outcome(changes=(undone(row, f"node {work.target} is gone", now, cancelled=False),))
    if row.step is Step.DROP:
        return _drop(row, work, state, observed)
    leader = observed.leader(work.shard)
    if leader is None:
        return wait(f"shard {work.shard} reports no leader")
    if row.step is not Step.ROUTE and not leader.replica.membership_committed:
        return wait(f"the last change of membership of shard {work.shard} is not committed yet")
    match row.step:
        case Step.ROUTE:
            return _route(row, work, observed, leader)
        case Step.ADD:
            return _add(row, work, leader, now)
        case Step.CATCH_UP:
            return _catch_up(row, work, leader, state, now)
        case Step.PROMOTE:
            return _promote(row, work, leader, now)
        case Step.HAND_OVER:
            return _hand_over(row, work, leader, state, observed)
        case Step.DEMOTE:
            return _demote(row, work, leader, state, now)
        case _:
            return _remove(row, work, shard, leader, state, now)


def retiring(row: OperationRow, work: MoveReplica) -> str:
    """Return whose replica goes at the end."""
    return work.target if row.undo else work.source


def undone(row: OperationRow, reason: str, now_ms: int, *, cancelled: bool) -> OperationRow:
    """Return the row of an operation that goes back from now on; its step must be one of `UNDOABLE`."""
    return replace(row, step=Step.HAND_OVER, step_ms=now_ms, undo=reason, cancelled=cancelled)


def is_dead(node: str, state: ClusterState) -> bool:
    """Say whether nothing can be expected of a node any more."""
    known = state.nodes.get(node)
    return known is None or known.state in DEAD


def _route(row: OperationRow, work: MoveReplica, observed: ObservedState, leader: Leading) -> Outcome:
    for node in (work.target, leader.node):
        status = observed.fresh(node)
        if status is None:
            return wait(f"node {node} is silent")
        if not observed.has_map(node, row.map_version):
            return wait(f"node {node} has map {status.map_version}, and is to take {row.map_version} first")
    return go(row, Step.ADD, observed.wall_ms)


def _add(row: OperationRow, work: MoveReplica, leader: Leading, now: int) -> Outcome:
    if work.target in leader.members:
        return go(row, Step.CATCH_UP, now)
    return ask(
        _change(row, work, leader, ADD_FOLLOWER, work.target),
        waiting=f"adding {work.target} as a follower",
    )


def _catch_up(row: OperationRow, work: MoveReplica, leader: Leading, state: ClusterState, now: int) -> Outcome:
    if work.target not in leader.members:
        return go(row, Step.ADD, now)  # its entry was overwritten by a new leader
    lag = 0 if leader.node == work.target else leader.lag_of(work.target)
    peer = leader.peer(work.target)
    if lag is None or (peer is not None and peer.match_index == 0):
        return wait(f"{work.target} has answered nothing yet", left=-1 if lag is None else lag, unit="entries")
    if lag > state.settings.catch_up_entries:
        how = f" ({peer.state})" if peer is not None else ""
        last = leader.replica.last_index
        return wait(f"{work.target} lacks {lag} entries{how}", left=lag, total=last, unit="entries")
    if work.voter and work.target not in leader.voters:
        return go(row, Step.PROMOTE, now)
    return go(row, Step.HAND_OVER, now)


def _promote(row: OperationRow, work: MoveReplica, leader: Leading, now: int) -> Outcome:
    if work.target in leader.voters:
        return go(row, Step.HAND_OVER, now)
    if work.target not in leader.members:
        return go(row, Step.ADD, now)
    return ask(_change(row, work, leader, PROMOTE, work.target), waiting=f"promoting {work.target} to a voter")


def _hand_over(
    row: OperationRow, work: MoveReplica, leader: Leading, state: ClusterState, observed: ObservedState
) -> Outcome:
    now = observed.wall_ms
    leaving = retiring(row, work)
    if not leaving:
        return end(row, State.DONE, now, f"shard {work.shard} has a replica on {work.target}")
    if leaving not in leader.voters:
        return go(row, Step.REMOVE, now)
    if leader.node != leaving:
        return go(row, Step.DEMOTE, now)
    successors = leader.successors(avoided(state, observed))
    if not successors:
        return wait(f"{leaving} leads shard {work.shard}, and no other voter could take over now")
    chosen = work.target if not row.undo and work.target in successors else successors[0]
    return ask(Transfer(leaving, work.shard, chosen, row.id), waiting=f"handing leadership to {chosen}")


def _change(row: OperationRow, work: MoveReplica, leader: Leading, kind: int, member: str) -> ChangeMember:
    return ChangeMember(leader.node, work.shard, kind, member, row.id, leader.replica.membership_version)


def avoided(state: ClusterState, observed: ObservedState) -> frozenset[str]:
    """Return the nodes that should lead nothing, if there are others: drained ones, and those that say so themselves."""
    return frozenset(
        node.id
        for node in state.nodes.values()
        if node.state is not NodeState.ACTIVE
        or ((status := observed.fresh(node.id)) is not None and status.not_leading)
    )


def _demote(row: OperationRow, work: MoveReplica, leader: Leading, state: ClusterState, now: int) -> Outcome:
    leaving = retiring(row, work)
    if leaving not in leader.voters:
        return go(row, Step.REMOVE, now)
    if leader.node == leaving:
        return go(row, Step.HAND_OVER, now)
    shard = state.shard(work.shard)
    policy = state.policies.get(shard.keyspace) if shard is not None else None
    asked = policy.voters if policy is not None else len(leader.voters) - 1
    healthy = leader.supported_voters(without=leaving)
    left = len(leader.voters) - 1
    if work.target and not row.undo and work.voter and work.target not in leader.voters:
        return wait(f"{work.target} does not vote yet")
    if not work.target and not row.undo and left < asked:
        return wait(f"shard {work.shard} would have {left} voters, and {asked} are asked for")
    if healthy <= left // 2:
        return wait(f"without {leaving} only {healthy} of {left} voters of shard {work.shard} answer: no quorum")
    return ask(_change(row, work, leader, DEMOTE, leaving), waiting=f"taking the vote from {leaving}")


def _remove(
    row: OperationRow, work: MoveReplica, shard: Shard, leader: Leading, state: ClusterState, now: int
) -> Outcome:
    leaving = retiring(row, work)
    if leaving in leader.voters:
        return wait(f"{leaving} votes again: somebody else changes shard {work.shard}")
    if leaving in leader.members:
        return ask(_change(row, work, leader, REMOVE, leaving), waiting=f"removing {leaving}")
    shard_map = with_shards(state.map, [without_replica(shard, leaving)])
    return go(row, Step.DROP, now, shard_map, map_version=shard_map.version)


def _drop(row: OperationRow, work: MoveReplica, state: ClusterState, observed: ObservedState) -> Outcome:
    leaving = retiring(row, work)
    status = observed.fresh(leaving)
    if not is_dead(leaving, state):
        if status is None:
            return wait(f"node {leaving} is silent; it is to delete its replica")
        if not observed.has_map(leaving, row.map_version):
            return wait(f"node {leaving} has map {status.map_version}, and is to take {row.map_version} first")
        if any(replica.shard == work.shard for replica in status.replicas):
            return ask(Drop(leaving, work.shard, row.id), waiting=f"deleting the replica on {leaving}")
    if not row.undo:
        return end(row, State.DONE, observed.wall_ms, described(work))
    state_at_end = State.CANCELLED if row.cancelled else State.FAILED
    return end(row, state_at_end, observed.wall_ms, f"{row.undo}; all is as it was before")


def described(work: MoveReplica) -> str:
    """Say what was done."""
    if not work.target:
        return f"shard {work.shard} has no replica on {work.source} any more"
    if not work.source:
        return f"shard {work.shard} has a replica on {work.target}"
    return f"shard {work.shard} has moved from {work.source} to {work.target}"
