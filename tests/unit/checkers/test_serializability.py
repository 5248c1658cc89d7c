"""The checker of transactions, on Adya's anomalies, on histories of a model, and beside a search of all orders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shoal_chaos.checkers.serializability import (
    BankRead,
    RangeRead,
    SerializabilityViolation,
    Transaction,
    find_bank_violations,
    find_violation,
)

X, Y, Z = b"x", b"y", b"z"


def committed(
    id: int,  # noqa: A002
    seq: int,
    reads: Mapping[bytes, int] | None = None,
    writes: Iterable[bytes] = (),
    deletes: Iterable[bytes] = (),
    ranges: Sequence[RangeRead] = (),
    during: tuple[int, int | None] = (0, 1000),
) -> Transaction:
    return Transaction(id, seq, *during, reads or {}, ranges, frozenset(writes), frozenset(deletes))


def kinds(violation: SerializabilityViolation | None) -> list[str]:
    assert violation is not None
    return sorted(edge.kind for edge in violation.edges)


def test_an_empty_history_and_a_serial_one_are_fine() -> None:
    assert find_violation([], strict=True) is None
    history = [
        committed(1, 1, {X: 0}, [X], during=(0, 1)),
        committed(2, 2, {X: 1}, [X, Y], during=(2, 3)),
        committed(3, 2, {X: 2, Y: 2, Z: 0}, during=(4, 5)),
    ]
    assert find_violation(history, strict=True, every_write_known=True) is None


def test_a_lost_update_is_found_and_told() -> None:
    violation = find_violation([committed(1, 1, {X: 0}, [X]), committed(2, 2, {X: 0}, [X])])
    assert kinds(violation) == ["rw", "ww"]
    assert str(violation) == (
        "No serial order: G-single, a cycle of 2 edges.\n  T1 -[ww b'x']-> T2\n  T2 -[rw b'x']-> T1"
    )


def test_write_skew_is_found() -> None:
    violation = find_violation([committed(1, 1, {X: 0, Y: 0}, [X]), committed(2, 2, {X: 0, Y: 0}, [Y])])
    assert kinds(violation) == ["rw", "rw"]
    assert "G2-item" in str(violation)


def test_a_read_of_half_a_transaction_is_found() -> None:
    violation = find_violation([committed(1, 1, writes=[X, Y]), committed(2, 1, {X: 1, Y: 0})])
    assert kinds(violation) == ["rw", "wr"]


def test_transactions_that_read_from_each_other_are_found() -> None:
    violation = find_violation([committed(1, 1, {Y: 2}, [X]), committed(2, 2, {X: 1}, [Y])])
    assert kinds(violation) == ["wr", "wr"]
    assert "G1c" in str(violation)


def test_two_reads_of_one_key_that_differ_are_found() -> None:
    again = RangeRead(X, Y, {X: 2})
    assert find_violation([committed(1, 1, writes=[X]), committed(2, 2, writes=[X]), committed(3, 2, {X: 1})]) is None
    history = [committed(1, 1, writes=[X]), committed(2, 2, writes=[X]), committed(3, 2, {X: 1}, ranges=[again])]
    assert kinds(find_violation(history)) == ["predicate wr", "rw"]


def test_a_phantom_is_found() -> None:
    everything = RangeRead(b"", None, {})
    skew = [committed(1, 1, writes=[X], ranges=[everything]), committed(2, 2, writes=[Y], ranges=[everything])]
    violation = find_violation(skew)
    assert kinds(violation) == ["predicate rw", "predicate rw"]
    assert "G2," in str(violation)
    apart = [
        committed(1, 1, writes=[X], ranges=[RangeRead(Y, None, {})]),
        committed(2, 2, writes=[Y], ranges=[RangeRead(Y, None, {})]),
    ]
    assert find_violation(apart) is None


def test_a_range_ends_before_its_end() -> None:
    assert find_violation([committed(1, 1, writes=[X, Y]), committed(2, 1, ranges=[RangeRead(X, Y, {X: 1})])]) is None
    assert find_violation([committed(1, 1, writes=[X, Y]), committed(2, 1, ranges=[RangeRead(X, Z, {X: 1})])])


def test_an_absent_key_may_have_been_read_before_its_first_version_or_after_a_deletion() -> None:
    history = [committed(1, 1, writes=[X]), committed(2, 2, writes=[Y], deletes=[X]), committed(3, 3, writes=[X, Z])]
    for reads in ({X: 0, Y: 0}, {X: 0, Y: 2, Z: 0}):
        for seq in (0, 1, 2, 3):
            assert find_violation([*history, committed(4, seq, reads)]) is None
    violation = find_violation([*history, committed(4, 3, {X: 0, Z: 3})])
    assert violation is not None
    assert violation.edges


def test_the_absence_of_what_may_have_been_deleted_proves_nothing() -> None:
    history = [committed(1, 1, writes=[X, Y]), committed(2, 2, {X: 0, Y: 1})]
    assert find_violation(history) is not None
    assert find_violation(history, maybe_deleted={X}) is None


def test_what_it_read_of_its_own_writes_says_nothing() -> None:
    history = [committed(1, 1, writes=[X]), committed(2, 2, {X: 2}, [X], [Y], [RangeRead(X, Z, {X: 2})])]
    assert find_violation(history) is None


def test_a_version_of_unknown_writer_is_of_a_transaction_of_unknown_outcome() -> None:
    history = [committed(1, 1, writes=[X]), committed(2, 7, {X: 5})]
    assert find_violation(history) is None
    assert "no transaction wrote" in str(find_violation(history, every_write_known=True))
    assert find_violation([committed(1, 6, {X: 0}, [X]), committed(2, 7, {X: 5})])


@pytest.mark.parametrize(
    ("history", "sentence"),
    [
        ([committed(1, 1, writes=[X]), committed(2, 1, writes=[X])], "T1 and T2 both wrote b'x' at 1."),
        ([committed(1, 0, writes=[X])], "T1 wrote, but has no sequence number."),
        ([committed(1, 1, deletes=[X]), committed(2, 1, {X: 1})], "T2 read a value of b'x' at 1, where T1 deleted it."),
    ],
)
def test_what_cannot_be_is_told_without_edges(history: list[Transaction], sentence: str) -> None:
    assert find_violation(history) == SerializabilityViolation(sentence)


def test_a_stale_read_is_serializable_but_not_strictly() -> None:
    history = [committed(1, 1, writes=[X], during=(0, 1)), committed(2, 0, {X: 0}, during=(2, 3))]
    assert find_violation(history) is None
    violation = find_violation(history, strict=True)
    assert kinds(violation) == ["real time", "rw"]
    assert "No serial order that keeps real time: G-single" in str(violation)


def test_calls_that_touch_or_never_ended_are_in_no_order_of_time() -> None:
    for during in ((0, 2), (0, None)):
        history = [committed(1, 1, writes=[X], during=during), committed(2, 0, {X: 0}, during=(2, 3))]
        assert find_violation(history, strict=True) is None


def test_the_order_of_time_leads_through_any_number_of_instants() -> None:
    between = [committed(n, n, writes=[b"%d" % n], during=(10 * n, 10 * n + 5)) for n in range(2, 60)]
    history = [committed(1, 1, writes=[X], during=(0, 1)), *between, committed(99, 60, {X: 0}, during=(900, 901))]
    assert find_violation(history) is None
    assert kinds(find_violation(history, strict=True)) == ["real time", "rw"]


def test_a_bank_keeps_its_sum() -> None:
    assert find_bank_violations([BankRead(1, {X: 3, Y: 7}), BankRead(2, {X: -1, Y: 11})], 10) == []
    (violation,) = find_bank_violations([BankRead(1, {X: 3, Y: 7}), BankRead(2, {X: 3, Y: 6})], 10)
    assert violation.sentence == "T2 saw 9 in 2 accounts, where 10 is at all times."


def modelled(seed: int, count: int, deletes: bool = True) -> list[Transaction]:
    """Return transactions that take effect one after another at an instant of their call."""
    random = Random(seed)
    keys = [b"%02d" % n for n in range(8)]
    state: dict[bytes, int] = {}
    seq = 0
    history: list[Transaction] = []
    for number in range(count):
        reads = {key: state.get(key, 0) for key in random.sample(keys, 2)}
        ranges: list[RangeRead] = []
        if random.random() < 0.3:
            start, end = sorted(random.sample(keys, 2))
            ranges.append(RangeRead(start, end, {key: at for key, at in state.items() if start <= key < end}))
        changed = random.sample(keys, random.choice([0, 1, 3]))
        gone = {key for key in changed if deletes and random.random() < 0.3}
        if changed:
            seq += 1
        for key in changed:
            state.pop(key, None)
            if key not in gone:
                state[key] = seq
        during = (number * 10 - random.randint(0, 40), number * 10 + random.randint(0, 40))
        history.append(committed(number, seq, reads, [key for key in changed if key not in gone], gone, ranges, during))
    random.shuffle(history)
    return history


@given(st.integers(0, 10_000))
def test_histories_of_a_model_pass_and_a_lost_update_in_them_fails(seed: int) -> None:
    history = modelled(seed, 60)
    assert find_violation(history, strict=True, every_write_known=True) is None
    key = b"00"
    versions = sorted(transaction.seq for transaction in history if key in transaction.writes)
    for number, transaction in enumerate(history):
        older = [seq for seq in versions if seq < transaction.seq]
        if key in transaction.writes and len(older) > 1:
            lost = replace(transaction, reads={**transaction.reads, key: older[-2]})
            assert find_violation([*history[:number], lost, *history[number + 1 :]]) is not None


@given(st.integers(0, 10_000))
def test_a_replica_that_is_behind_breaks_strictness_only(seed: int) -> None:
    history = modelled(seed, 60, deletes=False)
    first = min((seq, key) for t in history for key, seq in t.reads.items() if seq)[1]
    stale = committed(1000, 0, {first: 0}, during=(5000, 5001))
    assert find_violation([*history, stale]) is None
    assert find_violation([*history, stale], strict=True) is not None


def explained(history: Sequence[Transaction], strict: bool) -> bool:
    """Try every order: does one keep each key's versions in theirs, and let each transaction read the newest?"""
    keys = {key for t in history for key in (*t.reads, *t.writes, *t.deletes)}
    return any(_explains(order, keys, strict) for order in permutations(history))


def _explains(order: Sequence[Transaction], keys: set[bytes], strict: bool) -> bool:
    newest = dict.fromkeys(keys, 0)
    state = dict.fromkeys(keys, 0)
    for number, transaction in enumerate(order):
        if strict and any(later.completed < transaction.invoked for later in order[number:] if later.completed):
            return False
        for key, seq in transaction.reads.items():
            if state[key] != seq:
                return False
        for start, end, contents in transaction.ranges:
            inside = {key for key in keys if start <= key and (end is None or key < end)}
            if any(state[key] != contents.get(key, 0) for key in inside - (transaction.deletes - contents.keys())):
                return False
        for key in transaction.writes | transaction.deletes:
            if newest[key] > transaction.seq:
                return False
            newest[key] = transaction.seq
            state[key] = transaction.seq if key in transaction.writes else 0
    return True


def arbitrary(seed: int, deletes: bool) -> list[Transaction]:
    """Return a few transactions that read any versions there are."""
    random = Random(seed)
    keys = [X, Y, Z]
    changes = [set(random.sample(keys, random.randint(0, 2))) for _ in range(random.randint(2, 5))]
    gone = [{key for key in change if deletes and random.random() < 0.4} for change in changes]
    history: list[Transaction] = []
    for number, change in enumerate(changes, 1):
        seen: dict[bytes, int] = {}
        for key in keys:
            versions = [n for n, other in enumerate(changes, 1) if key in other and key not in gone[n - 1]]
            seen[key] = random.choice([0, *(version for version in versions if version != number)])
        reads = {key: seen[key] for key in random.sample(keys, random.randint(0, 2))}
        ranges = [RangeRead(Y, None, {key: seen[key] for key in (Y, Z) if seen[key]})] if random.random() < 0.2 else []
        began = random.randint(0, 20)
        during = (began, began + random.randint(1, 15))
        history.append(committed(number, number, reads, change - gone[number - 1], gone[number - 1], ranges, during))
    return history


@settings(max_examples=1000)
@given(st.integers(0, 1_000_000), st.booleans(), st.booleans())
def test_the_verdict_is_that_of_a_search_of_all_orders(seed: int, deletes: bool, strict: bool) -> None:
    history = arbitrary(seed, deletes)
    assert (find_violation(history, strict=strict) is None) == explained(history, strict)
