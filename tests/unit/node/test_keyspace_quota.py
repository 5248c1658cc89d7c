"""A keyspace's quota at one node: no more goes through than it allows, all of it can be had; who is refused is told when."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from shoal.bounds import WHOLE
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import Atomic, Delete, DeleteRange, Increment, KeyPresent, Operation, Put, Touch
from shoal.quotas import adds
from shoal.shardmap import Keyspace, MicroshardRange, one_microshard
from shoal.write_costs import PLAIN_US, operations_cost
from shoal_server.node.elements import length_of_array
from shoal_server.node.keyspace_quota import (
    FULL_RETRY_MS,
    KeyspaceQuota,
    extra_operations,
)
from shoal_server.node.token_bucket import TokenBucket

SECOND = 1_000_000_000
START = 1_000_000 * SECOND
KEYSPACE = Keyspace(1, "carts", 4, b"/", reads_per_second=1000, writes_per_second=100, max_bytes=1 << 20)
THREE = 3


def bucket(rate: float, depth: float) -> TokenBucket:
    made = TokenBucket(START)
    made.set_rate(rate, depth, START)
    return made


def quota(keyspace: Keyspace = KEYSPACE, nodes: int = THREE) -> KeyspaceQuota:
    made = KeyspaceQuota("n1", keyspace, START)
    made.adopt(keyspace, nodes, START)
    return made


@given(
    st.floats(0.1, 1e6),
    st.lists(st.tuples(st.integers(1, 5000), st.integers(0, SECOND)), min_size=1, max_size=200),
)
def test_no_more_goes_through_than_the_rate_and_a_burst_and_one_request(
    rate: float, asked: list[tuple[int, int]]
) -> None:
    depth = max(1.0, rate)
    made, now, let_through = bucket(rate, depth), START, 0
    for tokens, pause in asked:
        now += pause
        if not made.take(tokens, now):
            let_through += tokens
            assert let_through - tokens <= depth + rate * (now - START) / SECOND + 1e-3


@settings(max_examples=20, deadline=None)
@given(st.floats(1, 5000), st.integers(1, 500), st.integers(1, 20))
def test_who_comes_back_when_told_to_uses_all_of_the_rate(rate: float, tokens: int, clients: int) -> None:
    """Each of some clients asks, and asks again when it is told to; none asks at any other time."""
    made, until = bucket(rate, max(1.0, rate)), START + 20 * SECOND
    due = dict.fromkeys(range(clients), START)
    let_through = 0
    while (now := min(due.values())) < until:
        client = min(due, key=lambda each: due[each])
        wait = made.take(tokens, now)
        let_through += 0 if wait else tokens
        due[client] = now + max(wait, 1) * SECOND // 1000
    # Each asks a thousand times a second at the most, and none comes back before it is told to.
    possible = min(rate * 20, clients * tokens * 20_000)
    assert let_through >= 0.9 * possible - tokens * clients


def test_those_who_are_refused_come_back_one_after_the_other() -> None:
    made = bucket(100, 100)
    assert made.take(150, START) == 0
    waits = [made.take(10, START) for _ in range(5)]
    assert waits == [501, 601, 701, 801, 901]
    # Nobody is sent away for long because of others who may never come back.
    waits = [made.take(10, START) for _ in range(100)]
    assert max(waits) <= 501 + 1000
    assert all(made.take(10, START + wait * SECOND // 1000) == 0 for wait in (501, 601, 701))


def test_a_debt_is_paid_off_at_the_new_rate() -> None:
    made = bucket(100, 100)
    made.take(1100, START)
    made.set_rate(1000, 1000, START)
    assert made.take(1, START) == 1001
    assert made.take(1, START + SECOND + 1) == 0


def test_a_request_larger_than_the_bucket_goes_through_and_is_paid_for() -> None:
    made = bucket(10, 10)
    assert made.take(5000, START) == 0
    assert made.take(1, START) == 5000, "no longer at once than is of use: the debt is of minutes"
    assert made.take(1, START + 498 * SECOND) > 0
    assert made.take(1, START + 500 * SECOND) == 0


def test_equal_shares_until_a_manager_has_dealt_any() -> None:
    made = quota()
    assert (made.read_share, made.write_share) == (WHOLE // 3, WHOLE // 3)
    let_through = sum(made.admit(1, 0, START + tick * SECOND // 1000) is None for tick in range(10_000))
    assert 0.98 * 1000 / 3 * 10 <= let_through <= 1000 / 3 * 11 + 1
    made.set_shares(WHOLE, 0, full=False, now=START + 10 * SECOND)
    assert (made.read_share, made.write_share) == (WHOLE, 0)
    made.adopt(KEYSPACE, THREE, START + 11 * SECOND)
    assert made.read_share == WHOLE, "what was dealt stays, whatever the map does"


def test_a_changed_quota_needs_no_new_shares() -> None:
    made = quota()
    made.set_shares(WHOLE // 2, WHOLE // 2, full=False, now=START)
    for hour, rate in enumerate((1000, 200, 5000)):
        now = START + hour * 3600 * SECOND
        made.adopt(replace(KEYSPACE, reads_per_second=rate), THREE, now)
        while made.admit(1, 0, now) is None:
            pass
        let_through = sum(made.admit(1, 0, now + tick * 100_000) is None for tick in range(1, 20_001))
        assert let_through == pytest.approx(rate, rel=0.02)


def test_a_quota_that_is_lifted_bounds_nothing() -> None:
    made = quota()
    while made.admit(1, 1, START) is None:
        pass
    made.adopt(replace(KEYSPACE, reads_per_second=0, writes_per_second=0), THREE, START)
    assert all(made.admit(10_000, 10_000, START) is None for _ in range(100))


def test_refusals_say_what_was_too_much_and_what_is_allowed() -> None:
    made = quota()
    made.admit(1000, 0, START)
    refusal = made.admit(5, 0, START)
    assert refusal is not None
    assert refusal.words == (
        "keyspace 'carts' has used up its quota of 1000 reads a second, of which 333.3 are node n1's now: ask again in "
        f"{refusal.retry_after_ms} ms, or for less"
    )
    assert made.admit(0, 1, START) is None, "reads do not use up writes"
    use = made.use(START + 3 * SECOND)
    assert (use.asked_reads, use.asked_writes, use.refused, use.refused_ms) == (1005, 1, 1, 3000)


def test_rows_of_a_scan_are_taken_off_afterwards() -> None:
    made = quota()
    assert made.admit(1, 0, START) is None
    made.charge(reads=1332)
    assert made.admit(1, 0, START + 2 * SECOND) is not None
    assert made.admit(1, 0, START + 4 * SECOND) is None
    assert made.use(START).asked_reads == 1335


def test_a_full_keyspace_refuses_until_it_is_told_that_it_is_not() -> None:
    made = quota()
    assert made.admit_bytes(START) is None
    made.set_shares(WHOLE, WHOLE, full=True, now=START)
    refusal = made.admit_bytes(START)
    assert refusal is not None
    assert refusal.retry_after_ms == FULL_RETRY_MS
    assert "its quota of 1048576 bytes" in refusal.words
    made.set_shares(WHOLE, WHOLE, full=False, now=START)
    assert made.admit_bytes(START) is None
    made.set_shares(WHOLE, WHOLE, full=True, now=START)
    made.adopt(replace(KEYSPACE, max_bytes=0), THREE, START)
    assert made.admit_bytes(START) is None, "there is no quota of bytes any more"


ADDING: list[Operation] = [Put(b"k", b"v"), Increment(b"k"), Atomic([], [Delete(b"k"), Put(b"k", b"v")])]
NOT_ADDING: list[Operation] = [
    Delete(b"k"),
    Touch(b"k", 5),
    DeleteRange(one_microshard(1), b"", b""),
    Atomic([KeyPresent(b"k")], [Delete(b"k"), Touch(b"k")]),
    Atomic([], []),
]


def test_what_adds_is_told_from_what_does_not() -> None:
    assert all(map(adds, ADDING))
    assert not any(map(adds, NOT_ADDING))


@given(st.lists(st.sampled_from(ADDING + NOT_ADDING), max_size=70))
def test_operations_are_counted_without_decoding_them(operations: list[Operation]) -> None:
    assert length_of_array(encode_operations(operations)) == len(operations)


@pytest.mark.parametrize("count", [0, 15, 16, 65_535, 65_536])
def test_operations_are_counted_however_many_they_are(count: int) -> None:
    encoded = encode_operations([Delete(b"k")] * count)
    assert length_of_array(encoded) == count
    assert extra_operations([Delete(b"k")] * count, PLAIN_US * count) == 0


@given(st.binary(max_size=20))
def test_whatever_is_no_list_can_be_counted(data: bytes) -> None:
    assert 0 <= length_of_array(data) <= 0xFFFF_FFFF


def test_operations_within_others_are_counted_too() -> None:
    assert extra_operations([Put(b"k", b"v"), Atomic([], [Delete(b"a")] * 5), Atomic([], [])], 50) == 4


@pytest.mark.parametrize(
    ("operations", "extra"),
    [
        ([Put(b"k", b"v")] * 6000, 0),
        ([Touch(b"k", 1)] * 600, 0),
        ([Atomic([KeyPresent(b"k")], [Put(b"k", b"v")])] * 1000, 0),
        ([Atomic([KeyPresent(b"k")] * 3900, [])], 608),
        ([DeleteRange(one_microshard(0), b"", b"")], 0),
        ([DeleteRange((MicroshardRange(0, 1000),), b"", b"")] * 2, 498),
    ],
    ids=["puts", "touches", "conditions", "many conditions", "a range", "ranges"],
)
def test_a_write_counts_as_no_less_than_it_is_work(operations: list[Operation], extra: int) -> None:
    assert extra_operations(operations, operations_cost(operations)) == extra


def test_a_share_of_nothing_lets_nothing_through_however_often_it_is_dealt() -> None:
    made = quota()
    made.set_shares(0, 0, full=False, now=START)
    assert made.admit(400, 40, START) is None, "what there was when it had a share"
    for second in range(1, 10):
        now = START + second * SECOND
        made.set_shares(0, 0, full=False, now=now)
        assert made.admit(1, 0, now) is not None
        assert made.admit(0, 1, now) is not None
    made.set_shares(WHOLE, WHOLE, full=False, now=now)
    assert made.admit(1, 0, now) is not None, "a debt stays"
    assert made.admit(1, 0, now + SECOND) is None
