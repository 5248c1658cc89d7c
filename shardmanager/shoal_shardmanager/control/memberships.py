"""Memberships that shards' leaders report: which the map follows, which it cannot, and how the managers mend those.

A group's membership is what its log says, and anybody who reaches its leader may change it. The map takes over none that
nodes would refuse a map with: they would refuse all later ones, too, and so hear of nothing any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shoal.map_rules import refuse_shard, refuse_successor
from shoal.protocol.messages import ReplicaStatus
from shoal.shardmap import Shard, ShardMap

from shoal_shardmanager.control.node_requests import DEMOTE, REMOVE, ChangeMember
from shoal_shardmanager.control.observed import ObservedState
from shoal_shardmanager.control.rows import MoveReplica, Step
from shoal_shardmanager.control.state import ClusterState, with_membership, with_shards


def followed(state: ClusterState, observed: ObservedState) -> Iterable[ShardMap]:
    """Have the map follow the membership that the shards' logs hold; a target that is not yet in one stays routed."""
    targets = {
        row.arguments.shard: row.arguments.target
        for row in state.running()
        if isinstance(row.arguments, MoveReplica) and row.step in (Step.ROUTE, Step.ADD, Step.CATCH_UP)
    }
    edited: list[Shard] = []
    for shard in state.map.shards:
        leading = observed.leaders().get(shard.id)
        if leading is None or not is_news(shard, leading.replica):
            continue
        target = targets.get(shard.id, "")
        extra = (target,) if target and target in shard.replicas and target not in leading.members else ()
        status = leading.replica
        after = with_membership(shard, status.voters, (*status.followers, *extra), status.membership_version)
        if not refused(after, state.map):
            edited.append(after)
    if edited:
        yield with_shards(state.map, edited)


def is_news(shard: Shard, leader: ReplicaStatus) -> bool:
    """Say whether a leader reports a membership for good that the map does not show."""
    return leader.membership_committed and leader.membership_version > shard.membership_version


def refused(shard: Shard, shard_map: ShardMap) -> str:
    """Return "", or why nodes would refuse a map that has this shard in the place of the one of its number."""
    keyspace = next((known for known in shard_map.keyspaces if known.id == shard.keyspace), None)
    before = next((known for known in shard_map.shards if known.id == shard.id), None)
    return refuse_shard(shard, keyspace, {node.id for node in shard_map.nodes}) or refuse_successor(shard, before)


def unknown_members(leader: ReplicaStatus, shard_map: ShardMap) -> list[str]:
    """Return the members of a group that are no nodes of the map."""
    return sorted(set(leader.voters + leader.followers).difference(node.id for node in shard_map.nodes))


def repairs(state: ClusterState, observed: ObservedState) -> Iterator[ChangeMember]:
    """Take members that the map does not know as nodes out of their groups, as long as they do not answer there.

    No operation puts one in, and no node finds it: it only makes majorities larger. One that answers all the same may be a
    node that managers restored from a copy have forgotten, and comes into the map when it joins.
    """
    for _, leading in sorted(observed.leaders().items()):
        status = leading.replica
        if not status.membership_committed:
            continue
        for member in unknown_members(status, state.map):
            peer = leading.peer(member)
            if member == leading.node or (peer is not None and peer.supported):
                continue
            kind = DEMOTE if member in status.voters else REMOVE
            yield ChangeMember(leading.node, status.shard, kind, member, 0, status.membership_version)
            break  # what else is wrong there is of the membership after this one


def reported(shard: Shard, leader: ReplicaStatus) -> Shard:
    """Return the shard with the membership that its leader reports."""
    return with_membership(shard, leader.voters, leader.followers, leader.membership_version)
