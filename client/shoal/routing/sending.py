"""From calls to requests that are sent: the queues become batches, and those that wait for another attempt get it.

Nothing is sent whose deadline has passed: such calls end before.
"""

from __future__ import annotations

from math import ceil
from typing import Generic

from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import STRONG, Traces
from shoal.routing.apart import PATIENCE, Apart, Part, Wait
from shoal.routing.call_errors import crowded_out
from shoal.routing.calls import NEVER, STRONG_READ, CallQueue, ReadCall, W, WriteCall
from shoal.routing.endings import Endings
from shoal.routing.limits import NodeLimits
from shoal.routing.links import Link
from shoal.routing.network import Network
from shoal.routing.page_queue import PAGE_BYTES
from shoal.routing.pages import Pages, keys_that_fit
from shoal.routing.replica_selector import ReplicaSelector
from shoal.routing.requests import freshness_of, to_message
from shoal.routing.schedule import Schedule
from shoal.routing.shard_queue import (
    BATCH_CALLS,
    BULK_READS_OPEN,
    READS_IN_FLIGHT,
    AnyQuery,
    AnyRequest,
    AttemptTracer,
    BulkRead,
    Query,
    ReadBatch,
    ScanPageRead,
    SessionOpen,
    ShardQueue,
    WriteBatch,
)
from shoal.routing.throttling import Throttling
from shoal.shardmap import Routes

LEAST_SHARE = 32
"""Fewer reads than this, which any replica may serve, travel to one together."""


class Sender(Generic[W]):
    """See the module's first lines."""

    def __init__(
        self,
        network: Network[W],
        selector: ReplicaSelector[W],
        schedule: Schedule[W],
        endings: Endings[W],
        throttling: Throttling[W],
        pages: Pages[W],
        limits: NodeLimits,
        tracer: AttemptTracer | None,
    ) -> None:
        self._network = network
        self._selector = selector
        self._throttling = throttling
        self._pages = pages
        self._schedule = schedule
        self._endings = endings
        self._limits = limits
        self._tracer = tracer

    def send_all(self, routes: Routes, now: float) -> None:
        """Send what the touched shard queues have, as far as it may be sent."""
        schedule, large_keys = self._schedule, self._pages.large_keys.keys
        for shard_queue in schedule.take_touched():
            shard_queue.dirty = False
            if shard_queue.idle:
                continue
            earliest = shard_queue.earliest
            if earliest <= now:
                # They have come since the last look for what is late.
                earliest = self._endings.expire(shard_queue, now)
            if earliest < schedule.next_check:
                schedule.next_check = earliest
            if large_keys:
                self._pages.set_aside(shard_queue)
            if shard_queue.scans.calls:
                self._open_scans(shard_queue)
            if shard_queue.bulk:
                self._open_bulk(shard_queue, routes)
            if shard_queue.weak or shard_queue.weak_waiting:
                self._send_weak(shard_queue, routes, now)
            if shard_queue.leader_idle:
                continue
            if now < shard_queue.blocked_until:
                schedule.block(shard_queue)
                continue
            link = self._selector.leader(shard_queue, routes, now)
            if link is not None:
                self._send_to_leader(shard_queue, link, now)
            elif now < shard_queue.blocked_until:
                schedule.block(shard_queue)
        if self._pages.new:
            self._begin_scans(now)
        if self._pages.ready:
            self._send_pages(routes, now)

    def _send_to_leader(self, shard_queue: ShardQueue[W], link: Link[W], now: float) -> None:
        if shard_queue.waiting:
            for batch in list(shard_queue.waiting):
                if not batch.awaited:
                    shard_queue.close(batch)
                elif batch.wait is not None and now < batch.wait.until:
                    self._schedule.look_at(shard_queue, batch.wait.until)
                elif now < (until := shard_queue.hold_of(batch).until):
                    self._schedule.look_at(shard_queue, until)
                elif batch.paged and isinstance(batch, Query):
                    self._enqueue(batch, link)
                else:
                    if isinstance(batch, Query):
                        batch.drop_closed()
                        if link.refuses and not self._is_passed_on(batch, link, now):
                            shard_queue.close(batch)
                            continue
                    shard_queue.launch(batch)
                    self._send(batch, link, now)
        apart = shard_queue.apart
        if apart is not None:
            self._send_apart(shard_queue, apart, link, now)
            apart = shard_queue.apart
        if shard_queue.writes.calls or shard_queue.fast.calls:
            if now < shard_queue.write_hold.until:
                self._schedule.look_at(shard_queue, shard_queue.write_hold.until)
            elif not shard_queue.session:
                self._open_session(shard_queue, link, now)
            else:
                if shard_queue.writes.calls:
                    self._send_writes(shard_queue, shard_queue.writes, apart, link, now, fast=False)
                if shard_queue.fast.calls:
                    self._send_writes(shard_queue, shard_queue.fast, apart, link, now, fast=True)
        reads = shard_queue.reads
        if reads.calls and now < shard_queue.read_hold.until:
            self._schedule.look_at(shard_queue, shard_queue.read_hold.until)
            return
        while reads.calls and len(shard_queue.open_reads) < shard_queue.reads_most:
            latest = reads.latest
            gets = reads.take(BATCH_CALLS, self._limits.batch_bytes)
            if apart is not None:
                gets = apart.keep(gets)
            share = 1.0
            if gets and link.refuses:
                gets, share = self._throttling.pass_on(link, shard_queue, ReadBatch, gets, now)
            if gets:
                read = ReadBatch(shard_queue, gets, latest, STRONG)
                read.share = share
                shard_queue.launch(read)
                self._send(read, link, now)

    def _open_session(self, shard_queue: ShardQueue[W], link: Link[W], now: float) -> None:
        if not shard_queue.opening_session:
            shard_queue.opening_session = True
            self._send(SessionOpen(shard_queue), link, now)

    def _send_apart(self, shard_queue: ShardQueue[W], apart: Apart[W], link: Link[W], now: float) -> None:
        """Send calls that travel apart from others."""
        due = apart.ask_due(now)
        if due < NEVER:
            self._schedule.look_at(shard_queue, due)
        parts, apart.parts = apart.parts, []
        for part in parts:
            if not part.asks:
                kept = apart.keep(part.take_all())
                part.put_back(kept)
            part.drop_closed()
            if not part.calls:
                continue
            first = part.calls[0]
            if isinstance(first, WriteCall):
                if not shard_queue.session:
                    self._open_session(shard_queue, link, now)
                elif shard_queue.may_number(None):
                    self._send_writes(shard_queue, part, None, link, now, fast=first.fast, part=part)
            elif len(shard_queue.open_reads) < READS_IN_FLIGHT:
                query = self._to_query(shard_queue, part)
                shard_queue.launch(query)
                self._send(query, link, now)
            if part.calls:
                apart.parts.append(part)
        if apart.forgotten:
            shard_queue.apart = None

    def _to_query(self, shard_queue: ShardQueue[W], part: Part) -> AnyQuery[W]:
        latest = part.latest
        calls = part.take_all()
        query: AnyQuery[W]
        if isinstance(calls[0], ReadCall):
            query = ReadBatch(shard_queue, calls, latest, STRONG)
        else:
            query = ScanPageRead(shard_queue, calls, latest, STRONG)
        query.wait = Wait(PATIENCE, part.trouble, 0.0)
        return query

    def _send_writes(
        self,
        shard_queue: ShardQueue[W],
        writes: CallQueue[WriteCall[W]],
        apart: Apart[W] | None,
        link: Link[W],
        now: float,
        *,
        fast: bool,
        part: Part | None = None,
    ) -> None:
        """Send what a queue has, without what `apart` knows to be unserved; the queue may be a part."""
        max_bytes = self._limits.batch_bytes
        # Parts wait for no other write, and no other one for them.
        durability = fast if part is None else None
        while writes.calls and shard_queue.may_number(durability):
            latest = writes.latest
            calls = writes.take(BATCH_CALLS, max_bytes)
            if apart is not None:
                calls = apart.keep(calls)
            share = 1.0
            if calls and link.refuses:
                calls, share = self._throttling.pass_on(link, shard_queue, WriteBatch, calls, now)
            if calls:
                operations = encode_operations([call.operation for call in calls])
                write = WriteBatch(
                    shard_queue, calls, operations, shard_queue.session, shard_queue.number(durability), latest, fast
                )
                write.share = share
                if part is not None:
                    write.wait = Wait(PATIENCE, part.trouble, 0.0)
                shard_queue.launch(write)
                self._send(write, link, now)

    def _open_scans(self, shard_queue: ShardQueue[W]) -> None:
        """Make each scan call a request, to be sent to the leader or to any replica."""
        apart = shard_queue.apart
        for call in shard_queue.scans.take_all():
            bound = call.max_staleness_ms
            if call.waiter is None or (bound == STRONG_READ and apart is not None and not apart.keep([call])):
                continue
            freshness = STRONG if bound == STRONG_READ else freshness_of(shard_queue, [call], bound)
            shard_queue.wait(ScanPageRead(shard_queue, [call], call.deadline, freshness))

    def _open_bulk(self, shard_queue: ShardQueue[W], routes: Routes) -> None:
        """Make requests of reads of large values, as many keys in each as are expected to fit into an answer."""
        apart = shard_queue.apart
        link = self._network.link_of(shard_queue.target, routes)
        page_bytes = PAGE_BYTES if link is None else link.pages.page_bytes
        for bound, queue in list(shard_queue.bulk.items()):
            while queue.calls and shard_queue.bulk_open < BULK_READS_OPEN:
                latest = queue.latest
                most = keys_that_fit(page_bytes, shard_queue.value_bytes, BATCH_CALLS)
                gets = queue.take(most, self._limits.batch_bytes)
                if bound == STRONG_READ and apart is not None:
                    gets = apart.keep(gets)
                if gets:
                    freshness = STRONG if bound == STRONG_READ else freshness_of(shard_queue, gets, bound)
                    shard_queue.wait(BulkRead(shard_queue, gets, latest, freshness))
            if not queue.calls:
                del shard_queue.bulk[bound]

    def _enqueue(self, query: AnyQuery[W], link: Link[W]) -> None:
        """Have a page wait for its turn at a node."""
        if self._pages.begin(link, query):
            query.shard_queue.enqueue(query)
            self._pages.add(link, query)

    def _begin_scans(self, now: float) -> None:
        """Have the first pages of scans wait for their turn; end those scans that would wait for too long."""
        for first, wait in self._pages.take_new(now):
            for link, query in first if wait else ():
                shard_queue = query.shard_queue
                shard_queue.close(query)
                for call in query.calls:
                    self._endings.fail(call, crowded_out(call, shard_queue, str(link), len(link.pages), wait))

    def _send_pages(self, routes: Routes, now: float) -> None:
        """Send the pages whose turn it is to the nodes that have room for them."""
        pages = self._pages
        while pages.ready:
            link, _ = pages.ready.popitem()
            while (query := pages.next(link, now)) is not None:
                shard_queue = query.shard_queue
                if not query.awaited:
                    shard_queue.close(query)
                    self._schedule.touch(shard_queue)
                    continue
                chosen = self._still_asked(query, link, routes, now)
                if chosen is link:
                    query.drop_closed()
                    pages.shorten(link, query)
                    shard_queue.launch(query)
                    self._send(query, link, now)
                    continue
                shard_queue.wait(query)
                if chosen is not None:
                    self._enqueue(query, chosen)
                elif now < shard_queue.blocked_until:
                    self._schedule.block(shard_queue)
                elif now < shard_queue.page_hold.until:
                    self._schedule.look_at(shard_queue, shard_queue.page_hold.until)

    def _still_asked(self, query: AnyQuery[W], link: Link[W], routes: Routes, now: float) -> Link[W] | None:
        """Return whom to ask for a page that waited at a link: another one where the leader has moved; None: nobody now."""
        if query.freshness.strong:
            if now < max(query.shard_queue.blocked_until, query.shard_queue.page_hold.until):
                return None
            return self._selector.leader(query.shard_queue, routes, now)
        if link.paused:
            link.waiting.setdefault(query.shard_queue, False)
            return None
        return link

    def _send_weak(self, shard_queue: ShardQueue[W], routes: Routes, now: float) -> None:
        """Send the reads that any replica may serve; those that all replicas declined become the leader's."""
        queries: list[AnyQuery[W]] = list(shard_queue.weak_waiting)
        call_queues, shard_queue.weak = shard_queue.weak, {}
        for max_staleness_ms, queue in call_queues.items():
            # Many reads are shared out, so that several replicas work on them at once.
            share = max(LEAST_SHARE, ceil(len(queue.calls) / len(shard_queue.shard.replicas)))
            while queue.calls:
                latest = queue.latest
                gets = queue.take(min(share, BATCH_CALLS), self._limits.batch_bytes)
                if shard_queue.apart is not None:
                    # What the leader does not serve travels without others, in case that a replica does.
                    gets, unserved = shard_queue.apart.sort(gets)
                    if unserved:
                        freshness = freshness_of(shard_queue, unserved, max_staleness_ms)
                        own = ReadBatch(shard_queue, unserved, latest, freshness)
                        own.wait = shard_queue.apart.wait_of(unserved[0])
                        queries.append(own)
                if gets:
                    freshness = freshness_of(shard_queue, gets, max_staleness_ms)
                    queries.append(ReadBatch(shard_queue, gets, latest, freshness))
        for query in queries:
            if not query.awaited:
                shard_queue.close(query)
                continue
            chosen = self._selector.replica(shard_queue, query.declined, routes, now)
            while (
                isinstance(chosen, Link)
                and chosen.refuses
                and not query.paged
                and self._throttling.hits(chosen, shard_queue, now)
            ):
                query.declined[chosen.node] = "it refuses so much that it was not asked"
                chosen = self._selector.replica(shard_queue, query.declined, routes, now)
            if chosen is None:
                shard_queue.give_to_leader(query)
            elif isinstance(chosen, Link) and query.paged:
                self._enqueue(query, chosen)
            elif isinstance(chosen, Link):
                query.drop_closed()
                shard_queue.launch(query)
                self._send(query, chosen, now)
            else:
                shard_queue.wait(query)
                if chosen < NEVER:
                    self._schedule.look_at(shard_queue, chosen)

    def _is_passed_on(self, query: AnyQuery[W], link: Link[W], now: float) -> bool:
        """Say whether something of a query is to be sent, of which nothing was done, whatever became of earlier attempts."""
        query.calls, query.share = self._throttling.pass_on(link, query.shard_queue, ReadBatch, query.calls, now)
        return bool(query.calls)

    def _send(self, request: AnyRequest[W], link: Link[W], now: float) -> None:
        network = self._network
        shard_queue = request.shard_queue
        request_id = request.request_id = network.next_request_id()
        request.epoch = shard_queue.epoch
        request.asked = link.node
        request.ranges = shard_queue.shard.ranges
        request.sent = now
        if self._tracer is not None:
            contexts = self._tracer.sent(request, link.address)
            if contexts and link.takes_traces:
                link.outgoing.append(Traces(request_id, contexts))
        if request.paged:
            link.pages.sent(request)
        network.send(link, to_message(request, request_id, now), request, now)
        due = link.due
        if due < self._schedule.next_check:
            self._schedule.next_check = due
