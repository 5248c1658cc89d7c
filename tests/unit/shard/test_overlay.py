"""What is applied in one turn is seen by what follows it in the same turn, and reaches the engine as one batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shoal.protocol.messages import (
    Applied,
    Atomic,
    Delete,
    DeleteRange,
    Increment,
    KeyAbsent,
    KeyPresent,
    OperationResult,
    Put,
)
from shoal.shardmap import MicroshardRange
from shoal_server.shard.commands import WriteCommand
from shoal_server.shard.overlay import Overlay
from shoal_server.storage.engine import Engine
from shoal_server.storage.layout import value_header
from shoal_server.storage.memory import Change, ChangeKind, MemoryBatch
from shoal_server.storage.watched import WatchedEngine

EVERYWHERE = (MicroshardRange(0, 8),)


def in_one_turn(replica: Any, *writes: list[Any]) -> list[list[OperationResult]]:
    """Apply each write as an entry of its own, all in one batch; return their results."""
    replica.write(Increment(b"other"))
    outcomes = replica.apply(*(replica.commands(replica.write_command(*operations)) for operations in writes))
    return [outcome.results for [outcome] in outcomes]


def test_a_put_behind_a_range_delete_of_the_same_turn_stays(replica: Any) -> None:
    replica.write(Put(b"a", b"old"), Put(b"b", b"old"))
    results = in_one_turn(
        replica,
        [Put(b"c", b"new")],
        [DeleteRange(EVERYWHERE, b"a", b"d")],
        [Atomic([KeyAbsent(b"a"), KeyAbsent(b"c")], [Put(b"a", b"new")])],
        [Increment(b"b", 7)],
    )
    assert results == [[], [Applied([8])], [Applied([])], [Applied([7])]]
    assert replica.scan(b"a", b"d") == [(b"a", b"new"), (b"b", b"7")]


def test_a_range_delete_behind_puts_of_the_same_turn_removes_them(replica: Any) -> None:
    replica.write(Put(b"stored", b"old"))
    in_one_turn(replica, [Put(b"new", b"1"), Put(b"stored", b"2")], [DeleteRange(EVERYWHERE, b"n", b"t")])
    assert replica.scan(b"n", b"t") == []


def test_increments_of_one_turn_add_up(replica: Any) -> None:
    results = in_one_turn(replica, *([Increment(b"n")] for _ in range(20)))
    assert [result for [result] in results] == [Applied([number]) for number in range(1, 21)]


def test_a_delete_is_seen_by_a_condition_behind_it(replica: Any) -> None:
    replica.write(Put(b"k", b"v"))
    [_, [first], [second]] = in_one_turn(
        replica, [Delete(b"k")], [Atomic([KeyPresent(b"k")], [])], [Atomic([KeyAbsent(b"k")], [])]
    )
    assert second == Applied([])
    assert first != Applied([])


def test_two_shards_that_share_a_batch_do_not_touch_each_others_rows(
    engine: Engine, make_replica: Callable[..., Any]
) -> None:
    low, high = make_replica(engine, 1, 0, 4), make_replica(engine, 2, 4, 8)
    candidates = [b"key%d" % number for number in range(40)]
    keys = {replica: [key for key in candidates if replica.machine.route([key])] for replica in (low, high)}
    for replica in (low, high):
        replica.write(*(Put(key, b"old") for key in keys[replica]))
    batch = engine.batch()
    low.apply(low.commands(low.write_command(DeleteRange((MicroshardRange(0, 4),), b"", b""))), batch=batch)
    high.apply(high.commands(high.write_command(Put(keys[high][0], b"new"))), batch=batch)
    engine.write_unlogged(batch)
    assert low.scan() == []
    assert len(high.scan()) == len(keys[high])
    for replica in (low, high):
        restarted = replica.restarted()
        assert restarted.machine.state == replica.machine.state
        assert restarted.scan() == replica.scan()
        assert restarted.session in restarted.machine.sessions


def test_a_session_forgotten_and_written_in_one_turn_is_gone_from_the_disk(replica: Any) -> None:
    replica.open_session(capacity=1)
    write: WriteCommand = replica.write_command(Put(b"k", b"v"))
    replica.apply(replica.commands(write), replica.commands(replica.opening(capacity=1)))
    restarted = replica.restarted()
    assert replica.session not in replica.machine.sessions
    assert replica.session not in restarted.machine.sessions
    assert len(restarted.machine.sessions) == 1


KEY = st.binary(min_size=1, max_size=2).map(lambda key: bytes(byte % 4 for byte in key))
CHANGE = st.one_of(
    *(
        st.tuples(st.just(kind), KEY, KEY)
        for kind in ("put", "delete", "clear", "scan", "get", "take back", "record", "take", "attempt", "give up")
    )
)


@settings(max_examples=400)
@given(st.dictionaries(KEY, st.just(value_header(1) + b"stored")), st.lists(CHANGE, max_size=40))
def test_an_overlay_reads_and_leaves_what_the_changes_one_by_one_would_have(
    stored: dict[bytes, bytes], changes: list[tuple[str, bytes, bytes]]
) -> None:
    engine = holding(stored)
    overlay, model = Overlay(engine), dict(stored)
    recorded: set[bytes] | None = None
    cleared: list[tuple[bytes, bytes]] = []
    before: tuple[dict[bytes, bytes], set[bytes] | None, list[tuple[bytes, bytes]]] | None = None
    for kind, key, other in changes:
        first, last = sorted([key, other])
        if kind == "put":
            overlay.rows[key] = model[key] = value_header(2) + other
        elif kind == "delete":
            overlay.rows[key] = None
            model.pop(key, None)
        elif kind == "clear" and first < last:
            overlay.clear([(first, last)])
            cleared.append((first, last))
            model = {name: row for name, row in model.items() if not first <= name < last}
        elif kind == "get":
            assert overlay.get(key) == model.get(key)
        elif kind == "scan":
            assert list(overlay.scan(first, last)) == sorted((k, row) for k, row in model.items() if first <= k < last)
        elif kind == "take back":
            savepoint = overlay.savepoint([key, other])
            overlay.rows[key] = value_header(3)
            overlay.rows[other] = None
            overlay.take_back(savepoint)
        elif kind == "attempt" and before is None:
            overlay.attempt()
            before = dict(model), None if recorded is None else set(recorded), list(cleared)
        elif kind == "give up" and before is not None:
            overlay.give_up()
            (model, recorded, cleared), before = before, None
        elif before is not None and kind in ("record", "take"):
            overlay.done()
            before = None
        elif kind == "record":
            overlay.record()
            recorded, cleared = set(), []
        elif kind == "take" and recorded is not None:
            keys, spans = overlay.take_changes()
            assert len(keys) == len(set(keys))
            assert recorded <= set(keys)
            assert spans == cleared
            recorded, cleared = set(), []
        if recorded is not None and kind in ("put", "delete"):
            recorded.add(key)
    batch = engine.batch()
    overlay.write_to(batch)
    engine.write(batch)
    assert dict(engine.scan(engine.data, b"", b"\xff")) == model


def holding(rows: dict[bytes, bytes]) -> WatchedEngine:
    """Return an engine with rows."""
    engine = WatchedEngine()
    batch = engine.batch()
    for key, row in rows.items():
        batch.put(key, row, engine.data)
    engine.write(batch)
    return engine


class CountedKey(bytes):
    """A key that counts how often two are compared."""

    compared = 0

    def __lt__(self, other: bytes) -> bool:
        CountedKey.compared += 1
        return super().__lt__(other)

    def __gt__(self, other: bytes) -> bool:
        CountedKey.compared += 1
        return super().__gt__(other)


def _comparisons(work: Callable[[], object]) -> int:
    CountedKey.compared = 0
    work()
    return CountedKey.compared


def _puts_and_ranges(count: int) -> None:
    """Change rows and use ranges elsewhere, in turns."""
    overlay = Overlay(WatchedEngine())
    for number in range(count):
        overlay.rows[CountedKey(b"u%06d" % number)] = value_header(1)
        start = CountedKey(b"w%06d" % number)
        overlay.clear([(start, start + b"x")])
        assert list(overlay.scan(CountedKey(b"v%06d" % number), b"v%06dx" % number)) == []


def test_a_range_takes_no_longer_the_more_was_changed_elsewhere() -> None:
    few, many = _comparisons(lambda: _puts_and_ranges(250)), _comparisons(lambda: _puts_and_ranges(2_000))
    assert many < 8 * 2 * few, "eight times as many, each of which may take a few comparisons more"


@pytest.mark.parametrize("stored", [True, False])
def test_rows_that_are_gone_are_passed_over_once(stored: bool) -> None:
    keys = [b"d%06d" % number for number in range(2_000)]
    engine = holding(dict.fromkeys(keys, value_header(1)) if stored else {})
    overlay = Overlay(engine)
    overlay.rows.update(dict.fromkeys(map(CountedKey, keys)))

    def conditions() -> None:
        for _ in range(1_000):
            assert list(overlay.scan(CountedKey(b"d"), b"e")) == []

    assert _comparisons(conditions) < 1_000 * 100
    assert overlay.work.rows == (len(keys) if stored else 0)
    assert overlay.work.seeks < 100


def test_plain_puts_are_put_in_no_order_until_a_range_is_asked_for() -> None:
    overlay = Overlay(WatchedEngine())

    def puts() -> None:
        for number in range(1_000):
            overlay.rows[CountedKey(b"u%06d" % number)] = value_header(1)

    assert _comparisons(puts) == 0
    assert type(overlay.rows) is dict


def _removing(engine: WatchedEngine, *spans: tuple[bytes, bytes]) -> list[Change]:
    overlay = Overlay(engine)
    overlay.clear(list(spans))
    overlay.rows[b"k0"] = value_header(2)
    batch = engine.batch()
    overlay.write_to(batch)
    changes = cast(MemoryBatch, batch).changes
    engine.write(batch)
    return changes


def test_a_range_with_few_rows_is_removed_row_by_row_and_one_without_any_is_not_worth_a_word() -> None:
    engine = holding({b"k%d" % number: value_header(1) for number in range(5)})
    changes = _removing(engine, (b"k", b"k3"), (b"z", b"zz"))
    kinds = [(kind, key) for kind, _, key, _ in changes]
    assert kinds == [(ChangeKind.DELETE, b"k1"), (ChangeKind.DELETE, b"k2"), (ChangeKind.PUT, b"k0")]
    assert [key for key, _ in engine.scan(engine.data, b"", b"z")] == [b"k0", b"k3", b"k4"]


def test_ranges_with_many_rows_each_or_together_are_removed_as_ranges() -> None:
    engine = holding({b"k%06d" % number: value_header(1) for number in range(6_000)})
    few = [(b"k%06d" % number, b"k%06d" % (number + 50)) for number in range(0, 5_000, 60)]
    changes = _removing(engine, *few, (b"k005500", b"k005900"))
    kinds = Counter(kind for kind, _, _, _ in changes)
    assert 1_950 < kinds[ChangeKind.DELETE] <= 2_048
    assert kinds[ChangeKind.DELETE_RANGE] == len(few) + 1 - kinds[ChangeKind.DELETE] // 50
    assert len(list(engine.scan(engine.data, b"k00", b"l"))) == 6_000 - 50 * len(few) - 400


def test_rows_that_cannot_be_read_are_removed_with_their_range() -> None:
    engine = holding({b"k%d" % number: value_header(1) for number in range(5)})
    engine.damage.add("data", [b"k2"])
    changes = _removing(engine, (b"k", b"l"))
    assert (ChangeKind.DELETE_RANGE, "data", b"k", b"l") in changes
    assert not engine.damage
