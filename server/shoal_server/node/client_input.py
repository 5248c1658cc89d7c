"""What clients ask, as much of it as a turn has time for: data requests are queued at their replica, and what a node can say
by itself is answered.

What a turn takes is bounded by what it will cost (request_costs.py), and taken fairly (client_queue.py). A request whose
deadline has passed while it waited, or that has waited in vain (overload.py), is refused: surely not done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shoal.errors import ErrorCode
from shoal.priorities import OverloadReason
from shoal.protocol.checksums import ReadChecksum
from shoal.protocol.hot_keys import GetHotKeys
from shoal.protocol.messages import (
    Answer,
    Done,
    Failure,
    GetShardMap,
    GetStatus,
    InstallShardMap,
    OpenSession,
    Ping,
    Read,
    ReadPage,
    Scan,
    ShardMapReply,
    TransferLeader,
    Working,
    Write,
)

from shoal_server.invariants import invariant
from shoal_server.node.administration import AdminRequest
from shoal_server.node.admission import Admission
from shoal_server.node.agenda import Agenda
from shoal_server.node.checksums import answer_checksum
from shoal_server.node.client_queue import SIGN_OF_LIFE_NS, Client, ClientQueue, Frame
from shoal_server.node.counters import NodeCounters
from shoal_server.node.disk_health import DiskHealth
from shoal_server.node.failing import Failing
from shoal_server.node.fair_shares import CONTROL, PAGES, Flow
from shoal_server.node.hot_keys_report import hot_keys
from shoal_server.node.lateness import refuse_late
from shoal_server.node.leaderships import Leaderships
from shoal_server.node.memory import Account, MemoryBudget
from shoal_server.node.outbox import Outbox
from shoal_server.node.overload import Overload, retry_after_ms, waits_in_vain
from shoal_server.node.paused_reads import PausedRead
from shoal_server.node.replica import OVERLOADED_RETRY_MS
from shoal_server.node.replica_set import ReplicaSet
from shoal_server.node.request_costs import (
    MAP_SHARD_NS,
    PIECE_NS,
    QUEUED_NS,
    REFUSAL_NS,
    STATUS_NS,
    STATUS_REPLICA_NS,
    UNDECODED_NS,
    cost_of,
)
from shoal_server.node.request_frames import Received
from shoal_server.node.serving import Serving
from shoal_server.node.status import STATUS_STEP_REPLICAS, StatusInPieces
from shoal_server.node.turn_length import TELLING_NS, TurnLength
from shoal_server.storage.engine import Engine

CONTROL_NS = 2_000_000
"""Of a turn, besides what is for data."""
QUEUE_NS = 4_000_000
"""After so much, long frames wait to be queued."""
FEW_REQUESTS = 64
"""Of a frame that is none of these."""
LATE_REQUESTS = 200
"""So many that wait are looked at in a turn, whether their callers still do: it costs 2 ms at the most."""
MAX_TURNED_AWAY = 4
"""A client that sends on where it is not read from (it cannot, over a socket) is refused at so many times the bound."""


class ClientInput:
    """See the module's first lines.

    Attributes:
        queue: what waits; `serving`: what of it was taken and is still to be served.
        overload: how long it does.
        life_due: when those of whom nothing is received are to be told that they are not forgotten (ns).
        admin_requests: what the shard manager has asked for: done at the turn's end, each in a batch of its own.
    """

    __slots__ = (
        "_admission",
        "_agenda",
        "_charged",
        "_counters",
        "_describing",
        "_disk",
        "_engine",
        "_failing",
        "_leaderships",
        "_make_status",
        "_memory",
        "_pages",
        "_replica_set",
        "_requests_max",
        "_turn_length",
        "_unanswerable",
        "admin_requests",
        "life_due",
        "overload",
        "queue",
        "serving",
    )

    def __init__(
        self,
        replica_set: ReplicaSet,
        engine: Engine,
        agenda: Agenda,
        admission: Admission,
        leaderships: Leaderships,
        disk: DiskHealth,
        counters: NodeCounters,
        failing: Failing,
        make_status: Callable[[int], StatusInPieces],
        requests_max: int,
        memory: MemoryBudget,
        now: int,
    ) -> None:
        """
        Args:
            make_status: begins the answer to a `GetStatus` of that number.
            requests_max: how many requests of a client may be unanswered before nothing more is received from it.
        """
        self.queue = ClientQueue(requests_max, memory, self._keyspace_of)
        self.serving = Serving(self.queue, memory)
        self.overload = Overload(now)
        self.admin_requests: list[tuple[int, AdminRequest]] = []
        self._replica_set = replica_set
        self._engine = engine
        self._agenda = agenda
        self._admission = admission
        self._memory = memory
        self._leaderships = leaderships
        self._disk = disk
        self._counters = counters
        self._failing = failing
        self._make_status = make_status
        self._requests_max = requests_max
        self._describing: tuple[int, StatusInPieces] | None = None
        self._turn_length = TurnLength()
        self._charged = 0
        self._pages = 0
        self._unanswerable = False
        self.life_due = now

    def _keyspace_of(self, shard: int) -> int:
        known = self._replica_set.routes.shards.get(shard)
        return CONTROL if known is None else known.keyspace

    def is_behind(self, client: int, now: int, *, behind: bool) -> None:
        """A client has more unread answers than it should, or has caught up."""
        self.queue.is_behind(client, now, behind=behind)

    @property
    def has_more(self) -> bool:
        """Whether a turn has something to do though nothing has arrived."""
        return bool(self.queue.arrived) or self.queue.waits or self._describing is not None

    # -- a turn

    def take(self, now: int, outbox: Outbox) -> None:
        """Take in what clients have sent, as far as the turn has time for it."""
        queue, data, control, status = self.queue, self.queue.data, self.queue.control, self.queue.status
        queue.open_reads.begin_turn(now)
        if data.parked:
            queue.unpark(now)
        length, spent, queueing = self._turn_length, 0, 0
        if self._charged > TELLING_NS and self._counters.lasted_ns:
            length.note(self._charged, self._counters.lasted_ns)
        budget, self._pages = length.budget, length.pages
        self._unanswerable = self._memory.is_full(Account.ANSWERS)
        if queue.arrived or queue.refused:
            arrived = self._counters.arrived
            if queue.refused:
                self._refuse_unheld(outbox)
            left: dict[int, list[Frame]] = {}
            waits = bool(data.length or control.length or status.length)
            for frame in queue.take_arrived():
                client, requests, size = frame
                number = client.number
                if (left and number in left) or (queueing > QUEUE_NS and len(requests) > FEW_REQUESTS):
                    # What is only looked at costs, too, where it is very much; small frames of others come before.
                    left.setdefault(number, []).append(frame)
                elif client.unanswered > self._requests_max * MAX_TURNED_AWAY:
                    self._refuse_all(client, requests, size, outbox)
                    queueing += len(requests) * REFUSAL_NS
                elif spent > budget or waits or client.behind:
                    queue.add(client, requests, size, arrived, now)
                    waits = True
                    queueing += len(requests) * QUEUED_NS
                else:
                    spent += self._take_frame(client, requests, size, budget - spent, arrived, now, outbox)
                    waits = bool(data.length or control.length or status.length)
            if left:
                queue.arrived = [frame for frames in left.values() for frame in frames]
        left_over = False
        if data.length:
            spent += self._refuse_late(now, outbox)
        if data.length or control.length or status.length or self._describing is not None:
            self._take_control(now, outbox)
            self._describe(now, outbox)
            spent += self._take_queued(budget - spent, now, outbox)
            left_over = queue.waits
            queue.busy = self._describing is not None or not queue.is_empty
        else:
            queue.busy = bool(queue.arrived)
        self._charged = spent + queueing
        self.overload.turn_taken(now, left=left_over)

    def _take_frame(
        self,
        client: Client,
        requests: Sequence[Received],
        size: int,
        budget: int,
        arrived: int,
        now: int,
        outbox: Outbox,
    ) -> int:
        """Take a frame that has not had to wait, as far as the budget goes; return what that costs."""
        spent = size * UNDECODED_NS
        number = client.number
        for count, request in enumerate(requests):
            pages = type(request) in PAGES
            if spent > budget or (pages and self._pages <= 0):
                left = size * (len(requests) - count) // len(requests)
                self.queue.add(client, requests[count:], left, arrived, now)
                size -= left
                break
            cost = cost_of(request, client.scan_ns, client.read_ns)
            if pages:
                self._pages -= cost
            spent += cost + self._take(number, request, now, outbox)
        self.queue.release(client, size)
        return spent

    def _take_queued(self, budget: int, now: int, outbox: Outbox) -> int:
        """Take requests for data that have waited; return what that costs."""
        queue, data, overload = self.queue, self.queue.data, self.overload
        spent = 0
        while spent <= budget:
            taken = queue.take(data, now, pages=self._pages > 0)
            if taken is None:
                break
            client, flow, waiting = taken
            request = waiting.request
            age = now - waiting.arrived
            overload.waited(age)
            paused = waiting.paused
            if refuse_late(client.number, request, age, outbox):
                cost = REFUSAL_NS
                if paused is not None:
                    paused.end()
            elif paused is not None and paused.needs_place and queue.open_reads.free <= 0:
                queue.park(flow, waiting, now)
                cost = QUEUED_NS
            elif paused is not None:
                cost = self._go_on(client, paused, now, outbox)
            elif waits_in_vain(client.priority, age, now - flow.since, flow.had_since(waiting)):
                self._shed(client, flow, request, age, now, outbox)
                cost = REFUSAL_NS
            else:
                cost = cost_of(request, client.scan_ns, client.read_ns)
                cost += self._take(client.number, request, now, outbox)
            if type(request) in PAGES:
                self._pages -= cost
            spent += cost
            data.charge(flow, cost)
        return spent

    def _refuse_late(self, now: int, outbox: Outbox) -> int:
        """Tell callers whose time is over, whose requests no turn has come to; return what that costs."""
        late = self.queue.take_late(now, LATE_REQUESTS)
        for client, waiting in late:
            refuse_late(client.number, waiting.request, now - waiting.arrived, outbox)
        return len(late) * REFUSAL_NS

    def _go_on(self, client: Client, paused: PausedRead, now: int, outbox: Outbox) -> int:
        """Have its replica go on with a read in this turn; return what that costs."""
        request = paused.queued.read
        replica = self._replica_set.by_shard.get(request.shard)
        if replica is None or replica.reads is not paused.reads or replica.failure is not None:
            # Whoever asks now is told where to go.
            paused.give_up()
            return cost_of(request, client.scan_ns, client.read_ns) + self._take(client.number, request, now, outbox)
        self._agenda.dirty[request.shard] = replica
        if paused.is_begun:
            paused.charged = PIECE_NS
            replica.reads.resume(paused)
            return PIECE_NS
        self.queue.open_reads.promise(paused)
        replica.reads.queue(paused.queued)
        return cost_of(request, client.scan_ns, client.read_ns)

    def _take_control(self, now: int, outbox: Outbox) -> None:
        """Take requests of other kinds that have waited."""
        queue, control = self.queue, self.queue.control
        spent = 0
        while spent < CONTROL_NS:
            taken = queue.take(control, now)
            if taken is None:
                break
            client, flow, waiting = taken
            cost = cost_of(waiting.request, client.scan_ns, client.read_ns) + self._take(
                client.number, waiting.request, now, outbox
            )
            spent += cost
            control.charge(flow, cost)

    def _describe(self, now: int, outbox: Outbox) -> None:
        """Go on with the answers to those who ask for the node's status, one after the other."""
        queue = self.queue
        spent = 0
        while spent < CONTROL_NS:
            if self._describing is None:
                taken = queue.take(queue.status, now)
                if taken is None:
                    break
                client, flow, waiting = taken
                queue.status.charge(flow, STATUS_NS)
                self._describing = client.number, self._make_status(waiting.request.request)
            number, status = self._describing
            if number in queue.clients:
                spent += STATUS_NS + status.step(now) * STATUS_REPLICA_NS
                if status.reply is None:
                    continue
                outbox.answer(number, status.reply)
            self._describing = None

    def _take(self, client: int, request: Received, now: int, outbox: Outbox) -> int:
        """Do what a request asks, or have it done; return what it costs besides what it says (ns)."""
        kind = type(request)
        if isinstance(request, Failure):
            outbox.answer(client, request)
            return 0
        counts = self._counters.requests
        counts[kind] = counts.get(kind, 0) + 1
        if isinstance(request, (Read, Write, Scan, ReadPage, OpenSession)):
            if self._unanswerable and kind is not Write and kind is not OpenSession:
                self._refuse_unanswerable(client, request, outbox)
                return 0
            replica = self._admission.admit(client, request, self._disk.state.not_writable, outbox)
            if replica is not None:
                self._agenda.dirty[replica.shard.id] = replica
                if kind is Write:
                    return replica.newest_cost * 1_000
            else:
                if self._admission.shed:
                    [(reason, keyspace)], self._admission.shed = self._admission.shed, []
                    self.overload.refused(reason, self.queue.clients[client].priority, keyspace)
                return self._admission.refusing_ns
        elif isinstance(request, Ping):
            outbox.answer(client, Done(request.request))
        elif isinstance(request, GetShardMap):
            outbox.answer(client, ShardMapReply(request.request, self._replica_set.map_with_leaders()))
            return len(self._replica_set.routes.map.shards) * MAP_SHARD_NS
        elif isinstance(request, GetStatus):
            return self._tell_status(client, request, now, outbox)
        elif isinstance(request, ReadChecksum):
            answer_checksum(client, request, self._replica_set, self._engine, self._failing, now, outbox)
        elif isinstance(request, GetHotKeys):
            found, cost = hot_keys(request, self._replica_set.identity.node, self._replica_set.by_shard, now)
            outbox.answer(client, found)
            return cost
        elif isinstance(request, TransferLeader):
            replica = self._admission.replica_of(client, request.request, request.shard, outbox)
            if replica is not None:
                self._leaderships.transfer(client, request, replica, now, outbox)
                self._agenda.dirty[request.shard] = replica
        else:
            self.admin_requests.append((client, request))
            if isinstance(request, InstallShardMap):
                return len(request.shard_map.shards) * MAP_SHARD_NS
        return 0

    def _tell_status(self, client: int, request: GetStatus, now: int, outbox: Outbox) -> int:
        """Answer where that takes one step, else have it wait for those; return what it costs."""
        replicas = len(self._replica_set.by_shard)
        if replicas > STATUS_STEP_REPLICAS:
            self.queue.add(self.queue.clients[client], [request], 0, now, now)
            return 0
        status = self._make_status(request.request)
        status.step(now)
        reply = status.reply
        invariant(reply is not None, "one step describes so many replicas")
        assert reply is not None
        outbox.answer(client, reply)
        return STATUS_NS + replicas * STATUS_REPLICA_NS

    def take_admin_requests(self) -> list[tuple[int, AdminRequest]]:
        """Take out what the shard manager has asked for since the last time."""
        requests, self.admin_requests = self.admin_requests, []
        return requests

    def end(self, to_clients: dict[int, list[Answer]], now: int) -> list[int]:
        """A turn ends that answers these; return the clients of whom more may be received again."""
        queue = self.queue
        self._disk.budget.give_back(self._counters.take_undone())
        for client, answers in to_clients.items():
            asker = queue.clients.get(client)
            if asker is not None:
                asker.unanswered -= len(answers)
                asker.heard_at = now
        if not queue.paused:
            return []
        resumed = queue.take_resumed()
        if now >= self.life_due:
            self.life_due = now + SIGN_OF_LIFE_NS
            for client in queue.take_unheard(now - SIGN_OF_LIFE_NS, now):
                to_clients.setdefault(client, []).append(Working())
        return resumed

    # -- what is refused

    def _shed(self, client: Client, flow: Flow, request: Received, age: int, now: int, outbox: Outbox) -> None:
        group = flow.caller.group
        self.overload.refused(OverloadReason.NODE_BUSY, group.priority, group.keyspace)
        outbox.fail(
            client.number,
            request.request,
            ErrorCode.OVERLOADED,
            f"{self._replica_set.identity.node} has more to do than it can: this request had waited for "
            f"{age // 1_000_000} ms among those of its connection, which have been waiting for "
            f"{(now - flow.since) // 1_000_000} ms, and was not done: ask for less at a time, or later",
            retry_after_ms=retry_after_ms(request.request),
            reason=OverloadReason.NODE_BUSY,
        )

    def _refuse_unheld(self, outbox: Outbox) -> None:
        """Answer the requests that there was no memory for."""
        refused, self.queue.refused = self.queue.refused, []
        words = self._memory.refusal(Account.REQUESTS)
        for client, numbers in refused:
            self.overload.refused(OverloadReason.MEMORY, client.priority, CONTROL, len(numbers))
            for number in numbers:
                outbox.fail(
                    client.number,
                    number,
                    ErrorCode.OVERLOADED,
                    words,
                    retry_after_ms=retry_after_ms(number),
                    reason=OverloadReason.MEMORY,
                )

    def refused_uncommitted(self, refused: list[tuple[int, int]]) -> None:
        """Count the writes of these clients and keyspaces that were refused, since too many wait for a majority."""
        for number, keyspace in refused:
            client = self.queue.clients.get(number)
            if client is not None:
                self.overload.refused(OverloadReason.UNCOMMITTED, client.priority, keyspace)

    def _refuse_unanswerable(self, client: int, request: Received, outbox: Outbox) -> None:
        """Answer a read whose answer there is no memory for."""
        self._memory.refused[Account.ANSWERS] += 1
        self.overload.refused(OverloadReason.MEMORY, self.queue.clients[client].priority, CONTROL)
        outbox.fail(
            client,
            request.request,
            ErrorCode.OVERLOADED,
            self._memory.refusal(Account.ANSWERS),
            retry_after_ms=retry_after_ms(request.request),
            reason=OverloadReason.MEMORY,
        )

    def _refuse_all(self, client: Client, requests: Sequence[Received], size: int, outbox: Outbox) -> None:
        self.queue.release(client, size)
        most = self._requests_max * MAX_TURNED_AWAY
        self.overload.refused(OverloadReason.CONNECTION, client.priority, CONTROL, len(requests))
        for request in requests:
            outbox.fail(
                client.number,
                request.request,
                ErrorCode.OVERLOADED,
                f"{client.unanswered} requests of this connection are unanswered; at most {most} may be",
                retry_after_ms=OVERLOADED_RETRY_MS,
                reason=OverloadReason.CONNECTION,
            )
