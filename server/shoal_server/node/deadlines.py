"""When callers stop waiting for requests that no turn has taken: a wheel of time, whose slots are looked at as they pass.

To note one, and to take it out again, costs the same however many wait. One whose time is beyond the wheel is looked at, and
noted again, once in each of its rounds.

Pure: times are passed in.
"""

from __future__ import annotations

from typing import Generic, TypeVar

SLOT_BITS = 26
"""Of a time in nanoseconds, those within a slot: it has 67 ms, by which one may be found later."""
SLOTS = 512

W = TypeVar("W")


class Deadlines(Generic[W]):
    """See the module's first lines. What waits is known by a number."""

    __slots__ = ("_at", "_slots", "_wheel")

    def __init__(self) -> None:
        self._wheel: list[dict[int, tuple[int, W]]] = [{} for _ in range(SLOTS)]
        self._slots: dict[int, dict[int, tuple[int, W]]] = {}
        """The slot that each is noted in."""
        self._at = 0
        """The first slot that was not looked at to its end, counted from time 0."""

    def note(self, number: int, due: int, waits: W) -> None:
        """Note what waits until `due` (ns)."""
        self._note(number, due, waits, self._at)

    def forget(self, number: int) -> None:
        """It waits no more, if it did."""
        slot = self._slots.pop(number, None)
        if slot is not None:
            del slot[number]

    def take_due(self, now: int, most: int) -> list[W]:
        """Take out those whose time is over, having looked at so many at the most."""
        until = now >> SLOT_BITS
        self._at = max(self._at, until - SLOTS)
        due_now: list[W] = []
        while self._at < until:
            slot = self._wheel[self._at % SLOTS]
            while slot:
                if not most:
                    return due_now
                most -= 1
                number = next(iter(slot))
                due, waits = slot.pop(number)
                if due < now:
                    del self._slots[number]
                    due_now.append(waits)
                else:
                    # It was noted sooner than its time.
                    self._note(number, due, waits, self._at + 1)
            self._at += 1
        return due_now

    def _note(self, number: int, due: int, waits: W, earliest: int) -> None:
        place = due >> SLOT_BITS
        last = self._at + SLOTS - 1
        slot = self._wheel[(earliest if place < earliest else min(place, last)) % SLOTS]
        slot[number] = due, waits
        self._slots[number] = slot
