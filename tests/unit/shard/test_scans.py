"""Pages of a scan: in key order, in both directions, each row once, within bounds."""

from __future__ import annotations

from typing import Any

import pytest
from shoal.protocol.messages import Put
from shoal.shardmap import MicroshardRange, one_microshard
from shoal_server.shard.merging import HIDDEN_ROWS

EVERYWHERE = (MicroshardRange(0, 8),)

KEYS = sorted(
    [b"a", b"a\x00", b"a\x00\x00", b"a\xff", b"a\xff\xff", b"\x00", b"\xff", b"\xff\xff", b"b", b"p/1", b"p/2"]
)


@pytest.fixture
def filled(replica: Any) -> Any:
    replica.write(*(Put(key, b"v" + key) for key in KEYS))
    assert len(set(replica.machine.route(KEYS))) > 3, "the keys are spread over microshards"
    return replica


@pytest.mark.parametrize("max_rows", [1, 2, 3, 10, 11, 12])
@pytest.mark.parametrize("reverse", [False, True])
def test_pages_of_any_size_give_every_row_once_in_order(filled: Any, max_rows: int, reverse: bool) -> None:
    pages = filled.pages(reverse=reverse, max_rows=max_rows)
    expected = [(key, b"v" + key) for key in (reversed(KEYS) if reverse else KEYS)]
    assert [row for page in pages for row in page] == expected
    assert all(len(page) == max_rows for page in pages[:-1])
    assert len(pages) == -(-len(KEYS) // max_rows), "no empty page follows a last one that is full"


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (b"", b""),
        (b"a", b"b"),
        (b"a\x00", b"a\xff\xff"),
        (b"a\xff", b""),
        (b"", b"a"),
        (b"q", b"z"),
        (b"b", b"a"),
        (b"a", b"a"),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_range_holds_its_start_and_not_its_end(filled: Any, start: bytes, end: bytes, reverse: bool) -> None:
    expected = [key for key in KEYS if start <= key and (not end or key < end)]
    for max_rows in (1, 100):
        pages = filled.pages(start, end, reverse=reverse, max_rows=max_rows)
        assert [key for page in pages for key, _ in page] == (expected[::-1] if reverse else expected)


def test_a_scan_of_one_microshard_gives_its_rows_alone(filled: Any) -> None:
    [microshard] = filled.machine.route([b"p/1"])
    expected = [key for key in KEYS if filled.machine.route([key]) == [microshard]]
    for reverse in (False, True):
        [page] = filled.pages(ranges=one_microshard(microshard), reverse=reverse)
        assert [key for key, _ in page] == (expected[::-1] if reverse else expected)


def test_keys_only_leaves_the_values_out(filled: Any) -> None:
    page = filled.machine.pages.begin_scan(
        EVERYWHERE, b"", b"", reverse=False, keys_only=True, max_rows=100, max_bytes=1 << 20, now=filled.now
    ).whole()
    assert (page.keys, page.values, page.seqs) == (KEYS, [], [filled.machine.state.seq] * len(KEYS))


def test_a_page_ends_once_it_has_the_bytes_asked_for_and_holds_one_row_at_least(replica: Any) -> None:
    replica.write(*(Put(b"k%d" % number, bytes(1000)) for number in range(6)))
    assert [len(page) for page in replica.pages(max_bytes=1)] == [1] * 6
    assert [len(page) for page in replica.pages(max_bytes=2500)] == [3, 3]
    assert [len(page) for page in replica.pages(max_bytes=2500, keys_only=True)] == [6]


@pytest.mark.parametrize("reverse", [False, True])
def test_many_expired_rows_make_short_pages_and_hide_nothing_behind_them(replica: Any, reverse: bool) -> None:
    hidden = 3 * HIDDEN_ROWS
    replica.write(*(Put(b"k%05d" % number, b"v", 1000) for number in range(hidden)), Put(b"a", b"1"), Put(b"z", b"1"))
    replica.now += 1000
    pages = replica.pages(reverse=reverse, max_rows=1)
    assert [key for page in pages for key, _ in page] == ([b"z", b"a"] if reverse else [b"a", b"z"])
    assert 3 <= len(pages) <= 6


def test_read_page_goes_on_behind_its_cursor_in_microshard_order(filled: Any) -> None:
    found: list[tuple[int, bytes]] = []
    at, after, done = 0, b"", False
    while not done:
        page = filled.machine.pages.read_page((MicroshardRange(at, 8),), after, 2, 1 << 20, filled.now)
        done = page.resume is None
        found += zip(page.microshards, page.keys, strict=True)
        if page.resume is not None:
            assert page.resume > (at, after)
            at, after = page.resume
    assert found == sorted(found)
    assert sorted(key for _, key in found) == KEYS
