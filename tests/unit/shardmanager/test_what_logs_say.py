"""No operation goes by a map that the shards' logs contradict: nothing is dropped that has microshards by its own log."""

from __future__ import annotations

from typing import Any

import pytest
from shoal.protocol.migration import MigrationEnd, MigrationStatus
from shoal.shardmap import MicroshardRange, with_ranges, without_ranges
from shoal_shardmanager.control.requests import (
    MergeRequest,
    MoveMicroshardsRequest,
    Refused,
    SettleRequest,
    SplitRequest,
)
from shoal_shardmanager.control.rows import State, Step

FIRST, SECOND = (MicroshardRange(0, 1),), (MicroshardRange(1, 2),)
STRAY = 900


def move_by_hand(cluster: Any, source: int, target: int, ranges: tuple[MicroshardRange, ...] = FIRST) -> None:
    """Both shards are done with a migration that somebody has driven past the managers."""
    giving, taking = cluster.groups[source], cluster.groups[target]
    giving.ranges, taking.ranges = without_ranges(giving.ranges, ranges), with_ranges(taking.ranges, ranges)
    number = STRAY + len(giving.ended) + len(taking.ended)
    giving.ended[number], taking.ended[number] = MigrationEnd.FORGOTTEN, MigrationEnd.ADOPTED
    cluster.run(2)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (MergeRequest(3, 2), "shard 2 has microshards 0 by its log, which the map does not give it: `shoal settle 2`"),
        (MergeRequest(2, 3), "shard 2 has microshards 0 by its log"),
        (MergeRequest(3, 1), "shard 1 lacks microshards 0 by its log, which the map gives it: `shoal settle 1`"),
        (MoveMicroshardsRequest(1, 3, FIRST), "shard 1 lacks microshards 0 by its log"),
        (MoveMicroshardsRequest(3, 2, (MicroshardRange(8, 9),)), "shard 2 has microshards 0 by its log"),
        (SplitRequest(1), "shard 1 lacks microshards 0 by its log"),
        (SplitRequest(2), "shard 2 has microshards 0 by its log"),
    ],
)
def test_what_is_about_microshards_is_refused_while_log_and_map_differ(
    simulated: Any, request_: Any, words: str
) -> None:
    cluster = simulated(shards=3)
    move_by_hand(cluster, 1, 2)
    with pytest.raises(Refused, match=words):
        cluster.request(request_)
    cluster.run_to_end(cluster.request(SettleRequest(1)))
    cluster.plan(MergeRequest(3, 2))


@pytest.mark.parametrize("side", ["outgoing", "incoming"])
def test_what_is_about_microshards_is_refused_while_somebody_else_moves_some(simulated: Any, side: str) -> None:
    cluster = simulated(shards=3)
    setattr(cluster.groups[2], side, MigrationStatus(STRAY, 1, (MicroshardRange(4, 5),)))
    cluster.run(2)
    for request in (MergeRequest(3, 2), SplitRequest(2)):
        with pytest.raises(Refused, match="shard 2 takes part in migration 900, which no operation is about: `shoal s"):
            cluster.request(request)


def test_a_shard_that_got_microshards_while_it_was_merged_away_is_not_dropped(simulated: Any) -> None:
    cluster = simulated(shards=3)
    operation = cluster.request(MergeRequest(3, 2))
    assert cluster.run(100, lambda: cluster.state.operations[operation].step is Step.LINGER)
    move_by_hand(cluster, 1, 2)
    row = cluster.run_to_end(operation)
    assert (row.state, "`shoal settle 2`, then merge" in row.reason) == (State.FAILED, True)
    assert "shard 2 has microshards 0 by its log, of which this merge knows nothing" in row.reason
    assert all(2 in cluster.nodes[node].replicas for node in cluster.groups[2].members)
    assert cluster.run_to_end(cluster.request(SettleRequest(2))).state is State.DONE
    cluster.settled()
    assert cluster.run_to_end(cluster.request(MergeRequest(1, 2))).state is State.DONE
    cluster.settled()
    assert 0 in range(cluster.groups[1].ranges[0].first, cluster.groups[1].ranges[0].end)


def test_a_shard_is_not_dropped_by_the_word_of_a_leader_that_is_yet_to_apply_its_log(simulated: Any) -> None:
    cluster = simulated()
    operation = cluster.request(MergeRequest(1, 2))
    cluster.unapplied[2] = 1
    assert not cluster.run(600, lambda: not cluster.state.operations[operation].running)
    assert "is yet to apply the end of its log" in cluster.last.notes[operation].waiting
    cluster.unapplied.clear()
    assert cluster.run_to_end(operation).state is State.DONE


def test_what_a_shard_gets_once_the_map_is_without_it_keeps_its_replicas(simulated: Any) -> None:
    cluster = simulated(shards=3)
    operation = cluster.request(MergeRequest(3, 2))
    assert cluster.run(600, lambda: cluster.state.operations[operation].step is Step.SPREAD)
    move_by_hand(cluster, 1, 2)
    cluster.run(100)
    assert "and it is not dropped" in cluster.last.notes[operation].waiting
    assert all(2 in cluster.nodes[node].replicas for node in cluster.groups[2].members)


def test_nodes_keep_what_has_microshards_though_the_manager_has_seen_none(simulated: Any) -> None:
    cluster = simulated(shards=3)
    operation = cluster.request(MergeRequest(3, 2))
    assert cluster.run(600, lambda: cluster.state.operations[operation].step is Step.DROP)
    assert cluster.state.operations[operation].arguments.empty_at == 1_500
    cluster.groups[2].ranges = FIRST
    cluster.run(50)
    assert cluster.state.operations[operation].running
    assert all(2 in cluster.nodes[node].replicas for node in cluster.groups[2].members)


def test_a_shard_whose_last_microshards_were_moved_away_can_be_merged(simulated: Any) -> None:
    cluster = simulated(shards=3)
    move_by_hand(cluster, 2, 1, cluster.groups[2].ranges)
    cluster.run_to_end(cluster.request(SettleRequest(2)))
    row = cluster.run_to_end(cluster.request(MergeRequest(3, 2)))
    assert row.state is State.DONE
    assert [shard.id for shard in cluster.state.map.shards] == [1, 3]
    cluster.settled()


# -- the map follows


@pytest.mark.parametrize("settled", [1, 3])
def test_the_map_follows_microshards_that_went_through_several_shards(simulated: Any, settled: int) -> None:
    cluster = simulated(shards=3)
    move_by_hand(cluster, 1, 2)
    move_by_hand(cluster, 2, 3)
    with pytest.raises(Refused, match="nothing to settle"):
        cluster.request(SettleRequest(2))
    row = cluster.run_to_end(cluster.request(SettleRequest(settled)))
    assert (row.state, row.reason) == (State.DONE, "the map gives 1 microshard to who has them by the shards' logs")
    cluster.settled()
    assert cluster.run_to_end(cluster.request(MergeRequest(1, 2))).state is State.DONE


def test_the_map_follows_microshards_that_went_to_several_shards_and_others_that_came(simulated: Any) -> None:
    cluster = simulated(shards=4)
    move_by_hand(cluster, 1, 2)
    move_by_hand(cluster, 1, 3, SECOND)
    move_by_hand(cluster, 4, 1, (MicroshardRange(12, 14),))
    accepted = cluster.plan(SettleRequest(1))
    assert accepted.steps == (
        "microshards 0 are shard 2's in the map, no longer shard 1's",
        "microshards 1 are shard 3's in the map, no longer shard 1's",
        "microshards 12-13 are shard 1's in the map, no longer shard 4's",
        "every node hears of it",
    )
    cluster.run_to_end(cluster.request(SettleRequest(1)))
    cluster.settled()


@pytest.mark.parametrize("event", range(1, 5))
def test_another_manager_takes_over_while_the_map_follows(simulated: Any, event: int) -> None:
    cluster = simulated(shards=3)
    move_by_hand(cluster, 1, 2)
    move_by_hand(cluster, 2, 3)
    operation = cluster.request(SettleRequest(1))
    cluster.crash_at = cluster.events + event
    assert cluster.run_to_end(operation).state is State.DONE
    cluster.settled()


def test_what_two_shards_have_is_given_to_neither(simulated: Any) -> None:
    cluster = simulated(shards=3)
    cluster.groups[2].ranges = with_ranges(cluster.groups[2].ranges, FIRST)
    cluster.run(2)
    with pytest.raises(Refused, match="shards 2 and 1 both have microshards 0 by their logs"):
        cluster.request(SettleRequest(2))


def test_the_map_does_not_follow_while_the_other_shard_is_in_a_migration(simulated: Any) -> None:
    cluster = simulated(shards=3)
    move_by_hand(cluster, 1, 2)
    cluster.groups[2].outgoing = MigrationStatus(STRAY, 3, FIRST)
    cluster.run(2)
    with pytest.raises(Refused, match="takes part in a migration: `shoal settle 2` first"):
        cluster.request(SettleRequest(1))


def test_a_shard_with_more_than_the_map_says_is_not_believed_before_the_other_one_is_heard(simulated: Any) -> None:
    cluster = simulated(shards=3, nodes=6)
    move_by_hand(cluster, 1, 2)
    cluster.groups[1].leader = "n9"
    with pytest.raises(Refused, match="hear no leader of shard 1"):
        cluster.request(SettleRequest(2))
