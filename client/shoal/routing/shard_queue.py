"""A shard queue: what the router keeps for one shard - its queues, its session, its requests, and whom to ask.

Write numbers of a session are consecutive from 1, and the newest is less than `WRITES_IN_FLIGHT` ahead of the oldest
open one of its durability that does not go apart, and inside the `SESSION_WINDOW` that the nodes remember; so a retry is
always recognised.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Generic, Protocol, TypeAlias

from shoal.protocol.messages import MAX_READ_KEYS, SESSION_WINDOW, STRONG, Delete, Freshness, Put, TraceContext
from shoal.routing.apart import Apart, Part, Unserved, Wait
from shoal.routing.calls import STRONG_READ, AnyCall, C, CallQueue, ReadCall, ScanCall, Trouble, Turns, W, WriteCall
from shoal.routing.hold import Hold
from shoal.shardmap import Ranges, Shard

WRITES_IN_FLIGHT = 1
"""So that writes gather while one is on its way: docs/decisions/0005. More would be as safe, up to the window."""

READS_IN_FLIGHT = 32
BULK_READS_OPEN = 2
"""Reads of large values that are under way, or wait for their turn: how many keys one has is found when it is made."""

BATCH_CALLS = 4096
BATCH_BYTES = 1024 * 1024
"""Batches are closed at this size, though a single larger operation is a batch of its own."""

if WRITES_IN_FLIGHT >= SESSION_WINDOW:
    raise ValueError("writes in flight must stay inside the session window")
if BATCH_CALLS > MAX_READ_KEYS:
    raise ValueError("nodes refuse reads of so many keys")


NO_SESSION = b""
"""In place of a session's id: none is open."""


class Stage(Enum):
    """How far a batch has come; its shard queue alone brings it on, by `wait`, `enqueue`, `launch` and `close`.

    | from            | to                 | because                                              |
    | --------------- | ------------------ | ---------------------------------------------------- |
    | made            | waiting, in flight | it was made of calls                                 |
    | waiting         | in flight          | there is somebody to ask                             |
    | waiting         | queued             | the same, and it is a page, which waits for its turn |
    | queued          | in flight          | its turn has come                                    |
    | queued          | waiting            | somebody else is to be asked                         |
    | in flight       | waiting            | it was refused, or its answer lost                   |
    | any             | closed             | it was answered, dissolved, or nobody waits for it   |
    """

    MADE = "made"
    WAITING = "waiting"
    QUEUED = "queued"
    IN_FLIGHT = "in flight"
    CLOSED = "closed"


class InFlightRequest(Generic[W]):
    """Something to be asked of a shard's leader until it is answered.

    `request_id`, `asked` (the node), `epoch` (the shard queue's, then) and `ranges` (the microshards that the shard was
    believed to have) are of the last attempt; `sent` is when that was (seconds). `share`: how much of what was to be asked
    is in it; the rest was turned away here. `paged`: it is a page, of which a node is asked for few at once (pages.py).
    """

    paged = False

    __slots__ = ("asked", "epoch", "ranges", "request_id", "sent", "shard_queue", "share")

    def __init__(self, shard_queue: ShardQueue[W]) -> None:
        self.shard_queue = shard_queue
        self.epoch = 0
        self.request_id = 0
        self.asked = ""
        self.ranges: Ranges = ()
        self.sent = 0.0
        self.share = 1.0


class Batch(InFlightRequest[W], Generic[W, C]):
    """A request that calls travel in. `wait`: the leader lacked what it, or a part of it, is about; so it waits by itself."""

    __slots__ = ("calls", "stage", "wait")

    calls: list[C]
    stage: Stage
    wait: Wait | None

    @property
    def awaited(self) -> bool:
        """Whether somebody still waits for one of the calls."""
        return any(call.waiter is not None for call in self.calls)


class WriteBatch(Batch[W, WriteCall[W]]):
    """The calls of one `Write`. Once made, its operations, session and number never change.

    `uncertain`: an attempt that is over may have been applied. `results` is the number of them that the answer owes.
    """

    __slots__ = ("fast", "latest", "number", "operations", "results", "session", "uncertain")

    def __init__(
        self,
        shard_queue: ShardQueue[W],
        calls: list[WriteCall[W]],
        operations: bytes,
        session: bytes,
        number: int,
        latest: float,
        fast: bool,
    ) -> None:
        super().__init__(shard_queue)
        self.calls = calls
        self.stage = Stage.MADE
        self.operations = operations
        self.session = session
        self.number = number
        self.latest = latest
        self.fast = fast
        kinds: list[type] = [type(call.operation) for call in calls]
        self.results = len(kinds) - kinds.count(Put) - kinds.count(Delete)
        self.uncertain = False
        self.wait = None

    @property
    def unsettled(self) -> bool:
        """An attempt is unanswered, or was: nobody here knows what became of it."""
        return self.stage is Stage.IN_FLIGHT or self.uncertain


class Query(Batch[W, C]):
    """A read, of the leader or, where `freshness` allows, of any replica.

    `declined`: the replicas asked so far that did not serve it, and why; once they all did, the leader is asked.
    `too_stale`: one of them said that it lacks too much.
    """

    __slots__ = ("declined", "freshness", "latest", "too_stale")

    def __init__(self, shard_queue: ShardQueue[W], calls: list[C], latest: float, freshness: Freshness) -> None:
        super().__init__(shard_queue)
        self.calls = calls
        self.stage = Stage.MADE
        self.latest = latest
        self.freshness = freshness
        self.wait = None
        self.declined: dict[str, str] = {}
        self.too_stale = False

    def drop_closed(self) -> None:
        """Before another attempt: ask no more for what nobody waits for."""
        if any(call.waiter is None for call in self.calls):
            self.calls = [call for call in self.calls if call.waiter is not None]


class ReadBatch(Query[W, ReadCall[W]]):
    """The calls of one `Read`."""

    __slots__ = ()


class BulkRead(ReadBatch[W]):
    """The calls of one `Read` of values that are large."""

    __slots__ = ()
    paged = True


class ScanPageRead(Query[W, ScanCall[W]]):
    """The one call of a `Scan`."""

    __slots__ = ()
    paged = True


class SessionOpen(InFlightRequest[W]):
    """An `OpenSession` of a shard queue."""

    __slots__ = ()


class AttemptTracer(Protocol):
    """Whoever is told of attempts, to make spans of them. There is none unless tracing is asked for (see tracing.py)."""

    def sent(self, request: InFlightRequest[Any], address: str) -> tuple[TraceContext, ...]:
        """It goes to the node at `address`; return the spans that the node is to go on from."""
        ...

    def failed(self, request: InFlightRequest[Any], reason: str) -> None:
        """It was refused, or its answer is lost; `reason` is a code."""
        ...


AnyBatch: TypeAlias = WriteBatch[W] | ReadBatch[W] | ScanPageRead[W]

AnyQuery: TypeAlias = ReadBatch[W] | ScanPageRead[W]
AnyRequest: TypeAlias = AnyBatch[W] | SessionOpen[W]


def may_have_applied(batch: AnyBatch[W], call: AnyCall[W]) -> bool:
    """Whether something of `call`, one of the batch's, may have taken effect."""
    return isinstance(batch, WriteBatch) and batch.unsettled and isinstance(call, WriteCall) and call.changes


class ShardQueue(Generic[W]):
    """One shard as the router sees it.

    Args:
        shard: the newest route known; replaced whole.

    `open_writes`, `open_reads` (of the leader), `open_weak` (of any replica) and `open_pages` (of either) are the batches
    that still have to be answered, oldest first; `numbers` are the open writes of the present session, and whether they are
    fast, None for those that go apart. `waiting` are those of them that wait for an attempt at the leader, `weak_waiting` at
    a replica; `opening_session`: a session is asked for. `weak` are the reads that any replica may serve, by the staleness
    that they accept. `apart` are the calls that others would be refused for, and what is known of them; None as long as
    there are none.
    `target` is the node to ask, believed to lead. `epoch` grows whenever that belief is given up, so that many
    refusals of one and the same belief count once. `retries` in a row without a success set the backoff; `redirected`: one
    of them followed a node's word for who leads, at once.

    `write_hold`, `read_hold` and `page_hold`: what the leader has too much of.

    `bulk` are reads of large values, by the staleness that they accept, and `bulk_open` says how many requests of them are
    open; `turns` are theirs. `value_bytes`: the mean size of such values lately, 0 where none was read. `reads_most`: how many
    reads may be in flight, of those whose values are not known to be large; fewer, where they often turn out to be.
    """

    __slots__ = (
        "apart",
        "blocked_until",
        "bulk",
        "bulk_open",
        "dirty",
        "epoch",
        "fast",
        "next_number",
        "numbers",
        "open_pages",
        "open_reads",
        "open_weak",
        "open_writes",
        "opening_session",
        "page_hold",
        "read_hold",
        "reads",
        "reads_most",
        "redirected",
        "retries",
        "scans",
        "session",
        "shard",
        "target",
        "trouble",
        "turns",
        "value_bytes",
        "waiting",
        "weak",
        "weak_waiting",
        "write_hold",
        "writes",
    )

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.target = shard.leader or shard.voters[0]
        self.epoch = 0
        self.retries = 0
        self.redirected = False
        self.blocked_until = 0.0
        self.trouble: Trouble | None = None
        self.dirty = False
        self.session = NO_SESSION
        self.next_number = 1
        self.opening_session = False
        self.writes: CallQueue[WriteCall[W]] = CallQueue()
        self.fast: CallQueue[WriteCall[W]] = CallQueue()
        self.reads: CallQueue[ReadCall[W]] = CallQueue()
        self.scans: CallQueue[ScanCall[W]] = CallQueue()
        self.weak: dict[int, CallQueue[ReadCall[W]]] = {}
        self.open_writes: dict[WriteBatch[W], None] = {}
        self.numbers: dict[int, bool | None] = {}
        self.open_reads: dict[AnyQuery[W], None] = {}
        self.open_weak: dict[AnyQuery[W], None] = {}
        self.open_pages: dict[AnyQuery[W], None] = {}
        self.bulk: dict[int, CallQueue[ReadCall[W]]] = {}
        self.bulk_open = 0
        self.turns = Turns()
        self.value_bytes = 0.0
        self.reads_most = READS_IN_FLIGHT
        self.waiting: dict[AnyBatch[W], None] = {}
        self.weak_waiting: dict[AnyQuery[W], None] = {}
        self.apart: Apart[W] | None = None
        self.write_hold = Hold()
        self.read_hold = Hold()
        self.page_hold = Hold()

    @property
    def leader_idle(self) -> bool:
        """Nothing is waiting to be sent to the leader."""
        if self.writes.calls or self.reads.calls or self.waiting or self.fast.calls:
            return False
        return self.apart is None or not self.apart.has_calls

    @property
    def idle(self) -> bool:
        """Nothing is waiting to be sent."""
        return self.leader_idle and not (self.weak or self.weak_waiting or self.scans.calls or self.bulk)

    @property
    def quiet(self) -> bool:
        """Nobody waits for anything here."""
        return self.idle and not (self.open_writes or self.open_reads or self.open_weak or self.open_pages)

    @property
    def earliest(self) -> float:
        """No queued call has a deadline before that."""
        earliest = min(self.writes.earliest, self.reads.earliest)
        if self.fast.calls or self.scans.calls or self.weak or self.bulk:
            call_queues: list[CallQueue[Any]] = [self.fast, self.scans, *self.weak.values(), *self.bulk.values()]
            earliest = min(earliest, *(queue.earliest for queue in call_queues))
        if self.apart is not None:
            earliest = min([earliest, *(queue.earliest for queue in self.apart.queues)])
        return earliest

    @property
    def call_queues(self) -> list[CallQueue[Any]]:
        """All queues; they are queued in no order among each other."""
        apart = self.apart.queues if self.apart is not None else ()
        return [self.writes, self.fast, self.reads, self.scans, *self.weak.values(), *self.bulk.values(), *apart]

    def trouble_of(self, queue: CallQueue[Any]) -> Trouble | None:
        """Return why calls of one of the queues are not getting through."""
        if isinstance(queue, Part | Unserved):
            return queue.trouble
        if queue is self.writes or queue is self.fast:
            hold = self.write_hold
        elif queue is self.reads:
            hold = self.read_hold
        else:
            hold = self.page_hold
        return hold.trouble or self.trouble

    def hold_of(self, request: AnyRequest[W]) -> Hold:
        """Return what is known of requests of this kind."""
        if isinstance(request, WriteBatch | SessionOpen):
            return self.write_hold
        return self.page_hold if request.paged else self.read_hold

    @property
    def open(self) -> list[AnyBatch[W]]:
        """All batches that still have to be answered."""
        return [*self.open_writes, *self.open_reads, *self.open_weak, *self.open_pages]

    def read_queue(self, max_staleness_ms: int) -> CallQueue[ReadCall[W]]:
        """Return the queue of reads that accept this staleness."""
        if max_staleness_ms == STRONG_READ:
            return self.reads
        queue = self.weak.get(max_staleness_ms)
        if queue is None:
            queue = self.weak[max_staleness_ms] = CallQueue()
        return queue

    def bulk_queue(self, max_staleness_ms: int) -> CallQueue[ReadCall[W]]:
        """Return the queue of reads of large values that accept this staleness."""
        queue = self.bulk.get(max_staleness_ms)
        if queue is None:
            queue = self.bulk[max_staleness_ms] = CallQueue()
        return queue

    def rejoin(self, calls: Sequence[AnyCall[W]]) -> None:
        """The leader served these calls: those that waited for that, apart from others, travel with them again."""
        assert self.apart is not None, "somebody is apart"
        for call in self.apart.release(calls):
            if isinstance(call, WriteCall):
                (self.fast if call.fast else self.writes).add(call)
            elif isinstance(call, ReadCall):
                self.reads.add(call)
            else:
                self.scans.add(call)

    # -- stages of batches --------------------------------------------------------------------------------------------

    def wait(self, batch: AnyBatch[W]) -> None:
        """A batch waits for an attempt, its first or another one: at the leader or, where that will do, at any replica."""
        assert batch.stage is not Stage.CLOSED, "what is over is not asked for again"
        self._open(batch)
        if isinstance(batch, WriteBatch) or batch.freshness.strong:
            self.waiting[batch] = None
        else:
            self.weak_waiting[batch] = None
        batch.stage = Stage.WAITING

    def enqueue(self, page: AnyQuery[W]) -> None:
        """A page waits for its turn at the node that is to be asked."""
        assert page.stage is Stage.WAITING, "pages wait for somebody to ask before that"
        self._end_wait(page)
        page.stage = Stage.QUEUED

    def give_to_leader(self, query: AnyQuery[W]) -> None:
        """A read that any replica may serve waits for the leader from now on: no other one serves it."""
        if query.stage is Stage.WAITING:
            del self.weak_waiting[query]
        self.open_weak.pop(query, None)
        query.freshness = STRONG
        self.wait(query)

    def launch(self, batch: AnyBatch[W]) -> None:
        """A batch is sent now."""
        if batch.stage is Stage.WAITING:
            self._end_wait(batch)
        elif batch.stage is Stage.MADE:
            self._open(batch)
        batch.stage = Stage.IN_FLIGHT

    def close(self, batch: AnyBatch[W]) -> None:
        """A batch is over: answered, dissolved, or nobody waits for it. A write needs its number no more."""
        if batch.stage is Stage.WAITING:
            self._end_wait(batch)
        if isinstance(batch, WriteBatch):
            self.open_writes.pop(batch, None)
            if batch.session == self.session:
                self.numbers.pop(batch.number, None)
        elif batch.paged:
            if batch in self.open_pages:
                del self.open_pages[batch]
                self.bulk_open -= isinstance(batch, BulkRead)
        else:
            self.open_reads.pop(batch, None)
            self.open_weak.pop(batch, None)
        batch.stage = Stage.CLOSED

    def _open(self, batch: AnyBatch[W]) -> None:
        if isinstance(batch, WriteBatch):
            self.open_writes[batch] = None
        elif batch.paged:
            if batch not in self.open_pages:
                self.open_pages[batch] = None
                self.bulk_open += isinstance(batch, BulkRead)
        elif batch.freshness.strong:
            self.open_reads[batch] = None
        else:
            self.open_weak[batch] = None

    def _end_wait(self, batch: AnyBatch[W]) -> None:
        if isinstance(batch, WriteBatch) or batch.freshness.strong:
            del self.waiting[batch]
        else:
            del self.weak_waiting[batch]

    # -- the session --------------------------------------------------------------------------------------------------

    def may_number(self, fast: bool | None) -> bool:
        """Say whether the session has room for another write of this durability; None: for one that goes apart."""
        numbers = self.numbers
        if not numbers:
            return True
        number = self.next_number
        if number - next(iter(numbers)) >= SESSION_WINDOW:
            return False
        if fast is None:
            return True
        oldest = next((other for other, was_fast in numbers.items() if was_fast is fast), number)
        return oldest == number or number - oldest < WRITES_IN_FLIGHT

    def number(self, fast: bool | None) -> int:
        """Give out the session's next number."""
        number = self.next_number
        self.next_number = number + 1
        self.numbers[number] = fast
        return number

    def set_apart(self, batch: WriteBatch[W]) -> None:
        """An open write holds up no others from now on, as long as the window is not at its end."""
        if batch.session == self.session:
            self.numbers[batch.number] = None

    def start_session(self, session: bytes) -> None:
        """Number writes from 1 again, in a session just opened."""
        self.session = session
        self.next_number = 1
        self.numbers = {}
        self.opening_session = False
