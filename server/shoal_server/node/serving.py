"""What a turn may still spend on serving reads, and who is charged for what they turn out to cost.

How many rows a page looks at, and how long values are, is found while it is served. So a turn serves until its time is spent,
pages in pieces, and later ones go on, in which it is the turn of whoever asked; what it has cost counts against these.
"""

from __future__ import annotations

from shoal_server.node.client_queue import Client, ClientQueue
from shoal_server.node.fair_shares import PAGES
from shoal_server.node.memory import MemoryBudget
from shoal_server.node.outbox import NOBODY
from shoal_server.node.paused_reads import Admitted, PausedRead
from shoal_server.node.request_costs import ANSWERED_BYTE_NS, READ_NS, SCAN_NS, SCAN_NS_LEAST, cost_of
from shoal_server.node.waiting import QueuedRead

SERVE_NS = 10_000_000
"""Of a turn."""
SMALL_BYTES = 4096
"""What an answer may have without being charged for."""


class Serving:
    """See the module's first lines.

    Attributes:
        clients: those who are there, by number.
        now: when the turn began (ns).
        left: of the turn's time (ns), `SERVE_NS` when it begins; none where it is 0 or less.
    """

    __slots__ = ("_memory", "_queue", "clients", "left", "now")

    def __init__(self, queue: ClientQueue, memory: MemoryBudget) -> None:
        self._queue = queue
        self._memory = memory
        self.clients = queue.clients
        self.now = 0
        self.left = 0

    def paused(self, reads: Admitted, queued: QueuedRead) -> PausedRead:
        """Return a read that was taken in this turn as one that may go on in others; nothing is done of it so far."""
        asker = self.clients.get(queued.client)
        charged = SCAN_NS if asker is None else cost_of(queued.read, asker.scan_ns, asker.read_ns)
        return PausedRead(reads, queued, charged, self._queue.open_reads, self._memory)

    def may_begin(self, client: int) -> bool:
        """Say whether there is time for one more page of a client, which has few enough."""
        return self.left > 0 and self._queue.open_reads.has_room(client)

    def put_back(self, read: PausedRead, keyspace: int, cost: int) -> None:
        """Leave a read to later turns of its client: so far, this one has done so much of it (ns)."""
        self.left -= cost
        read.cost += cost
        pages = type(read.queued.read) in PAGES
        self._queue.data.charge_later(read.queued.client, keyspace, cost - read.charged, pages=pages)
        self._queue.put_back(read, self.now)

    def served_page(self, read: PausedRead, keyspace: int, cost: int) -> None:
        """A page has been served; what there was left to do of it in this turn has cost that (ns)."""
        self.left -= cost
        read.cost += cost
        self._queue.open_reads.answered(read, self.now)
        read.end()
        client = read.queued.client
        asker = self.clients.get(client)
        if asker is not None:
            self._queue.data.charge_later(client, keyspace, cost - read.charged, pages=True)
            asker.scan_ns = max(SCAN_NS_LEAST, (3 * asker.scan_ns + read.cost) // 4)

    def served_values(self, asker: Client | None, keyspace: int, size: int) -> None:
        """A read of a client has been answered with so many bytes, which are more than a few, or its last ones were."""
        cost = size * ANSWERED_BYTE_NS if size > SMALL_BYTES else 0
        self.left -= cost
        if asker is not None:
            self._queue.data.charge_later(asker.number, keyspace, cost - asker.read_ns, pages=False)
            mean = (3 * asker.read_ns + cost) // 4
            asker.read_ns = mean if mean >= READ_NS else 0

    def is_there(self, client: int) -> bool:
        """Say whether anybody waits for the answers to a client."""
        return client in self.clients or client == NOBODY
