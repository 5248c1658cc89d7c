"""What an entry looks at besides what its writes say is bounded, and every replica bounds it alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from shoal.protocol.digest import RangeDigest
from shoal.protocol.messages import (
    Applied,
    Atomic,
    ConditionNotMet,
    Delete,
    Impossible,
    Increment,
    KeyAbsent,
    KeyPresent,
    Operation,
    Put,
    RangeUnchanged,
    Touch,
)
from shoal.shardmap import MicroshardRange
from shoal_server.shard import looking, operations
from shoal_server.storage.watched import WatchedEngine

EVERYWHERE = (MicroshardRange(0, 8),)
LARGE = b"x" * (512 * 1024)
EXPIRED = 120


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry may look at 100 expired rows, or 1.2 MB."""
    monkeypatch.setattr(looking, "LOOKED_AT_US", 300)
    monkeypatch.setattr(looking, "LOOKED_AT_BYTES_SHIFT", 12)


def empty(start: bytes, end: bytes) -> RangeUnchanged:
    return RangeUnchanged(EVERYWHERE, start, end, RangeDigest().value())


def test_a_range_with_more_expired_rows_counts_as_changed_until_they_are_removed(replica: Any) -> None:
    replica.write(*(Put(b"k%d" % number, b"v", 10) for number in range(EXPIRED)))
    replica.now += 20
    assert replica.write(Atomic([empty(b"k", b"l")], [Put(b"done", b"1")])) == [ConditionNotMet(0, 0, None)]
    assert replica.get(b"done") is None
    replica.purge()
    assert replica.write(Atomic([empty(b"k", b"l")], [Put(b"done", b"1")])) == [Applied([])]


def test_large_rows_are_looked_at_for_some_conditions_and_not_for_more(replica: Any) -> None:
    for number in range(4):
        replica.write(Put(b"large%d" % number, LARGE))
    conditions = [KeyPresent(b"large%d" % number) for number in range(4)]
    assert replica.write(Atomic(conditions[:2], [])) == [Applied([])]
    [refused] = replica.write(Atomic([*conditions], [Put(b"done", b"1")]))
    assert isinstance(refused, Impossible)
    assert "too large" in refused.reason
    assert replica.get(b"done") is None


def test_rows_that_are_refused_are_neither_kept_nor_read_ahead(make_replica: Callable[..., Any]) -> None:
    """Sixty atomic operations that each name sixty rows of a MiB would have had 3.8 GB in memory."""
    engine = WatchedEngine()
    replica = make_replica(engine, 1, 0, 8)
    for number in range(40):
        replica.write(Put(b"large%02d" % number, LARGE))
    read: list[bytes] = []
    get, get_many = engine.get, engine.get_many
    engine.get = lambda family, key: (read.append(key), get(family, key))[1]  # type: ignore[method-assign]
    engine.get_many = lambda family, keys: (read.extend(keys), get_many(family, keys))[1]  # type: ignore[method-assign]
    groups = [[KeyAbsent(b"large%02d" % number) for number in range(first, first + 20)] for first in (0, 20)]
    results = replica.write(*(Atomic([*group], []) for group in groups))
    assert [type(each) for each in results] == [Impossible, Impossible]
    assert len(read) == operations.FETCHED_TOGETHER + 1


def test_touches_rewrite_so_much_and_others_are_to_come_again(replica: Any) -> None:
    for number in range(4):
        replica.write(Put(b"large%d" % number, LARGE))
    left = [Touch(b"large%d" % number, 1000) for number in range(4)]
    while left:
        results = replica.write(*left)
        assert results[0] == Applied([1]), "by itself any row is touched"
        assert all(isinstance(each, Impossible) and each.again for each in results[1:])
        left = left[1:]


def test_what_is_too_much_by_itself_is_not_to_come_again(replica: Any) -> None:
    for number in range(4):
        replica.write(Put(b"large%d" % number, LARGE))
    touches = [Touch(b"large%d" % number, 1000) for number in range(4)]
    [refused] = replica.write(Atomic([], [*touches]))
    assert isinstance(refused, Impossible)
    assert not refused.again
    [refused] = replica.write(Atomic([KeyPresent(b"large%d" % number) for number in range(4)], []))
    assert isinstance(refused, Impossible)
    assert not refused.again


def test_conditions_that_all_hold_are_bounded_by_the_bytes_they_look_at(replica: Any) -> None:
    """An atomic write of 3,900 conditions on rows of 64 KiB took half a second and 253 MB."""
    small = b"x" * (looking.LARGE_ROW_BYTES - 100)
    for first in range(0, 400, 50):
        replica.write(*(Put(b"small%03d" % number, small) for number in range(first, first + 50)))
    conditions = [KeyPresent(b"small%03d" % number) for number in range(400)]
    assert replica.write(Atomic([*conditions[:250]], [])) == [Applied([])]
    [refused] = replica.write(Atomic([*conditions], []))
    assert isinstance(refused, Impossible)
    assert not refused.again


def test_a_range_of_large_rows_is_too_large_whoever_asks_again(replica: Any) -> None:
    digest = RangeDigest()
    for number in range(4):
        replica.write(Put(b"large%d" % number, LARGE))
        digest.add([b"large%d" % number], [replica.entry(b"large%d" % number)[1]])
    condition = RangeUnchanged(EVERYWHERE, b"large", b"m", digest.value())
    [refused] = replica.write(Atomic([condition], []))
    assert isinstance(refused, Impossible)


def test_whoever_is_about_small_rows_has_nothing_to_do_with_it(replica: Any) -> None:
    replica.write(Put(b"small", b"1"), *(Put(b"k%d" % number, b"v", 10) for number in range(EXPIRED)))
    replica.now += 20
    [[first, second]] = replica.apply(
        replica.commands(
            replica.write_command(Atomic([empty(b"k", b"l")], [])),
            replica.write_command(Atomic([KeyPresent(b"small")], []), Increment(b"small")),
        )
    )
    assert first.results == [ConditionNotMet(0, 0, None)]
    assert second.results == [Applied([]), Applied([2])]


def test_replicas_decide_alike_however_they_put_entries_together(make_replica: Callable[..., Any]) -> None:
    one, other = (make_replica(WatchedEngine(), 1, 0, 8) for _ in range(2))
    keys = [b"k%03d" % number for number in range(EXPIRED)]
    writes: list[list[Operation]] = [
        [Put(key, b"v", 10) for key in keys],
        [Delete(key) for key in keys[:30]],
        [Atomic([empty(b"k", b"l")], [Put(b"a", b"")]), Atomic([empty(b"k05", b"l")], [Put(b"b", b"")])],
        [Put(b"k000", LARGE), Put(b"k001", LARGE), Put(b"k002", LARGE)],
        [Atomic([empty(b"k000", b"k001")], []), Touch(b"k000", 10), Touch(b"k001", 10), Touch(b"k002", 10)],
    ]
    outcomes = []
    for replica in (one, other):
        replica.open_session()
        commands = []
        for number, write in enumerate(writes):
            commands.append(replica.commands(replica.write_command(*write)))
            if not number:
                replica.now += 20
        if replica is one:
            outcomes.append([outcome.results for entry in commands for [outcome] in replica.apply(entry)])
        else:
            outcomes.append([outcome.results for [outcome] in replica.apply(*commands)])
    assert outcomes[0] == outcomes[1]
    assert one.scan() == other.scan()
    kinds = [type(result) for results in outcomes[0] for result in results]
    assert kinds == [Applied, ConditionNotMet, ConditionNotMet, Applied, Impossible, Impossible]
