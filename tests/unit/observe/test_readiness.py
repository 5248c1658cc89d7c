"""When a node is ready."""

from __future__ import annotations

from random import Random

import pytest
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.node.core import Node
from shoal_server.node.disk_health import DiskState
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.observe.readiness import judge
from shoal_server.storage.watched import WatchedEngine

SECOND = 1_000_000_000
NOW = 1000 * SECOND


def node_of(nodes: tuple[str, ...], shards: int = 1, version: int = 1, alone: int = 0) -> Node:
    """A node core that begins, with `shards` shards on `nodes`, the first `alone` of them on the first node only."""
    keyspace = Keyspace(1, "default", shards, b"/")
    shard_map = ShardMap(
        version,
        "test",
        tuple(NodeAddress(name, f"{name}:1") for name in nodes),
        (keyspace,) if shards else (),
        tuple(
            Shard(number + 1, 1, (MicroshardRange(number, number + 1),), nodes[:1] if number < alone else nodes)
            for number in range(shards)
        ),
    )
    identity = NodeIdentity("test", nodes[0], "i", 1)
    return Node(identity, shard_map, WatchedEngine(), NodeSettings(), Random(1), NOW)


def lead(node: Node) -> int:
    """Have a node elect itself where it is alone; return the time then."""
    now = NOW
    while not any(replica.group.is_leader for replica in node.replicas.values()):
        now += SECOND // 10
        assert now < NOW + 60 * SECOND, "it elects itself"
        ticket = node.turn(now, 0).sync
        if ticket is not None:
            node.synced(ticket)
        node.finish_turn(now)
    return now


def test_a_node_that_knows_a_leader_is_ready():
    node = node_of(("n1",))
    now = lead(node)
    assert judge(node, now, stopping=False, failure="").ready


def test_a_node_that_knows_no_leader_at_all_is_cut_off():
    found = judge(node_of(("n1", "n2", "n3"), shards=2), NOW, stopping=False, failure="")
    assert found.reason == "cut off: it hears the leader of none of its 2 shards"
    assert not found.failed


def test_one_shard_without_a_leader_leaves_the_node_ready():
    node = node_of(("n1", "n2", "n3"), shards=2, alone=1)
    now = lead(node)
    assert not node.replicas[2].group.has_leader(now)
    assert judge(node, now, stopping=False, failure="").ready


def test_a_node_without_shards_is_ready_once_it_has_a_map():
    assert not judge(node_of(("n1",), shards=0, version=0), NOW, stopping=False, failure="").ready
    assert judge(node_of(("n1",), shards=0), NOW, stopping=False, failure="").ready


def test_a_stopping_node_is_not_ready_and_a_failed_one_never_again():
    node = node_of(("n1",))
    now = lead(node)
    assert judge(node, now, stopping=True, failure="").reason.startswith("stopping")
    failed = judge(node, now, stopping=True, failure="the disk")
    assert (failed.reason, failed.failed) == ("failed: the disk", True)


@pytest.mark.parametrize(("syncing", "ready"), [(SECOND, True), (3 * SECOND, False)])
def test_a_node_whose_disk_hangs_is_not_ready(syncing: int, ready: bool):
    node = node_of(("n1",))
    now = lead(node)
    node.set_disk(DiskState(syncing_ns=syncing), now)
    assert judge(node, now, stopping=False, failure="").ready is ready
