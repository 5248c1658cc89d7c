"""Was everything that was put into a queue taken out once, in order, and nothing else?

Henzinger, Sezgin and Vafeiadis, "Aspect-oriented linearizability proofs" (CONCUR 2013): a queue on which no call is open
is linearizable unless something is taken that was never put (VFresh), taken twice (VRepet), taken before what had been put
before it (VOrd), or the queue is found empty while something was in it all the time (VWit). Besides, what was put and
acknowledged, and was neither taken nor left at the end, is lost.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Put:
    """`element` was put, from `invoked` to `completed` in nanoseconds (None: it may have been)."""

    element: bytes
    invoked: int
    completed: int | None


@dataclass(frozen=True, slots=True)
class Take:
    """`element` was taken (None: the queue was empty), from `invoked` to `completed` in nanoseconds (None: it may have
    been taken)."""

    element: bytes | None
    invoked: int
    completed: int | None


@dataclass(frozen=True, slots=True)
class QueueViolation:
    """`elements` are those that are not as they should be; none where the queue was wrongly found empty."""

    kind: Literal["fresh", "repeated", "order", "empty", "lost"]
    elements: tuple[bytes, ...]
    sentence: str


def find_violations(puts: Sequence[Put], takes: Sequence[Take], left: Sequence[bytes] | None) -> list[QueueViolation]:
    """Return what is wrong with the history of one queue, which is empty at first.

    Calls whose outcome is unknown count as done where they must have been, and never show a violation by themselves.

    Args:
        puts: of different elements.
        left: what was in the queue after all calls, in order; None if nobody looked.
    """
    lives = _lives(puts, takes, left)
    return [
        *_check_elements(puts, takes, left, lives),
        *_check_order(lives, left or ()),
        *_check_empty(lives, takes),
    ]


@dataclass(slots=True)
class _Life:
    """An element that surely was in the queue: put between two instants, and taken between two."""

    element: bytes
    put_from: float
    put_until: float
    taken_from: float = NEVER
    taken_until: float = NEVER


def _lives(puts: Sequence[Put], takes: Sequence[Take], left: Sequence[bytes] | None) -> dict[bytes, _Life]:
    seen = {take.element for take in takes if take.completed is not None} | set(left or ())
    lives = {
        put.element: _Life(put.element, put.invoked, NEVER if put.completed is None else put.completed)
        for put in puts
        if put.completed is not None or put.element in seen
    }
    for take in takes:
        life = None if take.element is None else lives.get(take.element)
        if life is not None:
            life.taken_from = min(life.taken_from, take.invoked)
            if take.completed is not None:
                life.taken_until = min(life.taken_until, take.completed)
                life.put_until = min(life.put_until, take.completed)
    return lives


def _check_elements(
    puts: Sequence[Put], takes: Sequence[Take], left: Sequence[bytes] | None, lives: dict[bytes, _Life]
) -> Iterator[QueueViolation]:
    begun = {put.element: put.invoked for put in puts}
    taken: set[bytes] = set()
    maybe_taken = {take.element for take in takes if take.completed is None}
    for take in takes:
        if take.element is None or take.completed is None:
            continue
        if begun.get(take.element, take.completed + 1) > take.completed:
            yield QueueViolation("fresh", (take.element,), f"{take.element!r} was taken before anybody had put it.")
        if take.element in taken:
            yield QueueViolation("repeated", (take.element,), f"{take.element!r} was taken twice.")
        taken.add(take.element)
    if left is None:
        return
    for number, element in enumerate(left):
        if element not in begun:
            yield QueueViolation("fresh", (element,), f"{element!r} was left, and nobody had put it.")
        if element in taken or element in left[:number]:
            yield QueueViolation("repeated", (element,), f"{element!r} was left, though it was taken, or left, before.")
    lost = tuple(sorted(lives.keys() - taken - maybe_taken - set(left)))
    if lost:
        yield QueueViolation("lost", lost, f"{list(lost)} were put, and neither taken nor left.")


def _check_order(lives: dict[bytes, _Life], left: Sequence[bytes]) -> Iterator[QueueViolation]:
    """Nothing is taken before all that surely was put before it is, or may have been."""
    in_order = sorted(lives.values(), key=lambda life: life.put_until)
    times = [life.put_until for life in in_order]
    latest = list(accumulate(in_order, _longer_there))
    for life in lives.values():
        count = bisect_left(times, life.put_from)
        if count and life.taken_until < latest[count - 1].taken_from:
            earlier = latest[count - 1]
            sentence = f"{life.element!r} was taken before {earlier.element!r}, which had been put before it."
            yield QueueViolation("order", (earlier.element, life.element), sentence)
    latest_put: _Life | None = None
    for element in left:
        life_left = lives.get(element)
        if life_left is None:
            continue
        if latest_put is not None and life_left.put_until < latest_put.put_from:
            sentence = f"{latest_put.element!r} was left before {element!r}, which had been put before it."
            yield QueueViolation("order", (element, latest_put.element), sentence)
        if latest_put is None or life_left.put_from > latest_put.put_from:
            latest_put = life_left


def _longer_there(one: _Life, other: _Life) -> _Life:
    return other if other.taken_from > one.taken_from else one


def _check_empty(lives: dict[bytes, _Life], takes: Sequence[Take]) -> Iterator[QueueViolation]:
    """At some instant of a call that found nothing, nothing was surely in the queue."""
    starts: list[float] = []
    ends: list[float] = []
    for life in sorted(lives.values(), key=lambda life: life.put_until):
        if life.taken_from <= life.put_until:
            continue
        # Between the instants of two elements that touch there may have been nothing: the one goes, the other comes.
        if ends and life.put_until < ends[-1]:
            ends[-1] = max(ends[-1], life.taken_from)
        else:
            starts.append(life.put_until)
            ends.append(life.taken_from)
    for take in takes:
        if take.element is not None or take.completed is None:
            continue
        place = bisect_right(starts, take.invoked) - 1
        if place >= 0 and starts[place] < take.invoked and take.completed < ends[place]:
            sentence = (
                f"A call from {take.invoked} to {take.completed} ns found the queue empty, which it never was then."
            )
            yield QueueViolation("empty", (), sentence)
