"""The node: all its replicas behind one inbox and one turn, without a socket, a clock or a thread.

What arrives is queued; `turn(now)` does the work of everything queued since the last turn: peers' messages step their
groups, clients' writes become one log entry a shard, everything to be stored goes into one batch for all groups, and
what is to be said comes out as one list a peer. Whoever runs the node (the process in server.py, the simulation) sends
those lists and has the engine synced when `Turn.sync` names a ticket, calling `synced(ticket)` after it; meanwhile it
calls `finish_turn(now)`, which applies what is committed and answers clients. Where that names a ticket in
`TurnEnd.flush`, it has the engine flushed and calls `flushed(ticket)`.

The order that safety rests on, in one place:

1. a turn writes its batch to the engine before any of its messages leave;
2. messages that promise something stored ("durable": accepted appends, votes) leave only after a sync that began
   after their batch was written; they wait in `_unsynced`, oldest first;
3. a leader's own entries count towards their quorum only after such a sync, too;
4. what is committed is applied by a second batch, which is not logged: the entries are, and bring it back after a
   crash. Clients are answered once it is written. An entry is cut off the log only when a flush that began after it
   was applied has ended;
5. nothing is read from the engine that a batch which is not yet written has changed. A turn has phases therefore: what
   the shard manager asks for, each request with a batch of its own, and what splits have made, which opens replicas;
   then the groups' batch, in which each replica changes what is its own; then the batch of what is applied; then reads.
   Simulations and tests run on an engine that refuses any other order (storage/watched.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from random import Random

import msgspec
import structlog
from shoal.errors import ErrorCode
from shoal.protocol.bounds import MAX_UNIX_MS
from shoal.protocol.checksums import ReadChecksum
from shoal.protocol.messages import (
    Answer,
    Done,
    GetShardMap,
    GetStatus,
    OpenSession,
    Ping,
    Read,
    ReadPage,
    Request,
    Scan,
    ShardMapReply,
    TransferLeader,
    Write,
)
from shoal.shardmap import Routes, Shard, ShardMap

from shoal_server.invariants import invariant
from shoal_server.node.absent_replicas import answer_for_absent
from shoal_server.node.administration import Administration, AdminRequest
from shoal_server.node.admission import Admission
from shoal_server.node.callers import Callers
from shoal_server.node.checksums import checksum
from shoal_server.node.comparisons import Comparisons
from shoal_server.node.counters import NodeCounters
from shoal_server.node.damage import failure_of, say_failed
from shoal_server.node.digests import DigestReport, DigestVerdict
from shoal_server.node.disk_health import DiskHealth, DiskState
from shoal_server.node.founding import Founding
from shoal_server.node.freshness import FreshnessAnswer, FreshnessQuestion
from shoal_server.node.leaderships import Leaderships
from shoal_server.node.loads import LoadClock
from shoal_server.node.migrations import Migrations
from shoal_server.node.opening import ReplicaOpener, put_origin_of_new
from shoal_server.node.outbox import Outbox, PeerMessage
from shoal_server.node.rebuilding import Rebuilding
from shoal_server.node.replica import OVERLOADED_RETRY_MS, Replica
from shoal_server.node.row_counting import RowCounting
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.node.snapshot_transfers import SnapshotTransfers
from shoal_server.node.splits import Splits
from shoal_server.node.status import describe
from shoal_server.node.stray_rows import StrayRows
from shoal_server.node.unsynced import Unsynced
from shoal_server.node.wall_clock import WallClock
from shoal_server.raft.group import Group
from shoal_server.raft.liveness import Liveness
from shoal_server.raft.membership import MembershipChange
from shoal_server.raft.messages import Heartbeat, HeartbeatAnswer, VoteRequest
from shoal_server.raft.ready import BadMessage, ImplausibleTerm
from shoal_server.shard.beginnings import Beginnings
from shoal_server.storage.engine import Batch, Damaged, Engine
from shoal_server.storage.layout import is_split_off
from shoal_server.storage.node_rows import (
    begin_promising,
    check_own_rows,
    forget_longer_promises,
    load_derived_version,
    put_shard_map,
)
from shoal_server.storage.replica_failure import STORED, FailureKind, ReplicaFailure, put_failure
from shoal_server.storage.replica_rows import is_stored
from shoal_server.storage.snapshot import SnapshotAck, SnapshotChunk, SnapshotWanted

log = structlog.get_logger("shoal.node")

SAY_AGAIN_NS = 60_000_000_000
"""What a peer repeats without end is logged this seldom."""


class Turn(msgspec.Struct):
    """What others wait for: frames to peers, and the ticket to sync up to, or None."""

    to_peers: dict[str, list[PeerMessage]]
    sync: int | None


class TurnEnd(msgspec.Struct):
    """What came of the rest: more for peers, answers to clients, the ticket to flush up to, or None.

    `wake_at`: take the next turn by then (ns).
    """

    to_peers: dict[str, list[PeerMessage]]
    to_clients: dict[int, list[Answer]]
    flush: int | None
    wake_at: int


def _no_log_level(level: str) -> str:
    return f"this process does not let its log level be set, to {level!r} or otherwise"


class Node:
    """See the module's first lines. Every method belongs to one thread."""

    def __init__(
        self,
        identity: NodeIdentity,
        shard_map: ShardMap,
        engine: Engine,
        settings: NodeSettings,
        random: Random,
        now: int,
    ) -> None:
        """Open the replicas that `shard_map` puts on this node, as far as the engine has them; make the others.

        Args:
            random: what elections and sessions are drawn from: in production one that nobody can predict.
            now: nanoseconds of the node's own monotonic clock, as in every later call.

        Raises:
            Damaged: a row cannot be read that is the node's own.
        """
        check_own_rows(engine, shard_map.nodes)
        self.identity = identity
        self.settings = settings
        self.routes = Routes(shard_map)
        self.engine = engine
        self.started_at = now
        self.counters = NodeCounters()
        self.arrived = 0
        self.set_log_level: Callable[[str], str] = _no_log_level
        self.disk = DiskHealth(stall_ns=settings.sync_stall_ns, slow_ns=settings.sync_slow_ns)
        self.clock = WallClock(settings.clock_tolerance_ns, settings.timing.drift_permille)
        self.cpu = 0.0
        self.connected: set[str] = set()
        self.cut_off: dict[str, str] = {}
        """Peers whose connection is to be ended, since it brought what no peer sends, and why: for the process to take out."""
        self._promised_ns = begin_promising(engine, settings.timing.support_ns)
        self.liveness = Liveness(identity.node, identity.epoch, settings.timing, now, self._promised_ns)
        self._beginnings = Beginnings()
        self._opener = ReplicaOpener(
            identity.node, engine, settings, self.liveness, self.counters, random, self.connected, self._beginnings
        )
        self.replicas: dict[int, Replica] = {}
        for shard in shard_map.shards:
            # Of what a split makes nothing is stored before this node has applied it. Any other replica that a later map
            # than the first one has brought here has its origin stored.
            if identity.node in shard.replicas and (is_stored(engine, shard.id) or not shard.parent):
                self._open(shard.id, now)
        for replica in self.replicas.values():
            self.clock.stored(replica.machine.state.clock_ms, now)
        self.peers: list[str] = [node.id for node in shard_map.nodes if node.id != identity.node]
        self._admin_requests: list[tuple[int, AdminRequest]] = []
        self._derived_version = load_derived_version(engine)
        self._may_lack_replicas = False
        self._splits = Splits(self)
        self._migrations = Migrations(self)
        self._administration = Administration(self, self._migrations)
        self._transfers = SnapshotTransfers(engine, settings, self.replicas, self.counters, identity.epoch)
        self._leaderships = Leaderships(identity.node, self.replicas, self._transfers)
        self._callers = Callers(random)
        self._founding = Founding(self, random)
        self._admission = Admission(self.replicas, self.routes, settings, self._callers)
        self._rebuilding = Rebuilding(self.replicas, self._transfers)
        self._stray_rows = StrayRows(self, now)
        self._dirty: dict[int, Replica] = dict(self.replicas)
        self._again: dict[int, Replica] = {}
        self._row_counting = RowCounting(engine, self.replicas, now)
        self._comparisons = Comparisons(
            identity.node,
            engine,
            self.replicas,
            self.connected,
            settings.comparison,
            self.counters,
            self._fail_diverged,
            now,
        )
        self._loads = LoadClock(now)
        self._behind: dict[int, Replica] = {}
        self._behind_due = now
        self._outbox = Outbox(shard_map.version)
        self._from_peers: list[tuple[str, list[PeerMessage]]] = []
        self._from_clients: list[tuple[int, list[Request]]] = []
        self._peer_events: list[tuple[str, bool]] = []
        self._unsynced: deque[Unsynced] = deque()
        self._held = Unsynced()
        self._in_flight: dict[int, int] = {}
        self._disk_latency_us: dict[str, int] = {}
        self._ticket = 0
        self._synced = 0
        self._wall_ms = 0
        self._flush_ticket = 0
        self._flushing: dict[Replica, int] | None = None
        self._flush_wanted = False
        self._entries_unflushed = 0
        self._failure_stored = False
        self._next_tick = now
        self._implausible_due: dict[tuple[str, int], int] = {}
        self._splits.open_missing(now)

    def open_replica(self, shard_id: int, now: int) -> None:
        """Make room for a replica that the shard map does not put here: a group may then add this node as a follower."""
        if shard_id not in self.replicas:
            batch = self.engine.batch()
            put_origin_of_new(batch, self.engine, self.identity.node, self.routes.shards[shard_id], founds=False)
            if not batch.is_empty():
                self.engine.write(batch)
            self._add_replica(shard_id, now)

    def adopt_map(self, routes: Routes, shards: Iterable[int], now: int) -> None:
        """Route by a newer shard map, and open the replicas of `shards`, which it puts here and whose origins are stored."""
        invariant(routes.map.version >= self.routes.map.version, "a map is never replaced by an older one")
        if routes is not self.routes:
            self._derived_version = 0
        self.routes = routes
        self._admission.adopt(routes)
        self._outbox.map_version = routes.map.version
        self.peers = [node.id for node in routes.map.nodes if node.id != self.identity.node]
        for shard_id, replica in self.replicas.items():
            shard = routes.shards.get(shard_id)
            if shard is not None:
                replica.adopt_shard(shard, routes.keyspaces[shard.keyspace])
        for shard_id in shards:
            self._add_replica(shard_id, now)
        self._next_tick = now

    @property
    def cluster_id(self) -> str:
        """What tells this cluster from every other one, "" before that is known here."""
        return self.routes.map.cluster_id

    def learn_cluster_id(self, cluster_id: str) -> None:
        """Take up the cluster's id as somebody of it has told it, unless it is known here."""
        self._founding.learn(cluster_id)

    def name_cluster(self, routes: Routes) -> None:
        """Go on with the same map, but for the cluster's id."""
        self.routes = routes
        self._admission.adopt(routes)

    def want_turn(self, replica: Replica, now: int) -> None:
        """Have a turn taken soon, for what was queued at a replica."""
        self._dirty[replica.shard.id] = replica
        self._next_tick = now

    @property
    def map_is_derived(self) -> bool:
        """Whether the shard map is one that was derived here, for the time until the shard manager's comes."""
        return self._derived_version == self.routes.map.version

    def adopt_derived_map(self, derived: ShardMap, now: int) -> None:
        """Route by a map that follows from what a replica here has applied, until the shard manager's comes."""
        batch = self.engine.batch()
        put_shard_map(batch, self.engine, derived, derived=True)
        self.engine.write(batch)
        self.adopt_map(Routes(derived), (), now)
        self._derived_version = derived.version

    def lacks_replica(self, shard: Shard) -> bool:
        """Say whether the map puts a replica of `shard` here that is to be opened empty.

        One that a replica of its parent here may yet make, by applying the split, is not.
        """
        if self.identity.node not in shard.replicas or shard.id in self.replicas:
            return False
        return not self._may_be_split_off(shard)

    def _may_be_split_off(self, shard: Shard) -> bool:
        """Say whether a split makes a replica of `shard` here, has made one that is to be opened, or may yet make one."""
        if is_split_off(self.engine, shard.id):
            return True
        if not shard.parent:
            return False
        parent = self.replicas.get(shard.parent)
        if parent is not None:
            return shard.id not in parent.machine.state.children
        known = self.routes.shards.get(shard.parent)
        return known is not None and self.identity.node in known.replicas and self._may_be_split_off(known)

    @property
    def wall_ms(self) -> int:
        """Unix time by the machine's clock, as of the last turn."""
        return self._wall_ms

    @property
    def not_leading(self) -> str:
        """ "" or the reason to take no leadership and to hand over those there are."""
        return self.disk.not_leading or self.clock.not_leading

    @property
    def splits_waiting(self) -> bool:
        """Whether splits have made replicas that are yet to be opened."""
        return self._splits.waiting

    def mark_dirty(self, replica: Replica) -> None:
        """Have the replica looked at in this turn."""
        self._dirty[replica.shard.id] = replica

    def forget_replica(self, shard_id: int) -> None:
        """Go on without a replica, whose rows are being removed."""
        # One that it might have split off may be opened now.
        self._may_lack_replicas = True
        replica = self.replicas.pop(shard_id)
        self._beginnings.forget(shard_id)
        self.counters.retire(replica.machine.traffic)
        for waiting in (self._dirty, self._behind, self._again):
            waiting.pop(shard_id, None)
        if self._flushing is not None:
            self._flushing.pop(replica, None)
        self._transfers.forget(replica)
        # What it was about to promise is being deleted: another replica of the shard here would be taken at its word.
        for held in self._unsynced:
            held.messages = [(peer, message) for peer, message in held.messages if message.group != shard_id]
        replica.fail_all(self._outbox)

    def fail_replica(self, replica: Replica, failure: ReplicaFailure, now: int) -> None:
        """Have a replica serve nothing, apply nothing and lead nobody from here on; the others of the node go on.

        What was read from it and is on its way to become a copy is given up. Of two failures the first one counts, but for
        one that goes by itself, which any other replaces.
        """
        before = replica.failure
        if before is not None and (before.kind in STORED or failure.kind not in STORED) and not failure.log_lost_to:
            return
        say_failed(self.identity.node, replica.shard.id, failure)
        self._count_failure(failure)
        replica.fail(failure, now, self._outbox)
        self._transfers.give_up(replica, f"the replica of {self.identity.node} has failed")
        if failure.kind in STORED:
            batch = self.engine.batch()
            put_failure(batch, self.engine, replica.shard.id, failure)
            self.engine.write(batch)
            self._failure_stored = True
        # What it has to say leaves with the next turn, whichever part of this one has come to its end.
        self._dirty[replica.shard.id] = self._again[replica.shard.id] = replica
        self._next_tick = now

    def _count_failure(self, failure: ReplicaFailure) -> None:
        kind = failure.kind.value
        self.counters.replica_failures[kind] = self.counters.replica_failures.get(kind, 0) + 1

    def _damaged(self, replica: Replica, error: Damaged, now: int) -> None:
        """Something that the replica needs could not be read."""
        self.fail_replica(replica, failure_of(error, replica), now)

    def _fail_diverged(self, replica: Replica, at_index: int, reason: str, now: int) -> None:
        """A replica has other rows than most."""
        self.fail_replica(replica, ReplicaFailure(FailureKind.DIVERGED, reason, at_index), now)

    def _open(self, shard_id: int, now: int) -> Replica:
        """Have the replica of a shard that is open nowhere yet; it may have failed before it was."""
        replica = self.replicas[shard_id] = self._opener.open(self.routes, shard_id, now)
        if replica.failure is not None:
            self._count_failure(replica.failure)
        return replica

    def _add_replica(self, shard_id: int, now: int) -> None:
        replica = self._open(shard_id, now)
        if replica.rows_unknown:
            self._stray_rows.added(shard_id, replica.keyspace.id)
        self._dirty[shard_id] = replica

    # -- what arrives

    @property
    def groups(self) -> dict[int, Group]:
        """The Raft groups on this node, by shard."""
        return {shard: replica.group for shard, replica in self.replicas.items()}

    def receive_peer(self, sender: str, messages: list[PeerMessage]) -> None:
        """Queue a frame of a peer."""
        self._from_peers.append((sender, messages))

    def receive_client(self, client: int, requests: list[Request]) -> None:
        """Queue a frame of a client. `client` is whatever the caller wants its answers to be filed under."""
        self._from_clients.append((client, requests))

    def client_connected(self, client: int, identity: bytes) -> None:
        """A client has connected; `identity` names whom its certificate is of, empty where it has none."""
        self._callers.introduce(client, identity)

    def client_gone(self, client: int) -> None:
        """Forget a client: what it still waits for is done all the same, and its answers go nowhere."""
        self._in_flight.pop(client, None)
        self._callers.gone(client)

    def peer_connected(self, peer: str) -> None:
        """Messages to `peer` have a way again."""
        self._peer_events.append((peer, True))

    def peer_lost(self, peer: str) -> None:
        """Messages to `peer` sent lately may be lost, and those sent now will be."""
        self._peer_events.append((peer, False))

    def synced(self, ticket: int) -> None:
        """Everything written by the turns up to that of `ticket` is on disk."""
        invariant(self._synced <= ticket <= self._ticket, "a sync covers what was written, in order")
        self._synced = ticket

    def flushed(self, ticket: int) -> None:
        """Everything applied by the turns up to that of `ticket` is on disk."""
        flushing, self._flushing = self._flushing, None
        invariant(ticket == self._flush_ticket and flushing is not None, "one flush at a time")
        for replica, index in (flushing or {}).items():
            replica.log_length.flushed(index)
            self._splits.flushed(replica, index)
            replica.machine.microshards.flushed(index)
            self._dirty[replica.shard.id] = replica
        # What was split off since the flush began waits for the next one.
        self._flush_wanted |= self._splits.want_flush(self.replicas.values())

    def set_disk(self, state: DiskState, now: int) -> None:
        """Say how the disk is. A node that may not lead any more hands its leaderships over from the next turn on."""
        self.disk.state = state
        before = self.not_leading
        peers = self._disk_latency_us
        self.disk.judge([peers[peer] for peer in self.peers if peer in peers], now)
        self.liveness.may_campaign = not self.disk.stalled
        if self.not_leading != before:
            self._tell_whether_to_lead(now)

    def _tell_whether_to_lead(self, now: int) -> None:
        """Have peers know at once whether this node may lead."""
        for peer in self.peers:
            self.liveness.heartbeat_soon(peer)
        self._next_tick = now

    def propose_membership(self, shard: int, change: MembershipChange, now: int) -> int:
        """Propose a change of a group's membership on its leader; return the entry's index (see `Group`)."""
        replica = self.replicas[shard]
        self._dirty[shard] = replica
        return replica.group.propose_membership(change, now)

    # -- the turn

    def turn(self, now: int, wall_ms: int) -> Turn:
        """Do the work of everything that arrived since the last turn, as far as others wait for it.

        Args:
            wall_ms: Unix time in milliseconds by the machine's clock; it may jump, and be wrong (see wall_clock.py).

        The caller sends, begins the sync, and then calls `finish_turn`: what is committed is applied, and clients are
        answered, while the disk and the peers are already at work.
        """
        outbox = self._outbox
        # What is off by a hundred thousand years would be refused by everybody else.
        self._wall_ms = wall_ms if 0 <= wall_ms <= MAX_UNIX_MS else min(max(wall_ms, 0), MAX_UNIX_MS)
        self.counters.begin_turn(self.arrived or now, now)
        self.arrived = 0
        if self._unsynced:
            self._release_synced(now, outbox)
        if self._peer_events:
            self._take_peer_events(now)
        if self._from_peers:
            self._take_peer_messages(now, outbox)
        if now >= self.clock.due_at:
            self._judge_clock(now, wall_ms)
        if self._from_clients:
            self._take_client_requests(now, outbox)
        if now >= self._next_tick:
            self._tick(now, outbox)
        sync = self._store(now, outbox)
        to_peers, outbox.to_peers = outbox.to_peers, {}
        return Turn(to_peers, sync)

    def _judge_clock(self, now: int, wall_ms: int) -> None:
        """Compare the wall clock with the peers'."""
        clock = self.clock
        before = bool(clock.not_leading)
        clock.judge(now, wall_ms, nodes=1 + len(self.peers))
        if bool(clock.not_leading) != before:
            self._tell_whether_to_lead(now)

    def finish_turn(self, now: int) -> TurnEnd:
        """Apply what is committed, and answer."""
        outbox = self._outbox
        if self._dirty or self._again or self._behind:
            self._apply(now, outbox)
        if self._transfers.has_to_send:
            for replica, damaged in self._transfers.send(now, outbox):
                self._damaged(replica, damaged, now)
        if now >= self._comparisons.due_at:
            for replica in self._comparisons.step(now, outbox):
                self._dirty[replica.shard.id] = replica
                self._next_tick = now
        if not self.routes.map.cluster_id:
            self._founding.step(now)
        self._outbox = Outbox(self.routes.map.version)
        if outbox.failed:
            self.counters.failed(outbox.failed)
        in_flight = self._in_flight
        for client, answers in outbox.to_clients.items():
            if client in in_flight:
                in_flight[client] -= len(answers)
        if now >= self._row_counting.due_at:
            found = self._row_counting.step(now)
            if found is not None:
                self._damaged(*found, now)
        wake_at = min(self._next_tick, self._row_counting.due_at, self._comparisons.due_at)
        if self._behind:
            wake_at = min(wake_at, self._behind_due)
        return TurnEnd(outbox.to_peers, outbox.to_clients, self._flush(), wake_at)

    def queues(self) -> dict[str, tuple[int, int]]:
        """Return how much waits in the node's queues, and how much may: name -> (length, bound or 0)."""
        sending, taking, wanted = self._transfers.under_way
        in_flight = self._in_flight.values()
        return {
            "busiest_client": (max(in_flight, default=0), self.settings.limits.client_requests),
            "client_requests": (sum(in_flight), 0),
            "batches_to_sync": (len(self._unsynced), 0),
            "snapshots_sending": (sending, self.settings.snapshots_at_once),
            "snapshots_taking": (taking, 0),
            "snapshots_wanted": (wanted, 0),
            "replicas_applying_later": (len(self._behind), 0),
        }

    def _flush(self) -> int | None:
        """Return the ticket of a flush, where one is due for the sake of a log's length, or of a replay's."""
        if self._flush_wanted and self._flushing is None:
            self._flush_wanted = False
            self._entries_unflushed = 0
            self._flushing = {replica: replica.machine.state.index for replica in self.replicas.values()}
            self._flush_ticket += 1
        return self._flush_ticket if self._flushing is not None else None

    def _release_synced(self, now: int, outbox: Outbox) -> None:
        unsynced = self._unsynced
        while unsynced and unsynced[0].ticket <= self._synced:
            done = unsynced.popleft()
            for group, term in done.terms:
                group.term_persisted(term)
            for group, index, term in done.persisted:
                replica = self.replicas.get(group.group)
                if replica is not None and replica.group is group:
                    try:
                        group.persisted(index, term)
                    except Damaged as error:
                        self._damaged(replica, error, now)
                    replica.synced(index, now)
                    self._dirty[group.group] = replica
            for peer, message in done.messages:
                outbox.send(peer, message)
            for client, answer in done.answers:
                outbox.answer(client, answer)

    def _take_peer_events(self, now: int) -> None:
        events, self._peer_events = self._peer_events, []
        for peer, connected in events:
            (self.connected.add if connected else self.connected.discard)(peer)
            for shard, replica in self.replicas.items():
                if peer in replica.group.members or peer == replica.group.leader:
                    try:
                        if connected:
                            replica.group.peer_connected(peer, now)
                        else:
                            replica.group.peer_unreachable(peer, now)
                    except Damaged as error:
                        self._damaged(replica, error, now)
                    self._dirty[shard] = replica
            if connected:
                self._comparisons.connected(peer)
                # Support needs a heartbeat there and back: do not wait for the next tick to begin.
                self.liveness.connected(peer)
                self._next_tick = now
            else:
                self._transfers.peer_lost(peer)

    def _take_peer_messages(self, now: int, outbox: Outbox) -> None:
        frames, self._from_peers = self._from_peers, []
        replicas, dirty = self.replicas, self._dirty
        for sender, messages in frames:
            for message in messages:
                if isinstance(message, (Heartbeat, HeartbeatAnswer)):
                    self._take_heartbeat(sender, message, now, outbox)
                    continue
                replica = replicas.get(message.group)
                if replica is None:
                    if isinstance(message, VoteRequest):
                        self._splits.keep(sender, message)
                    else:
                        answer_for_absent(sender, message, outbox)
                    continue
                dirty[message.group] = replica
                if isinstance(message, SnapshotWanted):
                    if sender in replica.group.members:
                        self._transfers.asked(replica, sender)
                        self._leaderships.asked_for_rows(message.group, sender, now)
                elif isinstance(message, FreshnessQuestion):
                    answer = replica.reads.answer_freshness(message, now)
                    if answer is not None:
                        outbox.send(sender, answer)
                elif isinstance(message, FreshnessAnswer):
                    if self.started_at <= message.asked_at <= now:
                        replica.reads.take_freshness(message)
                elif isinstance(message, DigestReport):
                    self._comparisons.report(sender, message, replica, now, outbox)
                elif isinstance(message, DigestVerdict):
                    self._comparisons.told_to_fail(sender, message, replica, now)
                else:
                    try:
                        if isinstance(message, (SnapshotChunk, SnapshotAck)):
                            self._transfers.receive(sender, message, replica, now)
                        else:
                            replica.group.step(sender, message, now)
                    except Damaged as error:
                        self._damaged(replica, error, now)
                    except BadMessage as error:
                        self._refuse_message(sender, message.group, error, now)

    def _refuse_message(self, sender: str, shard: int, error: BadMessage, now: int) -> None:
        """A message makes no sense: end what it came by, unless that would only harm the other groups."""
        self.counters.messages_refused += 1
        if not isinstance(error, ImplausibleTerm):
            self.cut_off[sender] = str(error)
        elif now >= self._implausible_due.get((sender, shard), now):
            # Who believes in such a term repeats it, several times a second.
            self._implausible_due[sender, shard] = now + SAY_AGAIN_NS
            log.error("term_implausible", peer=sender, shard=shard, reason=str(error))

    def _take_heartbeat(self, sender: str, message: Heartbeat | HeartbeatAnswer, now: int, outbox: Outbox) -> None:
        if isinstance(message, Heartbeat):
            (self._leaderships.unfit.discard if message.may_lead else self._leaderships.unfit.add)(sender)
            self._disk_latency_us[sender] = message.disk_latency_us
            if self.liveness.may_have_missed(sender, message):
                for shard, replica in self.replicas.items():
                    if replica.group.leader == sender:
                        replica.group.may_have_missed(sender, now)
                        self._dirty[shard] = replica
            answer = self.liveness.on_heartbeat(sender, message, now)
            outbox.send(sender, msgspec.structs.replace(answer, wall_ms=self._wall_ms))
        else:
            if self.started_at <= message.sent_at:
                self.clock.heard(sender, message.sent_at, now, message.wall_ms)
            if self.liveness.on_answer(sender, message, now):
                self._wake_groups_with(sender, now)

    def _take_client_requests(self, now: int, outbox: Outbox) -> None:
        frames, self._from_clients = self._from_clients, []
        counts = self.counters.requests
        for client, requests in frames:
            in_flight = self._in_flight.get(client, 0) + len(requests)
            self._in_flight[client] = in_flight
            if in_flight > self.settings.limits.client_requests:
                self._refuse_all(client, requests, in_flight, outbox)
                continue
            for request in requests:
                kind = type(request)
                counts[kind] = counts.get(kind, 0) + 1
                if isinstance(request, (Write, Read, Scan, ReadPage, OpenSession)):
                    replica = self._admission.admit(client, request, self.disk.state.not_writable, outbox)
                    if replica is not None:
                        self._dirty[replica.shard.id] = replica
                elif isinstance(request, GetShardMap):
                    outbox.answer(client, ShardMapReply(request.request, self.map_with_leaders()))
                elif isinstance(request, Ping):
                    outbox.answer(client, Done(request.request))
                elif isinstance(request, GetStatus):
                    outbox.answer(client, describe(self, request.request, now))
                elif isinstance(request, ReadChecksum):
                    self._read_checksum(client, request, now, outbox)
                elif isinstance(request, TransferLeader):
                    replica = self._admission.replica_of(client, request.request, request.shard, outbox)
                    if replica is not None:
                        self._leaderships.transfer(client, request, replica, now, outbox)
                        self._dirty[request.shard] = replica
                else:
                    self._admin_requests.append((client, request))

    def _read_checksum(self, client: int, request: ReadChecksum, now: int, outbox: Outbox) -> None:
        replica = self.replicas.get(request.shard)
        if replica is None:
            where = f"{self.identity.node} has no replica of shard {request.shard}"
            outbox.fail(client, request.request, ErrorCode.INVALID_ARGUMENT, where)
            return
        if request.ranges and not replica.machine.has_ranges(request.ranges):
            replica.refusals.not_here(client, request.request, outbox)
            return
        if replica.failure is None:
            try:
                outbox.answer(client, checksum(replica, self.engine, request))
                return
            except Damaged as error:
                self._damaged(replica, error, now)
        where = f"the replica of shard {request.shard} on {self.identity.node} has failed ({replica.failure})"
        outbox.fail(client, request.request, ErrorCode.UNAVAILABLE, where)

    def _refuse_all(self, client: int, requests: list[Request], in_flight: int, outbox: Outbox) -> None:
        limit = self.settings.limits.client_requests
        for request in requests:
            outbox.fail(
                client,
                request.request,
                ErrorCode.OVERLOADED,
                f"{in_flight} requests of this connection are unanswered; at most {limit} may be",
                retry_after_ms=OVERLOADED_RETRY_MS,
            )

    def map_with_leaders(self) -> ShardMap:
        """The shard map with the leaders that this node knows of its own replicas."""
        shard_map = self.routes.map
        shards = tuple(
            self.replicas[shard.id].refusals.route if shard.id in self.replicas else shard for shard in shard_map.shards
        )
        return msgspec.structs.replace(shard_map, shards=shards)

    def hand_over(self, now: int) -> int:
        """Begin to hand every leadership on; return how many are still here (see `Leaderships.hand_over`)."""
        begun, left = self._leaderships.hand_over(now)
        for replica in begun:
            self._dirty[replica.shard.id] = replica
        return left

    # -- time

    def _tick(self, now: int, outbox: Outbox) -> None:
        """What is due by the clock: heartbeats, support that ran out, groups that are not at rest."""
        liveness = self.liveness
        disk = self.disk
        not_leading = self.not_leading
        if not_leading:
            self.hand_over(now)
        if self._promised_ns > self.settings.timing.support_ns and now >= liveness.vote_not_before:
            self._promised_ns = self.settings.timing.support_ns
            forget_longer_promises(self.engine, self._promised_ns)
        beats = liveness.peers_heartbeats(now, self.peers, not disk.stalled, not not_leading, disk.state.latency_us)
        for peer, heartbeat in beats.items():
            outbox.send(peer, heartbeat)
        for peer in liveness.expired(now):
            self._wake_groups_with(peer, now)
        for peer in liveness.unsupported_by(now):
            self._wake_groups_with(peer, now)
        any_active = False
        time_ms, settled, beyond_ms = self.clock.now_ms(now), self.clock.settled, self.clock.beyond_ms
        for shard, replica in self.replicas.items():
            if replica.transfer is not None:
                any_active = True
                replica.expire_transfer(now, outbox)
            if replica.group.active:
                any_active = True
                try:
                    replica.group.tick(now)
                except Damaged as error:
                    self._damaged(replica, error, now)
                self._dirty[shard] = replica
            if replica.reads.is_used(now) or replica.refusals.held_back:
                any_active = True
                self._dirty[shard] = replica
            if settled:
                try:
                    if replica.queue_upkeep(time_ms, beyond_ms):
                        self._dirty[shard] = replica
                except Damaged as error:
                    self._damaged(replica, error, now)
        self._loads.tick(self.replicas.values(), self.cpu, now)
        self._transfers.tick(now)
        interval = self.settings.tick_interval_ns
        self._next_tick = now + interval if any_active or self._transfers.busy else liveness.next_due(now, self.peers)
        for due in (self._rebuilding.tick(now, outbox), self._stray_rows.tick(now)):
            if due is not None:
                self._next_tick = min(self._next_tick, due)

    def _wake_groups_with(self, peer: str, now: int) -> None:
        for shard, replica in self.replicas.items():
            if peer in replica.group.members:
                replica.group.wake(now)
                self._dirty[shard] = replica
        self._next_tick = min(self._next_tick, now + self.settings.tick_interval_ns)

    # -- storing and saying

    def _store(self, now: int, outbox: Outbox) -> int | None:
        """Write one batch with what all groups want stored; return the ticket to sync up to, if there is any."""
        dirty = self._dirty
        if not (dirty or self._unsynced or self._admin_requests or self._splits.waiting or self._may_lack_replicas):
            return None
        admin_requests, self._admin_requests = self._admin_requests, []
        for client, request in admin_requests:
            self._administration.take(client, request, now, outbox)
        answers = self._administration.take_answers()
        if self._splits.waiting:
            self._splits.open_children(now)
        engine = self.engine
        batch = engine.batch()
        held = self._held
        for replica in dirty.values():
            try:
                if replica.collect(batch, held, now, self.clock, outbox):
                    self._flush_wanted = True
            except Damaged as error:
                self._damaged(replica, error, now)
            if replica.snapshots_wanted:
                self._transfers.want(replica)
        adopted = self._transfers.store(batch, now) if self._transfers.has_to_store else []
        if not batch.is_empty():
            engine.write(batch)
        for replica in adopted:
            if self._flushing is not None:
                # What it covers of this replica is of rows that are gone.
                self._flushing.pop(replica, None)
            try:
                replica.reload()
            except Damaged as error:
                self._damaged(replica, error, now)
            self._again[replica.shard.id] = replica
        if adopted or self._may_lack_replicas:
            self._may_lack_replicas = False
            self._splits.open_missing(now)
        if held.must_sync or adopted or answers or self._failure_stored:
            self._failure_stored = False
            self._ticket += 1
            held.ticket, held.answers = self._ticket, answers
            self._unsynced.append(held)
            self._held = Unsynced()
        elif held.messages:
            messages, held.messages = held.messages, []
            if self._unsynced:
                self._unsynced[-1].messages.extend(messages)
            else:
                for peer, message in messages:
                    outbox.send(peer, message)
        return self._ticket if self._unsynced else None

    def _apply_to(self, batch: Batch, replica: Replica, now: int) -> None:
        """Apply what `replica` has committed into `batch`, or have it fail."""
        before = replica.machine.state.index
        try:
            replica.apply(batch)
        except Damaged as error:
            self._damaged(replica, error, now)
        self._entries_unflushed += max(0, replica.machine.state.index - before)
        if self._entries_unflushed >= self.settings.flush_entries:
            self._flush_wanted = True

    def _apply(self, now: int, outbox: Outbox) -> None:
        """Write a second batch with the effects of what is committed, and answer writes and reads."""
        dirty, self._dirty = self._dirty, self._again
        self._again = {}
        engine = self.engine
        batch = engine.batch()
        behind = self._behind
        applied: dict[int, Replica] = {}
        if behind and now >= self._behind_due:
            # Nobody waits for a follower's state, and one large batch costs less than many small ones.
            applied = {shard: replica for shard, replica in behind.items() if replica.failure is None}
            for replica in applied.values():
                self._apply_to(batch, replica, now)
            behind = {shard: replica for shard, replica in applied.items() if replica.may_apply}
            self._behind = behind
        for shard, replica in dirty.items():
            if shard in applied or not replica.may_apply:
                # What it applies next must see what it has just applied, which is not written yet.
                continue
            if replica.group.is_leader or replica.reads.awaits_applying:
                applied[shard] = replica
                self._apply_to(batch, replica, now)
            elif shard not in behind:
                if not behind:
                    self._behind_due = now + self.settings.follower_apply_ns
                behind[shard] = replica
        if not batch.is_empty():
            engine.write_unlogged(batch)
        if applied:
            self._follow_up(applied.values(), now, outbox)
        soon = now + self.settings.tick_interval_ns
        for replica in dirty.values():
            group, reads = replica.group, replica.reads
            try:
                reads.serve(now, self.clock, outbox)
            except Damaged as error:
                self._damaged(replica, error, now)
            if group.is_leader and group.has_committed:
                # A turn applies so much and no more, or heartbeats would wait for it.
                self._dirty[replica.shard.id] = replica
                self._next_tick = now
            elif soon < self._next_tick and (group.active or reads.awaits_applying):
                self._next_tick = soon

    def _follow_up(self, replicas: Collection[Replica], now: int, outbox: Outbox) -> None:
        """Do what is due when these replicas have applied something, and it is written."""
        for replica in replicas:
            if replica.machine.digest_due is not None and replica.failure is None:
                try:
                    self._comparisons.make(replica, now, outbox)
                except Damaged as error:
                    self._damaged(replica, error, now)
        if self._flushing is None and self._splits.want_flush(replicas):
            self._flush_wanted = True
        # Before anybody is answered: a refusal is to carry the version of a map that says where to go.
        self._migrations.take_hand_overs(replicas, now)
        for replica in replicas:
            replica.answer_applied(outbox)
            if replica.stuck_at is not None and replica.failure is None:
                self.fail_replica(replica, replica.stuck_at, now)
