"""The reads that wait at one replica: for the leader's lease or a ReadIndex round, or until a replica is fresh enough.

A strong read is served by the leader, at a position that was committed when its leadership was certain (Raft dissertation,
6.4). A weak one may be served by any replica that can say by how much it is behind, see freshness.py.
"""

from __future__ import annotations

from shoal.errors import ErrorCode
from shoal.protocol.messages import Page, PageResume, Read, ReadPage, Rows, Scan, ScanPage
from shoal.protocol.migration import MovingRows, ReadMoving

from shoal_server.node.counters import NodeCounters, served_as
from shoal_server.node.freshness import FreshnessAnswer, FreshnessQuestion, ReplicaFreshness
from shoal_server.node.held_reads import HeldReads
from shoal_server.node.keyspace_quota import KeyspaceQuota
from shoal_server.node.lateness import SOONEST_NS, refuse_late
from shoal_server.node.outbox import NOBODY, Outbox
from shoal_server.node.paused_reads import PausedRead
from shoal_server.node.refusals import Refusals
from shoal_server.node.request_costs import KEY_NS, READ_NS, page_cost, page_reads
from shoal_server.node.serving import SERVE_NS, SMALL_BYTES, Serving
from shoal_server.node.settings import NodeSettings
from shoal_server.node.waiting import QueuedRead, WaitingReads
from shoal_server.node.wall_clock import WallClock
from shoal_server.raft.group import Group
from shoal_server.raft.ready import Ready
from shoal_server.shard.machine import ShardStateMachine
from shoal_server.shard.moving import can_be_read
from shoal_server.shard.reading import READ_BYTES
from shoal_server.storage.engine import Damaged

MOVING_NS = 3_000_000
"""What a page of a migration costs."""


class ReplicaReads:
    """See the module's first lines.

    `fast_index`: up to here, writes were acknowledged before they were committed; a leader's reads wait for them, too.
    `quota`: of the keyspace, None where it has none.
    """

    __slots__ = (
        "_counters",
        "_freshness",
        "_group",
        "_held",
        "_machine",
        "_next_token",
        "_node",
        "_queued",
        "_read_bytes",
        "_refusals",
        "_resumed",
        "_settings",
        "_waiting",
        "_weak",
        "fast_index",
        "quota",
    )

    def __init__(
        self,
        node: str,
        group: Group,
        machine: ShardStateMachine,
        settings: NodeSettings,
        counters: NodeCounters,
        refusals: Refusals,
        held: HeldReads,
    ) -> None:
        self.fast_index = 0
        self.quota: KeyspaceQuota | None = None
        self._node = node
        self._group = group
        self._machine = machine
        self._settings = settings
        self._read_bytes = min(READ_BYTES, settings.limits.max_frame_bytes // 2)
        self._counters = counters
        self._refusals = refusals
        self._held = held
        self._freshness = ReplicaFreshness(settings.timing.drift_permille)
        self._queued: list[QueuedRead] = []
        self._waiting: dict[int, WaitingReads] = {}
        """By round."""
        self._weak: list[QueuedRead] = []
        self._resumed: list[PausedRead] = []
        self._next_token = 0

    # -- admission

    def queue(self, read: QueuedRead) -> None:
        """Take a read; `begin` is called in the same turn."""
        self._queued.append(read)

    def resume(self, read: PausedRead) -> None:
        """Go on with a read that was begun here, when reads are served next."""
        self._resumed.append(read)

    def begin(self, now: int, outbox: Outbox) -> None:
        """Admit the queued reads: at once under a valid lease, else through a ReadIndex round that they share."""
        reads = self._queued
        if not reads:
            return
        self._queued = []
        if not self._group.is_leader:
            for read in reads:
                if read.weak:
                    read.deadline = now + self._settings.weak_read_wait_ns
                    self._weak.append(read)
                else:
                    self._refuse(read, outbox)
            if self._weak:
                self._freshness.read(now)
            return
        index = self._group.read_index(now)
        self._next_token = token = self._next_token + 1
        if index is not None:
            self._waiting[token] = WaitingReads(max(index, self.fast_index), reads, self._counters.arrived)
            return
        self._waiting[token] = WaitingReads(None, reads, self._counters.arrived)
        self._group.start_read(token, now)

    def confirmed(self, ready: Ready, outbox: Outbox) -> None:
        """Take the rounds that have ended: leadership was certain at a position, or has gone."""
        for token, index in ready.reads:
            waiting = self._waiting.get(token)
            if waiting is not None:
                waiting.index = max(index, self.fast_index)
        for token in ready.failed_reads:
            waiting = self._waiting.pop(token, None)
            if waiting is not None:
                self._fail_round(waiting, outbox)

    def leadership_lost(self, outbox: Outbox) -> None:
        """Answer the reads that waited for this leader."""
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            self._fail_round(each, outbox)
        self.fast_index = 0

    def _fail_round(self, waiting: WaitingReads, outbox: Outbox) -> None:
        self._held.release(waiting.held)
        for read in waiting.reads:
            self._fail(read, outbox)

    def fail_all(self, outbox: Outbox) -> None:
        """Answer every read that waits: the replica is being removed."""
        queued, self._queued = self._queued, []
        weak, self._weak = self._weak, []
        resumed, self._resumed = self._resumed, []
        self._held.release(sum(read.held for read in weak))
        for read in (*queued, *weak, *(paused.queued for paused in resumed)):
            self._fail(read, outbox)
        for paused in resumed:
            paused.end()
        self.leadership_lost(outbox)

    def give_back(self, queued: QueuedRead) -> None:
        """It is not done here: what it has taken of a quota is given back, and it is counted where it is done."""
        if self.quota is not None:
            self._charge(queued, self.quota, 0)

    def _charge(self, queued: QueuedRead, quota: KeyspaceQuota, reads: int) -> None:
        """Have a read count as so many, whatever it has taken so far."""
        quota.charge(reads=reads - queued.taken)
        queued.taken = reads

    def _refuse(self, queued: QueuedRead, outbox: Outbox) -> None:
        self.give_back(queued)
        self._refusals.not_leader(queued.client, queued.read.request, outbox)

    def _fail(self, queued: QueuedRead, outbox: Outbox) -> None:
        """A read that waited for this leader's confirmation has lost it."""
        if queued.weak:
            self._decline(queued, None, outbox)
        else:
            self._refuse(queued, outbox)

    # -- serving

    def serve(self, now: int, clock: WallClock, serving: Serving, outbox: Outbox) -> bool:
        """Answer the reads whose position is applied and written to the engine, while the turn has time for it.

        Returns whether it had time for all.

        Raises:
            Damaged: the rows of one cannot be read; that one and the others still wait.
        """
        if self._weak:
            self._serve_weak(now, clock.now_ms(now), serving, outbox)
        if self._resumed:
            self._go_on(serving, outbox)
        if not self._waiting:
            return True
        time_ms = clock.now_ms(now)
        applied, clients = self._machine.state.index, serving.clients
        left = False
        for token, waiting in list(self._waiting.items()):
            if waiting.index is None or waiting.index > applied:
                if not waiting.held:
                    waiting.held = self._held.hold(waiting.reads)
                continue
            served, put_off = 0, []
            try:
                for read in waiting.reads:
                    # As `_has_time` and `is_there` have it, without a call for each of very many.
                    if serving.left > -SERVE_NS if type(read.read) is Read else self._has_time(read, serving):
                        arrived = read.arrived or waiting.arrived
                        age = now - arrived
                        if (read.client in clients or read.client == NOBODY) and not (
                            age > SOONEST_NS and refuse_late(read.client, read.read, age, outbox)
                        ):
                            self._serve(read, 0, arrived, time_ms, serving, outbox)
                    elif type(read.read) is ReadMoving:
                        # Of managers, who wait in no queue of data.
                        put_off.append(read)
                    else:
                        self._put_back(read, waiting.arrived, serving)
                    served += 1
            finally:
                # What is left waits for the next turn; or the replica will fail, and answer these as it does.
                if served < len(waiting.reads) or put_off:
                    waiting.reads = put_off + waiting.reads[served:]
                    left = True
                else:
                    if waiting.held:
                        self._held.release(waiting.held)
                    del self._waiting[token]
        return not left

    def _has_time(self, queued: QueuedRead, serving: Serving) -> bool:
        """Say whether this turn serves a read: of keys some more, which are wanted at once and take little."""
        if type(queued.read) is Read:
            return serving.left > -SERVE_NS
        return serving.may_begin(queued.client) if type(queued.read) is Scan else serving.left > 0

    def _put_back(self, queued: QueuedRead, arrived: int, serving: Serving) -> None:
        """Leave a read to another turn of its client, in which it is admitted as if it came then."""
        queued.arrived = queued.arrived or arrived
        read = serving.paused(self, queued)
        serving.put_back(read, self._machine.keyspace.id, 0)

    def _go_on(self, serving: Serving, outbox: Outbox) -> None:
        """Do a piece of each page that was begun before and is to be gone on with in this turn.

        Raises:
            Damaged: one cannot be read on; that one and those behind it still wait.
        """
        resumed, self._resumed = self._resumed, []
        for count, read in enumerate(resumed):
            if not serving.is_there(read.queued.client):
                read.end()
            elif not read.is_begun:
                # It has let go of its reader since.
                serving.put_back(read, self._machine.keyspace.id, 0)
            else:
                try:
                    self._advance(read, serving, outbox)
                except Damaged:
                    self._resumed = resumed[count:]
                    raise

    def _advance(self, read: PausedRead, serving: Serving, outbox: Outbox) -> None:
        """Do a piece of a page, and answer with it when it is whole: of the state when it was begun, with the seq of that."""
        scan, page, us = read.scan, read.page, 0
        keyspace = self._machine.keyspace.id
        if scan is not None:
            if serving.left <= 0:
                serving.put_back(read, keyspace, 0)
                return
            before = scan.work.us
            try:
                page = scan.advance(self._settings.page_piece_us)
            except Damaged:
                read.end()
                raise
            us = scan.work.us - before
        if page is None:
            serving.put_back(read, keyspace, us * 1_000)
            return
        queued = read.queued
        request: Scan = queued.read  # type: ignore[assignment]  # nothing else has pages that are made in pieces
        self._count(request, queued, queued.arrived, scan=True)
        if self.quota is not None:
            self._charge(queued, self.quota, page_reads(page.examined, page.work.passed))
        outbox.answer(
            queued.client,
            ScanPage(
                request.request,
                read.seq,
                self._node,
                page.keys,
                page.values,
                page.seqs,
                page.resume,
                read.staleness_ms,
            ),
        )
        serving.served_page(read, keyspace, page_cost(us, page.values))

    def _serve(
        self, queued: QueuedRead, staleness_ms: int, arrived: int, time_ms: int, serving: Serving, outbox: Outbox
    ) -> None:
        machine, read, limits = self._machine, queued.read, self._settings.limits
        now = machine.now(time_ms)
        seq = machine.state.seq
        if not machine.has_all(queued.microshards) or (
            type(read) is not Read and isinstance(read, (Scan, ReadPage)) and not machine.has_ranges(read.ranges)
        ):
            # Microshards have gone after it was admitted.
            self.give_back(queued)
            self._refusals.not_here(queued.client, read.request, outbox)
        elif type(read) is Read:
            self._count(read, queued, arrived, scan=False)
            values, seqs, expiries = machine.read(read.keys, queued.microshards, now, self._read_bytes)
            # Charged for when it was taken; but those that had to wait may be many by now.
            serving.left -= READ_NS + len(values) * KEY_NS
            asker, size = serving.clients.get(queued.client), machine.rows.read_bytes
            if size > SMALL_BYTES or (asker is not None and asker.read_ns):
                serving.served_values(asker, machine.keyspace.id, size)
            if self.quota is not None:
                self._charge(queued, self.quota, len(values) or 1)
            outbox.answer(queued.client, Rows(read.request, seq, self._node, values, seqs, staleness_ms, expiries))
        elif type(read) is Scan:
            queued.arrived = arrived
            begun = serving.paused(self, queued)
            begun.scan = machine.pages.begin_scan(
                read.ranges,
                read.start,
                read.end,
                reverse=read.reverse,
                keys_only=read.keys_only,
                max_rows=max(1, min(read.max_rows, limits.page_rows)),
                max_bytes=limits.page_bytes,
                now=now,
            )
            begun.opened_at, begun.seq, begun.staleness_ms = serving.now, seq, staleness_ms
            self._advance(begun, serving, outbox)
        elif type(read) is ReadPage:
            most = max(1, min(read.max_rows, limits.page_rows))
            found = machine.pages.read_page(read.ranges, read.after, most, limits.page_bytes, now)
            if self.quota is not None:
                self._charge(queued, self.quota, page_reads(found.work.rows, found.work.passed))
            resume = None if found.resume is None else PageResume(*found.resume)
            done, microshards = resume is None, found.microshards
            page = Page(read.request, seq, done, microshards, found.keys, found.values, found.expiries, resume)
            outbox.answer(queued.client, page)
            given = serving.paused(self, queued)
            serving.served_page(given, machine.keyspace.id, page_cost(found.work.us, found.values))
        elif type(read) is ReadMoving:
            self._serve_moving(queued.client, read, outbox)
            serving.left -= MOVING_NS

    def _count(self, read: Read | Scan, queued: QueuedRead, arrived: int, *, scan: bool) -> None:
        shard = self._machine.shard.id
        self._counters.read(served_as(read.freshness, scan=scan), arrived, shard, queued.client, read.request)
        self._machine.traffic.read(queued.microshards)

    def _serve_moving(self, client: int, read: ReadMoving, outbox: Outbox) -> None:
        machine = self._machine
        outgoing, cursor = machine.state.outgoing, read.cursor
        if (
            outgoing is None
            or outgoing.migration != read.migration
            or cursor.mark > machine.state.index
            or (cursor.ranges and cursor.ranges != outgoing.ranges)
        ):
            outbox.fail(
                client,
                read.request,
                ErrorCode.INVALID_ARGUMENT,
                f"shard {machine.shard.id} has nothing to give away as migration {read.migration} at this point",
            )
            return
        if not can_be_read(cursor, outgoing):
            outbox.fail(
                client,
                read.request,
                ErrorCode.INVALID_ARGUMENT,
                f"shard {machine.shard.id} was told that shard {outgoing.target} has more of migration "
                f"{read.migration} than that, and has forgotten it: if it has not, cancel the migration",
            )
            return
        max_bytes = max(1, min(read.max_bytes, self._settings.limits.max_batch_bytes))
        page = machine.read_moving(cursor, outgoing, max_bytes)
        outbox.answer(
            client, MovingRows(read.request, page.cleared, page.rows, page.cursor, page.done, outgoing.sealed)
        )

    # -- where the replica does not lead

    @property
    def awaits_applying(self) -> bool:
        """Whether somebody waits for what a replica that does not lead has yet to apply."""
        return bool(self._weak)

    @property
    def waiting(self) -> int:
        """How many reads wait for their position."""
        return sum([len(each.reads) for each in self._waiting.values()])

    @property
    def weak_waiting(self) -> int:
        """How many reads wait for the replica to be fresh enough."""
        return len(self._weak)

    def is_used(self, now: int) -> bool:
        """Whether the replica is, or was lately, read from without leading."""
        return bool(self._weak) or self._freshness.in_use(now)

    def staleness_ms(self, now: int) -> int | None:
        """Return by how much a replica that is read from without leading can be behind; None: nobody reads, or knows."""
        return self._freshness.staleness_ms(now) if self.is_used(now) and not self._group.is_leader else None

    def applied(self, index: int) -> None:
        """The replica has applied its log up to `index`."""
        self._freshness.applied(index)

    def restored(self, index: int) -> None:
        """The replica is at `index` by a snapshot, be that before what it had applied."""
        self._freshness = ReplicaFreshness(self._settings.timing.drift_permille)
        self._freshness.applied(index)

    def ask_freshness(self, now: int, outbox: Outbox) -> None:
        """Ask the leader how far it is, where it is time to, for the sake of reads here."""
        leader = self._group.leader
        if (
            leader
            and leader != self._node
            and self.is_used(now)
            and self._freshness.may_ask(now, wanted=bool(self._weak))
        ):
            outbox.send(leader, FreshnessQuestion(self._machine.shard.id, now))

    def answer_freshness(self, question: FreshnessQuestion, now: int) -> FreshnessAnswer | None:
        """Answer a replica that asks, if this node surely leads; None where it may not."""
        index = self._group.read_index(now)
        return None if index is None else FreshnessAnswer(question.group, question.asked_at, index)

    def take_freshness(self, answer: FreshnessAnswer) -> None:
        """Take the leader's answer."""
        self._freshness.answered(answer, self._machine.state.index)

    def _serve_weak(self, now: int, time_ms: int, serving: Serving, outbox: Outbox) -> None:
        """Answer the reads that this replica is fresh enough for, while there is time; decline those that wait in vain."""
        waiting, self._weak = self._weak, []
        counters, patience = self._counters, self._settings.weak_read_wait_ns
        staleness = self._freshness.staleness_ms(now)
        seq = self._machine.state.seq
        for count, queued in enumerate(waiting):
            if queued.held:
                self._held.release(queued.held)
                queued.held = 0
            waited = now > queued.deadline - patience
            arrived = queued.arrived or (queued.deadline - patience if waited else counters.arrived)
            if not self._has_time(queued, serving):
                self._put_back(queued, arrived, serving)
                continue
            if not serving.is_there(queued.client):
                continue
            wanted = queued.read.freshness  # type: ignore[union-attr]  # a Read or a Scan: nothing else is weak
            bound = wanted.max_staleness_ms
            if staleness is not None and seq >= wanted.min_seq and (not bound or staleness <= bound):
                try:
                    self._serve(queued, staleness, arrived, time_ms, serving, outbox)
                except Damaged:
                    self._weak += waiting[count:]
                    raise
            elif now >= queued.deadline or not self._group.leader:
                self._decline(queued, staleness, outbox)
            else:
                queued.held = self._held.hold((queued,))
                self._weak.append(queued)

    def _decline(self, queued: QueuedRead, staleness: int | None, outbox: Outbox) -> None:
        wanted = queued.read.freshness  # type: ignore[union-attr]  # a Read or a Scan: nothing else is weak
        machine = self._machine
        self.give_back(queued)
        known = "nobody could say how stale" if staleness is None else f"up to {staleness} ms stale"
        asked = f"at most {wanted.max_staleness_ms} ms and " if wanted.max_staleness_ms else ""
        outbox.fail(
            queued.client,
            queued.read.request,
            ErrorCode.TOO_STALE,
            f"the replica of shard {machine.shard.id} on {self._node} is at seq {machine.state.seq}, {known}; "
            f"asked for was {asked}seq {wanted.min_seq}: ask another",
            route=self._refusals.route,
        )
