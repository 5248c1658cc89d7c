"""What the cluster commands show: typed rows for tables and JSON, computed from a survey. Pure."""

from __future__ import annotations

import base64

import msgspec

from shoal.admin.survey import Examination, NodeReport, Problem, Survey
from shoal.cli.output import shown_bytes
from shoal.cli.rows import EncodedRow, encoded_key
from shoal.shardmap import Keyspace, Ranges, Shard, ShardMap

STATE_GOOD = "ok"


MEMORY_NEARLY_FULL = 0.9
"""Of what an account may hold."""


class StatusView(msgspec.Struct):
    """`shoal status`: counts, and all that is wrong."""

    cluster: str
    healthy: bool
    map_version: int
    nodes: int
    nodes_reachable: int
    shards: int
    shards_with_leader: int
    replicas: int
    replicas_in_step: int
    problems: tuple[Problem, ...]


class MemoryView(msgspec.Struct):
    """What a node holds in memory for one purpose, and may hold (bytes); `refused`: how often there was no room."""

    account: str
    used_bytes: int
    bound_bytes: int
    refused: int


class NodeView(msgspec.Struct):
    """One row of `shoal nodes`. What only the node knows is None where it cannot be reached."""

    id: str
    address: str
    region: str
    zone: str
    state: str
    problem: str
    leads: int
    replicas: int
    connected_peers: tuple[str, ...] | None = None
    uptime_ms: int | None = None
    disk_free_bytes: int | None = None
    disk_used_bytes: int | None = None
    disk_latency_us: int | None = None
    cpu: float | None = None
    software: str | None = None
    incarnation: str | None = None
    memory: tuple[MemoryView, ...] | None = None


class ReplicaView(msgspec.Struct):
    """One replica of `shoal shards ID`. `match_index` is what the leader knows it to hold."""

    node: str
    role: str
    state: str
    term: int | None = None
    first_index: int | None = None
    last_index: int | None = None
    commit_index: int | None = None
    applied_index: int | None = None
    match_index: int | None = None


class ShardView(msgspec.Struct):
    """One row of `shoal shards`."""

    id: int
    keyspace: str
    microshards: str
    leader: str | None
    voters: tuple[str, ...]
    followers: tuple[str, ...]
    term: int | None
    seq: int | None
    lease_ms: int | None
    state: str
    problems: tuple[str, ...]
    replicas: tuple[ReplicaView, ...]


class KeyspaceView(msgspec.Struct, omit_defaults=True):
    """One row of `shoal keyspaces`. `reads_per_second`, `writes_per_second`, `max_bytes`: its quotas, where it has some."""

    name: str
    id: int
    microshards: int
    shards: int
    voters: int
    followers: int
    max_staleness_ms: int
    delimiter: str | None = None
    delimiter_base64: str | None = None
    reads_per_second: int | None = None
    writes_per_second: int | None = None
    max_bytes: int | None = None

    @property
    def quotas(self) -> str:
        """The quotas for people."""
        rates = [
            f"{rate} {kind}/s"
            for rate, kind in ((self.reads_per_second, "reads"), (self.writes_per_second, "writes"))
            if rate
        ]
        return ", ".join([*rates, *([shown_bytes(self.max_bytes)] if self.max_bytes else [])]) or "none"


class LocationView(EncodedRow, omit_defaults=True, kw_only=True):
    """`shoal locate`."""

    keyspace: str
    microshard: int
    shard: int
    leader: str | None
    voters: tuple[str, ...]
    followers: tuple[str, ...]


class TransferView(msgspec.Struct):
    """`shoal transfer-leader`."""

    shard: int
    before: str
    leader: str
    took_ms: int


def status_view(found: Examination) -> StatusView:
    """Return the whole cluster in numbers."""
    survey = found.survey
    shards = survey.shard_map.shards
    return StatusView(
        cluster=survey.shard_map.cluster,
        healthy=not found.problems,
        map_version=survey.shard_map.version,
        nodes=len(survey.nodes),
        nodes_reachable=sum(1 for report in survey.nodes if report.status is not None),
        shards=len(shards),
        shards_with_leader=sum(1 for shard in shards if survey.leader(shard.id) is not None),
        replicas=sum(len(shard.replicas) for shard in shards),
        replicas_in_step=sum(survey.in_step(shard, found.target_indexes) for shard in shards),
        problems=found.problems,
    )


def node_views(survey: Survey) -> list[NodeView]:
    """Return one row for each node of the shard map."""
    return [_node_view(survey, report) for report in survey.nodes]


def _node_view(survey: Survey, report: NodeReport) -> NodeView:
    node, status = report.node, report.status
    shards = survey.shard_map.shards
    leaders = (survey.leader(shard.id) for shard in shards)
    view = NodeView(
        id=node.id,
        address=node.address,
        region=node.region,
        zone=node.zone,
        state="unreachable",
        problem=report.problem,
        leads=sum(1 for leader in leaders if leader is not None and leader.node == node.id),
        replicas=sum(1 for shard in shards if node.id in shard.replicas),
    )
    if status is not None:
        view.state = "not writable" if status.not_writable else "not leading" if status.not_leading else STATE_GOOD
        view.problem = status.not_writable or status.not_leading
        view.replicas = len(status.replicas)
        view.connected_peers = status.connected_peers
        view.uptime_ms = status.uptime_ms
        view.disk_free_bytes = status.disk_free_bytes
        view.disk_used_bytes = status.disk_used_bytes
        view.disk_latency_us = status.disk_latency_us
        view.cpu = status.cpu
        view.software = status.software
        view.incarnation = status.incarnation
        view.memory = tuple(
            MemoryView(use.account, use.used_bytes, use.bound_bytes, use.refused) for use in status.memory
        )
    return view


def shard_view(found: Examination, shard: Shard) -> ShardView:
    """Return one shard with its replicas."""
    survey = found.survey
    leader = survey.leader(shard.id)
    keyspace = next(keyspace for keyspace in survey.shard_map.keyspaces if keyspace.id == shard.keyspace)
    in_step = survey.in_step(shard, found.target_indexes)
    problems = [problem.message for problem in found.problems if problem.shard == shard.id]
    if in_step < len(shard.replicas) and not problems:
        # The replicas that are missing are on nodes that cannot be reached: a problem of those nodes.
        problems = [f"shard {shard.id}: {in_step} of {len(shard.replicas)} replicas in step"]
    if leader is None:
        state = "no leader"
    else:
        state = STATE_GOOD if not problems else f"{in_step} of {len(shard.replicas)} in step"
    return ShardView(
        id=shard.id,
        keyspace=keyspace.name,
        microshards=shown_ranges(shard.ranges),
        leader=None if leader is None else leader.node,
        voters=shard.voters,
        followers=shard.followers,
        term=None if leader is None else leader.replica.term,
        seq=None if leader is None else leader.replica.seq,
        lease_ms=None if leader is None else leader.replica.lease_ms,
        state=state,
        problems=tuple(problems),
        replicas=tuple(_replica_view(survey, shard, node) for node in shard.replicas),
    )


def _replica_view(survey: Survey, shard: Shard, node: str) -> ReplicaView:
    replica = survey.replica(shard.id, node)
    progress = survey.progress(shard.id, node)
    leader = survey.leader(shard.id)
    if replica is None:
        role = "voter" if node in shard.voters else "follower"
        return ReplicaView(node, role, "unreachable", match_index=None if progress is None else progress.match_index)
    if replica.failure is not None:
        state = f"failed ({replica.failure.kind})"
        match_index = None if progress is None else progress.match_index
    elif leader is not None and leader.node == node:
        state, match_index = "leads", replica.last_index
    elif progress is not None:
        state, match_index = progress.state if progress.supported else "disconnected", progress.match_index
    else:
        state, match_index = "not known to a leader", None
    return ReplicaView(
        node=node,
        role=replica.role,
        state=state,
        term=replica.term,
        first_index=replica.first_index,
        last_index=replica.last_index,
        commit_index=replica.commit_index,
        applied_index=replica.applied_index,
        match_index=match_index,
    )


def shown_ranges(ranges: Ranges) -> str:
    """Return microshards for people: `0-15 32`."""
    return " ".join(f"{span.first}-{span.end - 1}" if span.end - span.first > 1 else str(span.first) for span in ranges)


def keyspace_views(shard_map: ShardMap) -> list[KeyspaceView]:
    """Return one row for each keyspace."""
    return [_keyspace_view(shard_map, keyspace) for keyspace in shard_map.keyspaces]


def _keyspace_view(shard_map: ShardMap, keyspace: Keyspace) -> KeyspaceView:
    shards = [shard for shard in shard_map.shards if shard.keyspace == keyspace.id]
    view = KeyspaceView(
        name=keyspace.name,
        id=keyspace.id,
        microshards=keyspace.microshards,
        shards=len(shards),
        voters=min(len(shard.voters) for shard in shards),
        followers=min(len(shard.followers) for shard in shards),
        max_staleness_ms=keyspace.max_staleness_ms,
        reads_per_second=keyspace.reads_per_second or None,
        writes_per_second=keyspace.writes_per_second or None,
        max_bytes=keyspace.max_bytes or None,
    )
    try:
        view.delimiter = keyspace.delimiter.decode()
    except UnicodeDecodeError:
        view.delimiter_base64 = base64.b64encode(keyspace.delimiter).decode()
    return view


def location_view(keyspace: Keyspace, shard: Shard, key: bytes) -> LocationView:
    """Return where a key is."""
    return LocationView(
        **msgspec.structs.asdict(encoded_key(key)),
        keyspace=keyspace.name,
        microshard=keyspace.microshard_of(key),
        shard=shard.id,
        leader=shard.leader or None,
        voters=shard.voters,
        followers=shard.followers,
    )
