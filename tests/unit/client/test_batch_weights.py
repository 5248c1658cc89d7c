"""What calls count as in a batch: no batch is more work than a node accepts, and one call that is more is refused at home."""

from __future__ import annotations

import pytest
import shoal
from hypothesis import given
from hypothesis import strategies as st
from shoal import steps
from shoal.bounds import MAX_BOUND
from shoal.errors import TooLarge
from shoal.protocol.digest import RangeDigest
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    Atomic,
    Delete,
    DeleteRange,
    Increment,
    KeyAbsent,
    Operation,
    Put,
    RangeUnchanged,
    Touch,
    ValueEquals,
)
from shoal.routing.calls import CallQueue, WriteCall
from shoal.routing.limits import NodeLimits
from shoal.routing.shard_queue import BATCH_BYTES, BATCH_CALLS
from shoal.shardmap import MicroshardRange, count_in, one_microshard, parts_of_at_most
from shoal.steps import check_step
from shoal.write_costs import RANGE_US, WRITE_US, bytes_cost, microshards_at_once, operations_cost

LIMITS = NodeLimits()
ALL = (MicroshardRange(0, 1024),)
EMPTY = RangeDigest().value()

KEY = st.binary(min_size=1, max_size=60)
TTL = st.sampled_from([-1, 0, 5])
SINGLE = st.one_of(
    st.builds(Put, KEY, st.binary(max_size=300), TTL),
    st.builds(Delete, KEY),
    st.builds(Increment, KEY),
    st.builds(Touch, KEY),
)
STEP = st.one_of(
    SINGLE,
    st.builds(
        Atomic, st.lists(st.builds(KeyAbsent, KEY) | st.builds(ValueEquals, KEY, KEY), max_size=6), st.lists(SINGLE)
    ),
    st.builds(
        lambda first, size: DeleteRange((MicroshardRange(first, 1024),), b"a" * size, b"b"),
        st.integers(0, 1023),
        st.integers(1, 1024),
    ),
    st.just(Atomic([RangeUnchanged(ALL, b"a", b"b", EMPTY)], [])),
)


@given(st.lists(st.tuples(STEP, st.integers(1, 3000)), min_size=1, max_size=5))
def test_no_batch_is_more_work_than_a_node_accepts(groups: list[tuple[Operation, int]]) -> None:
    queue: CallQueue[WriteCall[None]] = CallQueue()
    for operation, count in groups:
        size = check_step(operation, LIMITS)
        for _ in range(count):
            queue.add(WriteCall(None, 1.0, size, operation))
    while queue.calls:
        calls = queue.take(BATCH_CALLS, BATCH_BYTES)
        operations = [call.operation for call in calls]
        cost = operations_cost(operations) + bytes_cost(len(encode_operations(operations)))
        assert cost <= WRITE_US, f"{len(calls)} calls"


def test_the_usual_batches_are_as_large_as_before() -> None:
    for operation, least in (
        (Put(b"key-of-usual-size", b"v" * 100), BATCH_CALLS),
        (Delete(b"key-of-usual-size"), BATCH_CALLS),
        (Put(b"key-of-usual-size", b"v" * 100, 5), 2000),
        (Increment(b"key-of-usual-size"), 1500),
        (Atomic([KeyAbsent(b"key")], [Put(b"key", b"v")]), 900),
        (DeleteRange(ALL, b"a", b"b"), 2),
    ):
        assert BATCH_BYTES // check_step(operation, LIMITS) >= least, operation


@pytest.mark.parametrize(
    "step",
    [
        steps.atomic([shoal.increment(f"k{n}") for n in range(2000)], []),
        steps.atomic([shoal.put(f"k{n}", "") for n in range(4500)], []),
        steps.atomic([], [shoal.key_absent(f"k{n}") for n in range(4500)]),
        Atomic([RangeUnchanged(ALL, b"a", b"b", EMPTY)] * 3, []),
    ],
    ids=["increments", "puts", "conditions", "ranges"],
)
def test_what_no_node_would_accept_is_refused_at_home_in_words(step: Atomic) -> None:
    with pytest.raises(
        TooLarge, match=r"together: applying them would take each replica about \d+ ms; .*Write less at once"
    ):
        check_step(step, LIMITS)


@pytest.mark.parametrize("size", [0, 1, 100, 4096, MAX_BOUND])
def test_a_part_of_a_deletion_is_accepted_however_long_its_ends_are(size: int) -> None:
    start, end = b"a" * size, b"b" * size
    most = microshards_at_once(start, end)
    assert (
        WRITE_US // 3
        < operations_cost([DeleteRange((MicroshardRange(0, most),), start, end)])
        <= WRITE_US // 2 + RANGE_US
    )


@pytest.mark.parametrize("place", [0, 1], ids=["start", "end"])
@pytest.mark.parametrize("kind", ["deletion", "condition"])
def test_the_ends_of_ranges_are_as_long_as_keys_and_a_byte(kind: str, place: int) -> None:
    for more, accepted in ((1, True), (2, False)):
        ends = [b"", b""]
        ends[place] = b"z" * (LIMITS.max_key_bytes + more)
        where = one_microshard(0)
        step = DeleteRange(where, *ends) if kind == "deletion" else Atomic([RangeUnchanged(where, *ends, EMPTY)], [])
        if accepted:
            check_step(step, LIMITS)
        else:
            with pytest.raises(TooLarge, match=r"ends at 4098 bytes; at most 4097 are accepted"):
                check_step(step, LIMITS)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20), st.integers(1, 7))
def test_parts_of_ranges_are_the_ranges_in_order(steps: list[int], most: int) -> None:
    ends = [sum(steps[: place + 1]) for place in range(len(steps))]
    ranges = tuple(
        MicroshardRange(end - step, end - step + max(1, step // 2)) for end, step in zip(ends, steps, strict=True)
    )
    parts = list(parts_of_at_most(most, ranges))
    assert all(0 < count_in(part) <= most for part in parts)
    assert all(count_in(part) == most for part in parts[:-1])
    named = [each for part in parts for span in part for each in range(span.first, span.end)]
    assert named == [each for span in ranges for each in range(span.first, span.end)]
