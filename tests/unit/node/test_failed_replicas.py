"""A replica that cannot be relied on serves nothing and leads nobody; the others of its shard, and of its node, go on."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from shoal.errors import ErrorCode
from shoal.protocol.checksums import ChecksumCursor, ReadChecksum
from shoal.protocol.messages import Failure, Freshness, GetStatus, Put, ReplicaStatus, Rows, Scan, ScanPage, Written
from shoal.shardmap import MicroshardRange, Shard
from shoal_server.node.core import Node
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.raft.config import RaftConfig
from shoal_server.storage.engine import Damaged
from shoal_server.storage.layout import hard_state_key
from shoal_server.storage.replica_failure import FailureKind, ReplicaFailure, load_failure

EVERYWHERE = (MicroshardRange(0, 4),)

ANY = Freshness(strong=False)
STRONG = Freshness()
ROWS = 40


def fill(nodes: Any) -> None:
    nodes.answer(nodes.write(*(Put(b"k%03d" % number, b"v") for number in range(ROWS))))
    nodes.pass_time(100)


def damage(nodes: Any, name: str, key: bytes) -> None:
    """Have the row of a key of the shard be unreadable on one node."""
    machine = nodes.replica(name).machine
    [microshard] = machine.route([key])
    nodes.engines[name].damage.add("data", [machine.prefixes[microshard] + key])


def damage_log(nodes: Any, name: str) -> None:
    nodes.engines[name].damage.add("log", nodes.engines[name].tables["log"].keys)


def scan(nodes: Any, name: str, freshness: Freshness) -> int:
    asked: int = nodes.ask(
        name, lambda request: Scan(request, 1, 1, 1000, EVERYWHERE, b"", b"", False, False, 4096, freshness=freshness)
    )
    return asked


def status(nodes: Any, name: str) -> ReplicaStatus:
    [found] = nodes.ask_and_wait(name, GetStatus).replicas
    assert isinstance(found, ReplicaStatus)
    return found


def restart(nodes: Any, name: str) -> Node:
    """Begin the next life of a node, on what it has stored."""
    node = Node(
        NodeIdentity("test", name, f"{name}-1", 2),
        nodes.shard_map,
        nodes.engines[name],
        nodes.settings,
        Random(9),
        nodes.now,
    )
    nodes.nodes[name] = node
    for other in nodes.nodes:
        if other != name:
            node.peer_connected(other)
            nodes.nodes[other].peer_lost(name)
            nodes.nodes[other].peer_connected(name)
    return node


def test_a_scan_that_meets_damage_is_refused_instead_of_half_answered_and_the_next_leader_has_all(nodes: Any) -> None:
    fill(nodes)
    old = nodes.leader
    damage(nodes, old, b"k020")
    refused = nodes.answer(scan(nodes, old, STRONG))
    assert isinstance(refused, Failure)
    assert refused.code == ErrorCode.NOT_LEADER
    assert nodes.replica(old).failure.kind is FailureKind.DAMAGED
    nodes.until(lambda: any(nodes.replica(name).group.is_leader for name in nodes.nodes if name != old))
    assert nodes.leader != old
    page = nodes.answer(scan(nodes, nodes.leader, STRONG))
    assert isinstance(page, ScanPage)
    assert page.keys == [b"k%03d" % number for number in range(ROWS)]


def test_reads_that_wait_behind_the_one_that_meets_damage_are_all_answered(nodes: Any) -> None:
    fill(nodes)
    leader = nodes.leader
    damage(nodes, leader, b"k020")
    asked = [nodes.read(leader, b"k%03d" % number, freshness=STRONG) for number in (1, 20, 2, 20, 3)]
    answers = [nodes.answer(request) for request in asked]
    assert isinstance(answers[0], Rows)
    assert [type(answer) for answer in answers[1:]] == [Failure] * 4
    follower = nodes.others[0] if nodes.others[0] != leader else nodes.others[1]
    damage(nodes, follower, b"k020")
    asked = [nodes.read(follower, b"k%03d" % number, freshness=ANY) for number in (1, 20, 2)]
    answers = [nodes.answer(request) for request in asked]
    assert [answer.code for answer in answers if isinstance(answer, Failure)][-2:] == [ErrorCode.TOO_STALE] * 2


def test_a_failed_replica_is_said_to_be_so_and_serves_no_read_of_any_kind(nodes: Any) -> None:
    fill(nodes)
    follower = nodes.others[0]
    damage(nodes, follower, b"k020")
    nodes.answer(nodes.read(follower, b"k020", freshness=ANY))
    assert status(nodes, follower).failure.startswith("damaged: rows of the data family cannot be read")
    for request in (nodes.read(follower, b"k001", freshness=ANY), scan(nodes, follower, ANY)):
        answer = nodes.answer(request)
        assert answer.code == ErrorCode.TOO_STALE
        assert "has failed" in answer.message
    answer = nodes.ask_and_wait(follower, lambda request: ReadChecksum(request, 1, EVERYWHERE, ChecksumCursor(), 100))
    assert answer.code == ErrorCode.UNAVAILABLE


def test_damage_that_only_a_checksum_or_the_census_meets_fails_the_replica_too(nodes: Any) -> None:
    fill(nodes)
    one, other = nodes.others
    damage(nodes, one, b"k020")
    nodes.ask_and_wait(one, lambda request: ReadChecksum(request, 1, EVERYWHERE, ChecksumCursor(), 4096))
    assert nodes.replica(one).failure is not None
    damage(nodes, other, b"k021")
    nodes.answer(nodes.write(Put(b"k022", b"changed"), Put(b"k021x", b"changed")))
    nodes.until(lambda: nodes.replica(other).failure is not None, 20_000)


@pytest.mark.parametrize("kind", list(FailureKind))
def test_a_shard_goes_on_without_its_failed_leader_which_applies_nothing_and_does_not_campaign(
    nodes: Any, kind: FailureKind
) -> None:
    fill(nodes)
    old = nodes.leader
    failed = nodes.replica(old)
    waiting = nodes.write(Put(b"waits", b"v"))
    nodes.step()
    nodes.nodes[old].fail_replica(failed, ReplicaFailure(kind, "a test", failed.machine.state.index), nodes.now)
    assert nodes.answer(waiting).maybe_applied
    applied = failed.machine.state.index
    nodes.until(lambda: nodes.leader != old)
    assert isinstance(nodes.answer(nodes.write(Put(b"later", b"v"))), Written)
    nodes.pass_time(500)
    assert failed.machine.state.index == applied
    assert nodes.replica(nodes.leader).machine.state.index > applied
    assert failed.group.log.last_index == nodes.replica(nodes.leader).group.log.last_index, "it is still a voter"
    nodes.isolate(nodes.leader)
    nodes.pass_time(10_000)
    assert not failed.group.is_leader
    assert status(nodes, old).failure == f"{kind.value}: a test"


def test_what_a_restart_cannot_find_out_by_itself_is_stored(nodes: Any) -> None:
    fill(nodes)
    for name, kind in zip(nodes.others, (FailureKind.DIVERGED, FailureKind.STUCK), strict=True):
        nodes.nodes[name].fail_replica(nodes.replica(name), ReplicaFailure(kind, "a test", 7), nodes.now)
    stored = [load_failure(nodes.engines[name], 1) for name in nodes.others]
    assert stored == [ReplicaFailure(FailureKind.DIVERGED, "a test", 7), None]
    again = restart(nodes, nodes.others[0]).replicas[1]
    assert again.failure == stored[0]
    assert again.machine.read([b"k001"], again.machine.route([b"k001"]) or [], 0)[0] == [None], "no row of it is read"


def test_a_replica_that_is_damaged_when_its_node_starts_has_failed_and_the_node_runs(nodes: Any) -> None:
    fill(nodes)
    victim = nodes.others[0]
    engine = nodes.engines[victim]
    engine.damage.add("data", list(engine.tables["data"].keys))
    replica = restart(nodes, victim).replicas[1]
    assert replica.failure is not None
    assert replica.failure.kind is FailureKind.DAMAGED
    assert load_failure(engine, 1) == replica.failure
    nodes.pass_time(2000)
    assert isinstance(nodes.answer(nodes.write(Put(b"later", b"v"))), Written)
    assert replica.group.log.last_index == nodes.replica(nodes.leader).group.log.last_index


def test_a_replica_whose_log_is_damaged_gives_no_vote_and_is_not_counted(make_nodes: Any) -> None:
    nodes = make_nodes(NodeSettings(raft=RaftConfig(cache_bytes=0)))
    fill(nodes)
    leader = nodes.leader
    victim, other = nodes.others
    damage_log(nodes, victim)
    failed = restart(nodes, victim).replicas[1]
    assert failed.failure is not None
    assert failed.failure.log_lost_to >= nodes.replica(leader).group.log.last_index
    nodes.cut |= {(victim, leader), (victim, other)}
    nodes.pass_time(3000)
    nodes.cut.clear()
    nodes.isolate(other)
    request = nodes.write(Put(b"not-by-two", b"v"))
    nodes.pass_time(300)
    assert request not in nodes.answers, "nothing is committed by a leader and a replica without a log"


def test_damage_in_the_rows_of_the_node_itself_ends_the_process(nodes: Any) -> None:
    fill(nodes)
    victim = nodes.others[0]
    nodes.engines[victim].damage.add("meta", [hard_state_key(1)])
    with pytest.raises(Damaged, match="meta family"):
        restart(nodes, victim)


def test_other_replicas_of_the_node_go_on(make_nodes: Any) -> None:
    shards = tuple(
        Shard(number, 1, (MicroshardRange(2 * number - 2, 2 * number),), ("n1", "n2", "n3")) for number in (1, 2)
    )
    nodes = make_nodes(shards=shards)
    nodes.pass_time(3000)
    leader = nodes.leader
    node = nodes.nodes[leader]
    node.fail_replica(node.replicas[1], ReplicaFailure(FailureKind.DIVERGED, "a test", 1), nodes.now)
    nodes.pass_time(500)
    assert sum(other.replicas[2].group.read_index(nodes.now) is not None for other in nodes.nodes.values()) == 1
    assert [replica.failure is None for replica in node.replicas.values()] == [False, True]
