"""The way over removed rows that are still on the disk, in bounded steps.

An engine that removes a row writes a mark, and passes over marks one by one until a compaction has taken them away: a
hundred thousand of them between two rows hold up whoever goes from the one to the other. RocksDB gives up after so many as
it is told, and then does not say how far it has come. So ranges are tried: small ones first, and larger ones as long as they
are passed; where one is not, smaller ones. What is passed is known to have no rows.

Keys are taken as fractions, most significant byte first: between any two there are others, of more bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TypeAlias


class Tried(Enum):
    """What came of trying a range, where that is no row."""

    NOTHING = "no row"
    TOO_MUCH = "more removed rows than may be passed at once"


Try: TypeAlias = Callable[[bytes, bytes, int], "tuple[bytes | Tried, int]"]
"""Look for the first row of [start, end), passing over so many removed ones at most: return its key, or what came of it, and
how many were passed, about."""

FEW = 32
MANY = 1024
"""Removed rows that a try may pass: few where a size is looked for, many where it is known."""
TRY_COSTS = 64
"""To try at all costs as much as to pass so many removed rows."""
MAX_TRIES = 512
"""Where nothing at all has been passed after so many, nothing will be."""

_BASE = 257
"""Of keys as numbers: a digit is a byte and one, or 0 where there is none."""
_WINDOW = 8
"""Bytes that are looked at behind what two keys have in common."""


class Gap:
    """Goes over removed rows between `start` and `end`. `tries` and `passed` count what was done."""

    __slots__ = ("_budget", "_try", "passed", "tries")

    def __init__(self, look: Try, max_passed: int) -> None:
        """
        Args:
            max_passed: removed rows; after so many, tries included, it ends where it has come to, but goes on while it has
                not come anywhere, up to `MAX_TRIES`.
        """
        self._try = look
        self._budget = max_passed
        self.tries = 0
        self.passed = 0

    def _look(self, start: bytes, end: bytes, limit: int) -> bytes | Tried:
        found, passed = self._try(start, end, limit)
        self.tries += 1
        self.passed += passed
        self._budget -= passed + TRY_COSTS
        return found

    def forwards(self, start: bytes, end: bytes) -> bytes:
        """Return a place before which, from `start` on, there is no row: that of a row, `end`, one between, or `start`."""
        place = len(start)
        low, high, limit = start, min(behind(start, place), end), FEW
        while self._budget > 0 or (low == start and self.tries < MAX_TRIES):
            found = self._look(low, high, limit)
            if isinstance(found, bytes):
                return found
            if found is Tried.NOTHING:
                if high == end:
                    return end
                if place:
                    place = min(place, len(high)) - 1
                    low, high = high, min(behind(high, place), end)
                else:
                    low, high = high, min(beyond(low, high), end)
                limit = MANY
            else:
                between = halfway(low, high)
                if between is None:
                    return low
                high, limit, place = between, FEW, 0
        return low

    def backwards(self, start: bytes, end: bytes) -> bytes:
        """Return a place from which on, up to `end`, there is no row: right behind a row, or `start`, one between, or `end`."""
        place = len(end)
        floor = start
        low, high, limit = max(before(end, place), start), end, FEW
        while self._budget > 0 or (high == end and self.tries < MAX_TRIES):
            found = self._look(low, high, limit)
            if isinstance(found, bytes):
                # There may be others behind it.
                low = floor = found + b"\0"
                limit, place = FEW, 0
                if low >= high:
                    return high
            elif found is Tried.NOTHING:
                if low == floor:
                    return low
                if place:
                    place = min(place, len(low)) - 1
                    low, high = max(before(low, place), floor), low
                else:
                    low, high = max(below(low, high), floor), low
                limit = MANY
            else:
                between = halfway(low, high)
                if between is None:
                    return high
                low, limit, place = between, FEW, 0
        return high


def behind(key: bytes, place: int) -> bytes:
    """Return the first key behind another that differs from it before `place` bytes; where none does, one far behind all."""
    kept = key[:place].rstrip(b"\xff")
    return kept[:-1] + bytes((kept[-1] + 1,)) if kept else b"\xff" * (len(key) + 1)


def before(key: bytes, place: int) -> bytes:
    """Return a key before another that differs from it before `place` bytes, in the last of them that can be less."""
    kept = key[:place].rstrip(b"\0")
    return kept[:-1] + bytes((kept[-1] - 1,)) if kept else b""


def halfway(low: bytes, high: bytes) -> bytes | None:
    """Return a key about halfway between two; None: there is none, the second follows the first at once."""
    common = _common(low, high)
    size = _WINDOW
    while True:
        first, last = _digits(low, common, size), _digits(high, common, size)
        between = low[:common] + _bytes((first + last) // 2, size)
        if low < between < high:
            # Cut where it is greater: it has no more bytes than `low`, and one.
            return between[: _common(low, between) + 1]
        if common + size > len(low) and common + size > len(high):
            return low + b"\0" if low + b"\0" < high else None
        size *= 2


def beyond(low: bytes, high: bytes) -> bytes:
    """Return a key about twice as far behind `high` as that is behind `low`, where keys go so far."""
    common = _common(low, high)
    while True:
        first, last = _digits(low, common, _WINDOW), _digits(high, common, _WINDOW)
        further = last + 2 * (last - first)
        if further < _BASE**_WINDOW:
            found = high[:common] + _bytes(further, _WINDOW)
            if found > high:
                return found
        if not common:
            return high + b"\xff" * _WINDOW
        common -= 1


def below(low: bytes, high: bytes) -> bytes:
    """Return a key about twice as far before `low` as that is before `high`, b"" where keys do not go so far."""
    common = _common(low, high)
    while True:
        first, last = _digits(low, common, _WINDOW), _digits(high, common, _WINDOW)
        further = first - 2 * (last - first)
        if further > 0:
            found = low[:common] + _bytes(further, _WINDOW)
            if found < low:
                return found
        if not common:
            return b""
        common -= 1


def _common(one: bytes, other: bytes) -> int:
    """Return how many bytes two keys begin with alike."""
    alike, most = 0, min(len(one), len(other))
    while alike < most:
        tried = (alike + most + 1) // 2
        if one[alike:tried] == other[alike:tried]:
            alike = tried
        else:
            most = tried - 1
    return alike


def _digits(key: bytes, start: int, size: int) -> int:
    """Return what follows in a key as a number: a digit for each byte, where one that is not there is less than all others."""
    number = 0
    for byte in key[start : start + size]:
        number = number * _BASE + byte + 1
    return int(number * _BASE ** (size - len(key[start : start + size])))


def _bytes(number: int, size: int) -> bytes:
    """Return the greatest bytes, `size` at most, that are no greater as a number than this one."""
    digits = []
    for _ in range(size):
        number, digit = divmod(number, _BASE)
        digits.append(digit)
    digits.reverse()
    given = digits.index(0) if 0 in digits else size
    return bytes([digit - 1 for digit in digits[:given]])
