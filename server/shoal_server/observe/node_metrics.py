"""A node's counters and state as families of samples, gathered when somebody scrapes, and not before.

How many series there are does not grow with the replicas: all of them are summed up, and those of a single shard are given
for `SHARDS_MAX` replicas at most, the busiest ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import nlargest

from shoal.errors import ErrorCode
from shoal.metrics import Family, counter, gauge, labelled

from shoal_server.node.comparison import standing_divergence
from shoal_server.node.core import Node
from shoal_server.node.counters import LABELS, Backlog
from shoal_server.node.memory import Account
from shoal_server.node.replica import Replica
from shoal_server.observe.memory_metrics import memory_families
from shoal_server.observe.overload_metrics import overload_families
from shoal_server.observe.readiness import Readiness
from shoal_server.observe.slow_log import SlowLog
from shoal_server.observe.storage_metrics import storage_families
from shoal_server.places import reserved_places
from shoal_server.storage.replica_failure import FailureKind
from shoal_server.storage.rocks import RocksEngine

SHARDS_MAX = 64
PEERS_MAX = 64
ROLES = ("leader", "candidate", "voter", "follower")


@dataclass(slots=True)
class _Sums:
    """What all replicas come to."""

    reads: int = 0
    writes: int = 0
    written_bytes: int = 0
    rows: int = 0
    row_bytes: int = 0
    sessions: int = 0
    session_results_bytes: int = 0
    without_leader: int = 0
    with_lease: int = 0
    term: int = 0
    commit_lag: int = 0
    apply_lag: int = 0
    apply_lag_max: int = 0
    replica_lag_max: int = 0
    read_weakly: int = 0
    staleness_ms_max: int = 0
    commands: int = 0
    proposals: int = 0
    reads_waiting: int = 0
    weak_reads: int = 0
    comparison_age_ms: int = 0
    undecided: int = 0
    failed: dict[str, int] = field(default_factory=lambda: dict.fromkeys([kind.value for kind in FailureKind], 0))

    def add_backlog(self, backlog: Backlog) -> None:
        self.commands += backlog.commands
        self.proposals += backlog.proposals
        self.reads_waiting += backlog.reads
        self.weak_reads += backlog.weak_reads


class NodeMetrics:
    """Gathers the families of one node process. For the event loop's thread."""

    def __init__(
        self,
        node: Node,
        engine: RocksEngine,
        slow_log: SlowLog,
        *,
        clients: Callable[[], int],
        unsent_bytes: Callable[[], Mapping[str, int]],
        readiness: Callable[[], Readiness],
    ) -> None:
        """
        Args:
            clients: says how many are connected.
            unsent_bytes: says by peer what its connection has not taken yet.
        """
        self._node = node
        self._engine = engine
        self._slow_log = slow_log
        self._clients = clients
        self._unsent_bytes = unsent_bytes
        self._readiness = readiness

    def families(self, now: int) -> Iterator[Family]:
        """Yield all families, as of `now` (ns of the node's clock)."""
        sums, roles, replica_lags = _Sums(), dict.fromkeys(ROLES, 0), dict[int, int]()
        for replica in self._node.replicas.values():
            _take(replica, now, sums, roles, replica_lags)
        yield from self._of_process(now)
        yield from self._of_requests(sums)
        yield from self._of_queues(sums)
        yield from memory_families(self._node.memory)
        yield from self._of_peers(now)
        yield from self._of_raft(sums, roles)
        yield from self._of_comparisons(sums)
        yield from self._of_shards(replica_lags)
        yield from overload_families(self._node, now)
        yield from storage_families(self._engine)

    def _of_process(self, now: int) -> Iterator[Family]:
        node, disk = self._node, self._node.disk
        identity, counters = node.identity, node.counters
        info = Family("shoal_node_info", "gauge", "1; which node this is, and which version of the software it runs")
        yield info.add(1, node=identity.node, cluster=identity.cluster, version=identity.software)
        yield gauge("shoal_node_uptime_seconds", "Since the process began", (now - node.started_at) / 1e9)
        yield gauge("shoal_node_ready", "1 while /readyz says so", self._readiness().ready)
        yield gauge("shoal_node_map_version", "Of the shard map that the node routes by", node.routes.map.version)
        yield gauge("shoal_node_cpu_cores", "Cores that the process took over the last second", node.cpu)
        yield gauge("shoal_node_disk_free_bytes", "What the disk has left for the node", disk.state.free_bytes)
        yield gauge("shoal_node_disk_used_bytes", "What the node's data folder takes", disk.state.used_bytes)
        yield gauge("shoal_node_writable", "0 while the node turns writes away", not disk.state.not_writable)
        yield gauge("shoal_node_may_lead", "0 while the node gives its leaderships away", not node.not_leading)
        yield gauge(
            "shoal_clock_offset_seconds",
            "By how much the wall clock is ahead of what the other nodes' allow; negative: behind",
            node.clock.offset_ms / 1000,
        )
        yield gauge(
            "shoal_clock_confirmed",
            "0 while no majority of the cluster's clocks agrees: expired rows are hidden, and not removed",
            node.clock.settled,
        )
        yield counter("shoal_node_turns", "Rounds of the node's work", counters.turns)
        yield counter(
            "shoal_node_turn_seconds", "Time spent in turns; beside the clock's it is the load", counters.turn_ns / 1e9
        )

    def _of_requests(self, sums: _Sums) -> Iterator[Family]:
        counters = self._node.counters
        yield labelled(
            "counter",
            "shoal_node_requests",
            "Requests of clients; one carries all that a client has for a shard in one turn of its event loop",
            "operation",
            [(_snake(kind.__name__), count) for kind, count in counters.requests.items()],
        )
        yield labelled(
            "counter",
            "shoal_node_errors",
            "Requests that were refused or failed; redirects to the leader are among them",
            "code",
            [(code.value, counters.failures.get(code, 0)) for code in ErrorCode],
        )
        yield counter(
            "shoal_node_frames_damaged",
            "Frames that did not arrive as they were sent; each ends its connection",
            counters.frames_damaged,
        )
        yield counter(
            "shoal_raft_messages_refused",
            "Messages of peers with entries that are damaged, or none; each ends its connection",
            counters.messages_refused,
        )
        operations = Family("shoal_node_operations", "counter", "Keys read, and operations of writes applied, here")
        operations.add(sums.reads + counters.retired_reads, operation="read")
        yield operations.add(sums.writes + counters.retired_writes, operation="write")
        yield counter(
            "shoal_node_written_bytes",
            "Bytes of the log entries applied here",
            sums.written_bytes + counters.retired_written_bytes,
        )
        latency = Family(
            "shoal_node_request_duration_seconds",
            "histogram",
            "Requests that were served, none left out, each counted once whatever it carries; from the first arrival of the "
            "turn that took it in to the end of the turn that answered it, so up to one turn too long. Writes are with the "
            "sessions that clients open; for them `consistency` is the durability",
        )
        for served, histogram in enumerate(counters.latencies):
            operation, consistency = list(LABELS.values())[served]
            latency.add_histogram(histogram, operation=operation, consistency=consistency)
        yield latency
        yield counter("shoal_node_slow_requests", "Requests beyond the bound of the slow log", self._slow_log.seen)

    def _of_queues(self, sums: _Sums) -> Iterator[Family]:
        length = Family("shoal_node_queue_length", "gauge", "What waits, or is open, in each of the node's queues")
        limit = Family(
            "shoal_node_queue_limit",
            "gauge",
            "The bound of each queue that has one of its own; of `clients` with those for the cluster's own machines",
        )
        clients = self._node.settings.limits.clients
        queues = self._node.queues() | {
            "clients": (self._clients(), clients + reserved_places(clients)),
            "commands": (sums.commands, 0),
            "proposals": (sums.proposals, 0),
            "reads": (sums.reads_waiting, 0),
            "weak_reads": (sums.weak_reads, 0),
        }
        for name, (waiting, bound) in queues.items():
            length.add(waiting, queue=name)
            if bound:
                limit.add(bound, queue=name)
        yield length
        yield limit

    def _of_peers(self, now: int) -> Iterator[Family]:
        node = self._node
        connected = Family("shoal_node_peer_connected", "gauge", "1 while messages to the peer have a way")
        support = Family(
            "shoal_node_peer_support_seconds",
            "gauge",
            "For how long the peer has promised not to elect against this node",
        )
        unsent = Family(
            "shoal_node_peer_unsent_bytes",
            "gauge",
            "Bytes of messages that the connection to the peer has not taken yet",
        )
        unsent_bytes = self._unsent_bytes()
        for peer in node.peers[:PEERS_MAX]:
            connected.add(peer in node.connected, peer=peer)
            unsent.add(unsent_bytes.get(peer, 0), peer=peer)
            support.add(max(0, node.liveness.supported_until(peer) - now) / 1e9, peer=peer)
        yield connected
        yield support
        yield unsent
        yield gauge(
            "shoal_node_peer_unsent_limit_bytes",
            "Beyond this, of all together, the connection to the peer with most is cut, and made anew",
            self._node.memory.bound(Account.PEERS),
        )

    def _of_raft(self, sums: _Sums, roles: dict[str, int]) -> Iterator[Family]:
        counters = self._node.counters
        yield labelled("gauge", "shoal_raft_replicas", "Replicas on this node", "role", roles.items())
        yield gauge("shoal_raft_replicas_without_leader", "Replicas that hear no leader", sums.without_leader)
        yield gauge("shoal_raft_leases", "Shards that this node leads under a valid lease", sums.with_lease)
        yield gauge("shoal_raft_highest_term", "The newest term of all replicas here", sums.term)
        yield counter(
            "shoal_raft_leader_changes", "Leaders that replicas here have come to know", counters.leader_changes
        )
        yield counter("shoal_raft_elections_won", "Leaderships that this node has begun", counters.elections_won)
        yield counter("shoal_raft_proposals", "Log entries proposed by clients' commands", counters.proposals)
        yield counter(
            "shoal_raft_proposed_commands", "Commands in the log entries proposed", counters.proposed_commands
        )
        yield counter("shoal_raft_proposals_refused", "Entries refused for want of room", counters.proposals_refused)
        yield gauge(
            "shoal_raft_commit_lag_entries", "Entries that leaders here have and not committed", sums.commit_lag
        )
        yield gauge("shoal_raft_apply_lag_entries", "Entries committed and not applied, all shards", sums.apply_lag)
        yield gauge(
            "shoal_raft_apply_lag_max_entries",
            "Entries committed and not applied, of the shard with most of them",
            sums.apply_lag_max,
        )
        yield gauge(
            "shoal_raft_replica_lag_max_entries",
            "Entries that the replica that is furthest behind lacks, of the shards led here",
            sums.replica_lag_max,
        )
        yield gauge("shoal_raft_replicas_read", "Replicas that are read from without leading", sums.read_weakly)
        yield gauge(
            "shoal_raft_staleness_max_seconds",
            "By how much the stalest replica that is read without leading may be behind",
            sums.staleness_ms_max / 1000,
        )
        syncs = Family(
            "shoal_raft_sync_duration_seconds", "histogram", "Syncs of the log, none left out; up to 0.25 s late"
        )
        yield syncs.add_histogram(counters.syncs)
        snapshots = Family(
            "shoal_raft_snapshots", "counter", "Snapshots begun, sent, given up, adopted, and refused here"
        )
        snapshots.add(counters.snapshots_started, event="begun").add(counters.snapshots_sent, event="sent")
        snapshots.add(counters.snapshots_failed, event="given_up").add(counters.snapshots_adopted, event="adopted")
        yield snapshots.add(counters.snapshots_refused, event="refused")
        moved = Family("shoal_raft_snapshot_bytes", "counter", "Bytes of the rows of snapshots")
        yield moved.add(counters.snapshot_bytes_sent, direction="sent").add(
            counters.snapshot_bytes_taken, direction="taken"
        )
        yield gauge("shoal_node_rows", "Rows as counted last, at a slow pace", sums.rows)
        yield gauge("shoal_node_row_bytes", "Bytes of the rows as counted last, uncompressed", sums.row_bytes)
        yield gauge("shoal_node_sessions", "Clients' sessions remembered, all shards", sums.sessions)
        yield gauge(
            "shoal_node_session_results_bytes",
            "Results kept for repeated writes, with what it takes to keep them, all shards",
            sums.session_results_bytes,
        )

    def _of_comparisons(self, sums: _Sums) -> Iterator[Family]:
        counters = self._node.counters
        yield counter(
            "shoal_compare_rounds", "Times that all rows of a shard led here were compared", counters.comparison_rounds
        )
        yield counter("shoal_compare_slices", "Digests of slices of replicas made here", counters.compared_slices)
        yield counter("shoal_compare_bytes", "Bytes that these were of", counters.compared_bytes)
        yield gauge(
            "shoal_compare_age_seconds",
            "Since all replicas of a shard were compared, or this node began to lead it: the longest of the shards led here",
            sums.comparison_age_ms / 1000,
        )
        yield labelled(
            "gauge",
            "shoal_replicas_failed",
            "Replicas here that serve nothing: damaged and diverged ones are being rebuilt",
            "kind",
            sums.failed.items(),
        )
        yield labelled(
            "counter",
            "shoal_replica_failures",
            "Times that a replica here failed, or was a failed one when its node began",
            "kind",
            ((kind.value, counters.replica_failures.get(kind.value, 0)) for kind in FailureKind),
        )
        yield counter(
            "shoal_compare_replicas_taken_out",
            "Replicas here that differed from most, and were taken out to be rebuilt",
            counters.replicas_differed,
        )
        yield gauge(
            "shoal_compare_undecided_shards",
            "Shards led here whose replicas differ, and nobody knows which are right",
            sums.undecided,
        )

    def _of_shards(self, replica_lags: dict[int, int]) -> Iterator[Family]:
        replicas = self._node.replicas.values()
        shown = sorted(
            nlargest(SHARDS_MAX, replicas, key=lambda replica: replica.load.work)
            if len(replicas) > SHARDS_MAX
            else replicas,
            key=lambda replica: replica.shard.id,
        )
        hidden = len(replicas) - len(shown)
        yield gauge("shoal_shard_series_left_out", f"Replicas beyond the {SHARDS_MAX} busiest, without series", hidden)
        some = " (of this node's busiest replicas)"
        leads = Family("shoal_shard_leads", "gauge", "1 where this node leads the shard" + some)
        term = Family("shoal_shard_term", "gauge", "The replica's term" + some)
        applied = Family("shoal_shard_applied_index", "gauge", "The last log entry applied here" + some)
        apply_lag = Family("shoal_shard_apply_lag_entries", "gauge", "Entries committed and not applied" + some)
        replica_lag = Family(
            "shoal_shard_replica_lag_entries", "gauge", "What the last replica lacks, at its leader" + some
        )
        reads = Family("shoal_shard_reads", "counter", "Keys read here" + some)
        writes = Family("shoal_shard_writes", "counter", "Operations applied here" + some)
        size = Family("shoal_shard_bytes", "gauge", "Bytes of the rows as counted last" + some)
        for replica in shown:
            group, traffic = replica.group, replica.machine.traffic
            labels = {"shard": str(replica.shard.id), "keyspace": replica.keyspace.name}
            leads.add(group.is_leader, **labels)
            term.add(group.term, **labels)
            applied.add(group.log.applied_index, **labels)
            apply_lag.add(group.log.commit_index - group.log.applied_index, **labels)
            reads.add(traffic.reads, **labels)
            writes.add(traffic.writes, **labels)
            size.add(replica.counts.bytes, **labels)
            if replica.shard.id in replica_lags:
                replica_lag.add(replica_lags[replica.shard.id], **labels)
        yield from (leads, term, applied, apply_lag, replica_lag, reads, writes, size)


def _take(replica: Replica, now: int, sums: _Sums, roles: dict[str, int], replica_lags: dict[int, int]) -> None:
    """Add one replica to the sums."""
    group, traffic = replica.group, replica.machine.traffic
    status = group.status()
    roles[status.role] += 1
    if replica.failure is not None:
        sums.failed[replica.failure.kind.value] += 1
    sums.reads += traffic.reads
    sums.writes += traffic.writes
    sums.written_bytes += traffic.written_bytes
    sums.rows += replica.counts.keys
    sums.row_bytes += replica.counts.bytes
    sums.sessions += len(replica.machine.sessions)
    sums.session_results_bytes += replica.machine.sessions.results_bytes
    sums.term = max(sums.term, status.term)
    sums.without_leader += not group.has_leader(now)
    sums.with_lease += status.lease_until > now
    sums.add_backlog(replica.backlog)
    lag = status.commit_index - status.applied_index
    sums.apply_lag += lag
    sums.apply_lag_max = max(sums.apply_lag_max, lag)
    if group.is_leader:
        sums.commit_lag += status.last_index - status.commit_index
        behind = [status.last_index - peer.match_index for peer in status.peers if peer.node != replica.node]
        lacking = replica_lags[replica.shard.id] = max(behind, default=0)
        sums.replica_lag_max = max(sums.replica_lag_max, lacking)
        comparison = replica.comparison
        if comparison is not None and not comparison.is_of(status.term, True):
            comparison = None
        if comparison is not None:
            sums.comparison_age_ms = max(sums.comparison_age_ms, comparison.age_ms(now))
        sums.undecided += standing_divergence(comparison, replica.machine.state) is not None
    staleness = replica.reads.staleness_ms(now)
    if staleness is not None:
        sums.read_weakly += 1
        sums.staleness_ms_max = max(sums.staleness_ms_max, staleness)


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
