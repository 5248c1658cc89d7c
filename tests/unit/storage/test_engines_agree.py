"""Both engines keep the same promises: batches, order, ranges, views."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

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


def test_scans_keep_to_their_bounds_in_both_directions(engine: Engine) -> None:
    put(engine, *((b"%03d" % number, b"v") for number in range(100)))

    def keys(rows: Iterator[tuple[bytes, bytes]]) -> list[bytes]:
        return [key for key, _ in rows]

    assert keys(engine.scan(engine.data, b"010", b"014")) == [b"010", b"011", b"012", b"013"]
    assert keys(engine.scan_reverse(engine.data, b"010", b"014")) == [b"013", b"012", b"011", b"010"]
    assert keys(engine.scan_reverse(engine.data, b"098", b"zzz")) == [b"099", b"098"]
    assert keys(engine.scan(engine.data, b"200", b"300")) == []
    assert keys(engine.scan_reverse(engine.data, b"200", b"300")) == []


def test_rows_are_counted_in_pages_that_end_at_the_bound(engine: Engine) -> None:
    put(engine, *((b"%03d" % number, b"v" * number) for number in range(100)))
    first = engine.count_rows(engine.data, b"010", b"050", 25)
    assert (first.rows, first.size) == (25, 25 * 3 + sum(range(10, 35)))
    assert first.resume is not None
    rest = engine.count_rows(engine.data, first.resume, b"050", 25)
    assert (rest.rows, rest.size, rest.resume) == (15, 15 * 3 + sum(range(35, 50)), None)
    nothing = engine.count_rows(engine.data, b"200", b"300", 25)
    assert (nothing.rows, nothing.size, nothing.resume) == (0, 0, None)


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


def test_a_view_stays_as_it_was(engine: Engine) -> None:
    put(engine, (b"a", b"1"), (b"b", b"1"))
    view = engine.view()
    put(engine, (b"a", b"2"), (b"c", b"2"))
    assert list(view.scan(engine.data, b"", b"z")) == [(b"a", b"1"), (b"b", b"1")]
    view.close()


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
            assert list(rocks.scan_reverse(rocks.data, low, high)) == list(memory.scan_reverse(memory.data, low, high))
