"""What each operation and each condition does, and what it answers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from shoal.bounds import MAX_DIGEST
from shoal.integers import MAX_INTEGER, MIN_INTEGER, parse_integer
from shoal.protocol.digest import RangeDigest
from shoal.protocol.messages import (
    MAX_FOUND_BYTES,
    Applied,
    Atomic,
    Condition,
    ConditionNotMet,
    Delete,
    DeleteRange,
    Impossible,
    Increment,
    KeyAbsent,
    KeyPresent,
    Put,
    RangeUnchanged,
    SeqEquals,
    Touch,
    ValueEquals,
    ValueEqualsOrAbsent,
)
from shoal.shardmap import MicroshardRange, one_microshard
from shoal_server.shard.commands import UnknownCommands, WriteCommand

EVERYWHERE = (MicroshardRange(0, 8),)


def digest_of(replica: Any, start: bytes = b"", end: bytes = b"") -> bytes:
    digest = RangeDigest()
    rows = [(key, replica.entry(key)[1]) for key, _ in replica.scan(start, end)]
    digest.add([key for key, _ in rows], [seq for _, seq in rows])
    return digest.value()


# -- single operations


def test_puts_and_deletes_have_no_results_and_the_last_of_a_key_counts(replica: Any) -> None:
    assert replica.write(Put(b"a", b"1"), Put(b"b", b"2"), Delete(b"a"), Put(b"b", b"3"), Delete(b"none")) == []
    assert (replica.get(b"a"), replica.get(b"b")) == (None, b"3")


def test_all_writes_of_an_entry_carry_its_seq_and_later_entries_higher_ones(replica: Any) -> None:
    replica.write(Put(b"a", b"1"), Put(b"b", b"1"))
    first = replica.entry(b"a")[1]
    replica.write(Put(b"b", b"2"))
    assert replica.entry(b"a")[1] == first == replica.machine.state.seq - 1
    assert replica.entry(b"b")[1] == replica.machine.state.seq


def test_an_increment_begins_at_zero_and_returns_the_sum(replica: Any) -> None:
    assert replica.write(Increment(b"n", 5), Increment(b"n", -7)) == [Applied([5]), Applied([-2])]
    assert replica.get(b"n") == b"-2"


@pytest.mark.parametrize("value", [b"", b"-", b"x", b"1.5", b" 1", b"+1", b"1_0", b"9223372036854775808", b"1" * 5000])
def test_what_is_no_integer_of_64_bits_cannot_be_incremented_and_stays(replica: Any, value: bytes) -> None:
    replica.write(Put(b"n", value))
    [refused] = replica.write(Increment(b"n"))
    assert isinstance(refused, Impossible)
    assert "no decimal integer" in refused.reason
    assert replica.get(b"n") == value


def test_a_sum_beyond_64_bits_is_impossible_and_the_bounds_themselves_are_not(replica: Any) -> None:
    replica.write(Put(b"top", b"%d" % (MAX_INTEGER - 1)), Put(b"bottom", b"%d" % (MIN_INTEGER + 1)))
    assert replica.write(Increment(b"top", 1), Increment(b"bottom", -1)) == [
        Applied([MAX_INTEGER]),
        Applied([MIN_INTEGER]),
    ]
    for over in (Increment(b"top", 1), Increment(b"bottom", -1), Increment(b"top", (1 << 63) - 1)):
        [refused] = replica.write(over)
        assert isinstance(refused, Impossible)
        assert "64 bits" in refused.reason
    assert replica.get(b"new") is None


def test_integers_are_parsed_as_decimal_digits_with_a_sign_before() -> None:
    assert parse_integer(b"-0") == 0
    assert parse_integer(b"007") == 7
    assert parse_integer(b"\xd9\xa1") is None, "digits of other scripts are not decimal digits here"


def test_a_range_delete_removes_one_microshards_keys_or_all_in_the_range(replica: Any) -> None:
    replica.write(*(Put(b"p/%d" % number, b"v") for number in range(5)), *(Put(b"q%d" % n, b"v") for n in range(20)))
    [microshard] = replica.machine.route([b"p/0"])
    assert replica.write(DeleteRange(one_microshard(microshard), b"p/1", b"p/3")) == [Applied([1])]
    assert [key for key, _ in replica.scan(b"p", b"q")] == [b"p/0", b"p/3", b"p/4"]
    assert replica.write(DeleteRange(EVERYWHERE, b"q", b"")) == [Applied([8])]
    assert [key for key, _ in replica.scan()] == [b"p/0", b"p/3", b"p/4"]


@pytest.mark.parametrize("end", [b"b", b"a"])
def test_a_range_that_ends_before_it_starts_is_empty_and_harms_nobody(replica: Any, end: bytes) -> None:
    """RocksDB refuses such a range: applied as it is, it would end every replica, and every restart of one."""
    replica.write(Put(b"a", b"1"), Put(b"b", b"2"), Put(b"c", b"3"))
    assert replica.write(DeleteRange(EVERYWHERE, b"b", end)) == [Applied([0])]
    empty = RangeDigest().value()
    assert replica.write(Atomic([RangeUnchanged(EVERYWHERE, b"b", end, empty)], [])) == [Applied([])]
    assert replica.scan() == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    assert replica.scan(b"b", end) == replica.scan(b"b", end, reverse=True) == []


# -- all or nothing


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (KeyPresent(b"there"), True),
        (KeyPresent(b"none"), False),
        (KeyAbsent(b"none"), True),
        (KeyAbsent(b"there"), False),
        (ValueEquals(b"there", b"v"), True),
        (ValueEquals(b"there", b"w"), False),
        (ValueEquals(b"none", b""), False),
        (ValueEqualsOrAbsent(b"there", b"v"), True),
        (ValueEqualsOrAbsent(b"there", b"w"), False),
        (ValueEqualsOrAbsent(b"none", b"w"), True),
        (SeqEquals(b"there", 2), True),
        (SeqEquals(b"there", 3), False),
        (SeqEquals(b"there", 0), False),
        (SeqEquals(b"there", (1 << 63) - 1), False),
        (SeqEquals(b"none", 0), True),
        (SeqEquals(b"none", 2), False),
        (RangeUnchanged(EVERYWHERE, b"", b"", b""), False),
        (RangeUnchanged(one_microshard(0), b"", b"", b"too short"), False),
        (RangeUnchanged(one_microshard(0), b"", b"", bytes(MAX_DIGEST)), False),
    ],
    ids=repr,
)
def test_an_atomic_is_done_where_its_condition_holds_and_else_not_at_all(
    replica: Any, condition: Condition, holds: bool
) -> None:
    replica.write(Put(b"there", b"v"))
    [result] = replica.write(Atomic([KeyAbsent(b"other"), condition], [Put(b"done", b"1"), Increment(b"n")]))
    assert isinstance(result, Applied) is holds
    assert replica.get(b"done") == (b"1" if holds else None)
    if not holds:
        shown = getattr(condition, "key", b"") == b"there"
        assert result == ConditionNotMet(1, 2 if shown else 0, b"v" if shown else None)


def test_a_failed_condition_shows_the_value_unless_it_is_long(replica: Any) -> None:
    replica.write(Put(b"short", bytes(MAX_FOUND_BYTES)), Put(b"long", bytes(MAX_FOUND_BYTES + 1)))
    assert replica.write(Atomic([KeyAbsent(b"short")], []), Atomic([KeyAbsent(b"long")], [])) == [
        ConditionNotMet(0, 2, bytes(MAX_FOUND_BYTES)),
        ConditionNotMet(0, 2, None),
    ]


def test_conditions_see_what_came_before_them_in_the_same_write(replica: Any) -> None:
    take = Atomic([KeyAbsent(b"lock")], [Put(b"lock", b"mine")])
    assert replica.write(take, take, Delete(b"lock"), take) == [
        Applied([]),
        ConditionNotMet(0, 2, b"mine"),
        Applied([]),
    ]


def test_an_atomic_gives_the_results_of_its_parts_in_order(replica: Any) -> None:
    parts = [Put(b"a", b"1"), Increment(b"a", 2), Touch(b"none"), Delete(b"a"), Increment(b"a"), Touch(b"a")]
    assert replica.write(Atomic([], parts)) == [Applied([3, 0, 1, 1])]
    assert replica.write(Atomic([], [])) == [Applied([])]


def test_an_atomic_with_an_impossible_part_leaves_everything_as_it_was(replica: Any) -> None:
    replica.write(Put(b"a", b"old"), Put(b"text", b"text"))
    before = replica.entry(b"a")
    atomic = Atomic(
        [], [Put(b"a", b"new"), Put(b"b", b"new", 1000), Delete(b"text"), Put(b"text", b"x"), Increment(b"a")]
    )
    [refused] = replica.write(Put(b"b", b"earlier"), atomic)
    assert isinstance(refused, Impossible)
    assert refused.operation == 4
    assert replica.entry(b"a") == before
    assert (replica.get(b"b"), replica.get(b"text")) == (b"earlier", b"text")


def test_an_atomic_with_thousands_of_parts_is_done(replica: Any) -> None:
    conditions = [KeyAbsent(b"k%d" % number) for number in range(3000)]
    assert replica.write(Atomic(conditions, [Increment(b"k%d" % number) for number in range(3000)])) == [
        Applied([1] * 3000)
    ]


# -- ranges that a transaction has read


def test_a_range_is_unchanged_until_a_row_of_it_is_written_added_or_removed(replica: Any) -> None:
    replica.write(Put(b"a", b"1"), Put(b"b", b"1"), Put(b"x", b"1"))
    condition = RangeUnchanged(EVERYWHERE, b"a", b"c", digest_of(replica, b"a", b"c"))
    assert replica.write(Atomic([condition], [Put(b"x", b"2")])) == [Applied([])]
    for change in (Put(b"b", b"1"), Put(b"ab", b"1"), Delete(b"a"), DeleteRange(EVERYWHERE, b"b", b"c")):
        condition = RangeUnchanged(EVERYWHERE, b"a", b"c", digest_of(replica, b"a", b"c"))
        assert replica.write(change, Atomic([condition], []))[-1] == ConditionNotMet(0, 0, None)


def test_a_range_in_one_microshard_does_not_mind_the_others(replica: Any) -> None:
    replica.write(Put(b"p/1", b"1"), Put(b"p/2", b"1"))
    [microshard] = replica.machine.route([b"p/1"])
    elsewhere = next(key for key in (b"p%d" % n for n in range(99)) if replica.machine.route([key]) != [microshard])
    condition = RangeUnchanged(one_microshard(microshard), b"p", b"q", digest_of(replica, b"p/", b"p0"))
    assert replica.write(Put(elsewhere, b"1"), Atomic([condition], [])) == [Applied([])]


def test_a_row_that_expired_since_changes_its_range(replica: Any) -> None:
    replica.write(Put(b"a", b"1", 1000), Put(b"b", b"1"))
    condition = RangeUnchanged(EVERYWHERE, b"", b"", digest_of(replica))
    replica.now += 1000
    assert replica.write(Atomic([condition], [])) == [ConditionNotMet(0, 0, None)]
    condition = RangeUnchanged(EVERYWHERE, b"", b"", digest_of(replica))
    assert replica.write(Atomic([condition], [])) == [Applied([])]


# -- what this Shoal does not know


def test_an_operation_of_a_newer_shoal_stops_the_replica_with_words(replica: Any) -> None:
    replica.open_session()
    unknown = WriteCommand(replica.session, 1, [], msgspec.msgpack.encode([[99, b"key"]]))
    with pytest.raises(UnknownCommands, match="newer Shoal"):
        replica.apply(replica.commands(unknown))
