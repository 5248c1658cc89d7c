"""What clients have sent and no turn has taken yet, and which of them may send more: bounded for each, and fair between them.

While everything that arrives fits into a turn, it is taken as it came. What does not waits: requests for data in turn by
keyspace, caller and client (fair_queue.py), and those that a node answers by itself or that managers make in a queue of their
own, of which each turn does some first, so that they never wait for data; status, which of a large node takes several turns,
has a third. A client of which too much waits or is unanswered is read from no more until half of that is done; and nothing is
taken of one that does not read its answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from shoal.priorities import Priority
from shoal.protocol.checksums import ReadChecksum
from shoal.protocol.messages import GetStatus, OpenSession, Read, ReadPage, Scan, Write

from shoal_server.invariants import invariant
from shoal_server.node.elements import KEY_BYTES
from shoal_server.node.fair_queue import FairQueue
from shoal_server.node.fair_shares import CONTROL, CallerKey, Flow, Waiting
from shoal_server.node.held_reads import bytes_of
from shoal_server.node.memory import Account, MemoryBudget
from shoal_server.node.paused_reads import OpenReads, PausedRead
from shoal_server.node.request_costs import SCAN_NS, decoded_bytes
from shoal_server.node.request_frames import Received

SIGN_OF_LIFE_NS = 250_000_000
"""A client that is not read from is told so often that it is not forgotten."""
QUEUED_BYTES = 4 * 1024 * 1024
"""Of one client, that wait to be taken; a frame may be longer, and is then the last for a while."""
TIGHT_BYTES = 64 * 1024
"""Likewise, where the node's memory for requests is tight."""
UNBOOKED_BYTES = 64 * 1024
"""So much that waits is not booked: frames that a turn takes at once would be booked twice each."""
REQUEST_BYTES = 200
"""What a request takes besides its part of the frame, and what is listed in it."""

DATA = frozenset((Write, Read, Scan, ReadPage, OpenSession, ReadChecksum))
"""Requests that wait in turn by keyspace; all others are control."""


class Client:
    """What the node knows of a connection, as far as it matters to who is served when.

    Attributes:
        unanswered: requests that were received and are not answered yet; `queued_bytes`: of those that no turn has taken.
        behind: it does not read its answers as fast as they come.
        heard_at: when it was last answered, or first had to wait since (ns).
        caller: whose it is.
        scan_ns: what a page costs that it asks for, in the mean of the last ones; read_ns: the values of its other reads.
    """

    __slots__ = (
        "behind",
        "caller",
        "heard_at",
        "number",
        "priority",
        "queued_bytes",
        "read_ns",
        "scan_ns",
        "unanswered",
    )

    def __init__(self, number: int, caller: CallerKey, priority: Priority, now: int) -> None:
        self.number = number
        self.caller = caller
        self.priority = priority
        self.unanswered = 0
        self.queued_bytes = 0
        self.behind = False
        self.heard_at = now
        self.scan_ns = SCAN_NS
        self.read_ns = 0


Frame: TypeAlias = tuple[Client, Sequence[Received], int]
"""What a client has sent at once, and how long it is (bytes)."""


class ClientQueue:
    """See the module's first lines.

    Attributes:
        clients: those who are connected, by number.
        arrived: the frames received since the last turn, and those that it left.
        refused: the numbers of requests that there was no memory for, to be answered.
        busy: a turn may have something to take: what has arrived, or waits.
        paused: those of whom nothing more is received, by number.
        open_reads: reads that go on in later turns, as far as they hold something open.
    """

    __slots__ = (
        "_held",
        "_keyspace_of",
        "_memory",
        "_requests_max",
        "arrived",
        "busy",
        "clients",
        "control",
        "data",
        "open_reads",
        "paused",
        "refused",
        "status",
    )

    def __init__(self, requests_max: int, memory: MemoryBudget, keyspace_of: Callable[[int], int]) -> None:
        """
        Args:
            requests_max: how many requests of a client may be unanswered before nothing more is received from it.
            memory: what waits is counted there, as far as no turn has taken it.
            keyspace_of: says of which keyspace a shard is, `CONTROL` where it is not known.
        """
        self.refused: list[tuple[Client, list[int]]] = []
        self._memory = memory
        self.clients: dict[int, Client] = {}
        self.data = FairQueue()
        self.control = FairQueue()
        self.status = FairQueue()
        self._requests_max = requests_max
        self._keyspace_of = keyspace_of
        self.arrived: list[Frame] = []
        self._held = 0
        """Of all clients, `queued_bytes`; booked is what is more than `UNBOOKED_BYTES` of it."""
        self.busy = False
        self.paused: dict[int, Client] = {}
        self.open_reads = OpenReads(memory)

    # -- clients come and go

    def introduce(self, number: int, caller: CallerKey, priority: Priority, now: int) -> Client:
        """A client has connected, of that caller."""
        client = self.clients[number] = Client(number, caller, priority, now)
        return client

    def gone(self, number: int, now: int) -> None:
        """A client has gone: drop what it still had to wait for."""
        client = self.clients.pop(number, None)
        if client is not None:
            self.release(client, client.queued_bytes)
        self.paused.pop(number, None)
        self.refused = [frame for frame in self.refused if frame[0].number != number]
        self.arrived = [frame for frame in self.arrived if frame[0].number != number]
        for queue in (self.data, self.control, self.status):
            for waiting in queue.forget(number, now):
                if waiting.paused is not None:
                    waiting.paused.end()

    def is_behind(self, number: int, now: int, *, behind: bool) -> None:
        """A client has more unread answers than it should, or has caught up."""
        client = self.clients.get(number)
        if client is not None:
            client.behind = behind
            if behind:
                self.open_reads.let_go_of(number)
            for queue in (self.data, self.control, self.status):
                queue.block(number, now, blocked=behind)

    # -- what they send

    def receive(self, number: int, requests: Sequence[Received], size: int, now: int) -> bool:
        """Take in a frame of `size` bytes; say whether more may be received from the client."""
        client = self.clients.get(number)
        if client is None:
            client = self.introduce(number, "", Priority.INTERACTIVE, now)
        self.busy = True
        count = len(requests)
        if not client.unanswered:
            client.heard_at = now
        client.unanswered += count
        size += count * REQUEST_BYTES
        for request in requests:
            kind = type(request)
            if kind is Read:
                size += len(request.keys) * KEY_BYTES  # type: ignore[union-attr]  # a Read
            elif kind is not Write:
                size += decoded_bytes(request)
        held = self._held + size
        if held <= UNBOOKED_BYTES or self._book(held):
            self._held = held
            client.queued_bytes = queued = client.queued_bytes + size
            self.arrived.append((client, requests, size))
        else:
            self.refused.append((client, [request.request for request in requests]))
            queued = client.queued_bytes
        if client.unanswered > self._requests_max or (
            queued > TIGHT_BYTES and (queued > QUEUED_BYTES or self._memory.is_tight(Account.REQUESTS))
        ):
            self.paused[number] = client
            return False
        return not self.paused or number not in self.paused

    def _book(self, held: int) -> bool:
        """Take room for what more is held than is booked, or say that there is none."""
        return self._memory.take(Account.REQUESTS, _booked(held) - _booked(self._held))

    def take_arrived(self) -> list[Frame]:
        """Take out the frames received since the last time, in their order, with their sizes."""
        arrived, self.arrived = self.arrived, []
        return arrived

    def release(self, client: Client, size: int) -> None:
        """So many bytes of what a client has sent wait no more: a turn has taken them."""
        client.queued_bytes -= size
        held = self._held
        self._held = left = held - size
        invariant(left >= 0, "nothing is released that was not received")
        if held > UNBOOKED_BYTES:
            self._memory.give_back(Account.REQUESTS, _booked(held) - _booked(left))

    @property
    def waits(self) -> bool:
        """Whether any request waits that a turn may take."""
        may_unpark = bool(self.data.parked) and self.open_reads.free > 0
        return self.data.ready or self.control.ready or self.status.ready or may_unpark

    @property
    def is_empty(self) -> bool:
        """Whether nothing has arrived, and nothing waits, be that for somebody else."""
        return not (self.arrived or self.refused or self.data.length or self.control.length or self.status.length)

    @property
    def length(self) -> int:
        """How many requests wait for their turn."""
        return self.data.length + self.control.length + self.status.length

    def add(self, client: Client, requests: Sequence[Received], size: int, arrived: int, now: int) -> None:
        """Have requests of a client wait, of `size` bytes together, that arrived then (ns)."""
        share = size // len(requests) if requests else 0
        self.release(client, size - share * len(requests))
        for request in requests:
            waiting = Waiting(request, arrived, share)
            if type(request) in DATA:
                keyspace = self._keyspace_of(request.shard)  # type: ignore[union-attr]  # all of these name one
                queue, priority = self.data, client.priority
            else:
                queue = self.status if type(request) is GetStatus else self.control
                keyspace, priority = CONTROL, Priority.INTERACTIVE
            queue.add(client.number, priority, keyspace, waiting, now, blocked=client.behind, caller=client.caller)

    def put_back(self, paused: PausedRead, now: int) -> None:
        """Have a read wait for a later turn, which goes on with it."""
        queued = paused.queued
        client = self.clients.get(queued.client)
        if client is None:
            paused.end()
            return
        request = queued.read
        self.busy = True
        paused.pause(others_wait=bool(self.data.parked))
        if client.behind:
            self.open_reads.let_go_of(client.number)
        size = bytes_of(queued)
        client.queued_bytes += size
        held = self._held + size
        # Whether there is room or not: it was received before.
        self._memory.add(Account.REQUESTS, _booked(held) - _booked(self._held))
        self._held = held
        waiting = Waiting(request, queued.arrived, size, paused)
        keyspace = self._keyspace_of(request.shard)
        self.data.add(
            client.number, client.priority, keyspace, waiting, now, blocked=client.behind, caller=client.caller
        )

    def park(self, flow: Flow, waiting: Waiting, now: int) -> None:
        """Have a page that was taken out wait until there is a place for it."""
        # It has been released; one of a client and keyspace at the most is not counted.
        waiting.size = 0
        self.data.park(flow, waiting, now)

    def unpark(self, now: int) -> None:
        """Let so many pages be begun that waited for a place as there are places."""
        self.data.unpark(self.open_reads.free, now)

    def take(self, queue: FairQueue, now: int, *, pages: bool = True) -> tuple[Client, Flow, Waiting] | None:
        """Take out of one of the queues the request whose turn it is; without `pages` none where that is one."""
        taken = queue.take(now, pages=pages)
        if taken is None:
            return None
        flow, waiting = taken
        client = self.clients[flow.client]
        self.release(client, waiting.size)
        return client, flow, waiting

    def take_late(self, now: int, most: int) -> list[tuple[Client, Waiting]]:
        """Take out requests for data whose callers wait no more, however far off their turn is: so many at the most."""
        late: list[tuple[Client, Waiting]] = []
        for flow, waiting in self.data.take_late(now, most):
            client = self.clients[flow.client]
            self.release(client, waiting.size)
            if waiting.paused is not None:
                waiting.paused.end()
            late.append((client, waiting))
        return late

    # -- what they are answered

    def take_resumed(self) -> list[int]:
        """Take out the clients of whom more may be received again."""
        most = TIGHT_BYTES if self._memory.is_tight(Account.REQUESTS) else QUEUED_BYTES
        resumed = [
            number
            for number, client in self.paused.items()
            if 2 * client.unanswered <= self._requests_max and 2 * client.queued_bytes <= most
        ]
        for number in resumed:
            del self.paused[number]
        return resumed

    def take_unheard(self, since: int, now: int) -> list[int]:
        """Return those whom nothing is received from, and who were last answered before `since`; they are told now (ns)."""
        unheard = [number for number, client in self.paused.items() if client.heard_at < since and not client.behind]
        for number in unheard:
            self.paused[number].heard_at = now
        return unheard


def _booked(held: int) -> int:
    """Return what is booked where so much waits (bytes)."""
    return max(0, held - UNBOOKED_BYTES)
