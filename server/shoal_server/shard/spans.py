"""Ranges of keys in order: to add to, and to ask what is outside of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Spans:
    """Ranges [start, end): in order, none touching the next, none empty."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return zip(self._starts, self._ends, strict=True)

    def __contains__(self, key: bytes) -> bool:
        at = bisect_right(self._starts, key)
        return at > 0 and key < self._ends[at - 1]

    def add(self, start: bytes, end: bytes) -> None:
        """Add a range, in one with all that it touches."""
        starts, ends = self._starts, self._ends
        if not ends or ends[-1] < start:
            # Most come in order.
            starts.append(start)
            ends.append(end)
            return
        first, behind = bisect_left(ends, start), bisect_right(starts, end)
        if first < behind:
            start, end = min(start, starts[first]), max(end, ends[behind - 1])
        starts[first:behind] = [start]
        ends[first:behind] = [end]

    def copy(self) -> Spans:
        """Return the same ranges, to add others to."""
        copied = Spans()
        copied._starts, copied._ends = list(self._starts), list(self._ends)
        return copied

    def behind(self, key: bytes) -> bytes:
        """Return the first place from `key` on that is in no range."""
        at = bisect_right(self._starts, key)
        return self._ends[at - 1] if at and key < self._ends[at - 1] else key

    def next_start(self, key: bytes, end: bytes) -> bytes:
        """Return where the first range behind `key` begins, `end` where none does before that."""
        at = bisect_right(self._starts, key)
        return min(self._starts[at], end) if at < len(self._starts) else end
