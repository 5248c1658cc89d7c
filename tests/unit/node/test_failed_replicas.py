"""A replica that cannot be relied on serves nothing and leads nobody; the others of its shard, and of its node, go on."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from msgspec.structs import replace
from shoal.errors import ErrorCode
from shoal.protocol.checksums import ChecksumCursor, ReadChecksum
from shoal.protocol.failures import ReplicaFailure as ShownFailure
from shoal.protocol.messages import Failure, Freshness, GetStatus, Put, ReplicaStatus, Rows, Scan, ScanPage, Written
from shoal.shardmap import MicroshardRange, Shard
from shoal_server.node.core import Node
from shoal_server.node.damage import failure_of
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.node.stray_rows import StrayRows
from shoal_server.raft.config import RaftConfig
from shoal_server.raft.membership import encode_membership
from shoal_server.raft.messages import Entry, EntryKind, Membership, entry_checksum
from shoal_server.storage.engine import Damaged
from shoal_server.storage.layout import (
    DATA_PREFIX_BYTES,
    applied_state_key,
    data_prefix,
    encode_entry,
    log_key,
)
from shoal_server.storage.replica_failure import ANY_INDEX, FailureKind, ReplicaFailure, load_failure
from shoal_server.storage.replica_rows import load_strays

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


def refuse_snapshots(nodes: Any) -> None:
    """Have failed replicas wait."""
    for node in nodes.nodes.values():
        node.settings = node._transfers._settings = replace(nodes.settings, snapshots_at_once=0)


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
    nodes.until(lambda: nodes.replica(old).failure is None)
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
    nodes.isolate(follower)
    nodes.ask_and_wait(
        follower, lambda request: ReadChecksum(request, 1, (MicroshardRange(0, 4),), ChecksumCursor(), 4096)
    )
    assert str(status(nodes, follower).failure).startswith("damaged: rows of the data family cannot be read")
    for request in (nodes.read(follower, b"k001", freshness=ANY), scan(nodes, follower, ANY)):
        answer = nodes.answer(request)
        assert answer.code == ErrorCode.TOO_STALE
        assert "has failed" in answer.message
    answer = nodes.ask_and_wait(follower, lambda request: ReadChecksum(request, 1, EVERYWHERE, ChecksumCursor(), 100))
    assert answer.code == ErrorCode.UNAVAILABLE


def test_damage_that_only_a_checksum_or_counting_rows_meets_fails_the_replica_too(nodes: Any) -> None:
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
    nodes.nodes[old].failing.fail(failed, ReplicaFailure(kind, "a test", failed.machine.state.index), nodes.now)
    assert nodes.answer(waiting).maybe_applied
    applied = failed.machine.state.index
    refuse_snapshots(nodes)
    nodes.until(lambda: nodes.leader != old)
    assert isinstance(nodes.answer(nodes.write(Put(b"later", b"v"))), Written)
    nodes.pass_time(500)
    assert failed.machine.state.index == applied
    assert nodes.replica(nodes.leader).machine.state.index > applied
    assert failed.group.log.last_index == nodes.replica(nodes.leader).group.log.last_index, "it is still a voter"
    nodes.isolate(nodes.leader)
    nodes.pass_time(10_000)
    assert not failed.group.is_leader
    assert status(nodes, old).failure == ShownFailure(kind.value, "a test", applied)


@pytest.mark.parametrize("kind", [FailureKind.DAMAGED, FailureKind.DIVERGED])
def test_a_failed_replica_gets_its_rows_anew_and_keeps_what_it_has_acknowledged_behind_them(
    make_nodes: Any, kind: FailureKind
) -> None:
    nodes = make_nodes(NodeSettings(snapshot_chunk_bytes=200))
    fill(nodes)
    victim, other = nodes.others
    failed = nodes.replica(victim)
    nodes.nodes[victim].failing.fail(failed, ReplicaFailure(kind, "a test", failed.machine.state.index), nodes.now)
    nodes.step()
    # While its snapshot is on its way the replica is needed for every write.
    nodes.cut |= {(other, name) for name in nodes.nodes} | {(name, other) for name in nodes.nodes}
    for number in range(20):
        assert isinstance(nodes.answer(nodes.write(Put(b"n%03d" % number, b"v"))), Written)
    last = nodes.replica(nodes.leader).group.log.last_index
    nodes.until(lambda: failed.failure is None)
    assert failed.group.log.last_index >= last
    assert load_failure(nodes.engines[victim], 1) is None
    nodes.cut.clear()
    nodes.until(lambda: failed.machine.state.index == nodes.replica(nodes.leader).machine.state.index)
    assert nodes.stored_keys(victim) == nodes.stored_keys(nodes.leader)
    assert sum(1 for _ in nodes.engines[victim].scan(nodes.engines[victim].data, b"", b"\xff")) == sum(
        1 for _ in nodes.engines[nodes.leader].scan(nodes.engines[nodes.leader].data, b"", b"\xff")
    ), "nothing of the old rows is left"
    assert isinstance(nodes.answer(nodes.read(victim, b"n019", freshness=ANY)), Rows)


def test_a_rebuilt_replica_may_begin_before_what_it_had_applied(make_nodes: Any) -> None:
    nodes = make_nodes(NodeSettings(snapshot_chunk_bytes=200))
    fill(nodes)
    victim, _ = nodes.others
    failed = nodes.replica(victim)
    nodes.nodes[victim].failing.fail(failed, ReplicaFailure(FailureKind.DIVERGED, "a test", 1), nodes.now)
    nodes.until(lambda: nodes.nodes[victim].queues()["snapshots_taking"][0] == 1)
    failed.machine.state = replace(failed.machine.state, index=failed.machine.state.index + 5)
    nodes.until(lambda: failed.failure is None)
    nodes.answer(nodes.write(Put(b"later", b"v")))
    nodes.until(lambda: failed.machine.state.index == nodes.replica(nodes.leader).machine.state.index)


def test_the_only_copy_stays_failed_and_is_not_made_of_itself(make_nodes: Any) -> None:
    nodes = make_nodes(shards=(Shard(1, 1, (MicroshardRange(0, 4),), ("n1",), followers=("n2", "n3")),))
    fill(nodes)
    damage(nodes, "n1", b"k020")
    refused = nodes.answer(scan(nodes, "n1", STRONG))
    assert refused.code == ErrorCode.NOT_LEADER
    nodes.pass_time(10_000)
    assert nodes.replica("n1").failure is not None
    refused = nodes.answer(scan(nodes, "n1", STRONG))
    assert "the replica here has failed (damaged: " in refused.message
    assert nodes.nodes["n2"].counters.snapshots_adopted == 0


def test_a_leader_that_meets_damage_while_it_sends_a_snapshot_makes_no_copy_of_it(make_nodes: Any) -> None:
    nodes = make_nodes(NodeSettings(snapshot_chunk_bytes=200))
    fill(nodes)
    victim, _ = nodes.others
    leader = nodes.leader
    damage(nodes, leader, b"k020")
    nodes.nodes[victim].failing.fail(
        nodes.replica(victim), ReplicaFailure(FailureKind.DIVERGED, "a test", 1), nodes.now
    )
    nodes.until(lambda: nodes.replica(leader).failure is not None)
    nodes.until(lambda: all(nodes.replica(name).failure is None for name in nodes.nodes), 20_000)
    assert [nodes.stored_keys(name) for name in nodes.nodes] == [[b"k%03d" % number for number in range(ROWS)]] * 3


def test_what_a_restart_cannot_find_out_by_itself_is_stored(nodes: Any) -> None:
    fill(nodes)
    for name, kind in zip(nodes.others, (FailureKind.DIVERGED, FailureKind.STUCK), strict=True):
        nodes.nodes[name].failing.fail(nodes.replica(name), ReplicaFailure(kind, "a test", 7), nodes.now)
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


def test_a_replica_whose_log_is_damaged_gives_no_vote_and_is_not_counted(nodes: Any) -> None:
    fill(nodes)
    leader = nodes.leader
    victim, other = nodes.others
    refuse_snapshots(nodes)
    damage_log(nodes, victim)
    failed = restart(nodes, victim).replicas[1]
    assert failed.failure is not None
    assert failed.failure.log_lost_to == ANY_INDEX
    nodes.pass_time(3000)
    nodes.isolate(other)
    request = nodes.write(Put(b"not-by-two", b"v"))
    nodes.pass_time(300)
    assert request not in nodes.answers, "nothing is committed by a leader and a replica without a log"
    nodes.cut.clear()
    nodes.isolate(leader)
    nodes.pass_time(5000)
    assert not nodes.replica(other).group.is_leader, "nobody is elected by one who may have forgotten"


def test_a_replica_whose_log_is_damaged_while_it_runs_has_it_anew_and_votes_when_it_is_as_far_as_before(
    make_nodes: Any,
) -> None:
    nodes = make_nodes(NodeSettings(raft=RaftConfig(cache_bytes=0)))
    fill(nodes)
    leader = nodes.leader
    victim, other = nodes.others
    damage_log(nodes, victim)
    failed = nodes.replica(victim)
    with pytest.raises(Damaged) as raised:
        failed.store.entries(1, 2, 1)
    nodes.nodes[victim].failing.fail(failed, failure_of(raised.value, failed), nodes.now)
    lost_to = failed.group.log.last_index
    assert failed.failure.log_lost_to == lost_to
    nodes.until(lambda: failed.failure is None)
    nodes.answer(nodes.write(Put(b"later", b"v")))
    nodes.until(lambda: failed.machine.state.index == nodes.replica(leader).machine.state.index > lost_to)
    nodes.isolate(leader)
    nodes.until(lambda: nodes.replica(other).group.is_leader or failed.group.is_leader)


@pytest.mark.parametrize(
    "payload",
    [b"\xc1", encode_membership(Membership(7, ("n1",))), encode_membership(Membership(2, ()))],
    ids=["undecodable", "no single step", "nobody votes"],
)
def test_a_log_with_a_membership_that_cannot_be_is_damaged(nodes: Any, payload: bytes) -> None:
    fill(nodes)
    victim = nodes.others[0]
    engine, stored = nodes.engines[victim], nodes.replica(victim).group.log
    index, kind = stored.last_index + 1, EntryKind.MEMBERSHIP
    entry = Entry(stored.last_term, index, kind, payload, entry_checksum(1, stored.last_term, index, kind, payload))
    engine.tables["log"].put(log_key(1, index), encode_entry(entry))
    failed = restart(nodes, victim).replicas[1]
    assert failed.failure is not None
    assert failed.failure.kind is FailureKind.DAMAGED
    assert failed.failure.log_lost_to == index
    assert f"entry {index}" in failed.failure.reason
    nodes.until(lambda: failed.failure is None)
    assert isinstance(nodes.answer(nodes.write(Put(b"later", b"v"))), Written)


def test_a_failure_leaves_a_count_when_it_has_healed(nodes: Any) -> None:
    fill(nodes)
    victim = nodes.others[0]
    nodes.nodes[victim].failing.fail(nodes.replica(victim), ReplicaFailure(FailureKind.DAMAGED, "a test", 7), nodes.now)
    nodes.pass_time(2000)
    assert nodes.replica(victim).failure is None
    assert nodes.nodes[victim].counters.replica_failures == {"damaged": 1}
    engine = nodes.engines[victim]
    engine.damage.add("data", list(engine.tables["data"].keys))
    engine.damaged_families = ("data",)
    assert restart(nodes, victim).counters.replica_failures == {"damaged": 1}, "met at the start"
    assert nodes.ask_and_wait(victim, GetStatus).damaged_families == ("data",)


def test_other_replicas_of_the_node_go_on(make_nodes: Any) -> None:
    shards = tuple(
        Shard(number, 1, (MicroshardRange(2 * number - 2, 2 * number),), ("n1", "n2", "n3")) for number in (1, 2)
    )
    nodes = make_nodes(shards=shards)
    nodes.pass_time(3000)
    leader = nodes.leader
    node = nodes.nodes[leader]
    node.failing.fail(node.replicas[1], ReplicaFailure(FailureKind.DIVERGED, "a test", 1), nodes.now)
    nodes.pass_time(500)
    assert sum(other.replicas[2].group.read_index(nodes.now) is not None for other in nodes.nodes.values()) == 1
    assert [replica.failure is None for replica in node.replicas.values()] == [False, True]


def stored_prefixes(nodes: Any, name: str) -> set[bytes]:
    """Return what the rows that a node has begin with, without users' keys."""
    return {key[:DATA_PREFIX_BYTES] for key in nodes.engines[name].tables["data"].keys}


def lose_applied_state(nodes: Any, name: str) -> set[bytes]:
    """Begin a life in which it cannot be read what a replica has applied; return the prefixes that its rows had."""
    left = stored_prefixes(nodes, name) - {applied_state_key(1)}
    assert left
    nodes.engines[name].damage.add("data", [applied_state_key(1)])
    restart(nodes, name)
    assert nodes.replica(name).rows_unknown
    return left


def test_rows_of_a_replica_whose_applied_state_cannot_be_read_go_when_it_is_rebuilt(nodes: Any) -> None:
    fill(nodes)
    follower = nodes.others[0]
    left = lose_applied_state(nodes, follower)
    assert left <= stored_prefixes(nodes, follower)
    nodes.until(lambda: nodes.replica(follower).failure is None)
    nodes.until(lambda: not left & stored_prefixes(nodes, follower))
    engine = nodes.engines[follower]
    assert len(list(engine.scan(engine.data, data_prefix(1, 0, 0), data_prefix(2, 0, 0)))) == ROWS


def test_rows_that_nobody_owns_go_in_the_next_life_where_the_process_ended_before(
    nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(nodes)
    follower = nodes.others[0]
    with monkeypatch.context() as patch:
        patch.setattr(StrayRows, "tick", lambda *_: None)
        left = lose_applied_state(nodes, follower)
        nodes.until(lambda: nodes.replica(follower).failure is None)
        assert left <= stored_prefixes(nodes, follower)
    restart(nodes, follower)
    assert not nodes.replica(follower).rows_unknown
    nodes.until(lambda: not left & stored_prefixes(nodes, follower))
    nodes.pass_time(3000)
    assert load_strays(nodes.engines[follower], ()) == {}


def test_nothing_is_removed_before_it_is_known_whose_it_is(nodes: Any) -> None:
    fill(nodes)
    follower = nodes.others[0]
    refuse_snapshots(nodes)
    left = lose_applied_state(nodes, follower)
    nodes.pass_time(5000)
    assert left <= stored_prefixes(nodes, follower)
