"""Splitting: where, by whose wish, with takeovers at every event; and when shards split by themselves."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from shoal.protocol.messages import MicroshardLoad
from shoal.shardmap import MicroshardRange, Shard
from shoal_shardmanager.control.node_requests import Split
from shoal_shardmanager.control.operations.automatic import MEASURED_MS, SUSTAINED_MS
from shoal_shardmanager.control.placement_input import Loads
from shoal_shardmanager.control.requests import MoveMicroshardsRequest, Refused, SplitRequest, Why, with_settings
from shoal_shardmanager.control.rows import (
    MoveReplica,
    NodeState,
    OperationRow,
    Rebalance,
    SplitShard,
    State,
    Step,
)
from shoal_shardmanager.control.split_points import best_point, point_at
from shoal_shardmanager.control.state import changed
from shoal_shardmanager.placement import Load

EVENTS_MAX = 14


def test_a_shard_is_split_in_the_middle_when_nothing_is_known_of_its_load(simulated: Any) -> None:
    cluster = simulated()
    row = cluster.run_to_end(cluster.request(SplitRequest(1)))
    assert row.state is State.DONE
    assert cluster.groups[1].ranges == (MicroshardRange(0, 2),)
    assert cluster.groups[3].ranges == (MicroshardRange(2, 4),)
    assert sorted(cluster.groups[3].voters) == sorted(cluster.groups[1].voters)
    cluster.settled()


def test_the_new_shard_is_led_by_the_voter_that_leads_least(simulated: Any) -> None:
    cluster = simulated(shards=2)
    assert {cluster.groups[1].leader, cluster.groups[2].leader} == {"n1", "n2"}
    cluster.run_to_end(cluster.request(SplitRequest(1)))
    assert cluster.groups[3].leader == "n3"


def test_a_split_that_was_done_is_not_asked_for_again_while_the_new_shard_is_opened(simulated: Any) -> None:
    cluster = simulated()
    operation = cluster.request(SplitRequest(1))
    assert cluster.run(20, lambda: 3 in cluster.groups)
    for node in cluster.nodes.values():
        node.replicas.discard(3)
    cluster.check_safety = lambda: None  # it is on its way: a new replica is opened once what it stands on is on disk
    cluster.step()
    assert not [request for request in cluster.last.requests if isinstance(request, Split)]
    assert cluster.last.notes[operation].waiting == "shard 1 has parted with them; n1 opens shard 3"


@pytest.mark.parametrize("event", range(1, EVENTS_MAX))
def test_a_split_is_done_once_whoever_takes_over(simulated: Any, event: int) -> None:
    cluster = simulated()
    operation = cluster.request(SplitRequest(1, at=1))
    cluster.crash_at = event
    assert cluster.run_to_end(operation).state is State.DONE
    assert cluster.groups[3].ranges == (MicroshardRange(1, 4),)
    assert set(cluster.groups) == {1, 2, 3}
    cluster.settled()


@pytest.mark.parametrize("event", range(1, EVENTS_MAX))
def test_a_split_that_is_refused_is_asked_for_again(simulated: Any, event: int) -> None:
    cluster = simulated()
    operation = cluster.request(SplitRequest(1))
    cluster.refuse_at = event
    assert cluster.run_to_end(operation).state is State.DONE
    cluster.settled()


@pytest.mark.parametrize("away", ["n1", "n2", "n3"])
def test_a_node_that_is_away_only_delays_a_split(simulated: Any, away: str) -> None:
    cluster = simulated()
    operation = cluster.request(SplitRequest(1))
    cluster.stop(away)
    cluster.run(60)
    cluster.start(away)
    assert cluster.run_to_end(operation).state is State.DONE
    cluster.settled()


def test_other_changes_of_the_map_do_not_lose_the_new_shard(simulated: Any) -> None:
    cluster = simulated(nodes=6)
    split = cluster.request(SplitRequest(1))
    move = cluster.request(MoveReplica(2, "n2", "n5"))
    assert cluster.run_to_end(split).state is State.DONE
    assert cluster.run_to_end(move).state is State.DONE
    cluster.settled()


def test_a_shard_can_be_split_until_its_microshards_are_single(simulated: Any) -> None:
    cluster = simulated(shards=1)
    for shard in (1, 1, 2):
        cluster.run_to_end(cluster.request(SplitRequest(shard)))
    assert len(cluster.groups) == 4
    with pytest.raises(Refused, match="has one microshard, 0, and a microshard cannot be split"):
        cluster.request(SplitRequest(1))
    cluster.settled()


def test_a_split_and_anything_else_on_a_shard_exclude_each_other(simulated: Any) -> None:
    cluster = simulated()
    split = cluster.request(SplitRequest(1))
    for request in (
        SplitRequest(1),
        MoveReplica(1, "n1", "n4"),
        MoveMicroshardsRequest(2, 1, (MicroshardRange(4, 5),)),
    ):
        with pytest.raises(Refused, match=r"operation 1 \(split, at step split\) is on shard 1") as refusal:
            cluster.request(request)
        assert refusal.value.why is Why.CONFLICT
    with pytest.raises(Refused, match="`shoal merge 1 3` undoes it"):
        cluster.cancel(split)


# -- where


def whole(count: int) -> Shard:
    return Shard(1, 1, (MicroshardRange(0, count),), ("n1",))


def leading(simulated: Any, *hot: MicroshardLoad) -> Any:
    cluster = simulated(shards=1)
    cluster.groups[1].hot = hot
    return cluster.observed().leader(1).replica


def test_the_point_parts_the_load(simulated: Any) -> None:
    hot = (MicroshardLoad(1, 300, 100, 10), MicroshardLoad(6, 50, 50, 10))
    point = best_point(whole(8), leading(simulated, *hot), Load(reads=400, writes=160))
    assert (point.at, point.by) == (2, "load")
    assert point.share == pytest.approx((560 - 400 - 10) / 560)


def test_the_hottest_microshard_is_set_apart_where_it_is_the_first(simulated: Any) -> None:
    hot = (MicroshardLoad(0, 1000, 0, 10),)
    point = best_point(whole(4), leading(simulated, *hot), Load(reads=1600))
    assert point.ranges == (MicroshardRange(1, 4),)


def test_without_load_the_bytes_decide(simulated: Any) -> None:
    hot = (MicroshardLoad(7, 0, 0, 8_000),)
    point = best_point(whole(8), leading(simulated, *hot), Load(bytes=10_000))
    assert (point.at, point.by) == (7, "bytes")


def test_a_shard_that_is_too_large_is_parted_by_bytes_though_it_is_hot_elsewhere(simulated: Any) -> None:
    hot = (MicroshardLoad(0, 1000, 0, 10),)
    load = Load(bytes=8_000, reads=1_000)
    assert best_point(whole(8), leading(simulated, *hot), load, for_bytes=True).at == 4


def test_a_point_may_be_named(simulated: Any) -> None:
    point = point_at(whole(8), leading(simulated), Load(), 2)
    assert (point.ranges, point.share) == ((MicroshardRange(2, 8),), 0.75)


# -- by themselves


class GivenLoads(Loads):
    """Loads as a test says them, by shard."""

    def __init__(self, loads: dict[int, Load]) -> None:
        super().__init__()
        self.loads = loads

    def of(self, shard: int, nodes: tuple[str, ...]) -> Load:
        return self.loads.get(shard, Load())


def with_loads(simulated: Any, *, shards: int = 1, **loads: Load) -> Any:
    cluster = simulated(shards=shards)
    cluster.loads = GivenLoads({int(name.removeprefix("shard")): load for name, load in loads.items()})
    cluster.memory.loads = cluster.loads
    return cluster


def automatic(cluster: Any) -> list[SplitShard]:
    return [row.arguments for _, row in sorted(cluster.state.operations.items()) if row.kind == "split"]


HOT = Load(writes=60_000)


def test_a_shard_that_stays_hot_is_split_by_itself(simulated: Any) -> None:
    cluster = with_loads(simulated, shards=2, shard1=HOT)
    cluster.run(SUSTAINED_MS // 100)
    assert not automatic(cluster)
    cluster.run(10)
    (split,) = automatic(cluster)
    assert split.automatic
    assert split.shard == 1
    row = cluster.run_to_end(1)
    assert row.state is State.DONE
    assert set(cluster.groups) == {1, 2, 3}
    cluster.settled()


def test_the_reason_of_a_split_by_itself_is_said(simulated: Any) -> None:
    cluster = with_loads(simulated, shard1=Load(bytes=20 << 30))
    cluster.run(SUSTAINED_MS // 100 + 2)
    assert cluster.state.operations[1].reason == "it has 21474836480 bytes, and 17179869184 is the limit"


def test_a_peak_splits_nothing(simulated: Any) -> None:
    cluster = with_loads(simulated, shard1=HOT)
    for _ in range(5):
        cluster.loads.loads[1] = HOT
        cluster.run(SUSTAINED_MS // 100 - 10)
        cluster.loads.loads[1] = Load()
        cluster.run(5)
    assert not automatic(cluster)


def test_a_shard_is_left_alone_after_a_split_longer_each_time(simulated: Any) -> None:
    cluster = with_loads(simulated, shard1=HOT)
    pause = cluster.state.settings.split_pause_ms // 100
    cluster.run(SUSTAINED_MS // 100 + 10)
    assert len(automatic(cluster)) == 1
    cluster.run(pause - 50)
    assert len(automatic(cluster)) == 1
    cluster.run(100)
    assert [split.ranges for split in automatic(cluster)] == [(MicroshardRange(2, 4),), (MicroshardRange(1, 2),)]


def test_one_hot_microshard_is_not_split_for(simulated: Any) -> None:
    cluster = with_loads(simulated, shard1=HOT)
    cluster.groups[1].hot = (MicroshardLoad(2, 0, 58_000, 10),)
    cluster.run(300)
    assert not automatic(cluster)


def test_one_shard_at_a_time_is_split_by_itself_the_hottest_first(simulated: Any) -> None:
    cluster = with_loads(simulated, shards=3, shard1=HOT, shard2=Load(writes=100_000))
    cluster.run(SUSTAINED_MS // 100 + 1)
    (split,) = automatic(cluster)
    assert split.shard == 2


def test_limits_can_be_switched_off(simulated: Any) -> None:
    cluster = with_loads(simulated, shard1=HOT)
    off = with_settings(cluster.state.settings, {"split_writes_per_second": "off"})
    cluster.state = changed(cluster.state, [off])
    cluster.run(300)
    assert not automatic(cluster)


def rebalancings(cluster: Any) -> list[OperationRow]:
    return [row for _, row in sorted(cluster.state.operations.items()) if isinstance(row.arguments, Rebalance)]


def test_the_load_of_a_shard_that_was_split_by_itself_is_spread(simulated: Any) -> None:
    cluster = with_loads(simulated, shards=2, shard1=HOT, shard2=Load(writes=1_000))
    assert cluster.run(SUSTAINED_MS // 100 + 2, lambda: bool(automatic(cluster)))
    cluster.run_to_end(1)
    cluster.loads.loads |= {1: Load(writes=30_000), 3: Load(writes=30_000)}
    assert not rebalancings(cluster), "what the halves have to do is not known yet"
    assert cluster.run(MEASURED_MS // 100 + 2, lambda: bool(rebalancings(cluster)))
    (row,) = rebalancings(cluster)
    assert row.arguments.automatic
    assert row.reason == "operation 1 has split shard 1: both halves are on the same nodes"
    assert cluster.run_to_end(row.id).state is State.DONE
    assert cluster.groups[1].leader != cluster.groups[3].leader
    assert set(cluster.groups[1].voters) != set(cluster.groups[3].voters)
    cluster.settled()
    cluster.run(300)
    assert len(rebalancings(cluster)) == 1, "one split is followed by one rebalancing"


def test_the_moves_after_a_split_are_under_the_caps(simulated: Any) -> None:
    cluster = with_loads(simulated, shards=6, shard1=HOT)
    cluster.state = changed(cluster.state, [with_settings(cluster.state.settings, {"moves_per_cluster": "1"})])
    assert cluster.run(300, lambda: bool(rebalancings(cluster)))
    while rebalancings(cluster)[0].running:
        cluster.step()
        moving = [row for row in cluster.state.running() if row.kind == "move" and row.step is not Step.QUEUED]
        assert len(moving) <= 1


def test_a_split_that_was_asked_for_is_followed_by_nothing(simulated: Any) -> None:
    cluster = simulated()
    cluster.run_to_end(cluster.request(SplitRequest(1)))
    cluster.run(300)
    assert not rebalancings(cluster)


def test_nothing_is_rebalanced_by_itself_while_a_node_is_gone(simulated: Any) -> None:
    cluster = with_loads(simulated, shards=2, shard1=HOT)
    assert cluster.run(SUSTAINED_MS // 100 + 2, lambda: bool(automatic(cluster)))
    gone = replace(cluster.state.settings, gone_after_ms=1_000)
    cluster.state = changed(cluster.state, [gone])
    cluster.stop("n5")
    cluster.run(300)
    assert cluster.state.nodes["n5"].state is NodeState.GONE
    assert not rebalancings(cluster)
    cluster.start("n5")
    assert cluster.run(20, lambda: bool(rebalancings(cluster)))


@pytest.mark.parametrize("event", range(1, 40, 3))
def test_a_rebalancing_by_itself_is_begun_once_whoever_takes_over(simulated: Any, event: int) -> None:
    cluster = with_loads(simulated, shards=2, shard1=HOT)
    cluster.crash_at = event
    assert cluster.run(400, lambda: bool(rebalancings(cluster)))
    cluster.run(300)
    assert len(rebalancings(cluster)) == 1
    assert len(automatic(cluster)) == 1
    cluster.settled()
