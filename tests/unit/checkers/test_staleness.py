"""The checker of bounded staleness, on histories whose verdict is known and on those of a model."""

from __future__ import annotations

from bisect import bisect_right
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from shoal_chaos.checkers.staleness import AcknowledgedWrite, BoundedRead, find_violations

WRITES = [AcknowledgedWrite(b"k", 1, 100), AcknowledgedWrite(b"k", 2, 200)]


def read(seq: int, shard_seq: int, invoked: int, staleness_ns: int, key: bytes = b"k") -> BoundedRead:
    return BoundedRead(key, seq, shard_seq, invoked, invoked + 1, staleness_ns)


def test_empty_histories_and_unwritten_keys_are_fine() -> None:
    assert find_violations([], []) == []
    assert find_violations(WRITES, []) == []
    assert find_violations(WRITES, [read(0, 0, 500, 0, b"other")]) == []


def test_a_read_knows_what_was_acknowledged_before_its_bound() -> None:
    assert find_violations(WRITES, [read(2, 2, 300, 0)]) == []
    assert find_violations(WRITES, [read(1, 1, 300, 101)]) == []
    (violation,) = find_violations(WRITES, [read(1, 1, 300, 100)])
    assert violation.write == WRITES[1]
    assert violation.sentence == (
        "A read of b'k' invoked at 300 ns saw version 1 on a replica at 1 and said that is at most 100 ns old, "
        "but write 2 was acknowledged at 200 ns, 100 ns before."
    )


def test_an_old_value_is_stale_even_on_a_replica_that_applied_the_write() -> None:
    assert find_violations(WRITES, [read(1, 9, 300, 0)])


def test_an_absent_key_is_stale_only_where_the_write_was_not_applied() -> None:
    assert find_violations(WRITES, [read(0, 3, 300, 0)]) == []
    assert find_violations(WRITES, [read(0, 1, 300, 0)])


def test_writes_acknowledged_out_of_order_count_by_their_sequence_numbers() -> None:
    writes = [AcknowledgedWrite(b"k", 2, 100), AcknowledgedWrite(b"k", 1, 200)]
    assert find_violations(writes, [read(2, 2, 300, 0)]) == []
    assert find_violations(writes, [read(1, 1, 150, 0)])


@given(st.integers(0, 10_000))
def test_histories_of_a_model_pass_and_a_smaller_bound_fails(seed: int) -> None:
    """A replica lags by what it says, or the next write it lacks is not acknowledged yet."""
    random = Random(seed)
    applied = sorted(random.sample(range(1000), 40))
    keys = [random.choice([b"a", b"b"]) for _ in applied]
    writes = [
        AcknowledgedWrite(key, seq, moment + random.randint(0, 20))
        for seq, (moment, key) in enumerate(zip(applied, keys, strict=True), 1)
    ]
    reads: list[BoundedRead] = []
    too_sure: list[BoundedRead] = []
    for _ in range(40):
        invoked, lag, key = random.randint(0, 1100), random.randint(0, 300), random.choice([b"a", b"b"])
        shard_seq = bisect_right(applied, invoked - lag)
        seq = max((seq for seq in range(1, shard_seq + 1) if keys[seq - 1] == key), default=0)
        reads.append(read(seq, shard_seq, invoked, lag, key))
        missed = [write.completed for write in writes[shard_seq:] if write.key == key and write.completed <= invoked]
        if missed:
            too_sure.append(read(seq, shard_seq, invoked, invoked - min(missed), key))
    assert find_violations(writes, reads) == []
    assert len(find_violations(writes, too_sure)) == len(too_sure)
