"""One shard's copy on this node: its Raft group, its log store, its state machine, and the requests waiting for them.

A turn of the node calls, in this order: `propose_queued` (this turn's writes become log entries), `begin_reads`,
`collect` (what the group wants stored and sent goes into the turn's batch and outbox); and when that is written and on
its way, `apply` (what is committed takes effect in a second batch) and `serve_reads`. Nothing here does I/O of its own
except reading the engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

import msgspec
from shoal.errors import ErrorCode
from shoal.protocol.messages import (
    Done,
    Operation,
    Page,
    Read,
    ReadPage,
    Rows,
    Scan,
    ScanPage,
    SessionOpened,
    Write,
    Written,
)
from shoal.protocol.relocation import MovingRows, ReadMoving
from shoal.shardmap import Keyspace, Shard

from shoal_server.node.census import RowCounts
from shoal_server.node.freshness import FreshnessAnswer, FreshnessQuestion, ReplicaFreshness
from shoal_server.node.handover import Handover
from shoal_server.node.loads import ReplicaLoad
from shoal_server.node.outbox import NOBODY, Outbox
from shoal_server.node.settings import NodeSettings
from shoal_server.observe.tally import Backlog, Served, Tally, TimedRequest, served_as
from shoal_server.raft.group import Group
from shoal_server.raft.messages import Entry
from shoal_server.raft.ready import NotLeader, Ready, TooManyUncommitted
from shoal_server.shard.commands import (
    COMMANDS_VERSION,
    AdoptCommand,
    Command,
    Commands,
    OpenSessionCommand,
    PurgeCommand,
    SealCommand,
    SplitCommand,
    WriteCommand,
    encode_commands,
)
from shoal_server.shard.machine import Outcome, Prepared, ShardStateMachine
from shoal_server.shard.sessions import Verdict
from shoal_server.storage.applied_state import AppliedState
from shoal_server.storage.engine import Batch
from shoal_server.storage.log_store import GroupLogStore

OVERLOADED_RETRY_MS = 50

_CHANGES_SEQS_OR_MICROSHARDS = (SplitCommand, SealCommand, AdoptCommand)
"""Until it is applied, nobody knows whether a write behind one of these will be done, nor its seq."""


@dataclass(slots=True)
class QueuedCommand:
    """A client's command that waits for this turn's log entry. `size` in bytes; `operations` as decoded when checked.

    `fast`: it is answered as soon as it is in the log.
    """

    client: int
    request: int
    command: Command
    operations: list[Operation] | None
    size: int
    fast: bool = False


@dataclass(slots=True)
class QueuedRead:
    """A client's read that waits for a lease or a ReadIndex round, or for the replica to be fresh enough.

    `weak`: it may be served by a replica that does not lead. `deadline`: until when it waits there (ns).
    """

    client: int
    read: Read | ReadPage | Scan | ReadMoving
    microshards: list[int]
    weak: bool = False
    deadline: int = 0


@dataclass(slots=True)
class Proposal:
    """Who waits for the commands of a log entry that this node proposed, in their order.

    `arrived`, `proposed`, `synced`: when the first of them came in, was proposed, and was on this node's own disk (ns).
    """

    term: int
    waiters: list[tuple[int, int]]
    arrived: int = 0
    proposed: int = 0
    synced: int = 0


@dataclass(slots=True)
class WaitingTransfer:
    """A client's TransferLeader, until the target leads or the time is over."""

    client: int
    request: int
    target: str
    deadline: int


class Replica:
    """See the module's first lines.

    Invariant: whoever asked is answered exactly once: with the outcome when the entry is applied, or with
    `not_leader` as soon as this node no longer leads (the outcome is then for deduplication to find out).
    """

    __slots__ = (
        "_checkpoints",
        "_connected",
        "_fast_from",
        "_fast_index",
        "_flushed_index",
        "_freshness",
        "_had_leader",
        "_handover",
        "_log_bytes",
        "_next_token",
        "_prepared",
        "_proposals",
        "_purging",
        "_queue",
        "_queued_reads",
        "_queued_since",
        "_reads_waiting",
        "_restored",
        "_results",
        "_settings",
        "_since_checkpoint",
        "_tally",
        "_was_leader",
        "_weak_reads",
        "counts",
        "group",
        "keyspace",
        "load",
        "machine",
        "node",
        "route",
        "shard",
        "snapshot_floor",
        "store",
        "transfer",
    )

    def __init__(
        self,
        node: str,
        group: Group,
        store: GroupLogStore,
        machine: ShardStateMachine,
        settings: NodeSettings,
        tally: Tally,
        connected: Collection[str],
    ) -> None:
        """`connected` are, at every moment, the peers that messages have a way to."""
        self.node = node
        self.group = group
        self.store = store
        self.machine = machine
        self.shard = machine.shard
        self.keyspace = machine.keyspace
        self.route: Shard = machine.shard
        self.transfer: WaitingTransfer | None = None
        self.snapshot_floor: int | None = None
        self.counts = RowCounts()
        self.load = ReplicaLoad()
        self._settings = settings
        self._tally = tally
        self._connected = connected
        self._queued_since = 0
        self._queue: list[QueuedCommand] = []
        self._queued_reads: list[QueuedRead] = []
        self._reads_waiting: dict[int, tuple[int | None, list[QueuedRead], int]] = {}
        self._next_token = 0
        self._proposals: dict[int, Proposal] = {}
        self._prepared: dict[int, Prepared] = {}
        self._was_leader = False
        self._fast_from = 0
        self._fast_index = 0
        self._purging = False
        self._weak_reads: list[QueuedRead] = []
        self._freshness = ReplicaFreshness(settings.timing.drift_permille)
        self._checkpoints: deque[tuple[int, int]] = deque()
        self._flushed_index = machine.state.index
        self._log_bytes = 0
        self._since_checkpoint = 0
        self._restored: AppliedState | None = None
        self._results: list[tuple[Entry, list[Outcome]]] = []
        self._handover = Handover()
        self._had_leader = False

    # -- requests in

    def queue_command(self, command: QueuedCommand) -> None:
        self._queue.append(command)

    def queue_read(self, read: QueuedRead) -> None:
        self._queued_reads.append(read)

    def queue_purge(self, wall_ms: int) -> bool:
        """Queue a command that removes expired rows, if this is the leader and some are due; return whether it did."""
        expiry, now = self.machine.expiry, self.machine.now(wall_ms)
        if self._purging or expiry.due_at > now or not self.group.is_leader:
            return False
        rows = expiry.due(now, self._settings.purge_rows)
        if rows:
            self._purging = True
            size = sum(len(key) for _, _, key in rows)
            self._queue.append(QueuedCommand(NOBODY, 0, PurgeCommand(rows), None, size))
        return bool(rows)

    # -- the turn

    def propose_queued(self, now: int, wall_ms: int, outbox: Outbox) -> None:
        """Turn the commands queued since the last turn into log entries, as few as the size bound allows.

        While the leadership is on its way to another node they wait: soon that is known, or this replica goes on to lead.
        """
        if self.group.transferring:
            self._handover.begin(now)
            if self._queue and not self._queued_since:
                self._queued_since = self._tally.arrived
            return
        queue = self._queue
        if not queue:
            return
        self._queue = []
        arrived, self._queued_since = self._queued_since or self._tally.arrived, 0
        if not self.group.is_leader:
            self._purging = False
            for item in queue:
                self.fail_not_leader(item.client, item.request, outbox)
            return
        entries: list[list[QueuedCommand]] = []
        size = self._settings.entry_bytes
        for item in queue:
            if item.fast and not self._is_new(item, outbox):
                continue
            if size + item.size > self._settings.entry_bytes:
                entries.append([])
                size = 0
            entries[-1].append(item)
            size += item.size
        for items in entries:
            self._propose(items, arrived, now, wall_ms, outbox)

    def _is_new(self, item: QueuedCommand, outbox: Outbox) -> bool:
        """Say whether a write is new to its session as applied so far; answer it where it is not.

        A fast write is acknowledged before deduplication decides, and may not be where that will do nothing.
        """
        command = item.command
        assert isinstance(command, WriteCommand), "only writes are fast"
        verdict, seq, _ = self.machine.sessions.judge(command.session, command.number)
        if verdict is Verdict.NEW:
            return True
        self._answer(item.client, item.request, Outcome(verdict, seq), command, outbox)
        return False

    def _propose(self, items: list[QueuedCommand], arrived: int, now: int, wall_ms: int, outbox: Outbox) -> None:
        commands = Commands(COMMANDS_VERSION, wall_ms, self.keyspace.default_ttl_ms, [item.command for item in items])
        group = self.group
        try:
            index = group.propose([encode_commands(commands)])
        except TooManyUncommitted as error:
            self._purging = False
            self._tally.proposals_refused += 1
            for item in items:
                outbox.fail(
                    item.client, item.request, ErrorCode.OVERLOADED, str(error), retry_after_ms=OVERLOADED_RETRY_MS
                )
        except NotLeader:
            self._purging = False
            for item in items:
                self.fail_not_leader(item.client, item.request, outbox)
        else:
            term = group.term
            self._tally.proposals += 1
            self._tally.proposed_commands += len(items)
            if any(isinstance(command, _CHANGES_SEQS_OR_MICROSHARDS) for command in commands.commands):
                self._fast_from = index
            for item in items:
                item.fast = item.fast and self.machine.state.index >= self._fast_from
            self._proposals[index] = Proposal(
                term, [(NOBODY if item.fast else item.client, item.request) for item in items], arrived, now
            )
            self._prepared[index] = Prepared(term, commands, [item.operations for item in items])
            if any(item.fast for item in items):
                self._fast_index = index
                seq = self.machine.state.seq_base + index
                for item in items:
                    if item.fast:
                        self._tally.at_once[Served.WRITE_FAST] += 1
                        outbox.answer(item.client, Written(item.request, seq))
                        if self._tally.watched:
                            self._note_watched(index, self._proposals[index], [(item.client, item.request)], fast=True)

    def begin_reads(self, now: int, outbox: Outbox) -> None:
        """Admit the queued reads: at once under a valid lease, else through a ReadIndex round that they share."""
        reads = self._queued_reads
        if not reads:
            return
        self._queued_reads = []
        if not self.group.is_leader:
            for read in reads:
                if read.weak:
                    read.deadline = now + self._settings.weak_read_wait_ns
                    self._weak_reads.append(read)
                else:
                    self.fail_not_leader(read.client, read.read.request, outbox)
            if self._weak_reads:
                self._freshness.read(now)
            return
        index = self.group.read_index(now)
        token = self._next_token
        self._next_token += 1
        if index is not None:
            self._reads_waiting[token] = (max(index, self._fast_index), reads, self._tally.arrived)
            return
        self._reads_waiting[token] = (None, reads, self._tally.arrived)
        self.group.start_read(token, now)

    def collect(self, batch: Batch, now: int, outbox: Outbox) -> list[Ready]:
        """Take out what the group has ready: store it into `batch`, put what may leave now into `outbox`.

        Returns the Readies whose durable messages must wait until `batch` is on disk.
        """
        group = self.group
        taken: list[Ready] = []
        while group.has_ready:
            ready = group.ready(now)
            if ready.hard_state is not None:
                self.store.save_hard_state(batch, ready.hard_state)
            if ready.entries:
                self.store.append(batch, ready.entries)
                self._count_log(ready.entries)
            for peer, message in ready.messages:
                outbox.send(peer, message)
            for token, index in ready.reads:
                waiting = self._reads_waiting.get(token)
                if waiting is not None:
                    self._reads_waiting[token] = (max(index, self._fast_index), waiting[1], waiting[2])
            for token in ready.failed_reads:
                for read in self._reads_waiting.pop(token, (None, [], 0))[1]:
                    self._fail_read(read, outbox)
            taken.append(ready)
        if group.is_leader != self._was_leader or group.leader != self.route.leader:
            self._leadership_changed(outbox)
        handover = self._handover
        if handover.under_way and not group.transferring and (self._knows_leader() or handover.is_overdue(now)):
            self._end_handover(outbox)
        return taken

    def apply(self, batch: Batch) -> None:
        """Apply what is committed into `batch`, as much as a turn may take. `answer_applied` follows once it is written."""
        group = self.group
        entries = group.committed()
        if entries:
            results = self.machine.apply(entries, batch, self._prepared)
            group.applied(entries[-1].index)
            self._freshness.applied(entries[-1].index)
            if self._proposals:
                self._results = results

    def answer_applied(self, outbox: Outbox) -> None:
        """Answer those who wait for what was applied."""
        results, self._results = self._results, []
        proposals = self._proposals
        for entry, outcomes in results:
            proposal = proposals.pop(entry.index, None)
            if proposal is None:
                continue
            prepared = self._prepared.pop(entry.index)
            if self._purging and any(isinstance(command, PurgeCommand) for command in prepared.commands.commands):
                self._purging = False
            if proposal.term != entry.term:
                for client, request in proposal.waiters:
                    self.fail_not_leader(client, request, outbox)
                continue
            commands = prepared.commands.commands
            answered = 0
            for (client, request), outcome, command in zip(proposal.waiters, outcomes, commands, strict=True):
                if client != NOBODY:
                    answered += 1
                    self._answer(client, request, outcome, command, outbox)
            if answered:
                self._tally.waited.append((Served.WRITE_QUORUM, proposal.arrived, answered))
                if proposal.arrived < self._tally.slow_before:
                    self._note_slow(entry.index, proposal, commands[0])
                if self._tally.watched:
                    self._note_watched(entry.index, proposal, proposal.waiters)

    def _answer(self, client: int, request: int, outcome: Outcome, command: Command, outbox: Outbox) -> None:
        verdict = outcome.verdict
        if verdict is Verdict.NEW or verdict is Verdict.DUPLICATE:
            if type(command) is OpenSessionCommand:
                outbox.answer(client, SessionOpened(request, outcome.value))
            elif type(command) is WriteCommand:
                outbox.answer(client, Written(request, outcome.value, outcome.results))
            else:
                outbox.answer(client, Done(request))
        elif verdict is Verdict.REFUSED:
            outbox.fail(client, request, ErrorCode.INVALID_ARGUMENT, outcome.reason)
        elif verdict is Verdict.NOT_HERE:
            self._fail_not_here(client, request, outbox)
        elif verdict is Verdict.UNKNOWN_SESSION:
            outbox.fail(
                client,
                request,
                ErrorCode.SESSION_EXPIRED,
                f"shard {self.shard.id} does not know this session (any more): open a new one",
                route=self.route,
            )
        else:
            outbox.fail(
                client,
                request,
                ErrorCode.OUTCOME_UNKNOWN,
                "the write's number is far behind its session's newest: a late duplicate, not applied now",
                maybe_applied=True,
            )

    def serve_reads(self, now: int, wall_ms: int, outbox: Outbox) -> None:
        """Answer the reads whose position is applied and written to the engine."""
        if self._weak_reads:
            self._serve_weak_reads(now, wall_ms, outbox)
        if not self._reads_waiting:
            return
        applied = self.machine.state.index
        done = [token for token, (index, _, _) in self._reads_waiting.items() if index is not None and index <= applied]
        for token in done:
            _, reads, arrived = self._reads_waiting.pop(token)
            for read in reads:
                self._serve(read, 0, arrived, wall_ms, outbox)

    def _serve(self, queued: QueuedRead, staleness_ms: int, arrived: int, wall_ms: int, outbox: Outbox) -> None:
        machine, read, limits = self.machine, queued.read, self._settings.limits
        now = machine.now(wall_ms)
        seq = machine.state.seq
        if not machine.has_all(queued.microshards) or (
            type(read) is Scan
            and (not machine.has_microshard(read.microshard) or (read.ranges and read.ranges != machine.state.ranges))
        ):
            # Microshards have gone after it was admitted.
            self._fail_not_here(queued.client, read.request, outbox)
        elif type(read) is Read:
            self._tally.read(served_as(read.freshness, scan=False), arrived, self.shard.id, queued.client, read.request)
            machine.traffic.read(queued.microshards)
            values, seqs, expiries = machine.read(read.keys, queued.microshards, now)
            fitting = _fitting(values, limits.max_frame_bytes // 2)
            if fitting < len(values):
                values, seqs, expiries = values[:fitting], seqs[:fitting], expiries[:fitting]
            outbox.answer(queued.client, Rows(read.request, seq, self.node, values, seqs, staleness_ms, expiries))
        elif type(read) is Scan:
            self._tally.read(served_as(read.freshness, scan=True), arrived, self.shard.id, queued.client, read.request)
            machine.traffic.read(queued.microshards)
            page = machine.scan(
                read.microshard,
                read.start,
                read.end,
                reverse=read.reverse,
                keys_only=read.keys_only,
                max_rows=max(1, min(read.max_rows, limits.page_rows)),
                max_bytes=limits.page_bytes,
                now=now,
            )
            outbox.answer(
                queued.client,
                ScanPage(read.request, seq, self.node, page.keys, page.values, page.seqs, page.resume, staleness_ms),
            )
        elif type(read) is ReadPage:
            rows = max(1, min(read.max_rows, limits.page_rows))
            microshards, keys, shown, done = machine.read_page(
                read.microshard, read.after, rows, limits.page_bytes, now
            )
            outbox.answer(queued.client, Page(read.request, seq, done, microshards, keys, shown))
        elif type(read) is ReadMoving:
            self._serve_moving(queued.client, read, outbox)

    def _note_slow(self, index: int, proposal: Proposal, command: Command | None, outcome: str = "") -> None:
        """Note a log entry whose writes took too long; `command` is the first of them, where it is known."""
        settled = 0 if outcome else self._tally.began
        self._tally.slow.append(self._timed(index, proposal, proposal.waiters[0], command, settled, outcome))

    def _note_watched(
        self, index: int, proposal: Proposal, waiters: list[tuple[int, int]], *, fast: bool = False, outcome: str = ""
    ) -> None:
        """Note a log entry for those of its waiters whom somebody watches; `fast`: they are answered before its commit."""
        settled = 0 if fast or outcome else self._tally.began
        for waiter in waiters:
            if waiter in self._tally.watched:
                self._tally.timed.append(self._timed(index, proposal, waiter, None, settled, outcome))

    def _timed(
        self,
        index: int,
        proposal: Proposal,
        waiter: tuple[int, int],
        command: Command | None,
        settled: int,
        outcome: str,
    ) -> TimedRequest:
        named = command if type(command) is WriteCommand else None
        client, request = waiter
        return TimedRequest(
            served=Served.WRITE_QUORUM,
            shard=self.shard.id,
            requests=len(proposal.waiters),
            client=client,
            request=request,
            session=0 if named is None else named.session,
            number=0 if named is None else named.number,
            index=index,
            term=proposal.term,
            arrived=proposal.arrived,
            proposed=proposal.proposed,
            synced=proposal.synced,
            settled=settled,
            outcome=outcome,
        )

    def synced(self, index: int, now: int) -> None:
        """This node's own disk has the log up to `index`."""
        for proposed, proposal in self._proposals.items():
            if proposed > index:
                break
            if not proposal.synced:
                proposal.synced = now

    def _serve_moving(self, client: int, read: ReadMoving, outbox: Outbox) -> None:
        machine = self.machine
        outgoing, cursor = machine.state.outgoing, read.cursor
        if outgoing is None or outgoing.relocation != read.relocation or cursor.mark > machine.state.index:
            outbox.fail(
                client,
                read.request,
                ErrorCode.INVALID_ARGUMENT,
                f"shard {self.shard.id} has nothing to give away as relocation {read.relocation} at this point",
            )
            return
        max_bytes = max(1, min(read.max_bytes, self._settings.limits.max_batch_bytes))
        page = machine.read_moving(cursor, outgoing, max_bytes)
        outbox.answer(
            client, MovingRows(read.request, page.cleared, page.rows, page.cursor, page.done, outgoing.sealed)
        )

    # -- reads of a replica that does not lead

    @property
    def awaits_applying(self) -> bool:
        """Whether somebody waits for what a replica that does not lead has yet to apply."""
        return bool(self._weak_reads)

    @property
    def backlog(self) -> Backlog:
        """What waits at this replica."""
        return Backlog(
            commands=len(self._queue),
            proposals=len(self._proposals),
            reads=sum([len(reads) for _, reads, _ in self._reads_waiting.values()]),
            weak_reads=len(self._weak_reads),
        )

    def staleness_ms(self, now: int) -> int | None:
        """Return by how much a replica that is read from without leading can be behind; None: nobody reads, or knows."""
        return self._freshness.staleness_ms(now) if self.is_read_from(now) and not self.group.is_leader else None

    def is_read_from(self, now: int) -> bool:
        """Whether the replica is, or was lately, read from without leading."""
        return bool(self._weak_reads) or self._freshness.in_use(now)

    def ask_freshness(self, now: int, outbox: Outbox) -> None:
        """Ask the leader how far it is, where it is time to, for the sake of reads here."""
        leader = self.group.leader
        if (
            leader
            and leader != self.node
            and self.is_read_from(now)
            and self._freshness.may_ask(now, wanted=bool(self._weak_reads))
        ):
            outbox.send(leader, FreshnessQuestion(self.shard.id, now))

    def answer_freshness(self, question: FreshnessQuestion, now: int) -> FreshnessAnswer | None:
        """Answer a replica that asks, if this node surely leads; None where it may not."""
        index = self.group.read_index(now)
        return None if index is None else FreshnessAnswer(question.group, question.asked_at, index)

    def take_freshness(self, answer: FreshnessAnswer) -> None:
        """Take the leader's answer."""
        self._freshness.answered(answer, self.machine.state.index)

    def _serve_weak_reads(self, now: int, wall_ms: int, outbox: Outbox) -> None:
        """Answer the reads that this replica is fresh enough for; decline those for which it is not in time."""
        waiting, self._weak_reads = self._weak_reads, []
        if not waiting:
            return
        tally, patience = self._tally, self._settings.weak_read_wait_ns
        staleness = self._freshness.staleness_ms(now)
        seq = self.machine.state.seq
        for queued in waiting:
            wanted = queued.read.freshness  # type: ignore[union-attr]  # a Read or a Scan: nothing else is weak
            bound = wanted.max_staleness_ms
            if staleness is not None and seq >= wanted.min_seq and (not bound or staleness <= bound):
                waited = now > queued.deadline - patience
                arrived = queued.deadline - patience if waited else tally.arrived
                self._serve(queued, staleness, arrived, wall_ms, outbox)
            elif now >= queued.deadline or not self.group.leader:
                self._decline(queued, staleness, outbox)
            else:
                self._weak_reads.append(queued)

    def _decline(self, queued: QueuedRead, staleness: int | None, outbox: Outbox) -> None:
        wanted = queued.read.freshness  # type: ignore[union-attr]  # a Read or a Scan: nothing else is weak
        known = "nobody could say how stale" if staleness is None else f"up to {staleness} ms stale"
        asked = f"at most {wanted.max_staleness_ms} ms and " if wanted.max_staleness_ms else ""
        outbox.fail(
            queued.client,
            queued.read.request,
            ErrorCode.TOO_STALE,
            f"the replica of shard {self.shard.id} on {self.node} is at seq {self.machine.state.seq}, {known}; "
            f"asked for was {asked}seq {wanted.min_seq}: ask another",
            route=self.route,
        )

    def answer_repeated(self, client: int, request: Write, outbox: Outbox) -> bool:
        """Answer a write for microshards that are not here, if it may have been done while they were; say whether so.

        What its session remembers is final: it knows of everything that was done before they went.
        """
        outcome = self.machine.earlier_outcome(request.session, request.number)
        if outcome.verdict is Verdict.NEW:
            return False
        command = WriteCommand(request.session, request.number, [], request.operations)
        self._answer(client, request.request, outcome, command, outbox)
        return True

    def _fail_not_here(self, client: int, request: int, outbox: Outbox) -> None:
        """Answer that a microshard has gone to another shard, and that nothing was done."""
        outbox.fail(
            client,
            request,
            ErrorCode.WRONG_SHARD,
            f"shard {self.shard.id} has other microshards by now: fetch the shard map again",
            route=self.route,
        )

    def _fail_read(self, queued: QueuedRead, outbox: Outbox) -> None:
        """A read that waited for this leader's confirmation has lost it."""
        if queued.weak:
            self._decline(queued, None, outbox)
        else:
            self.fail_not_leader(queued.client, queued.read.request, outbox)

    # -- the shard map

    def adopt_shard(self, shard: Shard, keyspace: Keyspace) -> None:
        """Take over what a newer shard map says of the shard and its keyspace."""
        self.shard = self.machine.shard = shard
        self.keyspace = self.machine.keyspace = keyspace
        self.route = msgspec.structs.replace(shard, leader=self.group.leader)

    def fail_all(self, outbox: Outbox) -> None:
        """Answer everybody who waits: the replica is being removed."""
        for command in self._queue:
            self.fail_not_leader(command.client, command.request, outbox)
        waiting = [read for _, reads, _ in self._reads_waiting.values() for read in reads]
        for queued in (*self._queued_reads, *self._weak_reads, *waiting):
            self._fail_read(queued, outbox)
        for proposal in self._proposals.values():
            for client, request in proposal.waiters:
                self.fail_not_leader(client, request, outbox, maybe_applied=True)
        self._end_handover(outbox)
        self._queue, self._queued_reads, self._weak_reads = [], [], []
        self._reads_waiting, self._proposals = {}, {}

    # -- leadership

    def _leadership_changed(self, outbox: Outbox) -> None:
        """Answer those who wait for a leader that no longer is one; keep the route that refusals carry up to date."""
        group = self.group
        if group.leader and group.leader != self.route.leader:
            self._tally.leader_changes += 1
        self.route = msgspec.structs.replace(self.shard, leader=group.leader)
        self._had_leader = self._had_leader or bool(group.leader)
        if self._was_leader and not group.is_leader:
            proposals, self._proposals = self._proposals, {}
            self._prepared = {}
            for index, proposal in proposals.items():
                awaited = any(client != NOBODY for client, _ in proposal.waiters)
                if awaited and proposal.arrived < self._tally.slow_before:
                    self._note_slow(index, proposal, None, ErrorCode.NOT_LEADER.value)
                if self._tally.watched:
                    self._note_watched(index, proposal, proposal.waiters, outcome=ErrorCode.NOT_LEADER.value)
                for client, request in proposal.waiters:
                    self.fail_not_leader(client, request, outbox, maybe_applied=True)
            waiting, self._reads_waiting = self._reads_waiting, {}
            for _, reads, _ in waiting.values():
                for read in reads:
                    self._fail_read(read, outbox)
            self._fast_index = 0
            self._purging = False
        if group.is_leader and not self._was_leader:
            self._tally.elections_won += 1
            self._fast_from = group.log.last_index
        self._was_leader = group.is_leader
        transfer = self.transfer
        if transfer is not None and group.leader == transfer.target:
            self.transfer = None
            outbox.answer(transfer.client, Done(transfer.request))

    def expire_transfer(self, now: int, outbox: Outbox) -> None:
        """Tell whoever asked for a transfer that it did not come about in time."""
        transfer = self.transfer
        if transfer is not None and now >= transfer.deadline:
            self.transfer = None
            outbox.fail(
                transfer.client,
                transfer.request,
                ErrorCode.UNAVAILABLE,
                f"leadership of shard {self.shard.id} did not reach {transfer.target!r} in time; "
                f"the leader is {self.group.leader or 'unknown'}",
            )

    def _end_handover(self, outbox: Outbox) -> None:
        """Answer those who waited for the new leader's name."""
        for held in self._handover.end():
            self._say_not_leader(held.client, held.request, outbox, held.maybe_applied)

    @property
    def holds_refusals(self) -> bool:
        """Whether somebody waits to be told who leads."""
        return self._handover.under_way

    def _knows_leader(self) -> bool:
        """Whether there is a leader, and nothing says that it is gone."""
        leader = self.group.leader
        return leader == self.node or leader in self._connected

    def fail_not_leader(self, client: int, request: int, outbox: Outbox, *, maybe_applied: bool = False) -> None:
        """Answer that this node does not lead the shard, with the route to who does; once that is known, or after a while."""
        # One that is new here, and has not heard of any leader, is the last to hear: another replica may well know.
        if self._had_leader and not self._handover.under_way and not self._knows_leader():
            self._handover.begin(self._tally.began)
        if self._handover.under_way:
            self._handover.hold(client, request, maybe_applied)
        else:
            self._say_not_leader(client, request, outbox, maybe_applied)

    def _say_not_leader(self, client: int, request: int, outbox: Outbox, maybe_applied: bool) -> None:
        leader = self.group.leader
        outbox.fail(
            client,
            request,
            ErrorCode.NOT_LEADER,
            f"{self.node} does not lead shard {self.shard.id}; "
            + (f"{leader} does" if leader else "nobody known does"),
            maybe_applied=maybe_applied,
            route=self.route,
        )

    # -- the length of the log

    def _count_log(self, entries: list[Entry]) -> None:
        size = 0
        for entry in entries:
            size += len(entry.payload) + 32
        self._log_bytes += size
        self._since_checkpoint += size
        if self._since_checkpoint >= self._settings.log_checkpoint_bytes:
            self._checkpoints.append((entries[-1].index, self._since_checkpoint))
            self._since_checkpoint = 0

    def flushed(self, index: int) -> None:
        """What was applied up to `index` is on disk."""
        self._flushed_index = max(self._flushed_index, index)

    def shorten_log(self, batch: Batch) -> bool:
        """Cut entries beyond the retained bytes off the log, but none that a live replica, a snapshot or a restart needs.

        Returns whether the log is long for want of a flush.
        """
        retain = self._settings.log_retain_bytes
        checkpoints = self._checkpoints
        if self._log_bytes <= retain or not checkpoints:
            return False
        group = self.group
        log = self.group.log
        bound = min(self._flushed_index, log.persisted_index)
        if self.snapshot_floor is not None:
            bound = min(bound, self.snapshot_floor)
        if self._log_bytes <= 4 * retain:
            bound = min(bound, group.needed_from() - 1)
        cut = 0
        while self._log_bytes > retain and checkpoints and checkpoints[0][0] <= bound:
            cut, size = checkpoints.popleft()
            self._log_bytes -= size
        if cut > log.truncated_index:
            term = log.term(cut)
            group.compact(cut)
            self.store.truncate(batch, cut, term)
        # A flush is for all shards: ask for one when there is as much to cut off as to keep.
        return self._log_bytes > 2 * retain and self._flushed_index < self.machine.state.index

    @property
    def stored_state(self) -> AppliedState:
        """The applied state that the rows on disk are of, with those that this turn's batch will have written."""
        return self._restored or self.machine.state

    def restore(self, state: AppliedState, now: int) -> None:
        """A snapshot is adopted in the turn's batch: go on from it. `reload` follows once the batch is written."""
        self._checkpoints.clear()
        self._log_bytes = 0
        self._since_checkpoint = 0
        self._restored = state
        self._flushed_index = state.index
        self.group.restore(state.index, state.term, state.membership, state.membership_index, now)

    def reload(self) -> None:
        """Take up the rows of a snapshot that was just adopted and written."""
        if self._restored is not None:
            self.machine.adopt(self._restored)
            self._freshness.applied(self._restored.index)
            self._restored = None


def _fitting(values: list[bytes | None], max_bytes: int) -> int:
    """Return how many of the values, at least one, fit into `max_bytes`."""
    size = 0
    for count, value in enumerate(values):
        if value is not None:
            size += len(value)
            if size > max_bytes:
                return max(count, 1)
    return len(values)
