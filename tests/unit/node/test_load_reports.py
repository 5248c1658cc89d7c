"""What a node reports of its load: rows counted in the background, rates by microshard, its share of the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.protocol.messages import Delete, DeleteRange, Freshness, GetStatus, Put, ReplicaStatus, StatusReply
from shoal.shardmap import MicroshardRange
from shoal_server.node.row_counting import STEP_ROWS

if TYPE_CHECKING:
    from conftest import Nodes

EVENTUAL = Freshness(strong=False)
SHARD = 1
PASS_MS = 6000


def reported(nodes: Nodes, node: str) -> ReplicaStatus:
    answer = nodes.ask_and_wait(node, GetStatus)
    assert isinstance(answer, StatusReply)
    [replica] = answer.replicas
    return replica


def write(nodes: Nodes, *operations: Put | Delete | DeleteRange) -> None:
    nodes.answer(nodes.write(*operations))


def stored_bytes(nodes: Nodes, node: str) -> int:
    engine, machine = nodes.engines[node], nodes.replica(node).machine
    return sum(
        len(key) + len(row)
        for prefix in machine.prefixes.values()
        for key, row in engine.scan(engine.data, prefix, prefix + b"\xff" * 9)
    )


def test_rows_are_counted_on_every_replica_and_again_when_they_have_changed(nodes: Nodes) -> None:
    keys = [b"key-%d" % number for number in range(3 * STEP_ROWS)]
    write(nodes, *(Put(key, b"v" * 50) for key in keys))
    nodes.pass_time(PASS_MS)
    for node in nodes.nodes:
        replica = reported(nodes, node)
        assert replica.counted
        assert replica.keys == len(keys)
        assert replica.bytes == stored_bytes(nodes, node)
    write(nodes, *(Delete(key) for key in keys[:100]), Put(keys[100], b""))
    nodes.pass_time(PASS_MS)
    after = reported(nodes, nodes.leader)
    assert after.keys == len(keys) - 100
    assert after.bytes == stored_bytes(nodes, nodes.leader)
    write(nodes, DeleteRange((MicroshardRange(0, 4),), b"", b""))
    nodes.pass_time(PASS_MS)
    assert (reported(nodes, nodes.leader).keys, reported(nodes, nodes.leader).bytes) == (0, 0)


def test_what_has_not_changed_is_not_counted_again(nodes: Nodes) -> None:
    write(nodes, *(Put(b"key-%d" % number, b"v") for number in range(100)))
    nodes.pass_time(2 * PASS_MS)
    leader = nodes.leader
    engine = nodes.engines[leader]
    before = reported(nodes, leader)
    engine.tables["data"].delete_range(b"", b"\xff" * 40)
    nodes.pass_time(2 * PASS_MS)
    assert reported(nodes, leader).keys == before.keys == 100


def test_counters_and_rates_tell_which_microshard_is_hot(nodes: Nodes) -> None:
    leader = nodes.leader
    keyspace = nodes.shard_map.keyspaces[0]
    hot, cold = (
        b"hot/1",
        next(
            key
            for key in (b"cold-%d" % n for n in range(99))
            if keyspace.microshard_of(key) != keyspace.microshard_of(b"hot/1")
        ),
    )
    nodes.nodes[leader].cpu = 0.5
    for _ in range(40):
        for _ in range(10):
            nodes.write(*[Put(hot, b"v")] * 5)
            nodes.read(leader, *[cold] * 3, freshness=EVENTUAL)
        nodes.pass_time(100)
    replica = reported(nodes, leader)
    assert (replica.writes, replica.reads) == (2000, 1200)
    assert replica.written_bytes > 2000
    first, second = replica.hot
    assert first.microshard == keyspace.microshard_of(hot)
    assert second.microshard == keyspace.microshard_of(cold)
    assert first.writes > first.reads == 0
    assert second.reads > second.writes == 0
    # Four seconds of 500 a second, over ten.
    assert 100 < first.writes < 300
    assert replica.cpu == 0.5
    nodes.pass_time(100_000)
    assert reported(nodes, leader).hot == ()
