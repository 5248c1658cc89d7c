"""Scans: every row once and in key order, over all shards, in bounded memory, also while others write."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import shoal

from .conftest import Database

MANY = 50_000
VALUE = b"v" * 100


@pytest.fixture(params=["/", "-"], ids=["in one partition", "over all shards"])
def rows(request: pytest.FixtureRequest, db: shoal.Client, ns: str) -> dict[bytes, bytes]:
    """Rows in key order that are there, and nothing else with their prefix."""
    found = {f"{ns}{request.param}{number:03}".encode(): b"%d" % number for number in range(300)}
    db.put_many(found)
    return found


def prefix_of(rows: dict[bytes, bytes]) -> bytes:
    return next(iter(rows))[:-3]


@pytest.mark.parametrize("page_rows", [1000, 7])
def test_a_prefix_is_scanned_in_key_order_either_way(
    db: shoal.Client, rows: dict[bytes, bytes], page_rows: int
) -> None:
    expected = list(rows.items())
    prefix = prefix_of(rows)
    assert list(db.scan(prefix, page_rows=page_rows)) == expected
    assert list(db.scan(prefix, page_rows=page_rows, reverse=True)) == expected[::-1]
    assert list(db.scan(prefix, page_rows=page_rows, keys_only=True)) == list(rows)
    assert list(db.scan(prefix + b"01", page_rows=page_rows)) == expected[10:20]
    assert list(db.scan(prefix + b"x", page_rows=page_rows)) == []


@pytest.mark.parametrize("reverse", [False, True])
def test_a_range_has_its_start_and_not_its_end(db: shoal.Client, rows: dict[bytes, bytes], reverse: bool) -> None:
    keys = list(rows)
    step = -1 if reverse else 1

    def found(**bounds: bytes) -> list[bytes]:
        return list(db.scan(prefix_of(rows), reverse=reverse, keys_only=True, page_rows=10, **bounds))[::step]

    assert found(start=keys[5]) == keys[5:]
    assert found(end=keys[5]) == keys[:5]
    assert found(start=keys[5], end=keys[60]) == keys[5:60]
    assert found(start=keys[5] + b"\0", end=keys[7] + b"\0") == keys[6:8]
    assert found(start=keys[5], end=keys[5]) == []
    assert found(start=b"", end=b"") == keys
    between = db.scan(start=keys[5], end=keys[60], reverse=reverse, keys_only=True)
    assert list(between)[::step] == keys[5:60]


@pytest.mark.parametrize("limit", [0, 1, 9, 10, 11, 299, 300, 301])
def test_a_limit_is_kept_whatever_the_pages_are(db: shoal.Client, rows: dict[bytes, bytes], limit: int) -> None:
    expected = list(rows.items())
    assert list(db.scan(prefix_of(rows), limit=limit, page_rows=10)) == expected[:limit]
    assert list(db.scan(prefix_of(rows), limit=limit, page_rows=10, reverse=True)) == expected[::-1][:limit]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_cursor_goes_on_in_another_client(database: Database, ns: str, reverse: bool) -> None:
    rows = {f"{ns}{sign}{number:02}".encode(): b"%d" % number for sign in "-/" for number in range(30)}
    expected = sorted(rows.items(), reverse=reverse)
    got: list[tuple[bytes, bytes]] = []
    with shoal.Client(database.url) as first:
        first.put_many(rows)
        cursor = first.scan(ns, reverse=reverse, limit=50).cursor
    while True:
        with shoal.Client(database.url) as other:
            part = other.scan(cursor=cursor, page_rows=4)
            got += [row for _, row in zip(range(17), part, strict=False)]
            if got == expected[:50]:
                break
            cursor = part.cursor
            assert len(got) < 50
    assert got == expected[:50]


def test_a_cursor_at_the_end_stays_there(db: shoal.Client, rows: dict[bytes, bytes]) -> None:
    scan = db.scan(prefix_of(rows))
    assert len(list(scan)) == len(rows)
    db.put(prefix_of(rows) + b"999", "later")
    assert list(db.scan(cursor=scan.cursor)) == []


def test_a_cursor_that_is_none_is_refused(database: Database, rows: dict[bytes, bytes]) -> None:
    db = database.db
    scan = db.scan(prefix_of(rows))
    next(scan)
    cursor = scan.cursor
    for wrong in ("", "garbage", cursor[:-2], cursor[3:], cursor.swapcase(), "ключ"):
        with pytest.raises(shoal.InvalidArgument, match="no cursor"):
            db.scan(cursor=wrong)
    with pytest.raises(shoal.InvalidArgument, match="keys_only"):
        db.scan(cursor=cursor, keys_only=True)
    with pytest.raises(shoal.InvalidArgument, match="keyspace"):
        db.keyspace("orders").scan(cursor=cursor)
    with pytest.raises(shoal.InvalidArgument, match="no cursor"):
        db.scan(cursor=db.session().token())


def test_a_scan_that_is_left_does_no_harm(db: shoal.Client, rows: dict[bytes, bytes]) -> None:
    for _ in range(20):
        next(db.scan(prefix_of(rows), page_rows=3))
    assert len(list(db.scan(prefix_of(rows)))) == len(rows)


def test_a_session_scans_what_it_has_written(db: shoal.Client, rows: dict[bytes, bytes]) -> None:
    for round_ in range(5):
        session = db.session()
        written = dict.fromkeys(rows, b"%d" % round_)
        session.put_many(written)
        assert dict(session.scan(prefix_of(rows), page_rows=40)) == written


def test_an_eventual_scan_finds_what_is_older_than_its_bound(db: shoal.Client, rows: dict[bytes, bytes]) -> None:
    time.sleep(0.06)
    for reverse in (False, True):
        found = db.scan(prefix_of(rows), reverse=reverse, consistency="eventual", max_staleness=0.05, page_rows=40)
        assert dict(found) == rows


@contextmanager
def others_writing(db: shoal.Client, prefix: bytes) -> Iterator[None]:
    """Rows come and go between those that stay, as long as the block runs."""
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            keys = [prefix + b"%03d+%d" % ((number * step) % 300, step) for step in (7, 11, 13)]
            db.put_many(dict.fromkeys(keys, b"passing"))
            db.delete_many(keys[:2])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("reverse", [False, True])
def test_while_others_write_no_row_comes_twice_none_out_of_order_and_none_is_missing(
    db: shoal.Client, rows: dict[bytes, bytes], reverse: bool
) -> None:
    with others_writing(db, prefix_of(rows)):
        for _ in range(8):
            keys = list(db.scan(prefix_of(rows), reverse=reverse, keys_only=True, page_rows=10))
            assert keys == sorted(set(keys), reverse=reverse)
            assert rows.keys() <= set(keys)


@pytest.fixture(scope="module")
def many(database: Database) -> bytes:
    """The prefix of many rows, over all shards."""
    keys = [b"many-%05d" % number for number in range(MANY)]
    for first in range(0, MANY, 10_000):
        database.db.put_many(dict.fromkeys(keys[first : first + 10_000], VALUE))
    return b"many-"


def test_many_rows_are_scanned_in_bounded_memory(db: shoal.Client, many: bytes) -> None:
    count, last = 0, b""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for key, value in db.scan(many, page_rows=200):
            assert key > last
            assert value == VALUE
            last = key
            count += 1
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert count == MANY
    assert peak < 2 << 20, f"{peak} bytes; all rows have {MANY * (len(last) + len(VALUE))}"


def test_the_ends_of_many_rows_are_found_without_reading_them_all(db: shoal.Client, many: bytes) -> None:
    assert list(db.scan(many, limit=2, keys_only=True)) == [b"many-00000", b"many-00001"]
    assert list(db.scan(many, limit=2, keys_only=True, reverse=True)) == [b"many-49999", b"many-49998"]
    assert list(db.scan(start=b"many-12345", limit=1)) == [(b"many-12345", VALUE)]
