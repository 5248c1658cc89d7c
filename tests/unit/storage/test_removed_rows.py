"""RocksDB passes over rows that were removed one by one: no piece of a reader's work is more for that than it may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep

import pytest
from rocksdict import RdictIter
from shoal_server.storage import rocks_reader
from shoal_server.storage.engine import Piece
from shoal_server.storage.gaps import TRY_COSTS
from shoal_server.storage.rocks import RocksEngine
from shoal_server.storage.rocks_reader import MAX_PASSED, MAX_PASSED_IN_A_GAP, RocksReader
from shoal_server.storage.rocks_tidying import CLEARED_IN_MEMORY

MIB = 1 << 20
ROWS = 60_000


def key_of(number: int) -> bytes:
    return b"queue/%09d" % number


@pytest.fixture(params=["in memory", "in tables"])
def removed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RocksEngine]:
    """A database with a row at either end of many that were removed."""
    engine = RocksEngine(tmp_path, block_cache_bytes=MIB, write_buffer_bytes=64 * MIB)
    for action in ("put", "delete"):
        for first in range(0, ROWS, 2000):
            batch = engine.batch()
            for number in range(first, first + 2000):
                if action == "put":
                    batch.put(key_of(number), b"v", engine.data)
                else:
                    batch.delete(key_of(number), engine.data)
            engine.write_unlogged(batch)
    batch = engine.batch()
    batch.put(b"a", b"first", engine.data)
    batch.put(b"z", b"last", engine.data)
    engine.write_unlogged(batch)
    if request.param == "in tables":
        engine._by_name["data"].set_options({"disable_auto_compactions": "true"})
        engine.flush()
    yield engine
    engine.close()


def pieces(engine: RocksEngine, *, reverse: bool, meanwhile: Callable[[], None] = lambda: None) -> list[Piece]:
    reader, start, end = engine.reader(engine.data), b"", b"~"
    read: list[Piece] = []
    while True:
        piece = reader.read(start, end, 10, MIB, reverse=reverse)
        read.append(piece)
        if piece.resume is None:
            reader.close()
            return read
        if reverse:
            assert piece.resume < end
            end = piece.resume
        else:
            assert piece.resume > start
            start = piece.resume
        meanwhile()


@pytest.mark.parametrize("reverse", [False, True])
def test_what_was_removed_is_passed_in_pieces_of_which_each_is_bounded(removed: RocksEngine, reverse: bool) -> None:
    """One step from a row to the next over 200,000 took 40 ms, backwards half a second."""
    read = pieces(removed, reverse=reverse)
    rows = [row for piece in read for row in piece.rows]
    expected = [(b"a", b"first"), (b"z", b"last")]
    assert rows == (expected[::-1] if reverse else expected)
    assert 3 <= len(read) <= 80
    assert all(piece.passed + TRY_COSTS * piece.seeks < MAX_PASSED_IN_A_GAP + 2 * MAX_PASSED for piece in read)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_reader_that_has_paused_sees_what_was_there_when_it_was_made(removed: RocksEngine, reverse: bool) -> None:
    """What looks for a way over a gap sees what is there now: it does not go by that once something else is."""

    def remove_all() -> None:
        batch = removed.batch()
        batch.delete(b"a", removed.data)
        batch.delete(b"z", removed.data)
        batch.put(key_of(7), b"later", removed.data)
        removed.write_unlogged(batch)

    read = pieces(removed, reverse=reverse, meanwhile=remove_all)
    expected = [(b"a", b"first"), (b"z", b"last")]
    assert [row for piece in read for row in piece.rows] == (expected[::-1] if reverse else expected)


def test_heads_are_found_where_removed_rows_are_in_the_way(removed: RocksEngine) -> None:
    reader = removed.reader(removed.data)
    spans = [(b"", b"b"), (b"b", b"q"), (b"queue/", b"r"), (b"r", b"~"), (b"zz", b"~")]
    for reverse in (False, True):
        first, before, gap, last, behind = reader.heads(spans, reverse=reverse)
        assert (first, last, behind) == (b"a", b"z", None)
        # It has passed removed rows to see that.
        assert before is None or before == Piece([], None, 0, before.seeks, before.passed)
        assert isinstance(gap, Piece)
        assert gap.rows == []
        assert gap.resume is not None
        assert b"queue/" < gap.resume < b"r"


def test_rows_that_take_long_to_read_end_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = RocksEngine(tmp_path, block_cache_bytes=MIB, write_buffer_bytes=64 * MIB)
    batch = engine.batch()
    for number in range(1000):
        batch.put(key_of(number), b"v", engine.data)
    engine.write(batch)
    time = 0

    class Slow:
        """An iterator of which each step takes a fifth of what a piece may."""

        def __init__(self, iterator: RdictIter) -> None:
            self.seek, self.seek_for_prev, self.status = iterator.seek, iterator.seek_for_prev, iterator.status
            self.key, self.value = iterator.key, iterator.value
            self.next, self.prev = self._slow(iterator.next), self._slow(iterator.prev)

        def _slow(self, step: Callable[[], None]) -> Callable[[], None]:
            def slow() -> None:
                nonlocal time
                time += rocks_reader.PIECE_NS // 5
                step()

            return slow

    monkeypatch.setattr(rocks_reader, "perf_counter_ns", lambda: time)
    iterate = RocksReader._iterate
    monkeypatch.setattr(RocksReader, "_iterate", lambda reader, options: Slow(iterate(reader, options)))
    for reverse in (False, True):
        reader = engine.reader(engine.data)
        piece = reader.read(b"", b"~", 1000, MIB, reverse=reverse)
        assert 5 < len(piece.rows) <= 5 + 2 * rocks_reader._CLOCK_ROWS
        assert piece.resume is not None
        assert piece.passed > rocks_reader.PIECE_NS // rocks_reader.PASSED_NS, "which is taken for removed rows between"
        reader.close()
    engine.close()


def test_marks_of_removed_rows_are_compacted_away_when_they_were_in_the_way(tmp_path: Path) -> None:
    """A table that has nothing else is moved down to the last level as it is, where nothing compacts it any more."""
    engine = RocksEngine(tmp_path, block_cache_bytes=MIB, write_buffer_bytes=64 * MIB)
    for action in ("put", "delete"):
        batch = engine.batch()
        for number in range(CLEARED_IN_MEMORY):
            if action == "put":
                batch.put(key_of(number), b"v", engine.data)
            else:
                batch.delete(key_of(number), engine.data)
        engine.write_unlogged(batch)
    put(engine, b"a", b"v")
    while engine.property_number("data", "num-entries-active-mem-table"):
        engine.tidy()
    while "# deletions=0;" not in engine.property_text("data", "aggregated-table-properties"):
        # In a thread of its own: the test's time limit ends it where that does not come.
        engine.tidy()
        sleep(0.01)
    assert list(engine.scan(engine.data, b"", b"~")) == [(b"a", b"v")]
    engine.close()


def test_where_removed_rows_are_in_the_way_nobody_says_quickly_what_is_there(removed: RocksEngine) -> None:
    reader = removed.reader(removed.data)
    assert reader.few_keys([(b"queue", b"queuf"), (b"a", b"b"), (b"z", b"~")], 10) == [None, [b"a"], [b"z"]]
    reader.close()


def test_a_range_is_removed_over_no_more_rows_in_memory_than_it_takes_a_moment_to_pass(tmp_path: Path) -> None:
    """RocksDB goes over them one by one, in one step: 200,000 took 15 ms, backwards 150."""
    engine = RocksEngine(tmp_path, block_cache_bytes=MIB, write_buffer_bytes=64 * MIB)

    def entries() -> int:
        return engine.property_number("data", "num-entries-active-mem-table")

    def fill(rows: int) -> None:
        batch = engine.batch()
        for number in range(rows):
            batch.put(key_of(number), b"v", engine.data)
        engine.write_unlogged(batch)

    def clear() -> None:
        engine.before_clearing()
        batch = engine.batch()
        batch.delete_range(b"queue", b"queuf", engine.data)
        engine.write_unlogged(batch)

    fill(1_000)
    clear()
    assert entries() == 1_001
    fill(CLEARED_IN_MEMORY)
    clear()
    assert entries() == 1
    assert list(engine.scan(engine.data, b"", b"~")) == []
    engine.close()


def test_many_ranges_that_are_removed_are_flushed(removed: RocksEngine) -> None:
    removed.flush()
    for number in range(1_100):
        batch = removed.batch()
        batch.put(b"b", b"%d" % number, removed.data)
        batch.delete_range(b"c%d" % number, b"d", removed.data)
        removed.write_unlogged(batch)
    assert removed.property_number("data", "num-entries-active-mem-table") < 1_100


def test_places_are_found_without_a_look_at_ranges_that_were_removed_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RocksDB went from one to the next of them, as long as it found no row, for each place that was looked for."""
    engine = RocksEngine(tmp_path, block_cache_bytes=MIB, write_buffer_bytes=64 * MIB)
    batch = engine.batch()
    batch.put(b"k500", b"v", engine.data)
    batch.put(b"z", b"v", engine.data)
    for number in range(1000):
        batch.delete_range(b"k%03da" % number, b"k%03db" % number, engine.data)
    engine.write(batch)
    monkeypatch.setattr(rocks_reader, "SLOW_NS", -1)
    reader = engine.reader(engine.data)
    bounds: list[bytes | None] = []
    within = RocksReader._within
    monkeypatch.setattr(RocksReader, "_within", lambda reader, end: (bounds.append(end), within(reader, end))[1])
    spans = [(b"k%03d" % number, b"k%03d~" % number) for number in range(1000)]
    found = reader.heads(spans)
    assert [head for head in found if head is not None] == [b"k500"]
    assert bounds == [end for _, end in spans[1:]]
    assert reader.read(b"k501", b"k9", 1, MIB).rows == []
    assert bounds[999:] == [b"k9"]
    put(engine, b"k502", b"v")
    assert reader.read(b"k501", b"k9", 1, MIB).rows == [], "it sees what was there when it was made"
    assert len(bounds) == 1000
    reader.close()
    engine.close()


def put(engine: RocksEngine, key: bytes, value: bytes) -> None:
    batch = engine.batch()
    batch.put(key, value, engine.data)
    engine.write(batch)
