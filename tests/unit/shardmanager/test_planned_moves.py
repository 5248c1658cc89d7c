"""Drain, heal, rebalance, failover, keyspaces: operations over many shards, with takeovers at every event."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from shoal_shardmanager.control.observed import LONG_AGO_MS, elapsed_ms
from shoal_shardmanager.control.requests import Alter, Create, DropRequest, KeyspaceRequest, Refused
from shoal_shardmanager.control.rows import Drain, Failover, NodeState, Rebalance, RemoveNode, State, Undrain


def test_a_drained_node_is_empty_and_can_be_removed(simulated: Any) -> None:
    cluster = simulated(shards=6)
    row = cluster.run_to_end(cluster.request(Drain("n2")))
    assert row.state is State.DONE
    assert not cluster.nodes["n2"].replicas
    assert cluster.state.nodes["n2"].state is NodeState.DRAINED
    cluster.settled()
    assert cluster.run_to_end(cluster.request(RemoveNode("n2"))).state is State.DONE
    assert all(address.id != "n2" for address in cluster.state.map.nodes)
    with pytest.raises(Refused, match="never used again"):
        cluster.request(Undrain("n2"))


@pytest.mark.parametrize("event", range(1, 120, 3))
def test_a_drain_survives_takeovers(simulated: Any, event: int) -> None:
    cluster = simulated(shards=3)
    operation = cluster.request(Drain("n1"))
    cluster.crash_at = event
    assert cluster.run_to_end(operation).state is State.DONE
    cluster.settled()
    assert not cluster.nodes["n1"].replicas


def test_nothing_new_is_placed_on_a_draining_node(simulated: Any) -> None:
    cluster = simulated(shards=3)
    cluster.request(Drain("n1"))
    operation = cluster.request(Create(KeyspaceRequest("other", microshards=4, shards=4)))
    assert cluster.run_to_end(operation).state is State.DONE
    made = [shard for shard in cluster.state.map.shards if shard.keyspace == 2]
    assert len(made) == 4
    assert all("n1" not in shard.replicas for shard in made)


def test_a_drain_that_cannot_end_is_refused(simulated: Any) -> None:
    cluster = simulated(nodes=3)
    with pytest.raises(Refused, match="nowhere to go"):
        cluster.request(Drain("n1"))
    assert cluster.state.nodes["n1"].state is NodeState.ACTIVE


def test_a_cancelled_drain_gives_the_node_back(simulated: Any) -> None:
    cluster = simulated(shards=6)
    operation = cluster.request(Drain("n1"))
    cluster.run(4)
    cluster.cancel(operation)
    assert cluster.run_to_end(operation).state is State.CANCELLED
    assert cluster.state.nodes["n1"].state is NodeState.ACTIVE
    cluster.settled()


def test_undrain_ends_a_drain(simulated: Any) -> None:
    cluster = simulated(shards=6)
    operation = cluster.request(Drain("n1"))
    cluster.run(4)
    assert cluster.run_to_end(cluster.request(Undrain("n1"))).state is State.DONE
    assert cluster.run_to_end(operation).state is State.CANCELLED
    assert cluster.state.nodes["n1"].state is NodeState.ACTIVE


def test_a_node_that_a_wrong_clock_let_begin_next_year_is_gone_all_the_same(simulated: Any) -> None:
    cluster = simulated(shards=4)
    row = cluster.state.nodes["n1"]
    cluster.state.nodes["n1"] = msgspec.structs.replace(row, since_ms=row.since_ms + 365 * 86_400_000)
    cluster.stop("n1")
    cluster.run(cluster.state.settings.gone_after_ms // 100 + 200)
    assert cluster.state.nodes["n1"].state is NodeState.GONE


def test_a_stamp_from_the_future_is_of_long_ago_unless_it_is_near() -> None:
    assert [elapsed_ms(stamp, 100_000) for stamp in (90_000, 100_000, 110_000)] == [10_000, 0, -10_000]
    assert elapsed_ms(110_001, 100_000) == LONG_AGO_MS


def test_replicas_of_a_node_that_is_gone_are_replaced(simulated: Any) -> None:
    cluster = simulated(shards=4)
    cluster.stop("n1")
    cluster.run(cluster.state.settings.gone_after_ms // 100 - 10)
    assert cluster.state.nodes["n1"].state is NodeState.ACTIVE
    cluster.run(200)
    assert cluster.state.nodes["n1"].state is NodeState.GONE
    assert all("n1" not in group.members for group in cluster.groups.values())
    cluster.settled()
    cluster.start("n1")
    cluster.settled()
    assert cluster.state.nodes["n1"].state is NodeState.ACTIVE
    assert not cluster.nodes["n1"].replicas


def test_a_node_that_comes_back_in_time_is_left_alone(simulated: Any) -> None:
    cluster = simulated(shards=4)
    cluster.stop("n1")
    cluster.run(200)
    cluster.start("n1")
    cluster.run(200)
    assert not cluster.state.operations


def test_a_manager_that_reaches_few_nodes_gives_up_none(simulated: Any) -> None:
    cluster = simulated(shards=2)
    for node in ("n1", "n2", "n3"):
        cluster.stop(node)
    cluster.run(600)
    assert all(row.state is NodeState.ACTIVE for row in cluster.state.nodes.values())


def test_failover_takes_all_leaderships(simulated: Any) -> None:
    cluster = simulated(shards=6)
    assert any(group.leader == "n1" for group in cluster.groups.values())
    assert cluster.run_to_end(cluster.request(Failover("n1"))).state is State.DONE
    assert all(group.leader != "n1" for group in cluster.groups.values())


def test_a_rebalance_fills_new_nodes(simulated: Any) -> None:
    cluster = simulated(nodes=6, shards=12)
    assert cluster.run_to_end(cluster.request(Rebalance())).state is State.DONE
    counts = [len(node.replicas) for node in cluster.nodes.values()]
    assert max(counts) - min(counts) <= 2
    cluster.settled()


@pytest.mark.parametrize("event", range(1, 60, 2))
def test_a_keyspace_is_founded_once_whoever_takes_over(simulated: Any, event: int) -> None:
    cluster = simulated(shards=2)
    operation = cluster.request(Create(KeyspaceRequest("other", microshards=8, shards=2)))
    cluster.crash_at = event
    assert cluster.run_to_end(operation).state is State.DONE
    assert set(cluster.groups) == {1, 2, 3, 4}
    cluster.settled()


def test_a_keyspace_is_dropped_also_on_nodes_that_were_away(simulated: Any) -> None:
    cluster = simulated(shards=2)
    cluster.run_to_end(cluster.request(Create(KeyspaceRequest("other", microshards=8, shards=2))))
    cluster.stop("n5")
    cluster.run(400)
    operation = cluster.request(DropRequest("other"))
    assert cluster.run_to_end(operation).state is State.DONE
    cluster.start("n5")
    cluster.settled()
    assert all(node.replicas <= {1, 2} for node in cluster.nodes.values())
    assert cluster.request(Create(KeyspaceRequest("other", microshards=8, shards=2)))
    assert min(shard.id for shard in cluster.state.map.shards if shard.keyspace == 3) == 5


def test_replica_counts_follow_the_altered_policy(simulated: Any) -> None:
    cluster = simulated(shards=3)
    altered = cluster.run_to_end(cluster.request(Alter(KeyspaceRequest("default", voters=5))))
    assert altered.reason.endswith("; `shoal rebalance` gives its shards the replicas that it asks for")
    cluster.run_to_end(cluster.request(Rebalance()))
    assert all(len(group.voters) == 5 for group in cluster.groups.values())
    cluster.run_to_end(cluster.request(Alter(KeyspaceRequest("default", voters=1))))
    cluster.asked_voters = dict.fromkeys(cluster.asked_voters, 1)
    cluster.run_to_end(cluster.request(Rebalance()))
    assert all(len(group.voters) == 1 for group in cluster.groups.values())
    cluster.settled()


@pytest.mark.parametrize("answers", [False, True])
def test_a_keyspace_is_founded_only_on_nodes_that_answer_and_take_writes(simulated: Any, answers: bool) -> None:
    cluster = simulated(nodes=6, shards=2)
    cluster.stop("n4")
    cluster.not_writable["n1"] = "the disk is full"
    operation = cluster.request(Create(KeyspaceRequest("other", microshards=8, shards=4)))
    made = [shard for shard in cluster.state.map.shards if shard.keyspace == 2]
    assert len(made) == 4
    assert all(not {"n1", "n4"} & set(shard.replicas) for shard in made)
    if answers:
        cluster.start("n4")
    assert cluster.run_to_end(operation).state is State.DONE


def test_a_keyspace_for_which_too_few_nodes_answer_is_refused(simulated: Any) -> None:
    cluster = simulated(nodes=4, shards=2)
    cluster.stop("n4")
    cluster.not_writable["n1"] = "the disk is full"
    with pytest.raises(Refused) as refusal:
        cluster.request(Create(KeyspaceRequest("other", microshards=8)))
    assert str(refusal.value) == (
        "its replicas need 3 nodes that answer and take writes, and 2 do (n1: the disk is full, n4: it does not answer): "
        "mend these, add nodes, or ask for fewer replicas"
    )


def test_a_rebalance_fills_no_node_that_takes_no_writes(simulated: Any) -> None:
    cluster = simulated(nodes=6, shards=12)
    cluster.not_writable["n6"] = "the disk is full"
    assert cluster.run_to_end(cluster.request(Rebalance())).state is State.DONE
    assert not cluster.nodes["n6"].replicas
    assert cluster.nodes["n5"].replicas


def test_a_rebalance_does_not_end_while_a_node_is_silent_that_may_be_the_one_to_fill(simulated: Any) -> None:
    cluster = simulated(nodes=6, shards=12)
    cluster.stop("n6")
    operation = cluster.request(Rebalance())
    cluster.run(200)
    assert "node n6 does not answer" in cluster.last.notes[operation].waiting
    cluster.start("n6")
    assert cluster.run_to_end(operation).state is State.DONE
    assert cluster.nodes["n6"].replicas


def test_a_rebalance_ends_without_a_node_that_is_gone(simulated: Any) -> None:
    cluster = simulated(nodes=6, shards=12)
    cluster.stop("n6")
    assert cluster.run_to_end(cluster.request(Rebalance())).state is State.DONE
    assert cluster.state.nodes["n6"].state is NodeState.GONE


def test_leaders_are_spread_over_the_nodes_that_may_lead(simulated: Any) -> None:
    cluster = simulated(nodes=4, shards=12)
    cluster.not_leading["n4"] = cluster.not_leading["n2"] = "its disk is slow"
    for group in cluster.groups.values():
        group.leader = "n1"
    assert cluster.run_to_end(cluster.request(Rebalance())).state is State.DONE
    led = [group.leader for group in cluster.groups.values()]
    assert set(led) == {"n1", "n3"}
    assert abs(led.count("n1") - led.count("n3")) <= 1
    assert cluster.nodes["n4"].replicas


def test_a_drain_to_a_node_that_may_not_lead_hands_the_leaderships_to_others_first(simulated: Any) -> None:
    cluster = simulated(nodes=4, shards=3)
    cluster.not_leading["n4"] = "its disk is slow"
    assert any(group.leader == "n1" for group in cluster.groups.values())
    assert cluster.run_to_end(cluster.request(Drain("n1"))).state is State.DONE
    assert cluster.nodes["n4"].replicas == {1, 2, 3}
    assert all(group.leader in ("n2", "n3") for group in cluster.groups.values())
    cluster.settled()
