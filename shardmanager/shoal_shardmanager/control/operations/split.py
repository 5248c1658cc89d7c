"""Split a shard: its leader logs it, every replica does it in place, and then the map follows.

    split -> spread
    asked    every node has the map with both, and the new shard has a leader

Nodes route by a map that they derive themselves until the managers' comes. Whether it has happened is seen by replicas of
the new shard; asked again, a leader refuses what it has done. A number that was used before, by managers whose rows are lost
or by hand, is given up for another one.
"""

from __future__ import annotations

from msgspec.structs import replace
from shoal.map_changes import with_split
from shoal.protocol.messages import ReplicaStatus
from shoal.shardmap import Shard, without_ranges

from shoal_shardmanager.control.memberships import unknown_members
from shoal_shardmanager.control.node_requests import Split
from shoal_shardmanager.control.observed import Leading, ObservedState
from shoal_shardmanager.control.operations.outcome import Outcome, ask, end, go, wait
from shoal_shardmanager.control.operations.replica import avoided
from shoal_shardmanager.control.rows import OperationRow, SplitShard, State, Step
from shoal_shardmanager.control.state import ClusterState

REFUSALS_MAX = 3
"""So often in a row a leader that knows of the number has to refuse a split, for it to be taken for used."""


def advance(row: OperationRow, work: SplitShard, state: ClusterState, observed: ObservedState) -> Outcome:
    """Return what comes next at step `split`."""
    now = observed.wall_ms
    parent = state.shard(work.shard)
    if parent is None:
        return end(row, State.FAILED, now, f"shard {work.shard} is no more")
    born, leader = _born(work, observed), observed.leader(work.shard)
    parted = leader is not None and bool(without_ranges(work.ranges, leader.replica.ranges))
    # Where the parent still has the microshards, a replica of that number is of another time.
    if born is not None and (parted or leader is None):
        child = _founded(work, parent, born)
        version = state.next_map_version(observed.newest_map())
        shard_map = with_split(state.map, child, version)
        return go(row, Step.SPREAD, now, shard_map, map_version=shard_map.version)
    if leader is None:
        return wait(f"shard {work.shard} reports no leader")
    if not leader.replica.membership_committed:
        return wait(f"the last change of membership of shard {work.shard} is not committed yet")
    if parted:
        if leader.replica.children and work.child not in leader.replica.children:
            reason = f"shard {work.shard} has parted with the microshards otherwise: `shoal settle {work.shard}`"
            return end(row, State.FAILED, now, reason)
        # Nobody else takes microshards from a shard while this is on it.
        return wait(f"shard {work.shard} has parted with them; {leader.node} opens shard {work.child}")
    unknown = unknown_members(leader.replica, state.map)
    if unknown:
        return wait(f"shard {work.shard} has replicas on {', '.join(unknown)}, which are no nodes of the map")
    if _is_used(row, work, leader, observed):
        number = state.counters.next_shard
        renumbered = replace(row, arguments=replace(work, child=number))
        return Outcome(changes=(renumbered, replace(state.counters, next_shard=number + 1)))
    version = state.next_map_version(observed.newest_map())
    first = _first_leader(leader, state, observed)
    voters = (first, *(voter for voter in leader.voters if voter != first))
    child = Shard(work.child, parent.keyspace, work.ranges, voters, leader.replica.followers)
    return ask(
        Split(leader.node, work.shard, child, version, row.id),
        waiting=f"{leader.node} splits shard {work.child} off shard {work.shard}",
    )


def _is_used(row: OperationRow, work: SplitShard, leader: Leading, observed: ObservedState) -> bool:
    """Say whether the child's number is another shard's, or was; the parent's leader still has all the microshards.

    What other nodes say of the parent may be newer than what its leader says.
    """
    if work.child in leader.replica.children or observed.parents(work.child) - {work.shard}:
        return True
    replicas = [replica for node in observed.reports if (replica := observed.replica(node, work.child)) is not None]
    if any(replica.voters and replica.ranges != work.ranges for replica in replicas):
        return True
    # What a node remembers of shards that are no more, it says by the highest number alone, and by refusing that one.
    status, trouble = observed.fresh(leader.node), observed.troubles.get(row.id)
    known = status is not None and status.newest_shard >= work.child
    return known and trouble is not None and trouble.attempts >= REFUSALS_MAX


def _born(work: SplitShard, observed: ObservedState) -> ReplicaStatus | None:
    """Return the replica of the new shard that knows its membership best; None: there is none yet."""
    found = [
        replica
        for node in observed.reports
        if (replica := observed.replica(node, work.child)) and replica.voters and replica.ranges == work.ranges
    ]
    return max(found, key=lambda replica: replica.membership_version, default=None)


def _founded(work: SplitShard, parent: Shard, born: ReplicaStatus) -> Shard:
    """Return the new shard as its replicas made it: nobody has changed its membership yet, since nobody knew it."""
    return Shard(
        work.child,
        parent.keyspace,
        work.ranges,
        born.voters,
        born.followers,
        founders=born.voters,
        founding_followers=born.followers,
        membership_version=born.membership_version,
        founding_ranges=work.ranges,
        parent=work.shard,
    )


def _first_leader(leader: Leading, state: ClusterState, observed: ObservedState) -> str:
    """Return who is to lead the new shard: of the voters that are in step the one that leads least."""
    avoid = avoided(state, observed)
    led: dict[str, int] = {}
    for leading in observed.leaders().values():
        led[leading.node] = led.get(leading.node, 0) + 1
    behind = set(leader.behind(state.settings.catch_up_entries))
    fit = [node for node in leader.voters if node not in avoid and node not in behind]
    return min(fit or [leader.node], key=lambda node: (led.get(node, 0), node != leader.node, node))
