"""What the shard manager asks of a node: take over a shard map, change a group's membership, drop a replica.

The shard map says where replicas are to be; who takes part in a group is decided by the group's own log. So a map only
makes room: a replica that it newly puts on this node opens empty, and neither votes nor campaigns until its log has
come to the membership that the map was made for. Whatever the node promised when it had a replica of the shard before,
and has forgotten with it, is thereby not broken. (One of a split that it voted in never had one: `opening.origin_of_empty`.)

Each request that changes what is stored writes a batch of its own, whole, before anything in memory follows it and before
the next request is looked at: one that drops a replica and one that brings it back may arrive in the same turn, and what
is opened must see what was deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec
import structlog
from msgspec.structs import replace
from shoal.errors import ErrorCode
from shoal.map_rules import refuse_map
from shoal.protocol.messages import (
    Answer,
    ChangeMembership,
    Done,
    DropReplica,
    InstallShardMap,
    SetLogLevel,
    SkipEntry,
    SplitShard,
)
from shoal.protocol.migration import MigrationStep, ReadMoving
from shoal.protocol.quotas import SetQuotaShares
from shoal.shardmap import Routes, microshards_in, without_ranges

from shoal_server.node.agenda import Agenda
from shoal_server.node.founding import Founding
from shoal_server.node.migrations import Migrations
from shoal_server.node.opening import put_origin_of_new
from shoal_server.node.outbox import Outbox
from shoal_server.node.quotas import Quotas
from shoal_server.node.replica import Replica
from shoal_server.node.replica_set import ReplicaSet
from shoal_server.node.request_rules import refuse_split
from shoal_server.node.waiting import QueuedCommand
from shoal_server.raft.membership import ChangeKind, MembershipChange, MembershipRefused
from shoal_server.raft.messages import EntryKind
from shoal_server.raft.ready import NotLeader
from shoal_server.shard.commands import SplitCommand
from shoal_server.storage.dropped_replicas import DroppedReplica, is_remembered, put_dropped
from shoal_server.storage.engine import Engine
from shoal_server.storage.node_rows import put_shard_map
from shoal_server.storage.replica_failure import lost_to_at_worst
from shoal_server.storage.replica_rows import drop_replica, is_stored
from shoal_server.storage.skipped_entries import SkippedEntry, describe_entry, put_skipped

log = structlog.get_logger("shoal.node")

AdminRequest: TypeAlias = (
    InstallShardMap
    | ChangeMembership
    | DropReplica
    | SplitShard
    | MigrationStep
    | ReadMoving
    | SetLogLevel
    | SkipEntry
    | SetQuotaShares
)

SPLIT_BYTES = 1024
"""About what a split takes in a log entry."""


class Administration:
    """Does what the shard manager asks."""

    __slots__ = ("_agenda", "_answers", "_engine", "_founding", "_migrations", "_quotas", "_replicas", "_set_log_level")

    def __init__(
        self,
        replicas: ReplicaSet,
        engine: Engine,
        agenda: Agenda,
        founding: Founding,
        migrations: Migrations,
        quotas: Quotas,
        set_log_level: Callable[[str], str],
    ) -> None:
        """`set_log_level` sets the process's, and returns "" or why not."""
        self._replicas = replicas
        self._engine = engine
        self._agenda = agenda
        self._founding = founding
        self._migrations = migrations
        self._quotas = quotas
        self._set_log_level = set_log_level
        self._answers: list[tuple[int, Answer]] = []

    def take(
        self,
        client: int,
        request: AdminRequest,
        now: int,
        outbox: Outbox,
    ) -> None:
        """Do what is asked, or say why not; answers that wait for the disk come out of `take_answers`."""
        if isinstance(request, InstallShardMap):
            problem = self._install(request, now)
        elif isinstance(request, DropReplica):
            problem = self._drop(request)
        elif isinstance(request, SkipEntry):
            problem = self._skip(request, now)
        elif isinstance(request, SetLogLevel):
            problem = self._set_log_level(request.level)
        elif isinstance(request, SetQuotaShares):
            problem = self._quotas.take(request)
        else:
            self._ask_leader(client, request, now, outbox)
            return
        if problem:
            outbox.fail(client, request.request, ErrorCode.INVALID_ARGUMENT, problem)
        elif isinstance(request, SetQuotaShares):
            # Nothing of it is stored.
            outbox.answer(client, Done(request.request))
        else:
            self._answers.append((client, Done(request.request)))

    def take_answers(self) -> list[tuple[int, Answer]]:
        """Return the answers that may leave once what is written by now is on disk."""
        answers, self._answers = self._answers, []
        return answers

    def _install(self, request: InstallShardMap, now: int) -> str:
        """Take over the map; return "" or why not."""
        replicas = self._replicas
        new, old = request.shard_map, replicas.routes.map
        if new.cluster != replicas.identity.cluster:
            return f"the shard map is of cluster {new.cluster!r}, this node of {replicas.identity.cluster!r}"
        if not new.cluster_id:
            new = replace(new, cluster_id=old.cluster_id)
        elif old.cluster_id and new.cluster_id != old.cluster_id:
            return (
                f"the shard map is of another cluster {new.cluster!r}: of id {new.cluster_id}, this node's is "
                f"{old.cluster_id}"
            )
        else:
            self._founding.learn(new.cluster_id)
            old = replicas.routes.map
        if new.version == old.version and not replicas.map_is_derived:
            return (
                "" if new == old else f"there are two shard maps of version {new.version}: give the newer one another"
            )
        if new.version < old.version:
            return f"the shard map has version {new.version}, this node has {old.version} already"
        problem = refuse_map(new, old)
        if problem:
            return f"the shard map contradicts itself: {problem}"
        try:
            routes = Routes(new)
        except ValueError as error:
            return f"the shard map contradicts itself: {error}"
        for found in request.found:
            # Any other replica has what its log says, whatever the map does.
            problem = self._refuse_to_found(found, routes)
            if problem:
                return problem
        batch = self._engine.batch()
        put_shard_map(batch, self._engine, new, derived=False)
        new_here: list[int] = []
        for shard in new.shards:
            if replicas.lacks(shard):
                put_origin_of_new(batch, self._engine, replicas.identity.node, shard, founds=shard.id in request.found)
                new_here.append(shard.id)
        self._engine.write(batch)
        replicas.adopt_map(routes, new_here, now)
        return ""

    def _skip(self, request: SkipEntry, now: int) -> str:
        """Have a replica go on behind the entry that it is stuck at; return "" or why not."""
        replicas = self._replicas
        replica = replicas.by_shard.get(request.shard)
        if replica is None:
            return f"{replicas.identity.node} has no replica of shard {request.shard}"
        failure = replica.failure
        wanted = SkippedEntry(request.term, request.checksum)
        if replica.skipped.get(request.index) == wanted:
            return ""
        stuck = replica.stuck
        if failure is None or stuck is None or failure is not stuck.failure or failure.at_index != request.index:
            return f"the replica on {replicas.identity.node} is not stuck at entry {request.index} of shard {request.shard}"
        [entry] = replica.group.log.entries(request.index, request.index + 1, 1)
        if (entry.term, entry.checksum) != (request.term, request.checksum):
            return f"the replica on {replicas.identity.node} is stuck at another one: {describe_entry(entry)}"
        if entry.kind == EntryKind.MEMBERSHIP:
            return "a change of membership is in force from the moment it is in the log, and cannot be skipped"
        batch = self._engine.batch()
        put_skipped(batch, self._engine, request.shard, request.index, wanted)
        self._engine.write(batch)
        replica.skip(request.index, wanted, now)
        self._agenda.mark(replica)
        log.warning("entry_skipped", node=replicas.identity.node, shard=request.shard, entry=describe_entry(entry))
        return ""

    def _refuse_to_found(self, shard_id: int, routes: Routes) -> str:
        """Return "" or why a replica of the shard may not begin here as a founder, empty and in charge of its microshards."""
        shard = routes.shards.get(shard_id)
        if shard is None:
            return f"shard {shard_id} is to be founded, and not in the shard map"
        replicas = self._replicas
        if replicas.lacks(shard):
            if shard_id in replicas.routes.shards:
                return f"shard {shard_id} is there already: a replica of it that is new here cannot found it"
            voters, followers = shard.founded_by
            if replicas.identity.node not in voters + followers:
                return f"shard {shard_id} was founded elsewhere: on {', '.join(voters + followers)}"
        wanted = set(microshards_in(shard.founded_with))
        for known in replicas.routes.map.shards:
            if (
                known.id != shard_id
                and known.keyspace == shard.keyspace
                and wanted.intersection(microshards_in(known.ranges))
            ):
                return f"shard {shard_id} cannot be founded with microshards that shard {known.id} has"
        return ""

    def _drop(self, request: DropReplica) -> str:
        """Remove a replica; return "" or why not."""
        replicas = self._replicas
        shard = replicas.routes.shards.get(request.shard)
        if shard is not None and replicas.identity.node in shard.replicas:
            return f"the shard map has a replica of shard {request.shard} on {replicas.identity.node}: change the map first"
        replica = replicas.by_shard.get(request.shard)
        if replica is None:
            return ""
        if replica.group.is_leader and shard is not None:
            return f"{replicas.identity.node} leads shard {request.shard}: transfer its leadership first"
        state = replica.machine.state
        # A replica that is not yet so far is of a time when the shard had what others have from it since.
        if 0 <= request.empty_at <= state.index and state.stored_ranges:
            return (
                f"shard {request.shard} is to be empty since entry {request.empty_at} of its log, and its replica on "
                f"{replicas.identity.node}, at entry {state.index}, has microshards: it is kept"
            )
        if replica.machine.microshards.split_offs:
            # Its log is all that could make the new one again, if a crash came before that is on disk.
            return f"what was split off shard {request.shard} is not on disk yet: ask again in a moment"
        group = replica.group
        if shard is not None and group.may_have_to_vote and shard.membership_version <= group.membership.version:
            # It may only not have heard that it was removed: then the map's membership is a newer one.
            return (
                f"{replicas.identity.node} votes in shard {request.shard}, as far as it knows: remove it from the group "
                f"first, and give it a shard map made for that, of a membership newer than {group.membership.version}"
            )
        acknowledged_to = max(group.log.last_index, lost_to_at_worst(self._engine, request.shard))
        batch = self._engine.batch()
        drop_replica(batch, self._engine, replica.shard, replica.stored_state, replica.cleared_rows)
        put_dropped(batch, self._engine, request.shard, DroppedReplica(group.term, group.vote, acknowledged_to))
        self._engine.write(batch)
        replicas.forget(request.shard)
        return ""

    def _ask_leader(
        self,
        client: int,
        request: ChangeMembership | SplitShard | MigrationStep | ReadMoving,
        now: int,
        outbox: Outbox,
    ) -> None:
        """Have done what the shard's leader decides, if that is here."""
        replicas = self._replicas
        replica = replicas.by_shard.get(request.shard)
        if replica is None or not replica.group.is_leader:
            where = f"{replicas.identity.node} does not lead shard {request.shard}"
            route = replica.refusals.route if replica is not None else replicas.routes.shards.get(request.shard)
            outbox.fail(client, request.request, ErrorCode.NOT_LEADER, where, route=route)
        elif isinstance(request, SplitShard):
            self._split(client, request, replica, outbox)
        elif isinstance(request, ChangeMembership):
            self._change(client, request, now, outbox)
        elif isinstance(request, ReadMoving):
            self._migrations.queue_read(client, request, replica)
        else:
            self._migrations.queue_step(client, request, replica, outbox)

    def _split(self, client: int, request: SplitShard, replica: Replica, outbox: Outbox) -> None:
        replicas = self._replicas
        status, child, parent = replica.group.status(), request.child, replica.shard
        membership = status.membership
        problem = refuse_split(request, replica.keyspace, replicas.routes.map.version)
        if problem:
            pass
        elif self._knows_of(child.id):
            problem = f"there is a shard {child.id} already: give the new one another number"
        elif child.keyspace != parent.keyspace:
            problem = f"shard {parent.id} is of keyspace {parent.keyspace}, the new one of {child.keyspace}"
        elif request.map_version <= replicas.routes.map.version:
            problem = f"the shard map has version {replicas.routes.map.version} already: a split needs a newer one"
        elif replica.machine.state.outgoing is not None or replica.machine.state.incoming is not None:
            problem = f"shard {parent.id} is in a migration: try again when that is over"
        elif unknown := sorted(set(membership.voters + membership.learners) - self._replicas.routes.nodes.keys()):
            problem = f"it has replicas on {', '.join(unknown)}, which the shard map has not: remove these from the group first"
        elif not status.membership_committed:
            problem = "a change of its membership is under way: try again in a moment"
        elif (set(child.voters), set(child.followers)) != (set(membership.voters), set(membership.learners)):
            problem = (
                f"the replicas are on {', '.join(membership.voters + membership.learners)}: those of the new shard "
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
            founding_followers=membership.learners,
            founding_ranges=child.ranges,
            parent=parent.id,
            membership_version=membership.version,
        )
        command = SplitCommand(founded, request.map_version)
        replica.queue_command(QueuedCommand(client, request.request, command, None, SPLIT_BYTES))
        self._agenda.mark(replica)

    def _knows_of(self, shard: int) -> bool:
        """Say whether there is a shard of this number, or may be soon, as far as this node knows."""
        replicas = self._replicas
        return (
            shard in replicas.routes.shards
            or shard in replicas.by_shard
            or is_stored(self._engine, shard)
            or is_remembered(self._engine, shard)
            or any(
                shard in replica.machine.state.children or replica.is_to_beget(shard)
                for replica in replicas.by_shard.values()
            )
        )

    def _change(self, client: int, request: ChangeMembership, now: int, outbox: Outbox) -> None:
        membership = self._replicas.by_shard[request.shard].group.membership
        if request.if_version not in (0, membership.version):
            problem = f"the membership of shard {request.shard} is of version {membership.version} by now"
            outbox.fail(client, request.request, ErrorCode.INVALID_ARGUMENT, f"{problem}, not {request.if_version}")
            return
        if (
            request.kind in (ChangeKind.ADD_LEARNER, ChangeKind.PROMOTE)
            and request.node not in self._replicas.routes.nodes
        ):
            # A node that joins is in the managers' map before it is given replicas: then this one's is an older one.
            problem = (
                f"the shard map of {self._replicas.identity.node}, of version {self._replicas.routes.map.version}, has no node "
                f"{request.node!r}: install one that has it first, and ask again"
            )
            outbox.fail(client, request.request, ErrorCode.INVALID_ARGUMENT, problem)
            return
        try:
            self._replicas.propose_membership(request.shard, MembershipChange(request.kind, request.node), now)
        except (MembershipRefused, NotLeader) as error:
            outbox.fail(client, request.request, ErrorCode.INVALID_ARGUMENT, str(error))
            return
        outbox.answer(client, Done(request.request))
