"""What the shard manager asks of a node: take over a shard map, change a group's membership, drop a replica.

The shard map says where replicas are to be; who takes part in a group is decided by the group's own log. So a map only
makes room: a replica that it newly puts on this node opens empty, and neither votes nor campaigns until its log has
come to the membership that the map was made for. Whatever the node promised when it had a replica of the shard before,
and has forgotten with it, is thereby not broken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.errors import ErrorCode
from shoal.protocol.messages import Answer, ChangeMembership, Done, DropReplica, InstallShardMap
from shoal.shardmap import Routes

from shoal_server.node.outbox import Outbox
from shoal_server.raft.membership import MembershipChange, MembershipRefused
from shoal_server.raft.ready import NotLeader
from shoal_server.storage.engine import Batch
from shoal_server.storage.folder import put_shard_map
from shoal_server.storage.replica_rows import ReplicaOrigin, drop_replica, put_origin

if TYPE_CHECKING:
    from shoal_server.node.core import Node


class Administration:
    """Does what the shard manager asks. What has to be on disk before it is answered goes into the turn's batch."""

    __slots__ = ("_answers", "_changes", "_node")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._changes: list[InstallShardMap | DropReplica] = []
        self._answers: list[tuple[int, Answer]] = []

    def take(
        self,
        client: int,
        request: InstallShardMap | ChangeMembership | DropReplica,
        now: int,
        batch: Batch,
        outbox: Outbox,
    ) -> None:
        """Do what is asked, or say why not; answers that wait for the disk come out of `take_answers`."""
        if isinstance(request, InstallShardMap):
            problem = self._install(request, now, batch)
        elif isinstance(request, DropReplica):
            problem = self._drop(request, batch)
        else:
            self._change(client, request, now, outbox)
            return
        if problem:
            outbox.fail(client, request.request, ErrorCode.INVALID_ARGUMENT, problem)
        else:
            self._answers.append((client, Done(request.request)))

    def take_answers(self) -> list[tuple[int, Answer]]:
        """Return the answers that may leave once the turn's batch is on disk."""
        answers, self._answers = self._answers, []
        return answers

    def _install(self, request: InstallShardMap, now: int, batch: Batch) -> str:
        """Take over the map; return "" or why not."""
        node = self._node
        new, old = request.shard_map, node.routes.map
        if new.cluster != node.identity.cluster:
            return f"the shard map is of cluster {new.cluster!r}, this node of {node.identity.cluster!r}"
        if new.version == old.version:
            return (
                "" if new == old else f"there are two shard maps of version {new.version}: give the newer one another"
            )
        if new.version < old.version:
            return f"the shard map has version {new.version}, this node has {old.version} already"
        try:
            routes = Routes(new)
        except (ValueError, KeyError, IndexError) as error:
            return f"the shard map contradicts itself: {error}"
        for shard in new.shards:
            known = node.routes.shards.get(shard.id)
            if known is not None and known.ranges != shard.ranges:
                return f"shard {shard.id} cannot change its microshards by a map alone"
        put_shard_map(batch, node.engine, new)
        origins: dict[int, ReplicaOrigin] = {}
        for shard in new.shards:
            if node.identity.node in shard.replicas and shard.id not in node.replicas:
                origin = ReplicaOrigin(shard.id in request.found, shard.membership_version)
                put_origin(batch, node.engine, shard.id, origin)
                origins[shard.id] = origin
        node.adopt_map(routes, origins, now)
        return ""

    def _drop(self, request: DropReplica, batch: Batch) -> str:
        """Remove a replica; return "" or why not."""
        node = self._node
        shard = node.routes.shards.get(request.shard)
        if shard is not None and node.identity.node in shard.replicas:
            return f"the shard map has a replica of shard {request.shard} on {node.identity.node}: change the map first"
        replica = node.replicas.get(request.shard)
        if replica is None:
            return ""
        if replica.group.is_leader:
            return f"{node.identity.node} leads shard {request.shard}: transfer its leadership first"
        drop_replica(batch, node.engine, replica.shard)
        node.forget_replica(request.shard)
        return ""

    def _change(self, client: int, request: ChangeMembership, now: int, outbox: Outbox) -> None:
        node = self._node
        replica = node.replicas.get(request.shard)
        if replica is None or not replica.group.is_leader:
            where = f"{node.identity.node} does not lead shard {request.shard}"
            route = replica.route if replica is not None else node.routes.shards.get(request.shard)
            outbox.fail(client, request.request, ErrorCode.NOT_LEADER, where, route=route)
            return
        try:
            node.propose_membership(request.shard, MembershipChange(request.kind, request.node), now)
        except (MembershipRefused, NotLeader) as error:
            outbox.fail(client, request.request, ErrorCode.INVALID_ARGUMENT, str(error))
            return
        outbox.answer(client, Done(request.request))
