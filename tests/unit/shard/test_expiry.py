"""Rows with a time to live: hidden from everything once it is over, and removed in bounded batches soon after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.protocol.messages import (
    DEFAULT_TTL,
    NO_TTL,
    Applied,
    Atomic,
    ConditionNotMet,
    Delete,
    DeleteRange,
    Increment,
    KeyAbsent,
    KeyPresent,
    Put,
    SeqEquals,
    Touch,
    ValueEquals,
    ValueEqualsOrAbsent,
)
from shoal.shardmap import MicroshardRange
from shoal_server.shard.commands import PurgeCommand
from shoal_server.shard.expiry import NEVER, when_to_look
from shoal_server.storage.engine import Piece
from shoal_server.storage.memory import MemoryEngine, MemoryReader

EVERYWHERE = (MicroshardRange(0, 8),)


def test_an_expired_row_is_gone_for_gets_scans_and_pages_before_it_is_purged(replica: Any) -> None:
    replica.write(Put(b"k", b"v", 1000), Put(b"stays", b"v"))
    until = replica.now + 1000
    replica.now += 999
    assert replica.get(b"k") == b"v"
    page = replica.machine.pages.read_page(EVERYWHERE, b"", 10, 1000, replica.now)
    assert sorted(zip(page.keys, page.expiries, strict=True)) == [(b"k", until), (b"stays", 0)]
    replica.now += 1
    assert replica.entry(b"k") == (None, 0, 0)
    assert replica.scan() == replica.scan(reverse=True) == [(b"stays", b"v")]
    page = replica.machine.pages.read_page(EVERYWHERE, b"", 10, 1000, replica.now)
    assert (page.keys, page.expiries, page.resume) == ([b"stays"], [], None)
    assert replica.stored_keys() == [b"k", b"stays"]


def test_an_expired_row_is_absent_for_every_condition(replica: Any) -> None:
    replica.write(Put(b"k", b"v", 1000))
    replica.now += 1000
    hold = [KeyAbsent(b"k"), SeqEquals(b"k", 0), ValueEqualsOrAbsent(b"k", b"w")]
    assert replica.write(*(Atomic([condition], []) for condition in hold)) == [Applied([])] * 3
    fail = [KeyPresent(b"k"), SeqEquals(b"k", 2), ValueEquals(b"k", b"v")]
    assert replica.write(*(Atomic([condition], []) for condition in fail)) == [ConditionNotMet(0, 0, None)] * 3


def test_an_expired_row_cannot_be_touched_and_counts_as_zero(replica: Any) -> None:
    replica.write(Put(b"t", b"v", 1000), Put(b"n", b"41", 1000))
    replica.now += 1000
    assert replica.write(Touch(b"t", 5000), Increment(b"n")) == [Applied([0]), Applied([1])]
    assert replica.entry(b"n")[2] == 0, "the new row has not the old one's expiry"
    replica.now += 10_000
    replica.purge()
    assert (replica.get(b"t"), replica.get(b"n")) == (None, b"1")


def test_an_increment_keeps_the_expiry_and_a_touch_changes_it(replica: Any) -> None:
    replica.write(Put(b"n", b"1", 1000))
    replica.now += 500
    replica.write(Increment(b"n"))
    assert replica.entry(b"n") == (b"2", replica.machine.state.seq, replica.now + 500)
    assert replica.write(Touch(b"n", 2000)) == [Applied([1])]
    assert replica.entry(b"n") == (b"2", replica.machine.state.seq, replica.now + 2000)
    replica.write(Touch(b"n", NO_TTL))
    assert replica.entry(b"n")[2] == 0


def test_a_write_that_names_no_ttl_gets_the_keyspaces_default(replica: Any) -> None:
    replica.default_ttl = 3000
    replica.write(Put(b"default", b"v"), Put(b"own", b"v", 1000), Put(b"never", b"v", NO_TTL))
    assert [replica.entry(key)[2] for key in (b"default", b"own", b"never")] == [
        replica.now + 3000,
        replica.now + 1000,
        0,
    ]
    replica.default_ttl = 0
    replica.write(Touch(b"default", DEFAULT_TTL))
    assert replica.entry(b"default")[2] == 0


def test_a_clock_that_falls_back_brings_no_expired_row_back(replica: Any) -> None:
    replica.write(Put(b"k", b"v", 1000))
    replica.now += 1000
    replica.write(Put(b"other", b"v"))
    replica.now -= 900
    assert replica.get(b"k") is None
    assert replica.write(Atomic([KeyPresent(b"k")], [])) == [ConditionNotMet(0, 0, None)]
    assert replica.restarted().get(b"k") is None, "the newest time is part of the applied state"


# -- purging


def test_a_purge_removes_rows_and_index_rows_in_bounded_batches(replica: Any) -> None:
    replica.write(*(Put(b"k%d" % number, b"v", 1000) for number in range(50)), Put(b"later", b"v", 5000))
    replica.now += 1000
    assert [replica.purge(limit=20) for _ in range(4)] == [20, 20, 10, 0]
    assert (replica.stored_keys(), replica.index_rows()) == ([b"later"], 1)
    replica.now += 4000 + 5000 // 64
    assert [replica.purge(), replica.purge()] == [1, 0]
    assert (replica.stored_keys(), replica.index_rows()) == ([], 0)
    assert replica.machine.expiry.due_at == NEVER


@pytest.mark.parametrize("ttl", [10_000, 86_400_000])
def test_a_row_that_is_written_again_and_again_has_few_index_rows(replica: Any, ttl: int) -> None:
    """There was one for each time, until it was due: 5,001 for one key that was touched 5,000 times."""
    for number in range(1_000):
        replica.now += ttl // 900
        replica.write(Put(b"k", b"v", ttl) if number % 2 else Touch(b"k", ttl))
    assert replica.index_rows() <= 130
    while replica.purge():
        pass
    assert replica.get(b"k") == b"v"
    replica.now += ttl + ttl // 64
    while replica.purge():
        pass
    assert (replica.stored_keys(), replica.index_rows()) == ([], 0)


def test_rows_of_one_time_are_looked_for_behind_those_that_were_removed(
    make_replica: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed rows stay on the disk for a while: each look passed over all of that time that were removed before."""
    replica = make_replica(MemoryEngine(), 1, 0, 1)
    keys = [b"k%04d" % number for number in range(1000) if replica.machine.route([b"k%04d" % number])]
    replica.write(*(Put(key, b"v", 1000) for key in keys))
    replica.now += 1008
    starts: list[bytes] = []
    read = MemoryReader.read

    def watched(self: MemoryReader, start: bytes, end: bytes, *bounds: int, **kinds: bool) -> Piece:
        starts.append(start)
        return read(self, start, end, *bounds, **kinds)

    monkeypatch.setattr(MemoryReader, "read", watched)
    while replica.purge(7):
        pass
    assert replica.stored_keys() == []
    looks = starts[: len(keys) // 7]
    assert len(looks) > 10
    assert sorted(set(looks)) == looks


@given(st.integers(1, 1 << 44), st.integers(1, 1 << 40))
def test_a_row_is_looked_at_when_it_has_expired_and_soon(now: int, ttl: int) -> None:
    late = when_to_look(now + ttl, ttl) - (now + ttl)
    assert 0 <= late <= ttl // 64


def test_nothing_is_purged_before_it_is_due(replica: Any) -> None:
    replica.write(Put(b"k", b"v", 1000))
    replica.now += 999
    assert replica.purge() == 0
    [microshard] = replica.machine.route([b"k"])
    replica.apply(replica.commands(PurgeCommand([(microshard, replica.now + 1, b"k")])))
    assert replica.get(b"k") == b"v"


def test_a_row_that_was_rewritten_since_the_leader_looked_stays(replica: Any) -> None:
    for key in (b"put", b"longer", b"touched", b"gone", b"in range"):
        replica.write(Put(key, b"old", 1000))
    replica.now += 1000
    due = replica.machine.expiry.due(replica.now, 100)
    replica.write(Put(b"put", b"new"), Put(b"longer", b"new", 9000), Delete(b"gone"))
    replica.write(DeleteRange(EVERYWHERE, b"in range", b"in s"), Put(b"touched", b"new", 2000), Touch(b"touched", 50))
    replica.apply(replica.commands(PurgeCommand(due)))
    assert replica.scan() == [(b"longer", b"new"), (b"put", b"new"), (b"touched", b"new")]
    assert replica.index_rows() == 3, "of longer, and two of touched"


def test_an_overwritten_rows_index_row_is_removed_when_it_is_due_and_the_row_is_not(replica: Any) -> None:
    replica.write(Put(b"k", b"old", 1000))
    replica.write(Put(b"k", b"new", NO_TTL))
    replica.now += 1000
    assert replica.purge() == 1
    assert (replica.get(b"k"), replica.index_rows()) == (b"new", 0)


def test_a_row_written_between_a_leaders_look_and_its_purge_is_found_by_the_next(replica: Any) -> None:
    replica.write(Put(b"x/1", b"v", 100))
    replica.now += 100
    due = replica.machine.expiry.due(replica.now, 100)
    replica.now -= 50
    replica.write(Put(b"x/2", b"v", 10))
    replica.now += 50
    replica.apply(replica.commands(PurgeCommand(due)))
    assert (replica.purge(), replica.stored_keys(), replica.index_rows()) == (1, [], 0)


def test_a_purge_of_an_earlier_leader_hides_no_row_from_a_replica_that_restarted_since(replica: Any) -> None:
    """The leader looked before a short-lived row was there, and removes one that expires later than that."""
    replica.write(Put(b"x/1", b"v", 100))
    [microshard] = replica.machine.route([b"x/1"])
    found_by_another = [(microshard, replica.now + 100, b"x/1")]
    replica.write(Put(b"x/2", b"v", 50))
    restarted = replica.restarted()
    restarted.now += 100
    restarted.apply(restarted.commands(PurgeCommand(found_by_another)))
    assert (restarted.purge(), restarted.stored_keys(), restarted.index_rows()) == (1, [], 0)


def test_two_purges_that_found_the_same_rows_hide_no_row_written_between_them(replica: Any) -> None:
    """A new leader looks while the purge of the one before is still in its log, not yet applied."""
    replica.write(Put(b"x/1", b"v", 100))
    replica.now += 100
    first = list(replica.machine.expiry.due(replica.now, 100))
    second = replica.machine.expiry.due(replica.now, 100)
    replica.now -= 99
    replica.write(Put(b"x/2", b"v", 50))
    replica.now += 99
    replica.apply(replica.commands(PurgeCommand(first)))
    replica.apply(replica.commands(PurgeCommand(second)))
    assert (replica.purge(), replica.stored_keys(), replica.index_rows()) == (1, [], 0)


def test_a_restarted_replica_finds_what_is_due(replica: Any) -> None:
    replica.write(Put(b"k", b"v", 1000))
    restarted = replica.restarted()
    assert restarted.machine.expiry.due_at == replica.now + 1000
    restarted.now += 1000
    assert (restarted.purge(), restarted.stored_keys()) == (1, [])


def test_an_atomic_that_was_taken_back_leaves_nothing_that_a_purge_does_not_remove(replica: Any) -> None:
    replica.write(Put(b"text", b"text"), Put(b"k", b"v"))
    replica.write(Atomic([], [Put(b"k", b"w", 1000), Put(b"new", b"w", 1000), Increment(b"text")]))
    replica.now += 1000
    replica.purge()
    assert (replica.scan(), replica.index_rows()) == ([(b"k", b"v"), (b"text", b"text")], 0)


def test_what_a_purge_has_to_hold_back_since_the_time_went_back_is_found_again(replica: Any) -> None:
    replica.write(Put(b"p/soon", b"v", 1000))
    replica.write(Put(b"p/late", b"v", 2000))
    replica.now += 500
    assert replica.purge(ahead_ms=5000) == 2
    assert replica.stored_keys() == [b"p/late", b"p/soon"], "neither has expired by the time that the entry says"
    replica.now += 5000
    assert replica.machine.expiry.due_at <= replica.now
    assert replica.purge() == 2
    assert (replica.stored_keys(), replica.index_rows()) == ([], 0)
