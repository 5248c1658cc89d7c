"""A voter whose leader has gone from a node that lives on is not bound to it for ever."""

from __future__ import annotations

from typing import Any

import msgspec
from shoal.protocol.messages import InstallShardMap
from shoal_server.node.core import Node
from shoal_server.node.outbox import peer_decoder
from shoal_server.raft.messages import LeaderQuestion, Membership, Resigned, SnapshotHeader
from shoal_server.storage.snapshot import SnapshotAck, SnapshotChunk

SHARD = 1


def lose_replica(nodes: Any, name: str) -> Node:
    """Remove a node's replica, which no map has any more; return the node."""
    shards = tuple(
        msgspec.structs.replace(shard, voters=tuple(voter for voter in shard.voters if voter != name))
        for shard in nodes.shard_map.shards
    )
    shard_map = msgspec.structs.replace(nodes.shard_map, version=2, shards=shards)
    nodes.ask_and_wait(name, lambda request: InstallShardMap(request, shard_map))
    node: Node = nodes.nodes[name]
    node.replica_set.forget(SHARD)
    return node


def test_a_node_without_the_replica_that_led_says_so_to_a_voter_that_missed_its_resignation(nodes: Any) -> None:
    leader, (one, missed) = nodes.leader, nodes.others
    term = nodes.replica(leader).group.term
    lose_replica(nodes, leader)
    nodes.nodes[one].receive_peer(leader, [Resigned(SHARD, term)])
    assert nodes.replica(missed).group.leader == leader
    nodes.until(lambda: any(nodes.replica(name).group.is_leader for name in (one, missed)), 3000)


def test_the_answer_is_of_the_term_that_was_asked_for(nodes: Any) -> None:
    node = lose_replica(nodes, "n1")
    node.receive_peer("n2", [LeaderQuestion(SHARD, 7)])
    assert Resigned(SHARD, 7) in node.turn(nodes.now, nodes.wall_ms).to_peers["n2"]


def test_a_snapshot_for_a_replica_that_is_not_there_ends_at_once_instead_of_waiting_for_the_silence(nodes: Any) -> None:
    node = lose_replica(nodes, "n1")
    header = SnapshotHeader(SHARD, 7, 9, 7, 1)
    chunk = SnapshotChunk(header, 5, 0, 0, [], True, 0, Membership(1, ("n1", "n2", "n3")), 0, 0, ())
    node.receive_peer("n2", peer_decoder.decode(nodes.encoded([chunk])))
    [ack] = [each for each in node.turn(nodes.now, nodes.wall_ms).to_peers["n2"] if isinstance(each, SnapshotAck)]
    assert (ack.transfer, ack.number) == (5, 0)
    assert "no replica" in ack.problem
