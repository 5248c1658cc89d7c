"""What the shard manager asks of a node: take over a shard map, change a group's membership, drop a replica.

The shard map says where replicas are to be; who takes part in a group is decided by the group's own log. So a map only
makes room: a replica that it newly puts on this node opens empty, and neither votes nor campaigns until its log has
come to the membership that the map was made for. Whatever the node promised when it had a replica of the shard before,
and has forgotten with it, is thereby not broken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec
from shoal.errors import ErrorCode
from shoal.protocol.messages import Answer, ChangeMembership, Done, DropReplica, InstallShardMap, SplitShard
from shoal.shardmap import Routes, without_ranges

from shoal_server.node.outbox import Outbox
from shoal_server.node.replica import QueuedCommand
from shoal_server.raft.membership import MembershipChange, MembershipRefused
from shoal_server.raft.ready import NotLeader
from shoal_server.shard.commands import SplitCommand
from shoal_server.storage.engine import Batch
from shoal_server.storage.folder import put_shard_map
from shoal_server.storage.replica_rows import ReplicaOrigin, drop_replica, put_origin

if TYPE_CHECKING:
    from shoal_server.node.core import Node

AdminRequest: TypeAlias = InstallShardMap | ChangeMembership | DropReplica | SplitShard

SPLIT_BYTES = 1024
"""About what a split takes in a log entry."""


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
        request: AdminRequest,
        now: int,
        batch: Batch,
        outbox: Outbox,
    ) -> None:
        """Do what is asked, or say why not; answers that wait for the disk come out of `take_answers`."""
        if isinstance(request, InstallShardMap):
            problem = self._install(request, now, batch)
        elif isinstance(request, DropReplica):
            problem = self._drop(request, batch)
        elif isinstance(request, SplitShard):
            self._split(client, request, outbox)
            return
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
        if new.version == old.version and not node.map_is_derived:
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
            if known is not None and without_ranges(shard.ranges, known.ranges):
                return f"shard {shard.id} cannot be given microshards by a map alone"
        put_shard_map(batch, node.engine, new)
        origins: dict[int, ReplicaOrigin] = {}
        for shard in new.shards:
            if node.lacks_replica(shard):
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
        if replica.group.is_leader and shard is not None:
            return f"{node.identity.node} leads shard {request.shard}: transfer its leadership first"
        drop_replica(batch, node.engine, replica.shard, replica.machine.state.ranges)
        node.forget_replica(request.shard)
        return ""

    def _split(self, client: int, request: SplitShard, outbox: Outbox) -> None:
        node = self._node
        replica = node.replicas.get(request.shard)
        if replica is None or not replica.group.is_leader:
            self._fail_not_leader(client, request, outbox)
            return
        status, child, parent = replica.group.status(), request.child, replica.shard
        membership = status.membership
        problem = ""
        if child.id in node.routes.shards:
            problem = f"there is a shard {child.id} already: give the new one another number"
        elif child.keyspace != parent.keyspace:
            problem = f"shard {parent.id} is of keyspace {parent.keyspace}, the new one of {child.keyspace}"
        elif request.map_version <= node.routes.map.version:
            problem = f"the shard map has version {node.routes.map.version} already: a split needs a newer one"
        elif not status.membership_committed:
            problem = "a change of its membership is under way: try again in a moment"
        elif (set(child.voters), set(child.followers)) != (set(membership.voters), set(membership.followers)):
            problem = (
                f"the replicas are on {', '.join(membership.voters + membership.followers)}: those of the new shard "
                "are the same"
            )
        elif without_ranges(child.ranges, replica.machine.state.ranges) or not without_ranges(
            replica.machine.state.ranges, child.ranges
        ):
            problem = f"some of the microshards are not in shard {parent.id}, or none would stay there"
        if problem:
            outbox.fail(client, request.request, ErrorCode.INVALID_ARGUMENT, problem)
            return
        founded = msgspec.structs.replace(
            child,
            founders=membership.voters,
            founding_followers=membership.followers,
            founding_ranges=child.ranges,
            membership_version=membership.version,
        )
        command = SplitCommand(founded, request.map_version)
        replica.queue_command(QueuedCommand(client, request.request, command, None, SPLIT_BYTES))
        node.mark_dirty(replica)

    def _fail_not_leader(self, client: int, request: ChangeMembership | SplitShard, outbox: Outbox) -> None:
        node = self._node
        replica = node.replicas.get(request.shard)
        where = f"{node.identity.node} does not lead shard {request.shard}"
        route = replica.route if replica is not None else node.routes.shards.get(request.shard)
        outbox.fail(client, request.request, ErrorCode.NOT_LEADER, where, route=route)

    def _change(self, client: int, request: ChangeMembership, now: int, outbox: Outbox) -> None:
        node = self._node
        replica = node.replicas.get(request.shard)
        if replica is None or not replica.group.is_leader:
            self._fail_not_leader(client, request, outbox)
            return
        try:
            node.propose_membership(request.shard, MembershipChange(request.kind, request.node), now)
        except (MembershipRefused, NotLeader) as error:
            outbox.fail(client, request.request, ErrorCode.INVALID_ARGUMENT, str(error))
            return
        outbox.answer(client, Done(request.request))
