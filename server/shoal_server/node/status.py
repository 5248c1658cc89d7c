"""What a node says of itself: the state of its replicas, as operators see it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import Protocol

from shoal.bounds import MAX_CHILDREN, MAX_INDEX
from shoal.protocol.failures import FailureKind, ReplicaFailure
from shoal.protocol.messages import PeerProgress, ReplicaStatus, StatusReply
from shoal.protocol.migration import MigrationStatus
from shoal.protocol.node_memory import MemoryUse, MemoryUses
from shoal.protocol.shedding import MAX_SHED_KINDS, Shed, ShedRequests
from shoal.shardmap import Routes

from shoal_server.node.disk_health import DiskHealth
from shoal_server.node.group_reports import OUT_OF_TERMS
from shoal_server.node.known_numbers import KnownNumbers
from shoal_server.node.memory import Account, MemoryBudget
from shoal_server.node.overload import Overload
from shoal_server.node.quotas import Quotas
from shoal_server.node.replica import Replica
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.node.wall_clock import WallClock
from shoal_server.raft.liveness import Liveness
from shoal_server.storage.applied_state import AppliedState
from shoal_server.storage.engine import Engine


class DescribedNode(Protocol):
    """What a node says of itself; see `Node` for what each is."""

    identity: NodeIdentity
    settings: NodeSettings
    engine: Engine
    liveness: Liveness
    disk: DiskHealth
    clock: WallClock
    started_at: int
    cpu: float
    known_numbers: KnownNumbers
    quotas: Quotas
    overload: Overload
    memory: MemoryBudget

    @property
    def routes(self) -> Routes: ...

    @property
    def replicas(self) -> Mapping[int, Replica]: ...

    @property
    def connected(self) -> Collection[str]: ...

    @property
    def not_leading(self) -> str: ...

    @property
    def map_is_derived(self) -> bool: ...

    @property
    def cluster_id(self) -> str: ...

    @property
    def wall_ms(self) -> int: ...


STATUS_STEP_REPLICAS = 128
"""So many are described in one step, which takes a millisecond or two."""


class StatusInPieces:
    """The answer to a `GetStatus`, made in steps; each replica is as of the step that describes it.

    `reply`: it, when it is whole.
    """

    __slots__ = ("_described", "_node", "_request", "_shards", "reply")

    def __init__(self, node: DescribedNode, request: int) -> None:
        self.reply: StatusReply | None = None
        self._node = node
        self._request = request
        self._shards = deque(sorted(node.replicas))
        self._described: list[ReplicaStatus] = []

    def step(self, now: int) -> int:
        """Describe some more replicas; return how many."""
        node, shards, described = self._node, self._shards, 0
        while shards and described < STATUS_STEP_REPLICAS:
            described += 1
            replica = node.replicas.get(shards.popleft())
            if replica is not None:
                self._described.append(_replica(node, replica, now))
        if not shards:
            self.reply = _describe(node, self._request, tuple(self._described), now)
        return described


def _describe(node: DescribedNode, request: int, replicas: tuple[ReplicaStatus, ...], now: int) -> StatusReply:
    newest_shard, newest_migration = node.known_numbers.take()
    return StatusReply(
        request=request,
        node=node.identity.node,
        cluster=node.identity.cluster,
        incarnation=node.identity.incarnation,
        software=node.identity.software,
        uptime_ms=(now - node.started_at) // 1_000_000,
        map_version=node.routes.map.version,
        connected_peers=tuple(sorted(node.connected)),
        not_writable=node.disk.state.not_writable,
        disk_free_bytes=node.disk.state.free_bytes,
        disk_used_bytes=node.disk.state.used_bytes,
        disk_latency_us=node.disk.state.latency_us,
        not_leading=node.not_leading,
        cpu=node.cpu,
        map_derived=node.map_is_derived,
        wall_ms=node.wall_ms,
        clock_offset_ms=node.clock.offset_ms,
        clock_problem=node.clock.not_leading,
        cluster_id=node.cluster_id,
        damaged_families=node.engine.damaged_families,
        newest_shard=newest_shard,
        newest_migration=newest_migration,
        replicas=replicas,
        quotas=node.quotas.uses(now),
        quota_epoch=node.quotas.epoch,
        write_pressure=node.disk.budget.pressure,
        write_rate=int(node.disk.budget.rate or 0),
        writes_slowed=node.disk.budget.words,
        queue_delay_us=node.overload.delay_at(now) // 1000,
        shed=_shed(node.overload, now),
        memory=_memory(node.memory),
    )


def _replica(node: DescribedNode, replica: Replica, now: int) -> ReplicaStatus:
    status = replica.group.status()
    membership = status.membership
    traffic = replica.machine.traffic
    failure = _failure(replica, now)
    replica.counts.follow(replica.machine.state.ranges, replica.machine.prefixes)
    return ReplicaStatus(
        shard=replica.shard.id,
        role=status.role,
        leader=status.leader,
        term=status.term,
        seq=replica.machine.state.seq,
        last_index=status.last_index,
        commit_index=status.commit_index,
        applied_index=status.applied_index,
        first_index=status.first_index,
        lease_ms=min(max(0, status.lease_until - now), node.settings.timing.support_ns) // 1_000_000,
        voters=membership.voters,
        followers=membership.learners,
        membership_version=membership.version,
        membership_committed=status.membership_committed,
        reads=traffic.reads,
        writes=traffic.writes,
        written_bytes=traffic.written_bytes,
        bytes=replica.counts.bytes,
        keys=replica.counts.keys,
        counted=replica.counts.complete,
        hot=replica.load.hot(replica.machine.prefixes, replica.counts),
        cpu=replica.load.cpu,
        ranges=replica.machine.state.ranges,
        outgoing=_outgoing(replica.machine.state),
        incoming=_incoming(replica.machine.state),
        migrations_ended=replica.machine.state.ended,
        failure_words="" if failure is None else str(failure),
        comparison=replica.comparison.status(now, replica.machine.state)
        if replica.comparison is not None and replica.comparison.is_of(status.term, status.role == "leader")
        else None,
        failure=failure,
        children=replica.machine.state.children[-MAX_CHILDREN:],
        peers=tuple(
            PeerProgress(
                node=peer.node,
                role="voter" if peer.node in membership.voters else "follower",
                match_index=peer.match_index,
                state=peer.state,
                supported=node.liveness.supported_until(peer.node) > now,
            )
            for peer in status.peers
        ),
    )


def _memory(memory: MemoryBudget) -> MemoryUses:
    return tuple(
        MemoryUse(account.label, memory.used(account), memory.bound(account), memory.refused[account])
        for account in Account
    )


def _shed(overload: Overload, now: int) -> Shed:
    return tuple(
        ShedRequests(reason.value, priority.value, max(0, keyspace), count)
        for (reason, priority, keyspace), count in overload.shed_lately(now)[:MAX_SHED_KINDS]
    )


def _failure(replica: Replica, now: int) -> ReplicaFailure | None:
    """Return why the replica serves nothing, if so."""
    failure, stuck = replica.failure, replica.stuck
    if failure is not None:
        kind = FailureKind(failure.kind.value)
        index = min(failure.at_index, MAX_INDEX)
        if stuck is not None and failure is stuck.failure:
            return ReplicaFailure(kind, failure.reason, index, stuck.entry.term, stuck.entry.checksum)
        return ReplicaFailure(kind, failure.reason, index)
    if replica.group.out_of_terms and not replica.group.has_leader(now):
        return ReplicaFailure(FailureKind.OUT_OF_TERMS, OUT_OF_TERMS, replica.machine.state.index)
    return None


def _outgoing(state: AppliedState) -> MigrationStatus | None:
    outgoing = state.outgoing
    if outgoing is None:
        return None
    return MigrationStatus(outgoing.migration, outgoing.target, outgoing.ranges, outgoing.sealed)


def _incoming(state: AppliedState) -> MigrationStatus | None:
    incoming = state.incoming
    if incoming is None:
        return None
    return MigrationStatus(
        incoming.migration,
        incoming.source,
        incoming.ranges,
        number=incoming.number,
        cursor=incoming.cursor,
        rows=incoming.rows,
        bytes=incoming.bytes,
    )
