"""What answers do: results for the callers, another attempt elsewhere or later, or the end of the calls.

A lost connection is the answer to all that was asked over it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, NamedTuple

from shoal.errors import ErrorCode
from shoal.priorities import known_reason
from shoal.protocol.messages import (
    Applied,
    ConditionNotMet,
    Failure,
    Impossible,
    Rows,
    ScanPage,
    SessionOpened,
    Written,
)
from shoal.results import WriteResult
from shoal.routing.apart import PATIENCE, Apart, Wait
from shoal.routing.backoff import Backoff, RetryBudget
from shoal.routing.call_errors import condition_failed, impossible
from shoal.routing.calls import AnyCall, Trouble, W, WriteCall
from shoal.routing.counters import ClientCounters
from shoal.routing.endings import Endings
from shoal.routing.links import Link
from shoal.routing.network import Network
from shoal.routing.pages import LARGE_BYTES, Pages
from shoal.routing.schedule import Schedule
from shoal.routing.shard_queue import (
    NO_SESSION,
    READS_IN_FLIGHT,
    AnyBatch,
    AnyQuery,
    AnyRequest,
    AttemptTracer,
    ReadBatch,
    ScanPageRead,
    SessionOpen,
    ShardQueue,
    WriteBatch,
)
from shoal.routing.throttling import Throttling
from shoal.shardmap import Routes

_ANOTHER_NODE = frozenset((ErrorCode.NOT_LEADER.value, ErrorCode.WRONG_SHARD.value, ErrorCode.CLOSED.value))
_SAME_NODE = frozenset((ErrorCode.UNAVAILABLE.value, ErrorCode.OVERLOADED.value))
_LACKING = frozenset((ErrorCode.WRONG_SHARD.value, ErrorCode.UNAVAILABLE.value))
"""What a leader answers whose shard lacks a microshard, or is about to be given it; it names itself beside."""

_TOO_LATE = ErrorCode.DEADLINE_EXCEEDED.value

_ANOTHER_REPLICA = _ANOTHER_NODE | _SAME_NODE | {ErrorCode.TOO_STALE.value}


CONNECTION_LOST = "connection_lost"
NOTES_MAX = 64
"""Of failed attempts, until somebody takes them: with more, the oldest are forgotten."""


class FailedAttempt(NamedTuple):
    """A request that was refused, or whose answer is lost, and is tried again or given up. It names no key.

    `link`: the node that was asked, and where, in words. `leader`: whom that node names in its place, or "".
    """

    link: str
    shard: int
    code: str
    leader: str


class Answers(Generic[W]):
    """See the module's first lines. `notes` are the failed attempts, for whoever takes them out."""

    def __init__(
        self,
        network: Network[W],
        schedule: Schedule[W],
        endings: Endings[W],
        throttling: Throttling[W],
        pages: Pages[W],
        counters: ClientCounters,
        tracer: AttemptTracer | None,
        backoff: Backoff,
        budget: RetryBudget,
    ) -> None:
        self._network = network
        self._schedule = schedule
        self._endings = endings
        self._throttling = throttling
        self._pages = pages
        self._counters = counters
        self._tracer = tracer
        self._backoff = backoff
        self._budget = budget
        self.notes: deque[FailedAttempt] = deque(maxlen=NOTES_MAX)

    # -- results --------------------------------------------------------------------------------------------------------

    def written(self, batch: WriteBatch[W], answer: Written) -> None:
        result = WriteResult(answer.seq, "fast" if batch.fast else "quorum")
        if batch.results:
            self._settle(batch, answer, result)
        else:
            self._endings.outcomes.written.append((batch.calls, result, batch.ranges))
        shard_queue = batch.shard_queue
        shard_queue.close(batch)
        if shard_queue.write_hold.refusals:
            shard_queue.write_hold.end()
        self._succeeded(shard_queue, batch.calls)

    def _settle(self, batch: WriteBatch[W], answer: Written, plain: WriteResult) -> None:
        """Give each call of a batch its own result."""
        results = iter(answer.results)
        written = self._endings.outcomes.written
        again: list[WriteCall[W]] = []
        for call in batch.calls:
            if not call.has_result:
                written.append(([call], plain, batch.ranges))
                continue
            result = next(results)
            if isinstance(result, Applied):
                written.append(([call], WriteResult(answer.seq, "quorum", tuple(result.values)), batch.ranges))
                continue
            if isinstance(result, Impossible) and result.again:
                # Not done, since others in its log entry had looked at as much as one may: it travels in another.
                again.append(call)
                continue
            if call.session_vector is not None:
                # What it found is something the session has seen, though nothing was written.
                call.session_vector.note(batch.ranges, answer.seq)
            if isinstance(result, ConditionNotMet):
                self._endings.fail(call, condition_failed(call, batch, result))
            else:
                self._endings.fail(call, impossible(call, batch, result))
        if again:
            self._counters.retries += 1
            batch.shard_queue.writes.put_back(again)

    def rows(self, link: Link[W], batch: ReadBatch[W], answer: Rows, now: float) -> None:
        """Take values for the first of the batch's keys, at least one; ask again for those that did not fit.

        What somebody asks for together goes on as pages, so that who asks for a single key, which may have a small value, does
        not wait for all of it.
        """
        shard_queue, values = batch.shard_queue, answer.values
        calls, served = batch.calls, len(values)
        shard_queue.close(batch)
        if served < len(calls):
            bound, rest = calls[0].max_staleness_ms, calls[served:]
            shard_queue.bulk_queue(bound).put_back(rest if batch.paged else [call for call in rest if call.together])
            if not batch.paged:
                shard_queue.read_queue(bound).put_back([call for call in rest if not call.together])
            calls = calls[:served]
            self._pages.read(link, batch, calls, values, now)
        elif batch.paged or len(values[-1] or b"") >= LARGE_BYTES:
            self._pages.read(link, batch, calls, values, now)
        elif shard_queue.reads_most < READS_IN_FLIGHT:
            shard_queue.reads_most += 1
        self._endings.outcomes.read.append((calls, answer, batch.ranges))
        self._served(batch, calls)

    def scanned(self, link: Link[W], read: ScanPageRead[W], answer: ScanPage, now: float) -> None:
        read.shard_queue.close(read)
        size = sum(map(len, answer.keys)) + sum(map(len, answer.values))
        self._pages.scanned(link, read, len(answer.keys), size, now)
        self._endings.outcomes.scanned.append((read.calls[0], answer, read.ranges))
        self._served(read, read.calls)

    def _served(self, query: AnyQuery[W], calls: Sequence[AnyCall[W]]) -> None:
        shard_queue = query.shard_queue
        if query.freshness.strong:
            hold = shard_queue.page_hold if query.paged else shard_queue.read_hold
            if hold.refusals:
                hold.end()
            self._succeeded(shard_queue, calls)
        elif not shard_queue.idle:
            # A replica's answer says nothing of the leader's state.
            self._schedule.touch(shard_queue)

    def opened(self, session_open: SessionOpen[W], answer: SessionOpened) -> None:
        session_open.shard_queue.start_session(answer.session)
        self._succeeded(session_open.shard_queue, ())

    def _succeeded(self, shard_queue: ShardQueue[W], calls: Sequence[AnyCall[W]]) -> None:
        shard_queue.retries = 0
        shard_queue.redirected = False
        shard_queue.trouble = None
        self._budget.succeeded()
        if shard_queue.apart is not None:
            shard_queue.rejoin(calls)
        if not shard_queue.idle:
            self._schedule.touch(shard_queue)

    # -- refusals -------------------------------------------------------------------------------------------------------

    def refused(self, link: Link[W], request: AnyRequest[W], failure: Failure, routes: Routes, now: float) -> None:
        """Act on a refusal: ask elsewhere, or later, or tell the callers."""
        shard_queue = request.shard_queue
        self._counters.refused(failure.code)
        leader = failure.route.leader if failure.route is not None else ""
        self.notes.append(FailedAttempt(str(link), shard_queue.shard.id, failure.code, leader))
        if self._tracer is not None:
            self._tracer.failed(request, failure.code)
        if isinstance(request, WriteBatch) and failure.maybe_applied:
            request.uncertain = True
        code = failure.code
        if request.paged:
            self._pages.not_answered(link, request, overloaded=code == ErrorCode.OVERLOADED)
        if code == ErrorCode.OVERLOADED and not failure.only_adding:
            self._throttling.refused(link, request, failure, now)
        if code == _TOO_LATE and not failure.maybe_applied and not isinstance(request, SessionOpen):
            self._dropped(request, link, failure, now)
        elif isinstance(request, ReadBatch | ScanPageRead) and not request.freshness.strong:
            if code in _ANOTHER_REPLICA:
                request.too_stale = request.too_stale or code == ErrorCode.TOO_STALE
                self._declined(request, link, failure.message)
            else:
                self._endings.fail_batch(request, failure)
        elif not isinstance(request, SessionOpen) and _is_lacking(link, request, failure, routes):
            self._take_apart(request, link, failure, routes, now)
        elif failure.only_adding and isinstance(request, WriteBatch):
            self._endings.refuse_adding(request, failure)
        elif code == ErrorCode.OVERLOADED:
            self._hold(request, link, failure, now)
            if not isinstance(request, SessionOpen):
                self._endings.turn_back(request, now + failure.retry_after_ms / 1000)
            if isinstance(request, WriteBatch) and not (request.uncertain or request.wait):
                # Surely not done: its calls travel in another batch, where some of them may be turned away.
                self._endings.requeue(request)
            else:
                self._ask_again(request)
        elif code in _ANOTHER_NODE or code in _SAME_NODE:
            if request.epoch == shard_queue.epoch:
                self._move_on(shard_queue, link, failure, routes, now)
            self._ask_again(request)
        elif code == ErrorCode.SESSION_EXPIRED and isinstance(request, WriteBatch):
            if request.session == shard_queue.session:
                shard_queue.session = NO_SESSION
            self._endings.dissolve(request, "the node no longer knows the session it was sent in")
        elif isinstance(request, SessionOpen):
            shard_queue.opening_session = False
            self._endings.fail_queued_writes(shard_queue, link.node, failure)
        else:
            self._endings.fail_batch(request, failure)

    def _dropped(self, batch: AnyBatch[W], link: Link[W], failure: Failure, now: float) -> None:
        """The node has not come to a batch before its time was over: the calls of which some is left are tried again."""
        shard_queue = batch.shard_queue
        if isinstance(batch, WriteBatch) and batch.uncertain:
            # An earlier attempt may have been applied: its number goes with it.
            self._ask_again(batch)
        else:
            self._endings.drop_late(batch, failure, now)
            if isinstance(batch, ReadBatch | ScanPageRead) and not batch.freshness.strong:
                self._declined(batch, link, failure.message)
                return
            if not batch.awaited:
                shard_queue.close(batch)
                self._schedule.touch(shard_queue)
                return
            self._endings.requeue(batch)
        if batch.epoch == shard_queue.epoch:
            self._retry_later(shard_queue, _trouble(link, failure), 0.0, now)

    def _take_apart(self, batch: AnyBatch[W], link: Link[W], failure: Failure, routes: Routes, now: float) -> None:
        """The leader lacks what a batch, or a part of it, is about: let that keep nothing else from being served.

        The shard queue is not held back, nor does it cost of the budget for retries, which is for all shards.
        """
        shard_queue = batch.shard_queue
        retry_after = self._backoff.stretched(failure.retry_after_ms / 1000)
        trouble = _trouble(link, failure)
        refusals = batch.wait.refusals if batch.wait is not None else 0
        uncertain = isinstance(batch, WriteBatch) and batch.uncertain
        if refusals < PATIENCE or uncertain:
            batch.wait = Wait(refusals + 1, trouble, now + max(self._backoff.delay(refusals), retry_after))
            if isinstance(batch, WriteBatch):
                shard_queue.set_apart(batch)
                if refusals >= PATIENCE and batch.session == shard_queue.session:
                    # It must keep its number. Others get theirs in a session whose window it does not hold up.
                    shard_queue.session = NO_SESSION
            self._counters.retries += 1
            self._ask_again(batch)
            return
        self._schedule.touch(shard_queue)
        shard_queue.close(batch)
        apart = shard_queue.apart
        if apart is None:
            apart = shard_queue.apart = Apart(routes.keyspaces[shard_queue.shard.keyspace])
        unserved = apart.divide(batch.calls, trouble)
        if unserved is not None and unserved.asked:
            apart.put_off(unserved, max(self._backoff.delay(unserved.retries), retry_after), now)
            self._counters.retries += 1

    def lost(self, link: Link[W], request: AnyRequest[W], trouble: Trouble, now: float) -> None:
        """The connection went while an answer was owed, for the reason that the trouble names."""
        shard_queue = request.shard_queue
        self.notes.append(FailedAttempt(str(link), shard_queue.shard.id, CONNECTION_LOST, ""))
        if self._tracer is not None:
            self._tracer.failed(request, CONNECTION_LOST)
        if isinstance(request, WriteBatch):
            request.uncertain = True
        if isinstance(request, ReadBatch | ScanPageRead) and not request.freshness.strong:
            self._declined(request, link, link.reason)
            return
        if request.epoch == shard_queue.epoch:
            self._retry_later(shard_queue, trouble, 0.0, now)
        self._ask_again(request)

    def _declined(self, query: AnyQuery[W], link: Link[W], reason: str) -> None:
        """A replica did not serve a read that others may."""
        query.declined[link.node] = reason
        self._ask_again(query)

    def _ask_again(self, request: AnyRequest[W]) -> None:
        """Have a batch that still has somebody waiting sent again when that may be; forget it otherwise."""
        shard_queue = request.shard_queue
        if isinstance(request, SessionOpen):
            # It leaves nothing to repeat: the next turn asks for a session anew, if writes wait for one.
            shard_queue.opening_session = False
        elif request.awaited:
            shard_queue.wait(request)
        else:
            shard_queue.close(request)
            return
        self._schedule.touch(shard_queue)

    def _move_on(self, shard_queue: ShardQueue[W], link: Link[W], failure: Failure, routes: Routes, now: float) -> None:
        route = failure.route
        if (
            route is not None
            and route.id == shard_queue.shard.id
            and route.keyspace == shard_queue.shard.keyspace
            and route.voters
        ):
            shard_queue.shard = route
        retry_after = self._backoff.stretched(failure.retry_after_ms / 1000)
        if failure.code in _SAME_NODE:
            self._retry_later(shard_queue, _trouble(link, failure), retry_after, now)
            return
        hint = route.leader if route is not None else ""
        trouble = _trouble(link, failure)
        known = self._network.link_of(hint, routes) if hint else None
        if known is not None and known.refusal is ErrorCode.OVERLOADED:
            # That another one leads is no trouble; that it has no place for us is.
            trouble = unreachable(known)
        # A node may come to lead after it was asked, and before it answers that it did not.
        if hint and (hint != link.node or failure.code == ErrorCode.NOT_LEADER):
            shard_queue.target = hint
            # A name is followed at once, but not to a node that is known to be down: those who say it have yet to hear.
            if not shard_queue.redirected and self._network.may_reach(hint, routes):
                shard_queue.redirected = True
                self._counters.redirects += 1
                shard_queue.epoch += 1
                shard_queue.retries = max(1, shard_queue.retries)
                shard_queue.trouble = trouble
                return
        # A node that says that it leads itself lacks what it was asked for, and so does every other replica.
        elif hint != link.node and (
            shard_queue.target == link.node or shard_queue.target not in shard_queue.shard.voters
        ):
            voters = shard_queue.shard.voters
            at = voters.index(shard_queue.target) + 1 if shard_queue.target in voters else 0
            shard_queue.target = voters[at % len(voters)]
        self._retry_later(shard_queue, trouble, retry_after, now)

    def _hold(self, request: AnyRequest[W], link: Link[W], failure: Failure, now: float) -> None:
        """Hold requests of this kind back for a while: the leader has too many of them."""
        hold = request.shard_queue.hold_of(request)
        if request.sent < hold.refused_at:
            # It was sent before that was known.
            return
        delay = self._backoff.delay(hold.refusals) if self._budget.spend() else self._backoff.longest()
        self._counters.retries += 1
        hold.refusals += 1
        hold.refused_at = now
        hold.trouble = _trouble(link, failure)
        hold.until = now + max(delay, self._backoff.stretched(failure.retry_after_ms / 1000))

    def _retry_later(self, shard_queue: ShardQueue[W], trouble: Trouble, at_least: float, now: float) -> None:
        """Hold the shard queue back for a while: the belief that its target serves it is given up."""
        delay = self._backoff.delay(shard_queue.retries) if self._budget.spend() else self._backoff.longest()
        self._counters.retries += 1
        shard_queue.epoch += 1
        shard_queue.retries += 1
        shard_queue.trouble = trouble
        shard_queue.blocked_until = now + max(delay, at_least)
        self._schedule.touch(shard_queue)


def _is_lacking(link: Link[W], batch: AnyBatch[W], failure: Failure, routes: Routes) -> bool:
    """Whether the shard's leader refused, for what the batch is about, and no newer map is to be had that tells more."""
    route = failure.route
    return (
        failure.code in _LACKING
        and route is not None
        and route.id == batch.shard_queue.shard.id
        and route.leader == link.node
        and failure.map_version <= routes.map.version
    )


def unreachable(link: Link[W]) -> Trouble:
    """Return why requests of a shard queue do not get to a node that is not connected."""
    words = f"{link}: {link.reason}"
    if link.refusal is ErrorCode.OVERLOADED:
        return Trouble(ErrorCode.OVERLOADED, words, link.overload.retry_after, link.overload.reason)
    return Trouble(ErrorCode.UNAVAILABLE, words)


def _trouble(link: Link[W], failure: Failure) -> Trouble:
    code = ErrorCode.OVERLOADED if failure.code == ErrorCode.OVERLOADED else ErrorCode.UNAVAILABLE
    retry_after = failure.retry_after_ms / 1000 if failure.retry_after_ms else None
    return Trouble(code, f"{link} answered: {failure.message}", retry_after, known_reason(failure.reason))
