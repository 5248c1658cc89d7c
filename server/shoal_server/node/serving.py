"""What a turn may still spend on serving reads, and who is charged for what they turn out to cost.

How many rows a page looks at, and how long values are, is found while it is served. So a turn serves until its time is spent,
pages in pieces, and later ones go on, in which it is the turn of whoever asked; what it has cost counts against these.
"""

from __future__ import annotations

from shoal_server.node.client_queue import ClientQueue
from shoal_server.node.memory import MemoryBudget
from shoal_server.node.outbox import NOBODY
from shoal_server.node.paused_reads import PausedRead
from shoal_server.node.request_costs import ANSWERED_BYTE_NS, READ_NS, SCAN_NS, SCAN_NS_LEAST
from shoal_server.node.waiting import QueuedRead

SERVE_NS = 10_000_000
"""Of a turn."""


class Serving:
    """See the module's first lines.

    Attributes:
        now: when the turn began (ns).
        left: of the turn's time (ns); none where it is 0 or less.
        left_over: about what it will cost to serve what the turn had no time for, and does not wait in its client's queue (ns).
    """

    __slots__ = ("_memory", "_queue", "left", "left_over", "now")

    def __init__(self, queue: ClientQueue, memory: MemoryBudget) -> None:
        self._queue = queue
        self._memory = memory
        self.now = 0
        self.left = 0
        self.left_over = 0

    def begin(self, now: int) -> None:
        """A turn begins to serve."""
        self.now = now
        self.left = SERVE_NS
        self.left_over = 0

    def put_off(self) -> None:
        """A read of keys is left for the next turn."""
        self.left_over += READ_NS

    def page(self, reads: object, queued: QueuedRead) -> PausedRead:
        """Return what a page is made as that was taken in this turn, of which nothing is done so far."""
        asker = self._queue.clients.get(queued.client)
        charged = SCAN_NS if asker is None else asker.scan_ns
        return PausedRead(reads, queued, charged, self._queue.open_reads, self._memory)

    def may_begin(self, client: int) -> bool:
        """Say whether there is time, and a place, for one more page of a client."""
        return self.left > 0 and self._queue.open_reads.has_room(client)

    def put_back(self, read: PausedRead, keyspace: int, cost: int) -> None:
        """Leave a read to later turns of its client: so far, this one has done so much of it (ns)."""
        self.left -= cost
        read.cost += cost
        self._queue.data.charge_later(read.queued.client, keyspace, cost - read.charged)
        self._queue.put_back(read, self.now)

    def served_page(self, read: PausedRead, keyspace: int, cost: int) -> None:
        """A page has been served; what there was left to do of it in this turn has cost that (ns)."""
        self.left -= cost
        read.cost += cost
        read.end()
        client = read.queued.client
        asker = self._queue.clients.get(client)
        if asker is not None:
            self._queue.data.charge_later(client, keyspace, cost - read.charged)
            asker.scan_ns = max(SCAN_NS_LEAST, (3 * asker.scan_ns + read.cost) // 4)

    def served_values(self, client: int, keyspace: int, size: int) -> None:
        """A read of a client has been answered with so many bytes."""
        cost = size * ANSWERED_BYTE_NS
        self.left -= cost
        self._queue.data.charge_later(client, keyspace, cost)

    def is_there(self, client: int) -> bool:
        """Say whether anybody waits for the answers to a client."""
        return client in self._queue.clients or client == NOBODY
