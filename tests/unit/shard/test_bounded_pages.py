"""A page is a bounded piece of work, and right wherever its parts end."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shoal.protocol.messages import Delete, Put
from shoal.shardmap import MicroshardRange
from shoal_chaos.simulation.world.short_pieces import ShortPieces
from shoal_server.shard import merging
from shoal_server.shard.merging import HIDDEN_ROWS, READ_BYTES_FACTOR, MergedScan
from shoal_server.shard.pages import last_before
from shoal_server.storage.engine import Family, Piece, Reader
from shoal_server.storage.layout import data_prefix, value_header
from shoal_server.storage.memory import MemoryEngine

KIB = 1024
MIB = 1024 * KIB
EVERYWHERE = (MicroshardRange(0, 8),)


class ChoppyEngine(MemoryEngine):
    """Ends pieces anywhere."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    def reader(self, family: Family, *, fill_cache: bool = True) -> Reader:
        return ShortPieces(super().reader(family, fill_cache=fill_cache), self._random)


KEY = st.binary(min_size=1, max_size=3).map(lambda key: bytes(byte % 3 for byte in key))
BOUND = st.just(b"") | KEY


@given(st.lists(st.binary(min_size=1, max_size=6), min_size=2, max_size=30, unique=True))
def test_where_a_page_goes_on_is_behind_what_was_read_and_stays_short(places: list[bytes]) -> None:
    """As where a page passes over one gap after another, and comes to a row in none of them."""
    after = b""
    for place in sorted(places):
        if place <= after + b"\0":
            continue
        found = last_before(place, after)
        assert after < found < place or found + b"\0" == place
        assert len(found) <= 1 + max(len(place), len(after))
        after = found
    assert len(after) <= 6 + len(places)


def test_a_page_over_many_gaps_names_a_place_no_longer_than_keys() -> None:
    after = b""
    for number in range(1_000):
        after = last_before(b"%064d" % (number + 1), after)
    assert len(after) == 65


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(KEY, st.tuples(st.integers(0, 5), st.booleans()), max_size=25),
    BOUND,
    BOUND,
    st.integers(1, 6),
    st.booleans(),
    st.integers(0, 1 << 30),
)
def test_pages_have_every_row_once_in_order_wherever_their_pieces_end(
    rows: dict[bytes, tuple[int, bool]], start: bytes, end: bytes, max_rows: int, reverse: bool, seed: int
) -> None:
    random = Random(seed)
    engine = ChoppyEngine(random)
    batch = engine.batch()
    prefixes = [data_prefix(1, microshard, 9) for microshard in range(6)]
    for key, (microshard, hidden) in rows.items():
        batch.put(prefixes[microshard] + key, value_header(7, 50 if hidden else 0) + key, engine.data)
    batch.put(data_prefix(1, 6, 9) + b"k", value_header(7) + b"of another shard", engine.data)
    engine.write(batch)
    expected = sorted(
        (key for key, (_, hidden) in rows.items() if not hidden and start <= key and (not end or key < end)),
        reverse=reverse,
    )
    found: list[bytes] = []
    for _ in range(2000):
        scan = MergedScan(
            engine.reader(engine.data),
            prefixes,
            start,
            end,
            reverse=reverse,
            keys_only=False,
            max_rows=max_rows,
            max_bytes=random.choice([1, 100, MIB]),
            now=100,
        )
        while (page := scan.advance(random.choice([1, 50, 1000]))) is None:
            pass
        assert page.values == page.keys
        assert page.seqs == [7] * len(page.keys)
        assert len(page.keys) <= max_rows
        found += page.keys
        if page.resume is None:
            break
        if reverse:
            assert page.resume != b""
            assert not end or page.resume < end, "each one comes further"
            end = page.resume
        else:
            assert page.resume > start, "each one comes further"
            start = page.resume
    else:
        raise AssertionError("pages without end")
    assert found == expected


class CountingReader:
    """Counts what is read."""

    def __init__(self, reader: Reader, counted: CountingEngine) -> None:
        self._reader = reader
        self._counted = counted

    def read(self, start: bytes, end: bytes, max_rows: int, max_bytes: int, **kinds: bool) -> Piece:
        piece = self._reader.read(start, end, max_rows, max_bytes, **kinds)
        self._counted.seeks += 1
        self._counted.rows += len(piece.rows)
        self._counted.bytes += piece.size
        return piece

    def heads(self, spans: Sequence[tuple[bytes, bytes]], *, reverse: bool = False) -> list[bytes | Piece | None]:
        self._counted.seeks += len(spans)
        return self._reader.heads(spans, reverse=reverse)

    def few_keys(self, spans: Sequence[tuple[bytes, bytes]], max_keys: int) -> list[list[bytes] | None]:
        self._counted.seeks += len(spans)
        return self._reader.few_keys(spans, max_keys)

    def close(self) -> None:
        self._reader.close()


class CountingEngine(MemoryEngine):
    """Counts places looked for, rows and bytes read, and readers made."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self.readers = self.seeks = self.rows = self.bytes = 0

    def reader(self, family: Family, *, fill_cache: bool = True) -> Reader:
        self.readers += 1
        return CountingReader(super().reader(family, fill_cache=fill_cache), self)

    def scan(self, family: Family, start: bytes, end: bytes) -> Any:
        self.readers += 1
        return super().scan(family, start, end)


@pytest.fixture
def counted(make_replica: Callable[..., Any]) -> tuple[Any, CountingEngine]:
    """A replica, and what its engine has counted."""
    engine = CountingEngine()
    return make_replica(engine), engine


def scan(replica: Any, **wanted: Any) -> Any:
    given = {"reverse": False, "keys_only": False, "max_rows": 10, "max_bytes": MIB, "now": replica.now}
    return replica.machine.pages.begin_scan(EVERYWHERE, b"", b"", **{**given, **wanted}).whole()


@pytest.mark.parametrize("reverse", [False, True])
def test_a_short_page_over_many_microshards_looks_once_at_each_with_one_reader(
    counted: tuple[Any, CountingEngine], reverse: bool
) -> None:
    """An iterator was made for each of 1,024 microshards, and each page."""
    replica, engine = counted
    replica.write(*(Put(b"k%04d" % number, bytes(KIB)) for number in range(400)))
    engine.reset()
    page = scan(replica, max_rows=2, reverse=reverse)
    assert len(page.keys) == 2
    assert engine.readers == 1
    assert engine.seeks <= 8 + 3
    assert engine.rows <= 12, "of what comes behind, it is looked where it is and no more"
    work = page.work
    assert (work.rows, work.bytes) == (engine.rows, engine.bytes)
    assert engine.seeks <= work.seeks <= engine.seeks + 1
    assert work.us > 0


def test_a_page_reads_about_as_many_rows_as_it_gives(counted: tuple[Any, CountingEngine]) -> None:
    replica, engine = counted
    replica.write(*(Put(b"k%04d" % number, b"v") for number in range(2000)))
    engine.reset()
    assert len(scan(replica, max_rows=1000).keys) == 1000
    assert engine.rows <= 2 * 1000
    assert engine.seeks <= 5 * 8


@pytest.mark.parametrize("keys_only", [False, True])
def test_large_values_are_not_read_in_vain(counted: tuple[Any, CountingEngine], keys_only: bool) -> None:
    """Where each microshard has a value of a mebibyte, a page of 1 MiB has read as many of those as there were microshards."""
    replica, engine = counted
    for number in range(64):
        replica.write(Put(b"k%04d" % number, bytes(64 * KIB)))
    engine.reset()
    page = scan(replica, max_rows=1000, max_bytes=256 * KIB, keys_only=keys_only)
    assert 1 <= len(page.keys) < 64
    assert page.resume is not None
    assert engine.bytes <= (READ_BYTES_FACTOR + 1) * 256 * KIB + 64 * KIB


def test_hidden_rows_end_a_page_of_either_kind(counted: tuple[Any, CountingEngine]) -> None:
    replica, engine = counted
    for first in range(0, 6 * HIDDEN_ROWS, 512):
        replica.write(*(Put(b"k%06d" % number, b"v", 1000) for number in range(first, first + 512)))
    replica.now += 1000
    engine.reset()
    page = scan(replica, max_rows=5)
    assert page.keys == []
    assert page.resume is not None
    assert engine.rows <= 4 * HIDDEN_ROWS
    engine.reset()
    found = replica.machine.pages.read_page(EVERYWHERE, b"", 5, MIB, replica.now)
    assert (found.keys, found.resume is None) == ([], False)
    assert engine.rows <= 2 * HIDDEN_ROWS


def test_a_page_pauses_and_goes_on_with_what_was_there_when_it_began(counted: tuple[Any, CountingEngine]) -> None:
    replica, _ = counted
    replica.write(*(Put(b"k%04d" % number, b"before") for number in range(500)))
    begun = replica.machine.pages.begin_scan(
        EVERYWHERE, b"", b"", reverse=False, keys_only=False, max_rows=1000, max_bytes=MIB, now=replica.now
    )
    pauses = 0
    while (page := begun.advance(100)) is None:
        pauses += 1
        replica.write(Put(b"k%04d" % pauses, b"after"), Delete(b"k%04d" % (499 - pauses)), Put(b"a%d" % pauses, b"new"))
    assert pauses > 5
    assert page.keys == [b"k%04d" % number for number in range(500)]
    assert set(page.values) == {b"before"}


def test_no_piece_of_a_page_is_more_work_than_it_is_told(counted: tuple[Any, CountingEngine]) -> None:
    replica, _ = counted
    replica.write(*(Put(b"k%04d" % number, b"v") for number in range(3000)))
    begun = replica.machine.pages.begin_scan(
        EVERYWHERE, b"", b"", reverse=False, keys_only=False, max_rows=3000, max_bytes=MIB, now=replica.now
    )
    before, most = 0, 0
    while begun.advance(500) is None:
        most, before = max(most, begun.work.us - before), begun.work.us
    assert most < 500 + 2 * (3000 // 8 + 2) * 2 + 10, "and what one source gives at once"


@pytest.mark.parametrize("reverse", [False, True])
def test_long_ends_of_a_range_count_in_each_microshard(counted: tuple[Any, CountingEngine], reverse: bool) -> None:
    replica, _ = counted
    begun = replica.machine.pages.begin_scan(
        EVERYWHERE, bytes(60_000), b"\xff" * 60_000, reverse=reverse, keys_only=False, max_rows=1, max_bytes=MIB, now=0
    )
    begun.whole()
    assert begun.work.us >= 8 * 120_000 >> 12


def test_no_more_ends_are_put_together_at_once_than_there_is_room_for(
    counted: tuple[Any, CountingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, _ = counted
    monkeypatch.setattr(merging, "ENDS_BYTES", 20_000)
    begun = replica.machine.pages.begin_scan(
        EVERYWHERE, bytes(5_000), b"\xff" * 4_000, reverse=False, keys_only=False, max_rows=1, max_bytes=MIB, now=0
    )
    assert begun.advance(1) is None
    assert begun.work.seeks == 2


def test_the_bounds_fit_together() -> None:
    assert merging.PIECE_US < 20_000
    assert merging.HEADS * 6 < merging.PIECE_US


@pytest.mark.parametrize("reverse", [False, True])
def test_a_page_over_very_many_microshards_is_begun_in_pieces_and_holds_no_bound_of_each(reverse: bool) -> None:
    """Four scans over 65,536 microshards, between bounds of 4 KiB, took 2.2 GiB and five seconds before a row was read."""
    engine = MemoryEngine()
    prefixes = [data_prefix(1, microshard, 1) for microshard in range(16_384)]
    batch = engine.batch()
    for prefix in prefixes[::64]:
        batch.put(prefix + b"k", value_header(1, 0) + b"v", engine.data)
    engine.write(batch)
    tracemalloc.start()
    scan = MergedScan(
        engine.reader(engine.data),
        prefixes,
        b"a" * 4096,
        b"z" * 4096,
        reverse=reverse,
        keys_only=False,
        max_rows=10,
        max_bytes=MIB,
        now=0,
    )
    pieces = 1
    while (page := scan.advance()) is None:
        pieces += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert page.keys == [b"k"] * 10
    assert pieces > 10
    assert peak < 8 * MIB
    assert scan.size < 2 * MIB


@pytest.mark.parametrize(("microshards", "rows", "size"), [(128, 100, 1000), (128, 30, 16_000), (4, 20, 100_000)])
@pytest.mark.parametrize("keys_only", [False, True])
def test_a_page_in_the_making_says_what_it_has_in_memory(
    microshards: int, rows: int, size: int, keys_only: bool
) -> None:
    engine = MemoryEngine()
    prefixes = [data_prefix(1, microshard, 1) for microshard in range(microshards)]
    batch = engine.batch()
    for prefix in prefixes:
        for row in range(rows):
            batch.put(prefix + b"%06d" % row, value_header(1, 0) + bytes(size), engine.data)
    engine.write(batch)
    tracemalloc.start()
    scan = MergedScan(
        engine.reader(engine.data),
        prefixes,
        b"",
        b"",
        reverse=False,
        keys_only=keys_only,
        max_rows=4096,
        max_bytes=MIB,
        now=0,
    )
    empty, _ = tracemalloc.get_traced_memory()
    while scan.advance(1000) is None:
        held = tracemalloc.get_traced_memory()[0] - empty
        assert held - MIB // 16 <= scan.size <= 2.5 * held + MIB // 16
    # What the last piece has let go of is known without looking at it.
    assert scan._held == sum(source.held for source in scan._sources.values())
    tracemalloc.stop()
