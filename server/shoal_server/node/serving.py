"""What a turn may still spend on serving reads, and who is charged for what they turn out to cost.

How many rows a page looks at, and how long values are, is found while it is served. So a turn serves until its time is spent,
and the next one goes on; and what it has cost counts against the turns of whoever asked.
"""

from __future__ import annotations

from shoal_server.node.client_queue import ClientQueue
from shoal_server.node.outbox import NOBODY
from shoal_server.node.request_costs import ANSWERED_BYTE_NS, SCAN_NS, SCAN_NS_LEAST

SERVE_NS = 10_000_000
"""Of a turn."""


class Serving:
    """See the module's first lines.

    Attributes:
        left: of the turn's time (ns); none where it is 0 or less.
        left_over: about what it will cost to serve what the turn had no time for (ns).
    """

    __slots__ = ("_queue", "left", "left_over")

    def __init__(self, queue: ClientQueue) -> None:
        self._queue = queue
        self.left = 0
        self.left_over = 0

    def begin(self) -> None:
        """A turn begins to serve."""
        self.left = SERVE_NS
        self.left_over = 0

    def put_off(self, client: int) -> None:
        """A page that a client asks for is left for the next turn."""
        asker = self._queue.clients.get(client)
        self.left_over += SCAN_NS if asker is None else asker.scan_ns

    def served_page(self, client: int, keyspace: int, cost: int) -> None:
        """A page that a client asked for has been served, at that cost (ns)."""
        self.left -= cost
        asker = self._queue.clients.get(client)
        if asker is not None:
            self._queue.data.charge_later(client, keyspace, cost - asker.scan_ns)
            asker.scan_ns = max(SCAN_NS_LEAST, (3 * asker.scan_ns + cost) // 4)

    def served_values(self, client: int, keyspace: int, size: int) -> None:
        """A read of a client has been answered with so many bytes."""
        cost = size * ANSWERED_BYTE_NS
        self.left -= cost
        self._queue.data.charge_later(client, keyspace, cost)

    def is_there(self, client: int) -> bool:
        """Say whether anybody waits for the answers to a client."""
        return client in self._queue.clients or client == NOBODY
