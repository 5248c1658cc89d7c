"""What scans say: about the order of keys, and about each key, there or missing."""

from __future__ import annotations

import pytest
from shoal_chaos.checkers.linearizability import Found, RegisterOperation
from shoal_chaos.checkers.scans import Scan, find_violations, reads_of

ROWS = [(b"a", b"1"), (b"c", b"3")]


def scan(
    rows: list[tuple[bytes, bytes]], *, limit: int | None = None, reverse: bool = False, keys_only: bool = False
) -> Scan:
    return Scan(b"a", b"f", limit, reverse, keys_only, rows, 0.0, 1.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (scan(ROWS[::-1]), r"returned b'c' and then b'a'"),
        (scan(ROWS, reverse=True), r"from the end, returned b'a' and then b'c'"),
        (scan([ROWS[0], ROWS[0]]), r"returned b'a' and then b'a'"),
        (scan([(b"f", b"")]), r"returned b'f'"),
        (scan(ROWS, limit=1), r"returned 2 rows"),
    ],
)
def test_keys_out_of_order_or_range_are_found(wrong: Scan, said: str) -> None:
    (found,) = find_violations(wrong)
    assert said in found


def test_keys_in_order_are_fine() -> None:
    assert list(find_violations(scan(ROWS, limit=2))) == []
    assert list(find_violations(scan(ROWS[::-1], reverse=True))) == []


def seen(scan: Scan) -> dict[bytes, RegisterOperation]:
    return dict(reads_of(scan, [b"a", b"b", b"c", b"d", b"f"]))


def test_a_scan_reads_every_key_of_its_range() -> None:
    reads = seen(scan(ROWS))
    assert {key: read.value for key, read in reads.items()} == {b"a": b"1", b"b": None, b"c": b"3", b"d": None}
    assert all((read.is_write, read.began, read.ended) == (False, 0.0, 1.0) for read in reads.values())


def test_a_limit_cuts_off_what_the_scan_says() -> None:
    assert seen(scan(ROWS, limit=2)).keys() == {b"a", b"b", b"c"}
    assert seen(scan(ROWS[::-1], limit=2, reverse=True)).keys() == {b"a", b"b", b"c", b"d"}
    assert seen(scan([(b"c", b"3")], limit=1, reverse=True)).keys() == {b"c", b"d"}
    assert seen(scan(ROWS, limit=3)).keys() == {b"a", b"b", b"c", b"d"}


def test_keys_without_values_say_that_something_was_there() -> None:
    reads = seen(scan([(b"a", b"")], keys_only=True))
    assert reads[b"a"].when == Found(None, equal=False)
    assert (reads[b"b"].when, reads[b"b"].value) == (None, None)


def test_a_key_that_nobody_wrote_is_told_too() -> None:
    assert seen(scan([(b"e", b"5")]))[b"e"].value == b"5"
