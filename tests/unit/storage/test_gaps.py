"""The way over removed rows: it skips no row, comes further each time, and passes no more of them at once than it may."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from shoal_server.storage.gaps import FEW, MANY, TRY_COSTS, Gap, Tried, below, beyond, halfway

BUDGET = 8 * MANY


class Rows:
    """Rows and removed rows, as an engine has them that gives up after so many removed ones."""

    def __init__(self, live: set[bytes], removed: set[bytes]) -> None:
        self.live = sorted(live)
        self.keys = sorted(live | removed)
        self._live = live

    def look(self, start: bytes, end: bytes, limit: int) -> tuple[bytes | Tried, int]:
        assert start < end
        passed = 0
        for at in range(bisect_left(self.keys, start), len(self.keys)):
            key = self.keys[at]
            if key >= end:
                break
            if key in self._live:
                return key, passed
            if passed == limit:
                return Tried.TOO_MUCH, passed
            passed += 1
        return Tried.NOTHING, passed

    def between(self, start: bytes, end: bytes) -> list[bytes]:
        return self.live[bisect_left(self.live, start) : bisect_left(self.live, end)]


def walk(rows: Rows, start: bytes, end: bytes, *, reverse: bool) -> list[bytes]:
    """Read [start, end) as a reader does that only has gaps to go by; return the rows met."""
    found: list[bytes] = []
    while start < end:
        gap = Gap(rows.look, BUDGET)
        place = gap.backwards(start, end) if reverse else gap.forwards(start, end)
        assert start <= place <= end
        assert gap.passed + TRY_COSTS * gap.tries < BUDGET + MANY + TRY_COSTS
        if reverse:
            assert rows.between(place, end) == []
            if place == start:
                break
            if place[-1:] == b"\0" and place[:-1] in rows.between(start, end):
                found.append(place[:-1])
                place = place[:-1]
            assert place < end, "each one comes further"
            end = place
        else:
            assert rows.between(start, place) == []
            if place in rows.between(place, place + b"\0") and place < end:
                found.append(place)
                place += b"\0"
            assert place > start, "each one comes further"
            start = place
    return found


KEY = st.binary(max_size=4).map(lambda key: bytes(byte % 3 for byte in key)) | st.binary(max_size=12)


@given(st.sets(KEY, max_size=30), st.sets(KEY, max_size=200), KEY, KEY, st.booleans())
def test_every_row_is_met_whatever_lies_between(
    live: set[bytes], removed: set[bytes], one: bytes, other: bytes, reverse: bool
) -> None:
    start, end = sorted((one, other))
    rows = Rows(live, removed - live)
    found = walk(rows, start, end, reverse=reverse)
    assert found == rows.between(start, end)[:: -1 if reverse else 1]


SHAPES = {
    "numbers": [b"k%09d" % number for number in range(60_000)],
    "behind a long beginning": [b"tenant-17/users/by-name/%09d" % number for number in range(60_000)],
    "behind a very long beginning": [b"x" * 300 + b"%06d" % number for number in range(60_000)],
    "spread evenly": [bytes.fromhex("%016x" % (number * 0x9E3779B97F4A7C15 % (1 << 64))) for number in range(60_000)],
    "all bytes": [bytes((first, second, third)) for first in range(60) for second in range(32) for third in range(32)],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reverse", [False, True])
def test_to_pass_many_removed_rows_takes_few_steps_of_little_work_each(shape: str, reverse: bool) -> None:
    keys = SHAPES[shape]
    rows = Rows(set(), set(keys))
    tries = passed = steps = 0
    start, end = b"", b"\xff\xff"
    while start < end:
        gap = Gap(rows.look, BUDGET)
        place = gap.backwards(start, end) if reverse else gap.forwards(start, end)
        assert (place < end) if reverse else (place > start)
        assert gap.passed + TRY_COSTS * gap.tries < BUDGET + MANY + TRY_COSTS
        tries += gap.tries
        passed += gap.passed
        steps += 1
        if reverse:
            end = place
        else:
            start = place
    # Where keys have hundreds of bytes in common, to find these takes a try for each bit.
    long = 10 if shape == "behind a very long beginning" else 1
    assert passed < 5 * long * len(keys), "most of it is what has to be passed anyway"
    assert steps < 60 * long
    assert tries < 1500 * long


@given(st.binary(max_size=20), st.binary(max_size=20))
@example(b"a", b"a\0")
@example(b"a", b"a\0\0")
@example(b"", b"\0")
@example(b"\xff" * 9, b"\xff" * 10)
@example(b"k" + b"\xff" * 20, b"l")
def test_halfway_is_between_and_none_only_where_nothing_is(one: bytes, other: bytes) -> None:
    low, high = sorted((one, other))
    if low == high:
        return
    between = halfway(low, high)
    if between is None:
        assert high == low + b"\0"
    else:
        assert low < between < high
        assert len(between) <= len(low) + 1 or len(between) <= len(high)


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_beyond_and_below_are_further(one: bytes, other: bytes) -> None:
    low, high = sorted((one, other))
    if low < high:
        assert beyond(low, high) > high
        assert below(low, high) < low or low == b""


def test_the_figures_fit_together() -> None:
    assert FEW < MANY < BUDGET
