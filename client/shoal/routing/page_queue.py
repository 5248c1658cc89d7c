"""The pages that wait for their turn at one node, and how many of them it is asked for at once. Pure: times are passed in.

As many as the node answers within `TARGET_SECONDS`, by what the last ones took: so nothing else that this client asks of it
waits for more. Fewer once it has refused some. Their answers are no longer than the line takes in a moment.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Generic, TypeAlias

from shoal.routing.calls import W
from shoal.routing.shard_queue import AnyQuery, AnyRequest, Query, Stage

TARGET_SECONDS = 0.02
PAGES_LEAST = 2
"""At once, so that there is always a next one where the node is; but one alone once it has refused some."""
PAGES_MOST = 8
PAGE_BYTES = 1024 * 1024
"""No answer to a read has more, unless it is of one row."""
PAGE_BYTES_LEAST = 64 * 1024
"""Shorter answers say nothing of the line, and are not worth their requests."""
PAGE_SECONDS = 0.05
"""For so long an answer may take the line."""
MEASURED_PAGES = 16
"""After so many without a pause, what they took tells how long a queue is."""

Order: TypeAlias = tuple[int, int, int]
"""Of a page: its turn, and within that its scan, and its number there."""


class PageQueue(Generic[W]):
    """Of one node: what waits to be asked, and how much may be.

    `in_flight`: pages that are unanswered, and that the node may still answer. `page_bytes`: of an answer at the most, so that
    it does not hold up the line.
    """

    __slots__ = (
        "_added",
        "_answered",
        "_answered_at",
        "_bytes_a_second",
        "_queue",
        "_refused",
        "_seconds",
        "in_flight",
        "page_bytes",
    )

    def __init__(self) -> None:
        self.in_flight: dict[AnyRequest[W], None] = {}
        self.page_bytes = PAGE_BYTES
        self._queue: list[tuple[Order, int, AnyQuery[W]]] = []
        self._added = 0
        self._seconds = TARGET_SECONDS / PAGES_LEAST
        self._bytes_a_second = 0.0
        self._answered = 0
        self._answered_at = 0.0
        self._refused = False

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def most(self) -> int:
        """How many pages may be unanswered at once."""
        least = 1 if self._refused else PAGES_LEAST
        return max(least, min(PAGES_MOST, int(TARGET_SECONDS / self._seconds)))

    def has_room(self, now: float) -> bool:
        """Say whether another page may be asked for; a node does not come any more to what is late."""
        in_flight = self.in_flight
        if len(in_flight) < self.most:
            return True
        for query in [query for query in in_flight if isinstance(query, Query) and query.latest <= now]:
            del in_flight[query]
        return len(in_flight) < self.most

    @property
    def wait_seconds(self) -> float:
        """For how long a page would wait that comes now, by what the last ones took; 0 where that is not known.

        Those that nobody waits for any more are passed over when their turn comes.
        """
        if self._answered < MEASURED_PAGES:
            return 0.0
        return sum(query.awaited for _, _, query in self._queue) * self._seconds

    def add(self, order: Order, query: AnyQuery[W]) -> None:
        """Have a page wait, which comes before those of a higher order."""
        self._added += 1
        heappush(self._queue, (order, self._added, query))

    def pop(self) -> tuple[Order, AnyQuery[W]] | None:
        """Take out the page whose turn it is, with its order; None: nothing waits."""
        while self._queue:
            order, _, query = heappop(self._queue)
            if query.stage is Stage.QUEUED:
                return order, query
        return None

    def drain(self) -> list[AnyQuery[W]]:
        """Take out all that wait: the node is not connected any more, so nothing is unanswered either."""
        queue, self._queue = self._queue, []
        self.in_flight = {}
        return [query for _, _, query in queue if query.stage is Stage.QUEUED]

    def sent(self, request: AnyRequest[W]) -> None:
        """A page is asked for."""
        self.in_flight[request] = None

    def answered(self, query: AnyQuery[W], size: int, now: float) -> None:
        """A page was answered, in so many bytes."""
        self.in_flight.pop(query, None)
        self._answered += 1
        took = now - max(query.sent, self._answered_at)
        self._answered_at = now
        self._seconds = max(1e-6, (7 * self._seconds + took) / 8)
        self._refused = False
        if not (self._queue or self.in_flight):
            # What comes next is a burst, not more than can be done, until it is seen how long it takes.
            self._answered = 0
        if size >= PAGE_BYTES_LEAST and took > 0:
            rate = size / took
            self._bytes_a_second = (3 * self._bytes_a_second + rate) / 4 if self._bytes_a_second else rate
            self.page_bytes = int(max(PAGE_BYTES_LEAST, min(PAGE_BYTES, self._bytes_a_second * PAGE_SECONDS)))

    def not_answered(self, query: AnyRequest[W], *, overloaded: bool) -> None:
        """A page was refused; `overloaded`: since there is too much."""
        self.in_flight.pop(query, None)
        if overloaded:
            self._refused = True
            self._seconds = min(TARGET_SECONDS, 2 * self._seconds)
