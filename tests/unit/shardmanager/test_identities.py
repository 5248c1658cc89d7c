"""Whoever answers under a node's id with another data folder is not the node: its replicas are replaced."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from shoal.shardmap import NodeAddress
from shoal_shardmanager.control.controller import joined
from shoal_shardmanager.control.observed import NodeReport, trusted
from shoal_shardmanager.control.rows import NodeState, RemoveNode, State
from shoal_shardmanager.control.state import changed


def test_nodes_are_remembered_by_the_data_folder_that_they_were_met_with(simulated: Any) -> None:
    cluster = simulated()
    assert {row.incarnation for row in cluster.state.nodes.values()} == {""}
    cluster.run(2)
    assert {row.incarnation for row in cluster.state.nodes.values()} == {"i"}


def test_a_node_that_comes_back_wiped_is_gone_and_replaced(simulated: Any) -> None:
    cluster = simulated(shards=4)
    cluster.run(400)
    cluster.replace_by_impostor("n1")
    assert cluster.run(300, lambda: all("n1" not in group.members for group in cluster.groups.values()))
    assert cluster.state.nodes["n1"].state is NodeState.GONE
    heal = next(row for row in cluster.state.operations.values() if row.kind == "heal")
    assert cluster.run_to_end(heal.id).state is State.DONE
    assert cluster.run_to_end(cluster.request(RemoveNode("n1"))).state is State.DONE


def test_the_right_folder_brings_the_node_back(simulated: Any) -> None:
    cluster = simulated(shards=2)
    cluster.run(400)
    cluster.replace_by_impostor("n5")
    cluster.run(400)
    assert cluster.state.nodes["n5"].state is NodeState.GONE
    cluster.restore("n5")
    cluster.run(5)
    assert cluster.state.nodes["n5"].state is NodeState.ACTIVE
    cluster.settled()


def test_a_join_under_a_known_id_with_another_folder_is_refused(simulated: Any) -> None:
    cluster = simulated()
    cluster.run(2)
    address = NodeAddress("n1", "h:1", "eu", "z0")
    assert joined(cluster.state, address, "i", 5) == ([], "")
    changes, refusal = joined(cluster.state, address, "another", 5)
    assert not changes
    assert "give it a new id, and `shoal remove-node n1`" in refusal


def test_a_node_that_joins_is_known_by_its_folder_at_once(simulated: Any) -> None:
    cluster = simulated()
    changes, _ = joined(cluster.state, NodeAddress("n9", "h:9", "eu", "z9"), "folder", 5)
    after = changed(cluster.state, changes)
    assert after.nodes["n9"].incarnation == "folder"


def test_reports_of_another_cluster_of_that_name_are_not_trusted(simulated: Any) -> None:
    cluster = simulated()
    cluster.run(2)
    status = cluster.status("n1")
    reports = {
        "n1": NodeReport(replace(status, cluster_id="ours"), 1),
        "n2": NodeReport(replace(status, cluster_id="theirs"), 1),
    }
    reports["n3"] = NodeReport(replace(status, cluster_id=""), 1)
    assert trusted(reports, {}, "ours").keys() == {"n1", "n3"}
    assert trusted(reports, {}, "").keys() == {"n1", "n2", "n3"}
