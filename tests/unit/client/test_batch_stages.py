"""A batch's stage and the queue that it waits in, or is open in, always say the same."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import STRONG, Freshness, Put
from shoal.routing.calls import ReadCall, WriteCall
from shoal.routing.shard_queue import AnyBatch, ReadBatch, ShardQueue, Stage, WriteBatch
from shoal.shardmap import MicroshardRange, Shard

SHARD = Shard(1, 1, (MicroshardRange(0, 16),), ("n1", "n2", "n3"), leader="n1")
WEAK = Freshness(False, 0, 1000)


def check(shard_queue: ShardQueue[Any], batches: list[AnyBatch[Any]]) -> None:
    waiting = [*shard_queue.waiting, *shard_queue.weak_waiting]
    assert sorted(map(id, waiting)) == sorted(id(batch) for batch in batches if batch.stage is Stage.WAITING)
    opened = [batch for batch in batches if batch.stage in (Stage.WAITING, Stage.IN_FLIGHT)]
    assert sorted(map(id, shard_queue.open)) == sorted(map(id, opened))
    assert all(batch.freshness.strong for batch in shard_queue.open_reads)
    assert not any(batch.freshness.strong for batch in shard_queue.open_weak)
    numbers = [batch.number for batch in shard_queue.open_writes]
    assert set(numbers) <= set(shard_queue.numbers)


def made(shard_queue: ShardQueue[Any], random: Random) -> AnyBatch[Any]:
    if random.random() < 0.4:
        operation = Put(b"k", b"v")
        calls = [WriteCall(object(), 1.0, 1, operation)]
        number = shard_queue.number(False)
        return WriteBatch(shard_queue, calls, encode_operations([operation]), shard_queue.session, number, 1.0, False)
    freshness = random.choice((STRONG, WEAK))
    return ReadBatch(shard_queue, [ReadCall(object(), 1.0, 1, b"k", False)], 1.0, freshness)


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_is_where_its_stage_says(seed: int) -> None:
    random = Random(seed)
    shard_queue: ShardQueue[Any] = ShardQueue(SHARD)
    batches: list[AnyBatch[Any]] = []
    for _ in range(300):
        going = [batch for batch in batches if batch.stage is not Stage.CLOSED]
        what = random.choice(("make", "wait", "launch", "close", "give to the leader"))
        if what == "make" or not going:
            batches.append(made(shard_queue, random))
            continue
        batch = random.choice(going)
        if what == "wait":
            shard_queue.wait(batch)
        elif what == "launch":
            shard_queue.launch(batch)
        elif what == "close":
            shard_queue.close(batch)
            shard_queue.close(batch)
        elif isinstance(batch, ReadBatch) and not batch.freshness.strong and batch.stage is not Stage.IN_FLIGHT:
            shard_queue.give_to_leader(batch)
            assert batch in shard_queue.waiting
        check(shard_queue, [each for each in batches if each.stage is not Stage.MADE])


def test_what_is_over_is_not_asked_for_again() -> None:
    shard_queue: ShardQueue[Any] = ShardQueue(SHARD)
    batch = made(shard_queue, Random(1))
    shard_queue.close(batch)
    with pytest.raises(AssertionError, match="not asked for again"):
        shard_queue.wait(batch)
