"""The traffic of shard queues: calls become batches, batches are sent, answered, sent again, expired. No sockets, no clock.

Part of the router, which owns the shard map and the connections' events; what a call ends with is its table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Generic

from shoal.errors import ErrorCode, ShoalError
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    MAX_BATCH_BYTES,
    STRONG,
    Applied,
    ConditionNotMet,
    Failure,
    Rows,
    ScanPage,
    SessionOpened,
    Traces,
    Written,
)
from shoal.results import WriteResult
from shoal.routing.backoff import Backoff, RetryBudget
from shoal.routing.call_errors import (
    closed,
    condition_failed,
    disowned,
    expired,
    impossible,
    outcome_lost,
    refused,
    too_stale,
)
from shoal.routing.calls import NEVER, STRONG_READ, AnyCall, ReadCall, ScanCall, W, WriteCall
from shoal.routing.counters import ClientCounters
from shoal.routing.links import Link
from shoal.routing.network import Network
from shoal.routing.replica_selector import ReplicaSelector
from shoal.routing.requests import freshness_of, to_message
from shoal.routing.shard_queue import (
    BATCH_BYTES,
    BATCH_CALLS,
    NO_SESSION,
    READS_IN_FLIGHT,
    AnyBatch,
    AnyQuery,
    AttemptTracer,
    InFlightRequest,
    Query,
    ReadBatch,
    ScanPageRead,
    SessionOpen,
    ShardQueue,
    Trouble,
    WriteBatch,
    may_have_applied,
)
from shoal.shardmap import Ranges, Routes

_ANOTHER_NODE = frozenset((ErrorCode.NOT_LEADER.value, ErrorCode.WRONG_SHARD.value, ErrorCode.CLOSED.value))
_SAME_NODE = frozenset((ErrorCode.UNAVAILABLE.value, ErrorCode.OVERLOADED.value))
_ANOTHER_REPLICA = _ANOTHER_NODE | _SAME_NODE | {ErrorCode.TOO_STALE.value}

LEAST_SHARE = 32
"""Fewer reads than this, which any replica may serve, travel to one together."""

_FOR_A_PART = frozenset((ErrorCode.INVALID_ARGUMENT.value, ErrorCode.TOO_LARGE.value))
"""Refusals of a write that may be about one of its operations, or about how many there are together."""


@dataclass(slots=True)
class Outcomes(Generic[W]):
    """Calls that are over. The driver takes the waiters out of the calls, where there still is one; rows belong to the
    calls beside them, in order. The ranges are what sessions note the seq for. `failed` are waiters already taken out.
    """

    written: list[tuple[list[WriteCall[W]], WriteResult, Ranges]] = field(default_factory=list)
    read: list[tuple[list[ReadCall[W]], Rows, Ranges]] = field(default_factory=list)
    scanned: list[tuple[ScanCall[W], ScanPage, Ranges]] = field(default_factory=list)
    failed: list[tuple[W, ShoalError]] = field(default_factory=list)


class Dispatcher(Generic[W]):
    """See the module's first lines. `next_check`: when something has to be done at the latest, if nothing happens."""

    def __init__(
        self, network: Network[W], backoff: Backoff, budget: RetryBudget, selector: ReplicaSelector[W]
    ) -> None:
        self.outcomes: Outcomes[W] = Outcomes()
        self.counters = ClientCounters()
        self.tracer: AttemptTracer | None = None
        self.next_check = NEVER
        self.max_batch_bytes = MAX_BATCH_BYTES
        self._network = network
        self._backoff = backoff
        self._budget = budget
        self._selector = selector
        self._dirty: list[ShardQueue[W]] = []
        self._blocked: dict[ShardQueue[W], None] = {}
        self._waiting: dict[ShardQueue[W], float] = {}

    # -- sending ------------------------------------------------------------------------------------------------------

    def touch(self, shard_queue: ShardQueue[W]) -> None:
        """Have the shard queue looked at in the next turn."""
        if not shard_queue.dirty:
            shard_queue.dirty = True
            self._dirty.append(shard_queue)

    def pump_all(self, routes: Routes, now: float) -> None:
        """Send what the touched shard queues have, as far as it may be sent."""
        dirty, self._dirty = self._dirty, []
        for shard_queue in dirty:
            shard_queue.dirty = False
            if shard_queue.idle:
                continue
            self.next_check = min(self.next_check, shard_queue.earliest)
            if shard_queue.scans.calls:
                self._open_scans(shard_queue)
            if shard_queue.weak or shard_queue.weak_resend:
                self._pump_weak(shard_queue, routes, now)
            if shard_queue.leader_idle:
                continue
            if now < shard_queue.blocked_until:
                self._block(shard_queue)
                continue
            link = self._selector.leader(shard_queue, routes, now)
            if link is not None:
                self._pump(shard_queue, link, now)
            elif now < shard_queue.blocked_until:
                self._block(shard_queue)

    def _block(self, shard_queue: ShardQueue[W]) -> None:
        self._blocked[shard_queue] = None
        self.next_check = min(self.next_check, shard_queue.blocked_until)

    def _pump(self, shard_queue: ShardQueue[W], link: Link[W], now: float) -> None:
        if shard_queue.resend:
            again, shard_queue.resend = shard_queue.resend, []
            for request in again:
                if _awaited(request):
                    self._send(request, link, now)
                else:
                    self._done(request)
        if (shard_queue.writes.calls or shard_queue.fast.calls) and not shard_queue.session:
            if not shard_queue.opening_session:
                shard_queue.opening_session = True
                self._send(SessionOpen(shard_queue), link, now)
        else:
            if shard_queue.writes.calls:
                self._pump_writes(shard_queue, link, now, fast=False)
            if shard_queue.fast.calls:
                self._pump_writes(shard_queue, link, now, fast=True)
        reads = shard_queue.reads
        while reads.calls and len(shard_queue.open_reads) < READS_IN_FLIGHT:
            latest = reads.latest
            gets = reads.take(BATCH_CALLS, min(BATCH_BYTES, self.max_batch_bytes))
            if gets:
                read = ReadBatch(shard_queue, gets, latest)
                shard_queue.open_reads[read] = None
                self._send(read, link, now)

    def _pump_writes(self, shard_queue: ShardQueue[W], link: Link[W], now: float, *, fast: bool) -> None:
        writes = shard_queue.fast if fast else shard_queue.writes
        max_bytes = min(BATCH_BYTES, self.max_batch_bytes)
        while writes.calls and shard_queue.may_number(fast):
            latest = writes.latest
            calls = writes.take(BATCH_CALLS, max_bytes)
            if calls:
                operations = encode_operations([call.operation for call in calls])
                write = WriteBatch(
                    shard_queue, calls, operations, shard_queue.session, shard_queue.number(fast), latest, fast
                )
                shard_queue.open_writes[write] = None
                self._send(write, link, now)

    def _open_scans(self, shard_queue: ShardQueue[W]) -> None:
        """Make each scan call a request, to be sent to the leader or to any replica."""
        for call in shard_queue.scans.take_all():
            if call.waiter is None:
                continue
            if call.max_staleness_ms == STRONG_READ:
                strong = ScanPageRead(shard_queue, call, STRONG)
                shard_queue.open_reads[strong] = None
                shard_queue.resend.append(strong)
            else:
                weak = ScanPageRead(shard_queue, call, freshness_of(shard_queue, [call], call.max_staleness_ms))
                shard_queue.open_weak[weak] = None
                shard_queue.weak_resend.append(weak)

    def _pump_weak(self, shard_queue: ShardQueue[W], routes: Routes, now: float) -> None:
        """Send the reads that any replica may serve; those that all replicas declined become the leader's."""
        call_queues, shard_queue.weak = shard_queue.weak, {}
        for max_staleness_ms, queue in call_queues.items():
            # Many reads are shared out, so that several replicas work on them at once.
            share = max(LEAST_SHARE, ceil(len(queue.calls) / len(shard_queue.shard.replicas)))
            while queue.calls:
                latest = queue.latest
                gets = queue.take(min(share, BATCH_CALLS), min(BATCH_BYTES, self.max_batch_bytes))
                if gets:
                    read = ReadBatch(shard_queue, gets, latest, freshness_of(shard_queue, gets, max_staleness_ms))
                    shard_queue.open_weak[read] = None
                    shard_queue.weak_resend.append(read)
        again, shard_queue.weak_resend = shard_queue.weak_resend, []
        for query in again:
            if not _awaited(query):
                self._done(query)
                continue
            chosen = self._selector.replica(shard_queue, query.declined, routes, now)
            if chosen is None:
                query.freshness = STRONG
                del shard_queue.open_weak[query]
                shard_queue.open_reads[query] = None
                shard_queue.resend.append(query)
            elif isinstance(chosen, Link):
                self._send(query, chosen, now)
            else:
                shard_queue.weak_resend.append(query)
                if chosen < NEVER:
                    self._waiting[shard_queue] = min(chosen, self._waiting.get(shard_queue, NEVER))
                    self.next_check = min(self.next_check, chosen)

    def _send(self, request: InFlightRequest[W], link: Link[W], now: float) -> None:
        network = self._network
        shard_queue = request.shard_queue
        request_id = request.request_id = network.next_request_id()
        request.epoch = shard_queue.epoch
        request.asked = link.node
        request.ranges = shard_queue.shard.ranges
        request.in_flight = True
        request.sent = now
        if self.tracer is not None:
            contexts = self.tracer.sent(request, link.address)
            if contexts and link.takes_traces:
                link.outgoing.append(Traces(request_id, contexts))
        network.send(link, to_message(request, request_id, now), request, now)
        self.next_check = min(self.next_check, link.due)

    # -- answers ------------------------------------------------------------------------------------------------------

    def written(self, batch: WriteBatch[W], answer: Written) -> None:
        result = WriteResult(answer.seq, "fast" if batch.fast else "quorum")
        if batch.results:
            self._settle(batch, answer, result)
        else:
            self.outcomes.written.append((batch.calls, result, batch.ranges))
        self._done(batch)
        self._succeeded(batch.shard_queue)

    def _settle(self, batch: WriteBatch[W], answer: Written, plain: WriteResult) -> None:
        """Give each call of a batch its own result."""
        results = iter(answer.results)
        written = self.outcomes.written
        for call in batch.calls:
            if not call.has_result:
                written.append(([call], plain, batch.ranges))
                continue
            result = next(results)
            if isinstance(result, Applied):
                written.append(([call], WriteResult(answer.seq, "quorum", tuple(result.values)), batch.ranges))
                continue
            if call.session_vector is not None:
                # What it found is something the session has seen, though nothing was written.
                call.session_vector.note(batch.ranges, answer.seq)
            if isinstance(result, ConditionNotMet):
                self.fail(call, condition_failed(call, batch, result))
            else:
                self.fail(call, impossible(call, batch, result))

    def rows(self, batch: ReadBatch[W], answer: Rows) -> None:
        """Take values for the first of the batch's keys, at least one; ask again for those that did not fit."""
        shard_queue = batch.shard_queue
        served = len(answer.values)
        calls = batch.calls
        self._done(batch)
        if served < len(calls):
            shard_queue.read_queue(calls[0].max_staleness_ms).put_back(calls[served:])
            calls = calls[:served]
        self.outcomes.read.append((calls, answer, batch.ranges))
        self._served(batch)

    def scanned(self, read: ScanPageRead[W], answer: ScanPage) -> None:
        self._done(read)
        self.outcomes.scanned.append((read.calls[0], answer, read.ranges))
        self._served(read)

    def _served(self, query: AnyQuery[W]) -> None:
        shard_queue = query.shard_queue
        if query.freshness.strong:
            self._succeeded(shard_queue)
        elif not shard_queue.idle:
            # A replica's answer says nothing of the leader's state.
            self.touch(shard_queue)

    def opened(self, session_open: SessionOpen[W], answer: SessionOpened) -> None:
        session_open.shard_queue.start_session(answer.session)
        self._succeeded(session_open.shard_queue)

    def _succeeded(self, shard_queue: ShardQueue[W]) -> None:
        shard_queue.retries = 0
        shard_queue.redirected = False
        shard_queue.trouble = None
        self._budget.succeeded()
        if not shard_queue.idle:
            self.touch(shard_queue)

    def _done(self, batch: AnyBatch[W]) -> None:
        batch.in_flight = False
        if isinstance(batch, WriteBatch):
            batch.shard_queue.close_write(batch)
        else:
            batch.shard_queue.open_reads.pop(batch, None)
            batch.shard_queue.open_weak.pop(batch, None)

    def refused(self, link: Link[W], request: InFlightRequest[W], failure: Failure, routes: Routes, now: float) -> None:
        """Act on a refusal: ask elsewhere, or later, or tell the callers."""
        shard_queue = request.shard_queue
        request.in_flight = False
        self.counters.refused(failure.code)
        if self.tracer is not None:
            self.tracer.failed(request, failure.code)
        if isinstance(request, WriteBatch) and failure.maybe_applied:
            request.uncertain = True
        code = failure.code
        if isinstance(request, ReadBatch | ScanPageRead) and not request.freshness.strong:
            if code in _ANOTHER_REPLICA:
                request.too_stale = request.too_stale or code == ErrorCode.TOO_STALE
                self.declined(request, link, failure.message)
            else:
                self._fail_batch(request, failure)
        elif code in _ANOTHER_NODE or code in _SAME_NODE:
            if request.epoch == shard_queue.epoch:
                self._move_on(shard_queue, link, failure, routes, now)
            self.send_again(request)
        elif code == ErrorCode.SESSION_EXPIRED and isinstance(request, WriteBatch):
            if request.session == shard_queue.session:
                shard_queue.session = NO_SESSION
            self.dissolve(request, "the node no longer knows the session it was sent in")
        elif isinstance(request, WriteBatch | ReadBatch | ScanPageRead):
            self._fail_batch(request, failure)
        else:
            shard_queue.opening_session = False
            self._fail_queued_writes(shard_queue, link.node, failure)

    def declined(self, query: AnyQuery[W], link: Link[W], reason: str) -> None:
        """A replica did not serve a read that others may."""
        query.in_flight = False
        query.declined[link.node] = reason
        query.shard_queue.weak_resend.append(query)
        self.touch(query.shard_queue)

    def _move_on(self, shard_queue: ShardQueue[W], link: Link[W], failure: Failure, routes: Routes, now: float) -> None:
        route = failure.route
        if (
            route is not None
            and route.id == shard_queue.shard.id
            and route.keyspace == shard_queue.shard.keyspace
            and route.voters
        ):
            shard_queue.shard = route
        retry_after = failure.retry_after_ms / 1000
        if failure.code in _SAME_NODE:
            self.retry_later(shard_queue, _trouble(link, failure), retry_after, now)
            return
        hint = route.leader if route is not None else ""
        # A node may come to lead after it was asked, and before it answers that it did not.
        if hint and (hint != link.node or failure.code == ErrorCode.NOT_LEADER):
            shard_queue.target = hint
            # A name is followed at once, but not to a node that is known to be down: those who say it have yet to hear.
            if not shard_queue.redirected and self._network.may_reach(hint, routes):
                shard_queue.redirected = True
                self.counters.redirects += 1
                shard_queue.epoch += 1
                shard_queue.retries = max(1, shard_queue.retries)
                shard_queue.trouble = _trouble(link, failure)
                return
        # A node that says that it leads itself lacks what it was asked for, and so does every other replica.
        elif hint != link.node and (
            shard_queue.target == link.node or shard_queue.target not in shard_queue.shard.voters
        ):
            voters = shard_queue.shard.voters
            at = voters.index(shard_queue.target) + 1 if shard_queue.target in voters else 0
            shard_queue.target = voters[at % len(voters)]
        self.retry_later(shard_queue, _trouble(link, failure), retry_after, now)

    def retry_later(self, shard_queue: ShardQueue[W], trouble: Trouble, at_least: float, now: float) -> None:
        """Hold the shard queue back for a while: the belief that its target serves it is given up."""
        delay = self._backoff.delay(shard_queue.retries) if self._budget.spend() else self._backoff.longest()
        self.counters.retries += 1
        shard_queue.epoch += 1
        shard_queue.retries += 1
        shard_queue.trouble = trouble
        shard_queue.blocked_until = now + max(delay, at_least)
        self.touch(shard_queue)

    def send_again(self, request: InFlightRequest[W]) -> None:
        """Have a batch that still has somebody waiting sent again when the shard queue may; forget it otherwise."""
        shard_queue = request.shard_queue
        if isinstance(request, WriteBatch | ReadBatch | ScanPageRead):
            if not _awaited(request):
                self._done(request)
                return
            shard_queue.resend.append(request)
        else:
            # A session open leaves nothing to repeat: the next turn asks for a session anew, if writes wait for one.
            shard_queue.opening_session = False
        self.touch(shard_queue)

    def lost(self, request: InFlightRequest[W]) -> None:
        """The connection went while an answer was owed."""
        request.in_flight = False
        if self.tracer is not None:
            self.tracer.failed(request, "connection_lost")
        if isinstance(request, WriteBatch):
            request.uncertain = True

    # -- ends ---------------------------------------------------------------------------------------------------------

    def dissolve(self, batch: AnyBatch[W], reason: str) -> None:
        """Put a batch's calls back into their queue; those that may have been applied end with OutcomeUnknown."""
        if isinstance(batch, WriteBatch) and batch.uncertain:
            for call in batch.calls:
                if call.waiter is not None and may_have_applied(batch, call):
                    self.fail(call, outcome_lost(call, batch.shard_queue, batch.request_id, reason))
        self._requeue(batch)

    def _requeue(self, batch: AnyBatch[W]) -> None:
        """Put the calls of a batch back, to travel in another one: nothing of them was applied; its number is void."""
        self._done(batch)
        shard_queue = batch.shard_queue
        if isinstance(batch, WriteBatch):
            (shard_queue.fast if batch.fast else shard_queue.writes).put_back(batch.calls)
        elif isinstance(batch, ReadBatch):
            shard_queue.read_queue(batch.calls[0].max_staleness_ms).put_back(batch.calls)
        else:
            shard_queue.scans.put_back(batch.calls)
        self.touch(shard_queue)

    def _fail_batch(self, batch: AnyBatch[W], failure: Failure) -> None:
        if isinstance(batch, WriteBatch) and failure.code in _FOR_A_PART and self._halve(batch):
            return
        self._done(batch)
        for call in batch.calls:
            if call.waiter is not None:
                maybe = may_have_applied(batch, call)
                self.fail(call, refused(call, batch.shard_queue, batch.asked, failure, maybe_applied=maybe))
        self.touch(batch.shard_queue)

    def _halve(self, batch: WriteBatch[W]) -> bool:
        """Have calls that were refused together travel in halves, until those to blame are alone; say whether they do."""
        awaited = sum(call.waiter is not None for call in batch.calls)
        if awaited < 2 or batch.uncertain:
            return False
        for call in batch.calls:
            call.size = max(call.size, 2 * min(BATCH_BYTES, self.max_batch_bytes) // awaited)
        self._requeue(batch)
        return True

    def _fail_queued_writes(self, shard_queue: ShardQueue[W], asked: str, failure: Failure) -> None:
        for queue in (shard_queue.writes, shard_queue.fast):
            for call in queue.calls:
                if call.waiter is not None:
                    self.fail(call, refused(call, shard_queue, asked, failure, maybe_applied=False))
            queue.drop_closed()

    def fail(self, call: AnyCall[W], error: ShoalError) -> None:
        """End a call with an error, unless it is over."""
        waiter = call.waiter
        if waiter is not None:
            call.waiter = None
            self.outcomes.failed.append((waiter, error))

    def expire(self, shard_queue: ShardQueue[W], now: float) -> float:
        """End the calls whose deadline passed; return the earliest deadline left."""
        due = NEVER
        for batch in shard_queue.open:
            due = min(due, self._expire_batch(batch, now))
        for queue in shard_queue.call_queues:
            if queue.earliest <= now:
                for call in queue.calls:
                    if call.deadline <= now and call.waiter is not None:
                        self.fail(call, expired(call, shard_queue, None, unanswered=False, maybe_applied=False))
                queue.drop_closed()
            due = min(due, queue.earliest)
        shard_queue.weak = {bound: queue for bound, queue in shard_queue.weak.items() if queue.calls}
        return due

    def _expire_batch(self, batch: AnyBatch[W], now: float) -> float:
        shard_queue = batch.shard_queue
        awaited = [call for call in batch.calls if call.waiter is not None]
        late = [call for call in awaited if call.deadline <= now]
        unanswered = batch.in_flight
        if isinstance(batch, WriteBatch):
            unanswered = batch.unsettled
            if late and not unanswered:
                # Surely not done, and it must stay so: were the batch sent again, the late calls would go with it.
                shard_queue.resend.remove(batch)
                self._requeue(batch)
                return NEVER
        for call in late:
            if isinstance(batch, Query) and batch.too_stale and batch.calls[0].max_staleness_ms > 0:
                self.fail(call, too_stale(call, batch))
            else:
                maybe = may_have_applied(batch, call)
                self.fail(call, expired(call, shard_queue, batch, unanswered=unanswered, maybe_applied=maybe))
        if len(late) < len(awaited):
            return min(call.deadline for call in awaited if call.deadline > now)
        if not batch.in_flight:
            shard_queue.take_back(batch)
            self._done(batch)
        elif isinstance(batch, WriteBatch):
            # Whatever becomes of it interests nobody, so it must not hold up the session's window.
            shard_queue.close_write(batch)
        return NEVER

    def end(self, shard_queue: ShardQueue[W]) -> None:
        """End all calls of the shard queue: the client is being closed."""
        for batch in shard_queue.open:
            for call in batch.calls:
                if call.waiter is not None:
                    self.fail(call, closed(call, shard_queue, maybe_applied=may_have_applied(batch, call)))
        for queue in shard_queue.call_queues:
            for queued in queue.calls:
                if queued.waiter is not None:
                    self.fail(queued, closed(queued, shard_queue, maybe_applied=False))

    def disown(self, shard_queue: ShardQueue[W], reason: str) -> None:
        """End all calls of the shard queue: another cluster has taken the place of the one that they were for."""
        for batch in shard_queue.open:
            for call in batch.calls:
                if call.waiter is not None:
                    maybe = may_have_applied(batch, call)
                    self.fail(call, disowned(call, shard_queue, batch.request_id, reason, maybe_applied=maybe))
            if not batch.in_flight:
                shard_queue.take_back(batch)
            self._done(batch)
        for queue in shard_queue.call_queues:
            for queued in queue.take_all():
                if queued.waiter is not None:
                    self.fail(queued, disowned(queued, shard_queue, 0, reason, maybe_applied=False))
        shard_queue.weak = {}

    def unblock(self, now: float) -> float:
        """Touch the shard queues whose wait is over; return when the next one's is."""
        due = NEVER
        for shard_queue in list(self._blocked):
            if shard_queue.blocked_until <= now:
                del self._blocked[shard_queue]
                self.touch(shard_queue)
            else:
                due = min(due, shard_queue.blocked_until)
        for shard_queue, until in list(self._waiting.items()):
            if until <= now:
                del self._waiting[shard_queue]
                self.touch(shard_queue)
            else:
                due = min(due, until)
        return due


def _awaited(batch: AnyBatch[W]) -> bool:
    return any(call.waiter is not None for call in batch.calls)


def _trouble(link: Link[W], failure: Failure) -> Trouble:
    code = ErrorCode.OVERLOADED if failure.code == ErrorCode.OVERLOADED else ErrorCode.UNAVAILABLE
    retry_after = failure.retry_after_ms / 1000 if failure.retry_after_ms else None
    return Trouble(code, f"{link} answered: {failure.message}", retry_after)
