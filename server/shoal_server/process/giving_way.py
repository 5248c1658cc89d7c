"""Whose connections end where memory for frames that come, or for answers that leave, is short: pure.

What waits for one other end counts together, by its certificate or by its address. As long as somebody holds more than one
client with one frame may, the slowest connection of the largest holder goes: with many connections nobody takes the place of
others, however slow those are. Where nobody does, the slowest of all goes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heapify, heapreplace
from operator import attrgetter
from typing import Generic, TypeVar

RETRY_MS = 1_000
"""Whoever finds no place, or no room, is told to come again after this: in a second something may have ended."""

LARGE_PART = 4
"""Whoever holds more than this part of an account holds much, however long a frame may be."""

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Held(Generic[C]):
    """What is held for a connection (bytes), and whose it is. `slowness`: how long it takes, in whatever unit they all have."""

    connection: C
    holder: Hashable
    size: int
    slowness: float


def much(bound: int, max_frame_bytes: int) -> int:
    """Return how much of an account one other end may hold before its connections are the first to go (bytes)."""
    return min(bound // LARGE_PART, max_frame_bytes)


def giving_way(held: Iterable[Held[C]], may_hold: int) -> Iterator[tuple[C, str]]:
    """Yield the connections that go, one after another, and what is to be said of it besides that they are slow.

    Args:
        may_hold: see `much`.
    """
    slowest_last = sorted(held, key=attrgetter("slowness"))
    of_holder: dict[Hashable, list[Held[C]]] = {}
    for each in slowest_last:
        of_holder.setdefault(each.holder, []).append(each)
    # The places tell apart those that hold as much.
    largest = [(-sum(each.size for each in theirs), place, theirs) for place, theirs in enumerate(of_holder.values())]
    heapify(largest)
    while largest and -largest[0][0] > may_hold:
        size, place, theirs = largest[0]
        slowest = theirs.pop()
        yield slowest.connection, f", and of all that are slow most is of this address or certificate, {-size} bytes"
        heapreplace(largest, (size + slowest.size, place, theirs))
    left = {id(each) for _, _, theirs in largest for each in theirs}
    for each in reversed(slowest_last):
        if id(each) in left:
            yield each.connection, ""
