"""Whether a node keeps up with what clients ask, by how long their requests wait, and when one has waited for too long.

One loop does all the work, so how long requests wait for it is measured, not inferred from latencies. A queue that is empty
now and then is a burst; one that has been standing for `STANDING_NS` is more than the node can do, and a request in it that
has waited for longer than its priority's patience is refused, before anything of it is decoded: whoever asks hears of it while
that is of use, and what is served was asked for just now (Maurer, "Fail at Scale", ACM Queue 13:8, 2015; the rule is that of
CoDel, Nichols and Jacobson 2012, for each client by itself, as in RFC 8290). So those give way who ask for more than their
share, and nobody else: a request is refused only where its own client has been served meanwhile. Where so many ask that
a round of them all takes long, whoever has one request waiting waits for its turn.

Pure: times are passed in.
"""

from __future__ import annotations

from collections import Counter

from shoal.priorities import OverloadReason, Priority

from shoal_server.node.fair_ring import MILLISECOND
from shoal_server.node.fair_shares import CLIENT_QUANTUM_NS

WINDOW_NS = 100 * MILLISECOND
STALE_NS = 3 * WINDOW_NS
LATELY_NS = 10_000 * MILLISECOND
STANDING_NS = 100 * MILLISECOND
PATIENCE_NS: dict[Priority, int] = {
    Priority.INTERACTIVE: 30 * MILLISECOND,
    Priority.BATCH: 1_000 * MILLISECOND,
    Priority.BACKGROUND: 5_000 * MILLISECOND,
}
"""For so long a request waits in a queue that stands. Those whom nobody waits for have less of the node, and wait longer."""
RETRY_MS_LEAST = 25
RETRY_MS_MOST = 250


def priority_of(word: str) -> Priority:
    """Return the priority that a greeting names; one of a newer version is taken for the lowest."""
    try:
        return Priority(word)
    except ValueError:
        return Priority.BACKGROUND


def waits_in_vain(priority: Priority, age: int, standing: int, had: int) -> bool:
    """Say whether a request is to be refused, which has waited for too long behind others of its own client.

    Args:
        age: of the request (ns).
        standing: for so long its queue has been (ns).
        had: what others of its queue have been given meanwhile (ns). Where that is less than is due each time that
            its turn comes, it has waited for what others have asked for, however many these are: it keeps its place.
    """
    return standing > STANDING_NS and age > PATIENCE_NS[priority] and had >= CLIENT_QUANTUM_NS


def retry_after_ms(request: int) -> int:
    """Return when to ask again: those who are refused together are not to come back together."""
    return RETRY_MS_LEAST + request % (RETRY_MS_MOST - RETRY_MS_LEAST)


class Overload:
    """How long requests wait at a node.

    Attributes:
        delay_ns: the shortest that one has waited within the last whole window, 0 where the queue was empty in it.
        shed: how many requests were refused, by reason, priority and keyspace.
    """

    __slots__ = ("_before", "_began", "_marked_at", "_marks", "_smallest", "delay_ns", "shed")

    def __init__(self, now: int) -> None:
        self.delay_ns = 0
        self.shed: Counter[tuple[OverloadReason, Priority, int]] = Counter()
        self._began = now
        self._smallest: int | None = None
        self._before: Counter[tuple[OverloadReason, Priority, int]] = Counter()
        self._marks: Counter[tuple[OverloadReason, Priority, int]] = Counter()
        """What `shed` was ten to twenty seconds ago, and at most ten."""
        self._marked_at = now

    def refused(self, reason: OverloadReason, priority: Priority, keyspace: int, count: int = 1) -> None:
        """Count requests that were refused as overloaded."""
        self.shed[reason, priority, keyspace] += count

    def shed_lately(self, now: int) -> list[tuple[tuple[OverloadReason, Priority, int], int]]:
        """Return what was refused within the last ten to twenty seconds, those first of which most was."""
        self._mark(now)
        return (self.shed - self._before).most_common()

    def _mark(self, now: int) -> None:
        elapsed = now - self._marked_at
        if elapsed >= LATELY_NS:
            # In a time without a turn nothing was refused.
            self._before = self._marks if elapsed < 2 * LATELY_NS else self.shed.copy()
            self._marks, self._marked_at = self.shed.copy(), now

    def delay_at(self, now: int) -> int:
        """Return how long requests wait; what was so before nobody asked for anything is not so any more (ns)."""
        return self.delay_ns if now - self._began < STALE_NS else 0

    def waited(self, age: int) -> None:
        """A request was taken that had waited for so long (ns)."""
        if self._smallest is None or age < self._smallest:
            self._smallest = age

    def turn_taken(self, now: int, *, left: bool) -> None:
        """A turn has taken what it could; `left`: requests still wait."""
        if not left:
            self._smallest = 0
        if now - self._began >= WINDOW_NS:
            self._mark(now)
            self.delay_ns = self._smallest or 0
            self._smallest = None if left else 0
            self._began = now
