"""Simulated time: a heap of events, and clocks that run at their own speed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random

MILLISECOND = 1_000_000
SECOND = 1_000_000_000


def derived_random(seed: int, name: str) -> Random:
    """Return the source of chance of one component: its own, so that one more draw elsewhere changes nothing here."""
    return Random(f"{seed}/{name}")


class Events:
    """What is to happen, in order of (time, order of scheduling). Time is true time, in nanoseconds.

    Much is to happen at once, and is kept apart from the heap: whatever the heap has for this moment was scheduled before
    the moment had come, so it is older.
    """

    def __init__(self) -> None:
        self.now = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._at_once: deque[Callable[[], None]] = deque()
        self._sequence = 0

    def at(self, time: int, action: Callable[[], None]) -> None:
        if time <= self.now:
            self._at_once.append(action)
        else:
            self._sequence += 1
            heappush(self._heap, (time, self._sequence, action))

    def after(self, delay: int, action: Callable[[], None]) -> None:
        self.at(self.now + delay, action)

    def step(self) -> None:
        """Let the next thing happen."""
        heap = self._heap
        if self._at_once and not (heap and heap[0][0] <= self.now):
            action = self._at_once.popleft()
        else:
            self.now, _, action = heappop(heap)
        action()

    @property
    def pending(self) -> bool:
        return bool(self._heap or self._at_once)


class Clock:
    """A node's monotonic clock: it began somewhere, and runs a little fast or slow."""

    def __init__(self, events: Events, start: int, rate_permille: int) -> None:
        self._events = events
        self._start = start
        self._rate = rate_permille

    def now(self) -> int:
        return self._start + self._events.now * self._rate // 1000

    def true_time(self, local: int) -> int:
        """Return the true time at which this clock shows `local`, or a little later."""
        return (local - self._start) * 1000 // self._rate + 1
