"""Which keys are asked for most: found by a sample, within the error that is said, in bounded memory."""

from __future__ import annotations

import math
from collections import Counter
from random import Random
from typing import Any

import pytest
from shoal.protocol.hot_keys import MAX_HOT_KEYS, GetHotKeys
from shoal.protocol.hot_keys import HotKeys as Answer
from shoal.protocol.messages import Freshness, Put
from shoal_server.node import hot_keys_report
from shoal_server.node.hot_keys import (
    BATCH_KEYS,
    FADE_SECONDS,
    SAMPLED_ONE_IN,
    TABLE_BYTES,
    TABLE_KEYS,
    HotKeys,
)

SECOND = 1_000_000_000


def ask(table: HotKeys, keys: list[bytes], now: int, *, writes: bool = False) -> None:
    """Ask as a node does."""
    table.left -= 1
    if not table.left:
        table.take(keys, now, writes=writes)


@pytest.mark.parametrize("length", [5, 100, 3000])
@pytest.mark.parametrize("seed", range(5))
def test_every_count_is_right_within_its_error_and_the_most_asked_are_there(seed: int, length: int) -> None:
    """Every batch of one key is counted, and nothing fades."""
    table, random = HotKeys(), Random(seed)
    counts: Counter[bytes] = Counter()
    for _ in range(4000):
        key = (b"%d-" % (random.paretovariate(0.5) % 1000)).ljust(length, b"x")
        counts[key] += SAMPLED_ONE_IN
        table.take([key], 0, writes=random.random() < 0.5)
    assert table.total == counts.total()
    for key, found in table.keys.items():
        counted = found.reads + found.writes
        assert counted <= counts[key] <= counted + found.error + 1e-6
    most = max(map(len, counts), default=1)
    capacity = min(TABLE_KEYS, TABLE_BYTES // most)
    kept = capacity * 3 // 4
    assert all(key in table.keys for key, count in counts.items() if count > table.total / max(1, kept - 1))
    assert len(table.keys) <= TABLE_KEYS
    assert sum(map(len, table.keys)) <= TABLE_BYTES


def test_rates_are_those_of_the_last_ten_seconds() -> None:
    table, random = HotKeys(), Random(3)
    for batch in range(200_000):  # 2,000 a second, for 100 seconds
        now = batch * SECOND // 2000
        key = b"hot" if random.random() < 0.3 else b"%d" % random.randrange(10_000)
        ask(table, [key], now, writes=random.random() < 0.5)
    hot = table.keys[b"hot"]
    assert (hot.reads + hot.writes) / FADE_SECONDS == pytest.approx(600, rel=0.25)
    assert hot.reads == pytest.approx(hot.writes, rel=0.5)
    assert table.total / FADE_SECONDS == pytest.approx(2000, rel=0.15)
    assert max(table.keys, key=lambda key: table.keys[key].most) == b"hot"
    table.fade(200 * SECOND)
    assert table.keys == {}
    assert table.total < 1


def test_keys_that_are_asked_for_once_each_are_not_told_of_and_a_hot_one_among_them_is(nodes: Any) -> None:
    leader = nodes.leader
    table, random = nodes.replica(leader).load.hot_keys, Random(5)
    for number in range(400):  # 20 a second, for 20 seconds
        nodes.pass_time(50)
        ask(table, [b"cold-%d" % number], nodes.now)
    assert table.keys
    assert nodes.ask_and_wait(leader, GetHotKeys).shards == ()
    for number in range(20_000):
        ask(table, [b"hot" if random.random() < 0.5 else b"cool-%d" % number], nodes.now)
    [shard] = nodes.ask_and_wait(leader, GetHotKeys).shards
    assert shard.keys[0].key == b"hot"
    assert abs(shard.keys[0].reads - 1000) <= shard.keys[0].error
    assert [key.key for key in shard.keys[1:]] == []


@pytest.mark.parametrize("every", [2, 16, 64, 128])
def test_what_comes_in_a_rhythm_is_neither_missed_nor_counted_each_time(every: int) -> None:
    table = HotKeys()
    for batch in range(64_000):
        ask(table, [b"tick" if batch % every == 0 else b"other"], 0)
    found = table.keys[b"tick"]
    assert found.reads == pytest.approx(64_000 / every, rel=0.6)


def test_a_large_batch_stands_for_all_its_keys_and_takes_no_longer() -> None:
    table = HotKeys()
    table.take([b"%d" % number for number in range(10_000)], 0, writes=False)
    assert len(table.keys) <= BATCH_KEYS
    assert table.total == pytest.approx(10_000 * SAMPLED_ONE_IN)
    table.take([], 0, writes=False)
    table.take([b"x" * (TABLE_BYTES + 1)], 0, writes=False)
    assert sum(map(len, table.keys)) <= TABLE_BYTES


# -- at a node


def test_a_node_tells_what_clients_ask_of_it_and_nothing_that_its_log_repeats(
    nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HotKeys, "_draw", lambda self: setattr(self, "left", 1))
    leader, other = nodes.leader, nodes.others[0]
    for name in nodes.nodes:
        nodes.replica(name).load.hot_keys.left = 1
    for _ in range(5):
        nodes.answer(nodes.write(Put(b"hot", b"v"), Put(b"warm", b"v")))
    for _ in range(3):
        nodes.answer(nodes.read(leader, b"hot", freshness=Freshness()))
    for _ in range(4):
        nodes.answer(nodes.read(other, b"weak", freshness=Freshness(strong=False)))
    nodes.answer(nodes.read(other, b"once", freshness=Freshness(strong=False)))
    told = nodes.ask_and_wait(leader, GetHotKeys)
    assert isinstance(told, Answer)
    [shard] = told.shards
    assert (told.node, shard.shard, shard.keyspace) == (leader, 1, 1)
    weight = SAMPLED_ONE_IN / FADE_SECONDS
    assert [key.key for key in shard.keys] == [b"hot", b"warm"]
    assert (shard.keys[0].writes, shard.keys[0].reads) == (round(5 * weight), round(3 * weight))
    assert (shard.keys[1].writes, shard.keys[1].reads) == (round(5 * weight), 0)
    assert shard.keys[1].error == round(2 * math.sqrt(5) * weight)
    assert shard.rate == round(13 * weight)
    # A follower has applied the writes, and was asked for these reads; of what was met once nothing is known.
    told = nodes.ask_and_wait(other, GetHotKeys)
    assert [key.key for shard in told.shards for key in shard.keys] == [b"weak"]
    assert nodes.ask_and_wait(other, lambda request: GetHotKeys(request, 1)).shards == told.shards
    assert nodes.ask_and_wait(other, lambda request: GetHotKeys(request, 99)).shards == ()
    nodes.pass_time(1000)
    for name in nodes.nodes:
        nodes.replica(name).load.hot_keys.fade(nodes.now + 1000 * SECOND)
    assert nodes.ask_and_wait(leader, GetHotKeys).shards == ()


def test_an_answer_is_bounded_in_keys_and_bytes(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    leader = nodes.leader
    table = nodes.replica(leader).load.hot_keys
    for number in range(1000):
        for _ in range(3):
            table.take([b"%d" % number], nodes.now, writes=False)
    [shard] = nodes.ask_and_wait(leader, GetHotKeys).shards
    assert TABLE_KEYS // 2 < len(shard.keys) <= MAX_HOT_KEYS
    for number in range(1000):
        for _ in range(3):
            table.take([(b"%d-" % number).ljust(4096, b"x")] * 9, nodes.now, writes=False)
    [shard] = nodes.ask_and_wait(leader, GetHotKeys).shards
    assert 3 * 4096 < sum(len(key.key) for key in shard.keys) <= TABLE_BYTES
    monkeypatch.setattr(hot_keys_report, "MAX_HOT_BYTES", 3 * 4096)
    [shard] = nodes.ask_and_wait(leader, GetHotKeys).shards
    assert len(shard.keys) == 3
