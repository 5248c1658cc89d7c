"""The node: all its replicas behind one inbox and one turn, without a socket, a clock or a thread.

What arrives is queued; `turn(now)` does the work of everything queued since the last turn: peers' messages step their
groups, clients' writes become one log entry a shard, everything to be stored goes into one batch for all groups, and
what is to be said comes out as one list a peer. Whoever runs the node (process/driver.py, the simulation) sends
those lists and has the engine synced when `Turn.sync` names a ticket, calling `synced(ticket)` after it; meanwhile, or
when a quick disk is done already, it calls `finish_turn(now)`, which applies what is committed and answers clients. Where
that names a ticket in `TurnEnd.flush`, it has the engine flushed and calls `flushed(ticket)`.

The order that safety rests on, in one place:

1. a turn writes its batch to the engine before any of its messages leave;
2. messages that promise something stored ("durable": accepted appends, votes) leave only after a sync that began
   after their batch was written; they wait in `Storing`, oldest first;
3. a leader's own entries count towards their quorum only after such a sync, too;
4. what is committed is applied by a second batch, which is not logged: the entries are, and bring it back after a
   crash. Clients are answered once it is written. An entry is cut off the log only when a flush that began after it
   was applied has ended;
5. while the engine takes no writes, since its disk is behind, a turn writes nothing: what there is to write waits, and what
   hangs on it. Heartbeats and what a node knows by itself go on: RocksDB would hold the call, and with it the whole process;
6. nothing is read from the engine that a batch which is not yet written has changed. A turn has phases therefore: what
   the shard manager asks for, each request with a batch of its own, and what splits have made, which opens replicas;
   then the groups' batch, in which each replica changes what is its own; then the batch of what is applied; then reads.
   Simulations and tests run on an engine that refuses any other order (storage/watched.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import msgspec
from shoal.bounds import MAX_UNIX_MS
from shoal.priorities import Priority
from shoal.protocol.messages import Answer
from shoal.shardmap import Routes, ShardMap

from shoal_server.node.administration import Administration
from shoal_server.node.admission import Admission
from shoal_server.node.agenda import Agenda
from shoal_server.node.applying import Applying
from shoal_server.node.callers import Callers
from shoal_server.node.client_input import ClientInput
from shoal_server.node.comparisons import Comparisons
from shoal_server.node.counters import NodeCounters
from shoal_server.node.disk_health import DiskHealth, DiskState
from shoal_server.node.failing import Failing
from shoal_server.node.flushes import Flushes
from shoal_server.node.founding import Founding
from shoal_server.node.known_numbers import KnownNumbers
from shoal_server.node.leaderships import Leaderships
from shoal_server.node.memory import MemoryBudget
from shoal_server.node.migrations import Migrations
from shoal_server.node.opening import ReplicaOpener
from shoal_server.node.outbox import Outbox, PeerMessage
from shoal_server.node.overload import priority_of
from shoal_server.node.pace import Pace
from shoal_server.node.peer_input import PeerInput
from shoal_server.node.quotas import Quotas
from shoal_server.node.replica_set import ReplicaSet
from shoal_server.node.request_frames import Received
from shoal_server.node.row_counting import RowCounting
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.node.snapshot_transfers import SnapshotTransfers
from shoal_server.node.splits import Splits
from shoal_server.node.status import StatusInPieces
from shoal_server.node.storing import Storing
from shoal_server.node.stray_rows import StrayRows
from shoal_server.node.ticks import Ticks
from shoal_server.node.wall_clock import WallClock
from shoal_server.raft.group import Group
from shoal_server.raft.liveness import Liveness
from shoal_server.shard.beginnings import Beginnings
from shoal_server.storage.engine import Engine
from shoal_server.storage.node_rows import begin_promising, check_own_rows

LOOK_NS = 2_000_000
"""The engine is asked no more often whether it takes writes: it takes longer to fill what is left then."""


class Turn(msgspec.Struct):
    """What others wait for: frames to peers, and the ticket to sync up to, or None."""

    to_peers: dict[str, list[PeerMessage]]
    sync: int | None


class TurnEnd(msgspec.Struct):
    """What came of the rest: more for peers, answers to clients, the ticket to flush up to, or None; `wake_at`: take the next
    turn by then (ns); `resumed`: clients of whom so much has been done that more may be received.
    """

    to_peers: dict[str, list[PeerMessage]]
    to_clients: dict[int, list[Answer]]
    flush: int | None
    wake_at: int
    resumed: list[int]


def _no_log_level(level: str) -> str:
    return f"this process does not let its log level be set, to {level!r} or otherwise"


class Node:
    """See the module's first lines. Every method belongs to one thread.

    Attributes:
        arrived: when the first thing came in that the next turn takes (ns), 0 where nothing has; for the process to set.
        set_log_level: sets the process's, and returns "" or why not.
        failing: takes failed replicas out.
        replica_set: the node's replicas and the shard map that they follow; `replicas` are these, by shard.
        memory: what the node holds for others, and may hold.
        quotas: those of the keyspaces that it serves.
        connected: the peers that messages have a way to.
        cut_off: peers whose connection is to be ended, since it brought what no peer sends, and why: for the process to
            take out.
    """

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
        self.engine = engine
        self.started_at = now
        self.counters = counters = NodeCounters()
        self.memory = MemoryBudget(settings.memory_bytes)
        self.arrived = 0
        self.set_log_level: Callable[[str], str] = _no_log_level
        self.disk = DiskHealth(stall_ns=settings.sync_stall_ns, slow_ns=settings.sync_slow_ns)
        self.clock = WallClock(settings.clock_tolerance_ns, settings.timing.drift_permille)
        self.connected: set[str] = set()
        promised_ns = begin_promising(engine, settings.timing.support_ns)
        self.liveness = Liveness(identity.node, identity.epoch, settings.timing, now, promised_ns)
        self._agenda = agenda = Agenda(now)
        self._outbox = outbox = Outbox(shard_map.version)
        beginnings = Beginnings()
        opener = ReplicaOpener(
            identity.node, engine, settings, self.liveness, counters, random, self.connected, beginnings, self.memory
        )
        self.replica_set = replica_set = ReplicaSet(
            identity, shard_map, engine, opener, beginnings, counters, agenda, outbox, now
        )
        self.replicas = replicas = replica_set.by_shard
        for replica in replicas.values():
            self.clock.stored(replica.machine.state.clock_ms, now)
        self._splits = Splits(replica_set, engine)
        self._migrations = Migrations(replica_set, agenda, self.disk)
        pace = Pace(lambda at: self.overload.delay_at(at))
        self._transfers = SnapshotTransfers(engine, settings, replicas, counters, identity.epoch, pace, self.memory)
        self._leaderships = Leaderships(identity.node, replicas, self._transfers)
        self._callers = Callers(random)
        self._founding = Founding(replica_set, engine, agenda, random)
        self.quotas = quotas = Quotas(replica_set, now)
        self._administration = Administration(
            replica_set, engine, agenda, self._founding, self._migrations, quotas, lambda word: self.set_log_level(word)
        )
        self.known_numbers = KnownNumbers(replica_set, engine)
        self._admission = Admission(replicas, replica_set.routes, settings, self._callers, quotas, self.disk.budget)
        stray_rows = StrayRows(replica_set, engine, self._splits, now)
        self.failing = Failing(identity.node, engine, counters, agenda, self._transfers, outbox)
        self._row_counting = RowCounting(engine, replicas, pace, now)
        self._comparisons = Comparisons(
            identity.node,
            engine,
            replicas,
            self.connected,
            settings.comparison,
            counters,
            self.failing.diverged,
            pace,
            now,
        )
        self._ticks = Ticks(
            replica_set,
            engine,
            settings,
            agenda,
            self.liveness,
            self.disk,
            self.clock,
            self._transfers,
            self._leaderships,
            stray_rows,
            self.failing,
            promised_ns,
            now,
        )
        self._peer_input = PeerInput(
            replica_set,
            self.connected,
            settings,
            agenda,
            self.liveness,
            self.clock,
            counters,
            self._splits,
            self._transfers,
            self._leaderships,
            self._comparisons,
            self.failing,
            now,
        )
        self._client_input = ClientInput(
            replica_set,
            engine,
            agenda,
            self._admission,
            self._leaderships,
            self.disk,
            counters,
            self.failing,
            lambda request: StatusInPieces(self, request),
            settings.limits.client_requests,
            self.memory,
            now,
        )
        self.overload = self._client_input.overload
        self._flushes = Flushes(replicas, self._splits, agenda, settings.flush_entries)
        self._storing = Storing(engine, replica_set, self._transfers, self._flushes, self.failing, agenda, self.clock)
        self._applying = Applying(
            engine,
            settings,
            agenda,
            self.clock,
            self._flushes,
            self._comparisons,
            self._migrations,
            self.failing,
            self._client_input.serving,
        )
        self.cut_off = self._peer_input.cut_off
        self._from_peers: list[tuple[str, list[PeerMessage]]] = []
        self._now = now
        self._peer_events: list[tuple[str, bool]] = []
        self._wall_ms = 0
        self._stopped = False
        self._look_at = now
        replica_set.map_adopted.append(self._admission.adopt)
        replica_set.opened.append(stray_rows.opened)
        replica_set.forgotten += [
            self._flushes.forget,
            self._transfers.forget,
            self._storing.forget,
            self.known_numbers.keep,
        ]
        replica_set.open_missing(now)

    # -- what is so

    @property
    def routes(self) -> Routes:
        """By the newest shard map that the node knows."""
        return self.replica_set.routes

    @property
    def peers(self) -> list[str]:
        """The other nodes of the shard map."""
        return self.replica_set.peers

    @property
    def cluster_id(self) -> str:
        """What tells this cluster from every other one, "" before that is known here."""
        return self.replica_set.cluster_id

    @property
    def map_is_derived(self) -> bool:
        """Whether the shard map is one that was derived here, for the time until the shard manager's comes."""
        return self.replica_set.map_is_derived

    @property
    def wall_ms(self) -> int:
        """Unix time by the machine's clock, as of the last turn."""
        return self._wall_ms

    @property
    def not_leading(self) -> str:
        """ "" or the reason to take no leadership and to hand over those there are."""
        return self._ticks.not_leading

    @property
    def cpu(self) -> float:
        """The process's share of a core lately; for the process to set."""
        return self._ticks.cpu

    @cpu.setter
    def cpu(self, share: float) -> None:
        self._ticks.cpu = share

    @property
    def groups(self) -> dict[int, Group]:
        """The Raft groups on this node, by shard."""
        return {shard: replica.group for shard, replica in self.replicas.items()}

    def map_with_leaders(self) -> ShardMap:
        """The shard map with the leaders that this node knows of its own replicas."""
        return self.replica_set.map_with_leaders()

    def queues(self) -> dict[str, tuple[int, int]]:
        """Return how much waits in the node's queues, and how much may: name -> (length, bound or 0)."""
        sending, taking, wanted = self._transfers.under_way
        queue = self._client_input.queue
        in_flight = [client.unanswered for client in queue.clients.values()]
        return {
            "busiest_client": (max(in_flight, default=0), self.settings.limits.client_requests),
            "client_requests": (sum(in_flight), 0),
            "client_requests_waiting": (queue.length, 0),
            "reads_open": (queue.open_reads.count, queue.open_reads.places),
            "batches_to_sync": (len(self._storing.unsynced), 0),
            "snapshots_sending": (sending, self.settings.snapshots_at_once),
            "snapshots_taking": (taking, 0),
            "snapshots_wanted": (wanted, 0),
            "replicas_applying_later": (len(self._agenda.behind), 0),
        }

    # -- what arrives

    def receive_peer(self, sender: str, messages: list[PeerMessage]) -> None:
        """Queue a frame of a peer."""
        self._from_peers.append((sender, messages))

    def receive_client(self, client: int, requests: Sequence[Received], size: int = 0) -> bool:
        """Queue a frame of a client; say whether more of it may be received, before a turn has it in `resumed`.

        Args:
            client: whatever the caller wants its answers to be filed under.
            size: of the frame (bytes).
        """
        return self._client_input.queue.receive(client, requests, size, self._now)

    def client_connected(
        self, client: int, identity: bytes, priority: str = Priority.INTERACTIVE.value, address: str = ""
    ) -> None:
        """A client has connected.

        Args:
            identity: names whom its certificate is of, empty where it has none.
            priority: as its greeting has it.
            address: where it comes from: all from one address share what a busy node has for one caller, as all of one
                identity do, wherever they are.
        """
        self._callers.introduce(client, identity, address)
        self._client_input.queue.introduce(client, identity or address, priority_of(priority), self._now)

    def client_is_behind(self, client: int, behind: bool) -> None:
        """A client reads its answers more slowly than they come, or has caught up: while it is, no more are made for it."""
        self._client_input.is_behind(client, self._now, behind=behind)

    def client_gone(self, client: int) -> None:
        """Forget a client: what no turn has taken of it is dropped, and answers to the rest go nowhere."""
        self._client_input.queue.gone(client, self._now)
        self._agenda.client_gone(client)
        self._callers.gone(client)

    def peer_connected(self, peer: str) -> None:
        """Messages to `peer` have a way again."""
        self._peer_events.append((peer, True))

    def peer_lost(self, peer: str) -> None:
        """Messages to `peer` sent lately may be lost, and those sent now will be."""
        self._peer_events.append((peer, False))

    def learn_cluster_id(self, cluster_id: str) -> None:
        """Take up the cluster's id as somebody of it has told it, unless it is known here."""
        self._founding.learn(cluster_id)

    def synced(self, ticket: int) -> None:
        """Everything written by the turns up to that of `ticket` is on disk."""
        self._storing.synced(ticket)

    def flushed(self, ticket: int) -> None:
        """Everything applied by the turns up to that of `ticket` is on disk."""
        self._flushes.ended(ticket)

    def set_disk(self, state: DiskState, now: int) -> None:
        """Say how the disk is. A node that may not lead any more hands its leaderships over from the next turn on."""
        self.disk.state = state
        before = self.not_leading
        known = self._peer_input.disk_latency_us
        self.disk.judge([known[peer] for peer in self.peers if peer in known], now)
        self.liveness.may_campaign = not self.disk.stalled
        if self.not_leading != before:
            self._ticks.tell_whether_to_lead(now)

    def hand_over(self, now: int) -> int:
        """Begin to hand every leadership on; return how many are still here (see `Leaderships.hand_over`)."""
        return self._ticks.hand_over(now)

    # -- the turn

    def turn(self, now: int, wall_ms: int) -> Turn:
        """Do the work of everything that arrived since the last turn, as far as others wait for it.

        Args:
            wall_ms: Unix time in milliseconds by the machine's clock; it may jump, and be wrong (see wall_clock.py).

        The caller sends, begins the sync, and then calls `finish_turn`: what is committed is applied, and clients are
        answered, while the disk and the peers are already at work.
        """
        outbox, storing, agenda = self._outbox, self._storing, self._agenda
        # What is off by a hundred thousand years would be refused by everybody else.
        self._wall_ms = wall_ms if 0 <= wall_ms <= MAX_UNIX_MS else min(max(wall_ms, 0), MAX_UNIX_MS)
        self._now = now
        self.counters.begin_turn(self.arrived or now, now)
        self.arrived = 0
        if storing.unsynced:
            storing.release(now, outbox)
        if self._peer_events:
            events, self._peer_events = self._peer_events, []
            self._peer_input.take_events(events, now)
        if self._from_peers:
            frames, self._from_peers = self._from_peers, []
            self._peer_input.take(frames, now, self._wall_ms, outbox)
        if now >= self.clock.due_at:
            self._ticks.judge_clock(now, wall_ms)
        client_input = self._client_input
        if client_input.queue.busy:
            self.quotas.now = now
            client_input.take(now, outbox)
        if now >= agenda.next_tick:
            self._ticks.tick(now, outbox)
        if now >= self._look_at:
            self._stopped, self._look_at = self.engine.writes_stopped, now + LOOK_NS
        sync = None
        if not self._stopped:
            answers = self._do_admin_requests(now, outbox) if client_input.admin_requests else []
            if self._splits.waiting:
                self._splits.open_children(now)
            if agenda.dirty or storing.unsynced or answers or self.replica_set.may_lack or self.failing.has_stored:
                sync = storing.store(answers, now, outbox)
        if agenda.dirty:
            agenda.awake.update(agenda.dirty)
        to_peers, outbox.to_peers = outbox.to_peers, {}
        return Turn(to_peers, sync)

    def _do_admin_requests(self, now: int, outbox: Outbox) -> list[tuple[int, Answer]]:
        """Do what the shard manager has asked for; return the answers that wait until it is on disk."""
        for client, request in self._client_input.take_admin_requests():
            self._administration.take(client, request, now, outbox)
        return self._administration.take_answers()

    def finish_turn(self, now: int) -> TurnEnd:
        """Apply what is committed, and answer."""
        outbox, agenda, comparisons, counting = self._outbox, self._agenda, self._comparisons, self._row_counting
        # What was not taken up in the first half must not be taken for done in the second.
        stopped = self._stopped
        if self._storing.unsynced:
            self._storing.release_late(now, outbox)
        if (agenda.dirty or agenda.again or (agenda.behind and now >= agenda.behind_due)) and not stopped:
            self._applying.apply(now, outbox)
        if self._transfers.has_to_send:
            for replica, damaged in self._transfers.send(now, outbox):
                self.failing.damaged(replica, damaged, now)
        if now >= comparisons.due_at:
            for replica in comparisons.step(now, outbox):
                agenda.want_turn(replica, now)
        if not self.replica_set.routes.map.cluster_id:
            self._founding.step(now)
        to_peers, outbox.to_peers = outbox.to_peers, {}
        to_clients, outbox.to_clients = outbox.to_clients, {}
        if outbox.failed:
            self.counters.failed(outbox.failed)
            outbox.failed = []
        client_input = self._client_input
        if outbox.uncommitted:
            client_input.refused_uncommitted(outbox.uncommitted)
            outbox.uncommitted = []
        paused = client_input.queue.paused
        resumed = client_input.end(to_clients, now) if to_clients or paused else []
        if now >= counting.due_at:
            found = counting.step(now)
            if found is not None:
                self.failing.damaged(*found, now)
        wake_at = min(agenda.next_tick, counting.due_at, comparisons.due_at)
        if paused:
            wake_at = min(wake_at, client_input.life_due)
        if stopped:
            wake_at = min(wake_at, now + self.settings.tick_interval_ns)
        elif client_input.queue.busy and client_input.has_more:
            wake_at = now
        elif agenda.behind:
            wake_at = min(wake_at, agenda.behind_due)
        return TurnEnd(to_peers, to_clients, self._flushes.begin(), wake_at, resumed)
