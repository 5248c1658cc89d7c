"""How calls end, other than by what they asked for: with errors, or put back to travel in another batch.

What a call ends with is the router's table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic

from shoal.errors import ErrorCode, ShoalError
from shoal.protocol.messages import Failure, Rows, ScanPage
from shoal.quotas import adds
from shoal.results import WriteResult
from shoal.routing.call_errors import closed, disowned, dropped, expired, outcome_lost, refused, too_stale
from shoal.routing.calls import NEVER, AnyCall, ReadCall, ScanCall, W, WriteCall
from shoal.routing.limits import NodeLimits
from shoal.routing.schedule import Schedule
from shoal.routing.shard_queue import (
    AnyBatch,
    BulkRead,
    Query,
    ReadBatch,
    ShardQueue,
    Stage,
    WriteBatch,
    may_have_applied,
)
from shoal.shardmap import Ranges

_FOR_A_PART = frozenset((ErrorCode.INVALID_ARGUMENT.value, ErrorCode.TOO_LARGE.value))
"""Refusals of a write that may be about one of its operations, or about how many there are together."""


@dataclass(slots=True)
class CallOutcomes(Generic[W]):
    """Calls that are over. The driver takes the waiters out of the calls, where there still is one; rows belong to the
    calls beside them, in order. The ranges are what sessions note the seq for. `failed` are waiters already taken out.
    """

    written: list[tuple[list[WriteCall[W]], WriteResult, Ranges]] = field(default_factory=list)
    read: list[tuple[list[ReadCall[W]], Rows, Ranges]] = field(default_factory=list)
    scanned: list[tuple[ScanCall[W], ScanPage, Ranges]] = field(default_factory=list)
    failed: list[tuple[W, ShoalError]] = field(default_factory=list)


class Endings(Generic[W]):
    """See the module's first lines. `outcomes` are for the driver, which takes them out."""

    def __init__(self, schedule: Schedule[W], limits: NodeLimits) -> None:
        self.outcomes: CallOutcomes[W] = CallOutcomes()
        self._schedule = schedule
        self._limits = limits

    def fail(self, call: AnyCall[W], error: ShoalError) -> None:
        """End a call with an error, unless it is over."""
        waiter = call.waiter
        if waiter is not None:
            call.waiter = None
            self.outcomes.failed.append((waiter, error))

    # -- of a batch -----------------------------------------------------------------------------------------------------

    def dissolve(self, batch: AnyBatch[W], reason: str) -> None:
        """Put a batch's calls back into their queue; those that may have been applied end with OutcomeUnknown."""
        if isinstance(batch, WriteBatch) and batch.uncertain:
            for call in batch.calls:
                if call.waiter is not None and may_have_applied(batch, call):
                    self.fail(call, outcome_lost(call, batch.shard_queue, batch.request_id, reason))
        self.requeue(batch)

    def requeue(self, batch: AnyBatch[W]) -> None:
        """Put the calls of a batch back, to travel in another one: nothing of them was applied; its number is void."""
        shard_queue = batch.shard_queue
        shard_queue.close(batch)
        if isinstance(batch, WriteBatch):
            (shard_queue.fast if batch.fast else shard_queue.writes).put_back(batch.calls)
        elif isinstance(batch, BulkRead):
            shard_queue.bulk_queue(batch.calls[0].max_staleness_ms).put_back(batch.calls)
        elif isinstance(batch, ReadBatch):
            shard_queue.read_queue(batch.calls[0].max_staleness_ms).put_back(batch.calls)
        else:
            shard_queue.scans.put_back(batch.calls)
        self._schedule.touch(shard_queue)

    def drop_late(self, batch: AnyBatch[W], failure: Failure, now: float) -> None:
        """End those calls of a batch that a node dropped as too late which have no time left; others may be tried again.

        What has a millisecond left has none: a node is told no smaller times.
        """
        for call in batch.calls:
            if call.deadline <= now + 0.001:
                self.fail(call, dropped(call, batch.shard_queue, batch.asked, failure))

    def turn_back(self, batch: AnyBatch[W], until: float) -> None:
        """End those calls of a batch, refused as too many until then, of which no time is left by then: they need not wait."""
        shard_queue = batch.shard_queue
        trouble = shard_queue.hold_of(batch).trouble
        if isinstance(batch, WriteBatch) and batch.uncertain:
            return
        for call in batch.calls:
            if call.deadline <= until and call.waiter is not None:
                self.fail(call, expired(call, shard_queue, batch, trouble, unanswered=False, maybe_applied=False))

    def fail_batch(self, batch: AnyBatch[W], failure: Failure) -> None:
        """End a batch's calls as a node refused them, for a reason that another attempt would not change."""
        if isinstance(batch, WriteBatch) and failure.code in _FOR_A_PART and self._halve(batch):
            return
        batch.shard_queue.close(batch)
        for call in batch.calls:
            if call.waiter is not None:
                maybe = may_have_applied(batch, call)
                self.fail(call, refused(call, batch.shard_queue, batch.asked, failure, maybe_applied=maybe))
        self._schedule.touch(batch.shard_queue)

    def refuse_adding(self, batch: WriteBatch[W], failure: Failure) -> None:
        """A keyspace is full: end the calls that add something; the others travel in another batch, and are done.

        To ask for the former again would have everything that comes after them wait for room, which may never come.
        """
        if batch.uncertain:
            # It keeps its number, and cannot be divided.
            self.fail_batch(batch, failure)
            return
        for call in batch.calls:
            if call.waiter is not None and adds(call.operation):
                self.fail(call, refused(call, batch.shard_queue, batch.asked, failure, maybe_applied=False))
        self.requeue(batch)

    def _halve(self, batch: WriteBatch[W]) -> bool:
        """Have calls that were refused together travel in halves, until those to blame are alone; say whether they do."""
        awaited = sum(call.waiter is not None for call in batch.calls)
        if awaited < 2 or batch.uncertain:
            return False
        for call in batch.calls:
            call.size = max(call.size, 2 * self._limits.batch_bytes // awaited)
        self.requeue(batch)
        return True

    # -- of a shard queue -----------------------------------------------------------------------------------------------

    def fail_queued_writes(self, shard_queue: ShardQueue[W], asked: str, failure: Failure) -> None:
        """End the writes that waited for a session, which the node `asked` refused."""
        for queue in shard_queue.call_queues:
            for call in queue.calls:
                if call.waiter is not None and isinstance(call, WriteCall):
                    self.fail(call, refused(call, shard_queue, asked, failure, maybe_applied=False))
            queue.drop_closed()

    def expire(self, shard_queue: ShardQueue[W], now: float) -> float:
        """End the calls whose deadline passed; return the earliest deadline left."""
        due = NEVER
        for batch in shard_queue.open:
            due = min(due, self._expire_batch(batch, now))
        for queue in shard_queue.call_queues:
            if queue.earliest <= now:
                for call in queue.calls:
                    if call.deadline <= now and call.waiter is not None:
                        trouble = shard_queue.trouble_of(queue)
                        error = expired(call, shard_queue, None, trouble, unanswered=False, maybe_applied=False)
                        self.fail(call, error)
                queue.drop_closed()
            due = min(due, queue.earliest)
        shard_queue.weak = {bound: queue for bound, queue in shard_queue.weak.items() if queue.calls}
        shard_queue.bulk = {bound: queue for bound, queue in shard_queue.bulk.items() if queue.calls}
        return due

    def _expire_batch(self, batch: AnyBatch[W], now: float) -> float:
        shard_queue = batch.shard_queue
        awaited = [call for call in batch.calls if call.waiter is not None]
        late = [call for call in awaited if call.deadline <= now]
        unanswered = batch.stage is Stage.IN_FLIGHT
        if isinstance(batch, WriteBatch):
            unanswered = batch.unsettled
            if late and not unanswered:
                # Surely not done, and it must stay so: were the batch sent again, the late calls would go with it.
                self.requeue(batch)
                return NEVER
        for call in late:
            if isinstance(batch, Query) and batch.too_stale and batch.calls[0].max_staleness_ms > 0:
                self.fail(call, too_stale(call, batch))
            else:
                maybe = may_have_applied(batch, call)
                trouble = batch.wait.trouble if batch.wait is not None else shard_queue.hold_of(batch).trouble
                trouble = trouble or shard_queue.trouble
                error = expired(call, shard_queue, batch, trouble, unanswered=unanswered, maybe_applied=maybe)
                self.fail(call, error)
        if len(late) < len(awaited):
            return min(call.deadline for call in awaited if call.deadline > now)
        if batch.stage is not Stage.IN_FLIGHT or isinstance(batch, WriteBatch):
            # Whatever becomes of a write in flight interests nobody, so it must not hold up the session's window.
            shard_queue.close(batch)
            if shard_queue.bulk:
                # There may be room for others of them.
                self._schedule.touch(shard_queue)
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
            shard_queue.close(batch)
        for queue in shard_queue.call_queues:
            for queued in queue.take_all():
                if queued.waiter is not None:
                    self.fail(queued, disowned(queued, shard_queue, 0, reason, maybe_applied=False))
        shard_queue.weak = {}
        shard_queue.bulk = {}
