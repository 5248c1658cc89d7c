"""Is every element that was added to a set there from then on, once, and no other?

The rules are those of the set tests of Kingsbury's Jepsen (2013 and later). Nothing is removed, so what an addition or a
read has once made known is in every read that is invoked later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Addition:
    """An element was added, from `invoked` to `completed` in nanoseconds (None: it may have been, and may yet be)."""

    element: bytes
    invoked: int
    completed: int | None


@dataclass(frozen=True, slots=True)
class SetRead:
    """Everything that a read of the whole set returned, from `invoked` to `completed` in nanoseconds."""

    elements: Sequence[bytes]
    invoked: int
    completed: int


@dataclass(frozen=True, slots=True)
class SetViolation:
    """lost: missing from a read, and from all that were invoked later; stale: missing, though a later one has it."""

    kind: Literal["lost", "stale", "twice", "ghost"]
    read: SetRead
    elements: tuple[bytes, ...]
    sentence: str


def find_violations(additions: Iterable[Addition], reads: Iterable[SetRead]) -> list[SetViolation]:
    """Return what is wrong with each read, by the time they were invoked.

    A read is after another call if it was invoked, in nanoseconds, later than that completed. An element that nobody
    added, or was only going to add when the read had completed, is a ghost.

    Args:
        additions: all that were acknowledged, or may have been done; each element at most once.
    """
    begun: dict[bytes, int] = {}
    known_from: dict[bytes, int] = {}
    for addition in additions:
        begun[addition.element] = addition.invoked
        if addition.completed is not None:
            known_from[addition.element] = addition.completed
    in_order = sorted(reads, key=lambda read: read.invoked)
    last_seen: dict[bytes, int] = {}
    for read in in_order:
        for element in set(read.elements):
            known_from[element] = min(read.completed, known_from.get(element, read.completed))
            last_seen[element] = read.invoked
    return [found for read in in_order for found in _check(read, begun, known_from, last_seen)]


def _check(
    read: SetRead, begun: dict[bytes, int], known_from: dict[bytes, int], last_seen: dict[bytes, int]
) -> Iterator[SetViolation]:
    there = Counter(read.elements)
    twice = [element for element, count in there.items() if count > 1]
    ghosts = [element for element in there if begun.get(element, read.completed + 1) > read.completed]
    missing = [element for element, since in known_from.items() if since < read.invoked and element not in there]
    stale = [element for element in missing if last_seen.get(element, -1) > read.invoked]
    lost = [element for element in missing if last_seen.get(element, -1) <= read.invoked]
    kinds: tuple[tuple[Literal["lost", "stale", "twice", "ghost"], list[bytes], str], ...] = (
        ("lost", lost, "does not show {}, which had been acknowledged or seen before, and which nobody saw again"),
        ("stale", stale, "does not show {}, which had been acknowledged or seen before"),
        ("twice", twice, "shows {} more than once"),
        ("ghost", ghosts, "shows {}, which nobody had added yet"),
    )
    for kind, elements, what in kinds:
        if elements:
            some = ", ".join(repr(element) for element in sorted(elements)[:SHOWN])
            more = f" and {len(elements) - SHOWN} more" if len(elements) > SHOWN else ""
            sentence = f"A read of the set invoked at {read.invoked} ns {what.format(some + more)}."
            yield SetViolation(kind, read, tuple(sorted(elements)), sentence)
