"""Counters: exact, whoever counts, and within 64 bits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import shoal

LARGEST, SMALLEST = 2**63 - 1, -(2**63)


def test_a_counter_begins_at_zero_and_goes_both_ways(db: shoal.Client, ns: str) -> None:
    assert [db.increment(f"{ns}-n"), db.increment(f"{ns}-n", 10), db.increment(f"{ns}-n", -20)] == [1, 11, -9]
    assert db.increment(f"{ns}-n", 0) == -9
    assert db.get(f"{ns}-n") == b"-9"


def test_concurrent_increments_are_all_counted_and_all_different(db: shoal.Client, ns: str) -> None:
    with ThreadPoolExecutor(16) as threads:
        sums = list(threads.map(lambda _: db.increment(f"{ns}-n"), range(400)))
    assert sorted(sums) == list(range(1, 401))
    assert db.get(f"{ns}-n") == b"400"


def test_many_counters_in_one_batch_are_exact(db: shoal.Client, ns: str) -> None:
    pipeline = db.pipeline()
    for number in range(1000):
        pipeline.increment(f"{ns}-{number % 10}", number)
    results = pipeline.execute()
    assert len(results) == 1000
    assert [int(value or 0) for value in db.get_many([f"{ns}-{digit}" for digit in range(10)])] == [
        sum(range(digit, 1000, 10)) for digit in range(10)
    ]


@pytest.mark.parametrize("value", ["", "x", "1.5", " 1", "1 ", "+1", "1_0", "0x1", "-", "\u0661", "9" * 30, str(2**63)])
def test_what_is_no_integer_is_refused_and_left_alone(db: shoal.Client, ns: str, value: str) -> None:
    db.put(f"{ns}-n", value)
    with pytest.raises(shoal.InvalidArgument, match="no decimal integer of 64 bits") as caught:
        db.increment(f"{ns}-n")
    assert not caught.value.maybe_applied
    assert db.get(f"{ns}-n") == value.encode()


@pytest.mark.parametrize(("value", "by"), [(LARGEST, 1), (SMALLEST, -1), (1, LARGEST), (-1, SMALLEST)])
def test_a_sum_beyond_64_bits_is_refused_and_nothing_wraps_around(
    db: shoal.Client, ns: str, value: int, by: int
) -> None:
    db.put(f"{ns}-n", str(value))
    with pytest.raises(shoal.InvalidArgument, match="does not fit into 64 bits"):
        db.increment(f"{ns}-n", by)
    assert db.get(f"{ns}-n") == b"%d" % value


def test_the_ends_of_64_bits_can_be_reached(db: shoal.Client, ns: str) -> None:
    assert db.increment(f"{ns}-n", LARGEST) == LARGEST
    assert db.increment(f"{ns}-n", SMALLEST) == -1
    assert db.increment(f"{ns}-m", SMALLEST) == SMALLEST
