"""Reads of many keys: what one answer has, and that no more is read for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.protocol.messages import Put
from shoal_server.shard.reading import READ_KEYS, SLICE_KEYS, RowReader
from shoal_server.storage.engine import Family
from shoal_server.storage.layout import value_header
from shoal_server.storage.memory import MemoryEngine

KIB = 1024


class CountingEngine(MemoryEngine):
    """Counts the rows that are looked up, and their bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.rows_read = 0
        self.bytes_read = 0
        self.lookups = 0

    def get_many(self, family: Family, keys: list[bytes]) -> list[bytes | None]:
        rows = super().get_many(family, keys)
        self.lookups += 1
        self.rows_read += len(rows)
        self.bytes_read += sum(len(row) for row in rows if row is not None)
        return rows


def test_an_answer_has_the_first_values_that_fit_and_one_at_least(replica: Any) -> None:
    keys = [b"k%d" % number for number in range(40)]
    for key in keys:
        replica.write(Put(key, bytes(KIB)))
    machine = replica.machine

    def read(max_bytes: int, max_keys: int = READ_KEYS) -> int:
        values, seqs, _ = machine.read(keys, machine.route(keys), replica.now, max_bytes, max_keys)
        assert values == [bytes(KIB)] * len(values)
        assert len(seqs) == len(values)
        return len(values)

    assert read(1) == 1
    assert read(5 * KIB) == 4, "each row has a few bytes beside its value"
    assert read(64 * KIB) == 40
    assert read(64 * KIB, max_keys=7) == 7


def test_absent_keys_are_answered_for_and_bounded_in_number(replica: Any) -> None:
    replica.write(Put(b"there", b"v"))
    keys = [b"absent%d" % number for number in range(READ_KEYS + 10)] + [b"there"]
    machine = replica.machine
    values, _, _ = machine.read(keys, machine.route(keys), replica.now)
    assert values == [None] * READ_KEYS


@pytest.mark.parametrize("value_bytes", [KIB, 64 * KIB, 512 * KIB])
def test_to_get_many_large_values_costs_little_more_than_their_bytes(
    make_replica: Callable[..., Any], value_bytes: int
) -> None:
    engine = CountingEngine()
    replica = make_replica(engine)
    keys = [b"k%d" % number for number in range(60)]
    for key in keys:
        replica.write(Put(key, bytes(value_bytes)))
    engine.rows_read = engine.bytes_read = 0
    machine, left, answers = replica.machine, keys, 0
    while left:
        values, _, _ = machine.read(left, machine.route(left), replica.now, max_bytes=KIB * KIB)
        left = left[len(values) :]
        answers += 1
    assert engine.bytes_read <= 2 * len(keys) * value_bytes, "what does not fit is not read again and again"
    assert engine.rows_read <= 2 * len(keys)
    assert answers <= 2 * (len(keys) * value_bytes // (KIB * KIB) + 1)


def test_small_rows_are_looked_up_together_and_large_ones_that_follow_a_few_at_a_time() -> None:
    engine = CountingEngine()
    batch = engine.batch()
    small, large = [b"s%02d" % place for place in range(16)], [b"x%02d" % place for place in range(64)]
    for keys, value_bytes in ((small, 10), (large, 512 * KIB)):
        for key in keys:
            batch.put(key, value_header(7) + bytes(value_bytes), engine.data)
    engine.write(batch)
    reader = RowReader(engine)
    for _ in range(12):
        reader.read(small, 0, KIB * KIB)
    engine.lookups = engine.rows_read = 0
    assert len(reader.read(small, 0, KIB * KIB)[0]) == 16
    assert engine.lookups == 1
    engine.rows_read = 0
    left = large
    while left:
        left = left[len(reader.read(left, 0, KIB * KIB)[0]) :]
    assert engine.rows_read <= SLICE_KEYS + 2 * len(large)


@given(st.lists(st.integers(-1, 200), min_size=1, max_size=80), st.integers(1, 400), st.booleans())
def test_reads_of_rows_of_any_sizes_are_right_and_bounded(sizes: list[int], max_bytes: int, small_before: bool) -> None:
    engine = CountingEngine()
    batch = engine.batch()
    keys = [b"%03d" % place for place in range(len(sizes))]
    expected = [None if size < 0 else bytes(size) for size in sizes]
    for key, value in zip(keys, expected, strict=True):
        if value is not None:
            batch.put(key, value_header(7) + value, engine.data)
    engine.write(batch)
    reader = RowReader(engine)
    for _ in range(20 if small_before else 0):
        reader.read([b"absent"], 0, max_bytes)
    engine.rows_read = 0
    values, seqs, expiries = reader.read(keys, 0, max_bytes)
    assert 1 <= len(values) <= len(keys)
    assert values == expected[: len(values)]
    assert seqs == [0 if value is None else 7 for value in values]
    assert expiries == []
    rows = [0 if value is None else len(value) + len(value_header(7)) for value in expected]
    assert len(values) == 1 or sum(rows[: len(values)]) <= max_bytes
    if len(values) < len(keys):
        assert sum(rows[: len(values) + 1]) > max_bytes, "it ends where no more fits"
    assert engine.rows_read <= len(values) + SLICE_KEYS
