"""Which cluster this is: settled once by the first shard's log, known to every node, and never another one."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from msgspec.structs import replace
from shoal.protocol.messages import Done, Failure, GetStatus, InstallShardMap, Put
from shoal.shardmap import Keyspace, MicroshardRange, Shard
from shoal_server.node.core import Node
from shoal_server.node.settings import NodeIdentity
from shoal_server.process.driver import welcome_of
from shoal_server.storage.node_rows import load_shard_map, rename_cluster

SHARD = 1
ELSEWHERE = (
    Shard(SHARD, 1, (MicroshardRange(0, 2),), ("n1", "n2", "n3")),
    Shard(2, 1, (MicroshardRange(2, 4),), ("n1", "n2", "n3")),
)


@pytest.fixture
def founded(make_nodes: Any) -> Any:
    """Three nodes that have begun by themselves."""
    nodes = make_nodes(cluster_id="")
    assert {node.cluster_id for node in nodes.nodes.values()} == {""}
    nodes.until(lambda: all(node.cluster_id for node in nodes.nodes.values()))
    return nodes


def ids(nodes: Any) -> set[str]:
    return {node.cluster_id for node in nodes.nodes.values()}


def restarted(nodes: Any, name: str) -> Node:
    engine = nodes.engines[name]
    stored = load_shard_map(engine)
    assert stored is not None
    return Node(NodeIdentity("test", name, f"{name}-1", 2), stored, engine, nodes.settings, Random(9), nodes.now)


def test_all_nodes_of_a_new_cluster_come_to_know_one_id(founded: Any) -> None:
    [cluster_id] = ids(founded)
    assert len(bytes.fromhex(cluster_id)) == 16
    for node in founded.nodes.values():
        assert welcome_of(node, 1).cluster_id == node.map_with_leaders().cluster_id == cluster_id
    status = founded.ask_and_wait("n1", GetStatus)
    assert status.cluster_id == cluster_id


def test_two_clusters_have_two_ids(make_nodes: Any) -> None:
    found: set[str] = set()
    for seed in (1, 2):
        nodes = make_nodes(cluster_id="")
        for node in nodes.nodes.values():
            node._founding._random = Random(seed)
        nodes.until(lambda nodes=nodes: all(node.cluster_id for node in nodes.nodes.values()))
        found |= ids(nodes)
    assert len(found) == 2


def test_later_leaders_and_lives_keep_it(founded: Any) -> None:
    before = ids(founded)
    founded.isolate(founded.leader)
    founded.pass_time(3000)
    founded.heal()
    founded.answer(founded.write(Put(b"k", b"v")))
    founded.pass_time(100)
    assert ids(founded) == before
    assert {restarted(founded, name).cluster_id for name in founded.nodes} == before


def test_the_first_id_in_the_log_counts_even_where_two_leaders_have_proposed_one(make_nodes: Any) -> None:
    nodes = make_nodes(cluster_id="")
    nodes.until(lambda: any(nodes.replica(name).group.is_leader for name in nodes.nodes))
    [old] = [name for name in nodes.nodes if nodes.replica(name).group.is_leader]
    while not nodes.nodes[old]._founding._propose_at:
        nodes.step()
    # It is in the leader's log, and reaches one other node at the most.
    nodes.cut |= {(old, nodes.others[0]), (nodes.others[0], old), (nodes.others[1], old)}
    nodes.pass_time(5000)
    nodes.heal()
    nodes.until(lambda: all(node.cluster_id for node in nodes.nodes.values()))
    assert len(ids(nodes)) == 1
    assert {
        replica.machine.state.cluster_id for node in nodes.nodes.values() for replica in node.replicas.values()
    } == (ids(nodes))


def test_only_the_first_shards_log_has_it_and_others_learn_it_from_a_greeting(make_nodes: Any) -> None:
    nodes = make_nodes(shards=ELSEWHERE, cluster_id="")
    nodes.until(lambda: all(node.cluster_id for node in nodes.nodes.values()))
    assert {node.replicas[2].machine.state.cluster_id for node in nodes.nodes.values()} == {""}
    lone = make_nodes(cluster_id="").nodes["n1"]
    lone.learn_cluster_id("told by a peer")
    lone.learn_cluster_id("told by another")
    assert lone.cluster_id == "told by a peer"


def test_maps_of_another_cluster_of_that_name_are_refused(founded: Any) -> None:
    known = founded.nodes["n1"].routes.map
    for version in (known.version, known.version + 1):
        strange = replace(known, version=version, cluster_id="another")
        refused = founded.ask_and_wait("n1", lambda request, strange=strange: InstallShardMap(request, strange))
        assert isinstance(refused, Failure)
        assert "another" in refused.message
        assert known.cluster_id in refused.message


@pytest.mark.parametrize("says_which", [True, False])
def test_maps_of_the_cluster_are_taken_and_leave_the_id_as_it_is(founded: Any, says_which: bool) -> None:
    known = founded.nodes["n1"].routes.map
    newer = replace(
        known,
        version=known.version + 1,
        cluster_id=known.cluster_id if says_which else "",
        keyspaces=(*known.keyspaces, Keyspace(2, "other", 4, b"/")),
        shards=(*known.shards, Shard(9, 2, (MicroshardRange(0, 4),), ("n2",))),
    )
    for _ in range(2):
        assert isinstance(founded.ask_and_wait("n1", lambda request: InstallShardMap(request, newer)), Done)
    assert founded.nodes["n1"].routes.map.version == newer.version
    assert {founded.nodes["n1"].cluster_id, load_shard_map(founded.engines["n1"]).cluster_id} == {known.cluster_id}


def test_a_node_that_joins_takes_it_from_its_first_map(founded: Any, make_nodes: Any) -> None:
    known = founded.nodes["n1"].routes.map
    joining = make_nodes(cluster_id="").nodes["n1"]
    joining.receive_client(1, [InstallShardMap(1, replace(known, version=known.version + 1))])
    joining.turn(founded.now, founded.wall_ms)
    assert joining.cluster_id == known.cluster_id


def test_an_operator_gives_a_copy_another_id_which_it_keeps(founded: Any) -> None:
    founded.answer(founded.write(Put(b"k", b"v")))
    for engine in founded.engines.values():
        rename_cluster(engine, "copy")
    for name in founded.nodes:
        node = restarted(founded, name)
        node.turn(founded.now, founded.wall_ms)
        node.finish_turn(founded.now)
        assert node.cluster_id == "copy", "whatever the log of the first shard says"
