"""Memberships that somebody gave shards past the managers: the map keeps to what nodes take, and what can be is undone."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from shoal.map_changes import with_members
from shoal.map_rules import refuse_map
from shoal_shardmanager.control.node_requests import ChangeMember, Split
from shoal_shardmanager.control.requests import Create, KeyspaceRequest, SplitRequest
from shoal_shardmanager.control.rows import Drain, MoveReplica, Rebalance, State
from shoal_shardmanager.control.state import changed

STRANGER = "n9"


def change_past_managers(cluster: Any, *, votes: bool = False) -> None:
    """Shard 1's group gets a member that is no node."""
    group = cluster.groups[1]
    (group.voters if votes else group.followers).append(STRANGER)
    group.version += 1
    group.changed_at = cluster.tick - 10


def assert_gone(cluster: Any) -> None:
    assert cluster.run(60, lambda: STRANGER not in cluster.groups[1].members)
    cluster.settled()


@pytest.mark.parametrize("votes", [False, True])
def test_a_member_that_is_no_node_stays_out_of_the_map_and_is_taken_out_of_the_group(
    simulated: Any, votes: bool
) -> None:
    cluster = simulated()
    cluster.run(10)
    change_past_managers(cluster, votes=votes)
    for _ in range(60):
        cluster.step()
        assert not any(STRANGER in shard.replicas for shard in cluster.state.map.shards)
        assert not refuse_map(cluster.state.map, cluster.state.map)
    assert_gone(cluster)


def test_requests_are_planned_and_done_meanwhile(simulated: Any) -> None:
    cluster = simulated()
    cluster.run(10)
    change_past_managers(cluster)
    cluster.run(2)
    cluster.plan(Rebalance())
    cluster.plan(Drain("n3"))
    operation = cluster.request(Create(KeyspaceRequest("more", microshards=4, shards=1)))
    assert cluster.run_to_end(operation).state is State.DONE
    assert cluster.run_to_end(cluster.request(MoveReplica(1, "n2", "n5"))).state is State.DONE
    assert_gone(cluster)


def test_a_map_that_nodes_refuse_already_is_mended_and_planned_with(simulated: Any) -> None:
    """An earlier version took everything over."""
    cluster = simulated()
    cluster.run(10)
    change_past_managers(cluster)
    (first, *others) = cluster.state.map.shards
    wrong = with_members(first, first.voters, (STRANGER,), cluster.groups[1].version)
    cluster.state = changed(
        cluster.state, [replace(cluster.state.map, version=cluster.state.map.version + 1, shards=(wrong, *others))]
    )
    cluster.plan(Rebalance())
    assert_gone(cluster)


def test_a_split_waits_until_the_member_is_gone(simulated: Any) -> None:
    cluster = simulated()
    cluster.run(10)
    operation = cluster.request(SplitRequest(1))
    change_past_managers(cluster)
    cluster.step()
    assert not [request for request in cluster.last.requests if isinstance(request, Split)]
    assert f"replicas on {STRANGER}, which are no nodes of the map" in cluster.last.notes[operation].waiting
    assert cluster.run_to_end(operation).state is State.DONE
    assert_gone(cluster)


def test_a_member_that_answers_its_leader_is_left_in_the_group(simulated: Any) -> None:
    """Managers that were restored from a copy may have forgotten a node."""
    cluster = simulated()
    cluster.run(10)
    address = replace(cluster.nodes["n5"].address, id=STRANGER)
    cluster.nodes[STRANGER] = type(cluster.nodes["n5"])(address, cluster.state.map, {1})
    change_past_managers(cluster)
    for _ in range(60):
        cluster.step()
        assert not [request for request in cluster.last.requests if isinstance(request, ChangeMember)]
    assert STRANGER in cluster.groups[1].members
