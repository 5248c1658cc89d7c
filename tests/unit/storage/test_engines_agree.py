"""Both engines keep the same promises: batches, order, ranges, views."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shoal_server.storage.engine import Engine
from shoal_server.storage.memory import MemoryEngine
from shoal_server.storage.rocks import RocksEngine

MIB = 1 << 20


def put(engine: Engine, *rows: tuple[bytes, bytes]) -> None:
    batch = engine.batch()
    for key, value in rows:
        batch.put(key, value, engine.data)
    engine.write(batch)


def test_what_is_written_is_read_at_once_in_order_and_in_its_own_family(engine: Engine) -> None:
    batch = engine.batch()
    batch.put(b"b", b"2", engine.data)
    batch.put(b"a", b"1", engine.data)
    batch.put(b"a", b"log", engine.log)
    engine.write(batch)
    assert engine.get(engine.data, b"a") == b"1"
    assert engine.get(engine.log, b"a") == b"log"
    assert engine.get(engine.meta, b"a") is None
    assert engine.get_many(engine.data, [b"b", b"x", b"a"]) == [b"2", None, b"1"]
    assert list(engine.scan(engine.data, b"", b"z")) == [(b"a", b"1"), (b"b", b"2")]


def read_all(
    engine: Engine, start: bytes, end: bytes, *, max_rows: int = 1000, max_bytes: int = MIB, reverse: bool = False
) -> list[bytes]:
    """Read a range piece by piece; return the keys."""
    reader, keys = engine.reader(engine.data), []
    while True:
        piece = reader.read(start, end, max_rows, max_bytes, reverse=reverse)
        keys += [key for key, _ in piece.rows]
        assert piece.size == sum(len(key) + len(value) for key, value in piece.rows)
        if piece.resume is None:
            reader.close()
            return keys
        if reverse:
            assert start < piece.resume < end
            end = piece.resume
        else:
            assert start < piece.resume < end
            start = piece.resume


@pytest.mark.parametrize("max_rows", [1, 3, 1000])
@pytest.mark.parametrize("reverse", [False, True])
def test_readers_keep_to_their_bounds_in_both_directions(engine: Engine, max_rows: int, reverse: bool) -> None:
    put(engine, *((b"%03d" % number, b"v") for number in range(100)))
    step = -1 if reverse else 1
    for start, end, first, last in ((b"010", b"014", 10, 14), (b"098", b"zzz", 98, 100), (b"", b"003", 0, 3)):
        expected = [b"%03d" % number for number in range(first, last)][::step]
        assert read_all(engine, start, end, max_rows=max_rows, reverse=reverse) == expected
    assert [key for key, _ in engine.scan(engine.data, b"010", b"014")] == [b"010", b"011", b"012", b"013"]
    for start, end in ((b"200", b"300"), (b"0105", b"0106"), (b"5", b"4"), (b"010", b"010")):
        assert read_all(engine, start, end, max_rows=max_rows, reverse=reverse) == []
        assert list(engine.scan(engine.data, start, end)) == []


@pytest.mark.parametrize("reverse", [False, True])
def test_a_piece_ends_with_the_row_that_reaches_a_bound(engine: Engine, reverse: bool) -> None:
    put(engine, *((b"%03d" % number, bytes(100)) for number in range(50)))
    reader = engine.reader(engine.data)

    def rows(max_rows: int, max_bytes: int, *, keys_only: bool = False) -> int:
        piece = reader.read(b"", b"z", max_rows, max_bytes, reverse=reverse, keys_only=keys_only)
        assert all(value == (b"" if keys_only else bytes(100)) for _, value in piece.rows)
        assert (piece.resume is None) is (len(piece.rows) == 50)
        return len(piece.rows)

    assert rows(7, MIB) == 7
    assert rows(50, MIB) == 50
    assert rows(1000, 1) == 1
    assert rows(1000, 1000) == 10
    assert rows(1000, 1000, keys_only=True) == 50
    reader.close()


def test_many_scans_at_once_do_not_disturb_each_other(engine: Engine) -> None:
    put(engine, *((b"%03d" % number, b"v") for number in range(100)))
    scans = [engine.scan(engine.data, b"%03d" % first, b"%03d" % (first + 10)) for first in range(0, 90, 10)]
    for first, scan in zip(range(0, 90, 10), scans, strict=True):
        assert [key for key, _ in scan] == [b"%03d" % number for number in range(first, first + 10)]


def test_the_changes_of_a_batch_take_effect_in_their_order(engine: Engine) -> None:
    put(engine, (b"a1", b"old"), (b"a2", b"old"), (b"b", b"old"))
    batch = engine.batch()
    assert batch.is_empty()
    batch.put(b"a1", b"gone", engine.data)
    batch.delete_range(b"a", b"b", engine.data)
    batch.put(b"a2", b"new", engine.data)
    batch.delete(b"b", engine.data)
    assert not batch.is_empty()
    engine.write(batch)
    assert list(engine.scan(engine.data, b"", b"z")) == [(b"a2", b"new")]


def test_a_reader_sees_what_was_there_when_it_was_made(engine: Engine) -> None:
    put(engine, *((b"%02d" % number, b"1") for number in range(20)))
    readers = [engine.reader(engine.data) for _ in range(3)]
    assert [key for key, _ in readers[0].read(b"", b"03", 100, MIB).rows] == [b"00", b"01", b"02"]
    put(engine, (b"00", b"2"), (b"zz", b"2"))
    batch = engine.batch()
    batch.delete(b"01", engine.data)
    batch.delete_range(b"05", b"10", engine.data)
    engine.write(batch)
    for reader in readers:
        piece = reader.read(b"", b"\xff", 100, MIB)
        assert piece.rows == [(b"%02d" % number, b"1") for number in range(20)]
        assert reader.read(b"", b"\xff", 1, MIB, reverse=True).rows == [(b"19", b"1")]
        reader.close()
    later = engine.reader(engine.data)
    assert len(later.read(b"", b"\xff", 100, MIB).rows) == 20 - 1 - 5 + 1
    later.close()


@contextmanager
def both() -> Iterator[tuple[Engine, Engine]]:
    with TemporaryDirectory() as folder:
        rocks = RocksEngine(Path(folder), block_cache_bytes=MIB, write_buffer_bytes=MIB)
        yield MemoryEngine(), rocks
        rocks.close()


_KEYS = st.binary(min_size=1, max_size=3)
_CHANGES = st.one_of(
    st.tuples(st.just("put"), _KEYS, st.binary(max_size=5)),
    st.tuples(st.just("delete"), _KEYS, st.just(b"")),
    st.tuples(st.just("range"), _KEYS, _KEYS),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(_CHANGES, max_size=8), max_size=8), _KEYS, _KEYS)
def test_any_sequence_of_batches_leaves_the_same_rows_in_both(
    batches: list[list[tuple[str, bytes, bytes]]], one: bytes, other: bytes
) -> None:
    start, end = sorted((one, other))
    with both() as engines:
        for changes in batches:
            for engine in engines:
                batch = engine.batch()
                for kind, key, value in changes:
                    if kind == "put":
                        batch.put(key, value, engine.data)
                    elif kind == "delete":
                        batch.delete(key, engine.data)
                    elif key < value:
                        batch.delete_range(key, value, engine.data)
                engine.write(batch)
        memory, rocks = engines
        for low, high in ((b"", b"\xff\xff\xff\xff"), (start, end)):
            assert list(rocks.scan(rocks.data, low, high)) == list(memory.scan(memory.data, low, high))
            for reverse in (False, True):
                for max_rows in (1, 1000):
                    read = [read_all(each, low, high, max_rows=max_rows, reverse=reverse) for each in engines]
                    assert (
                        read[0]
                        == read[1]
                        == [key for key, _ in rocks.scan(rocks.data, low, high)][:: -1 if reverse else 1]
                    )


def test_few_keys_of_a_range_are_said_and_not_those_of_one_with_more(engine: Engine) -> None:
    put(engine, *((b"k%d" % number, b"v") for number in range(8)), (b"z", b"v"))
    reader = engine.reader(engine.data)
    spans = [(b"a", b"b"), (b"k2", b"k5"), (b"k", b"l"), (b"k0", b"k3"), (b"k7", b"z\0"), (b"zz", b"zzz")]
    assert reader.few_keys(spans, 3) == [[], [b"k2", b"k3", b"k4"], None, [b"k0", b"k1", b"k2"], [b"k7", b"z"], []]
    reader.close()
