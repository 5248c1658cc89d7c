"""Damage in any kind of row of the meta family: of a replica, that one fails and is rebuilt; of the node, it does not open."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from shoal.protocol.messages import Put, Written
from shoal.shardmap import MicroshardRange, Shard
from shoal_server.invariants import InvariantViolated
from shoal_server.node.core import Node
from shoal_server.node.settings import NodeIdentity
from shoal_server.raft.messages import HardState
from shoal_server.storage.damaged_meta import LOADERS
from shoal_server.storage.dropped_replicas import DroppedReplica, is_remembered, put_dropped
from shoal_server.storage.engine import Batch, Damaged, Engine
from shoal_server.storage.layout import encode_hard_state, group_key, hard_state_key, load_hard_state, peer_key
from shoal_server.storage.meta_rows import KIND_OF, DamageRule, MetaKind
from shoal_server.storage.replica_failure import (
    ANY_INDEX,
    FailureKind,
    ReplicaFailure,
    load_lost_to,
    put_failure,
    put_lost_to,
)
from shoal_server.storage.replica_rows import (
    ReplicaOrigin,
    StagedRows,
    load_origin,
    marked_strays,
    put_origin,
    put_staged,
    put_strays,
)
from shoal_server.storage.skipped_entries import SkippedEntry, load_skipped, put_skipped
from shoal_server.storage.watched import WatchedEngine

SHARDS = (
    Shard(1, 1, (MicroshardRange(0, 3),), ("n1", "n2", "n3"), membership_version=1),
    Shard(2, 1, (MicroshardRange(3, 4),), ("n1", "n2", "n3"), membership_version=1),
)
SKIPPED_INDEX = 10_000
OF_REPLICAS = [kind for kind in MetaKind if kind.rule is DamageRule.REPLICA_FAILS]
OF_NODES = [kind for kind in MetaKind if kind.rule is DamageRule.NODE_REFUSES]
SET_RIGHT = [kind for kind in MetaKind if kind.rule is DamageRule.SET_RIGHT]


def key_of(kind: MetaKind) -> bytes:
    """Return the key of a row of a kind, of shard 1 or of the node itself."""
    if kind is MetaKind.PEER:
        return peer_key("n3")
    if kind.rule is DamageRule.NODE_REFUSES:
        return kind.letter
    key = group_key(kind, 1)
    return key + SKIPPED_INDEX.to_bytes(8, "big") if kind is MetaKind.SKIPPED else key


def put_all(batch: Batch, engine: Engine) -> None:
    """Store a row of each kind that is of shard 1, where a whole replica has none."""
    put_origin(batch, engine, 1, ReplicaOrigin(True, 1))
    put_skipped(batch, engine, 1, SKIPPED_INDEX, SkippedEntry(1, 1))
    put_staged(batch, engine, 1, StagedRows(1, [0], 99))
    put_strays(batch, engine, 1, 1)
    put_dropped(batch, engine, 1, DroppedReplica(1, "n1", 1))
    put_lost_to(batch, engine, 1, 1)
    batch.put(peer_key("n3"), b"an incarnation", engine.meta)


@pytest.fixture
def filled(make_nodes: Any) -> Any:
    nodes = make_nodes(shards=SHARDS)
    machine = nodes.replica(nodes.leader).machine
    keys = [key for number in range(40) if machine.route([key := b"k%03d" % number]) is not None]
    assert isinstance(nodes.answer(nodes.write(*(Put(key, b"v") for key in keys))), Written)
    nodes.pass_time(200)
    return nodes


def damage(nodes: Any, name: str, kind: MetaKind, garbage: bool) -> None:
    """Damage the row of a kind on one node: it cannot be read, or cannot be decoded."""
    engine: WatchedEngine = nodes.engines[name]
    batch = engine.batch()
    put_all(batch, engine)
    if kind is MetaKind.FAILURE:
        put_failure(batch, engine, 1, ReplicaFailure(FailureKind.DIVERGED, "a test", 1))
    engine.write(batch)
    key = key_of(kind)
    if garbage or key not in engine.tables["meta"].rows:
        engine.tables["meta"].put(key, b"\xc1")
    if not garbage:
        engine.damage.add("meta", [key])


def restart(nodes: Any, name: str) -> Node:
    """Begin the next life of a node, on what it has stored."""
    identity = NodeIdentity("test", name, f"{name}-1", 2)
    node = Node(identity, nodes.shard_map, nodes.engines[name], nodes.settings, Random(9), nodes.now)
    nodes.nodes[name] = node
    for other in nodes.nodes:
        if other != name:
            node.peer_connected(other)
            nodes.nodes[other].peer_lost(name)
            nodes.nodes[other].peer_connected(name)
    return node


def read_all(nodes: Any, name: str) -> None:
    """Read every row of shard 1, which raises where one cannot be."""
    for load in LOADERS.values():
        load(nodes.engines[name], 1)


@pytest.mark.parametrize("garbage", [False, True], ids=["unreadable", "garbage"])
@pytest.mark.parametrize("kind", OF_REPLICAS, ids=lambda kind: kind.name)
def test_a_replica_fails_and_is_rebuilt_whose_row_is_damaged_and_the_others_go_on(
    filled: Any, kind: MetaKind, garbage: bool
) -> None:
    victim = filled.others[0]
    damage(filled, victim, kind, garbage)
    node = restart(filled, victim)
    failure = node.replicas[1].failure
    assert failure is not None
    assert failure.kind is FailureKind.DAMAGED
    assert kind.what in failure.reason
    assert node.replicas[2].failure is None
    read_all(filled, victim)
    again = restart(filled, victim)
    assert again.replicas[1].failure == failure, "it is on disk"
    filled.until(lambda: again.replicas[1].failure is None, 20_000)
    assert isinstance(filled.answer(filled.write(Put(b"k000", b"later"))), Written)
    filled.until(lambda: again.replicas[1].machine.state.index == filled.replica(filled.leader).machine.state.index)
    assert filled.stored_keys(victim) == filled.stored_keys(filled.leader)
    assert restart(filled, victim).replicas[1].failure is None


@pytest.mark.parametrize("garbage", [False, True], ids=["unreadable", "garbage"])
@pytest.mark.parametrize("kind", OF_NODES, ids=lambda kind: kind.name)
def test_a_node_whose_own_row_is_damaged_does_not_open_and_says_what_to_do(
    filled: Any, kind: MetaKind, garbage: bool
) -> None:
    victim = filled.others[0]
    damage(filled, victim, kind, garbage)
    if kind is MetaKind.PEER and garbage:
        filled.engines[victim].tables["meta"].put(key_of(kind), b"\xff\xff")
    with pytest.raises(Damaged, match=f"{kind.what} cannot be read.*shoal remove-node"):
        restart(filled, victim)


@pytest.mark.parametrize("garbage", [False, True], ids=["unreadable", "garbage"])
@pytest.mark.parametrize("kind", SET_RIGHT, ids=lambda kind: kind.name)
def test_a_replica_does_not_fail_for_a_row_that_only_says_what_is_to_be_removed(
    filled: Any, kind: MetaKind, garbage: bool
) -> None:
    victim = filled.others[0]
    damage(filled, victim, kind, garbage)
    node = restart(filled, victim)
    assert node.replicas[1].failure is None
    read_all(filled, victim)
    assert marked_strays(filled.engines[victim]) == {1: 1}
    filled.until(lambda: not marked_strays(filled.engines[victim]))


def test_every_row_is_of_a_kind_that_has_a_rule(filled: Any) -> None:
    engine: WatchedEngine = filled.engines["n1"]
    batch = engine.batch()
    put_all(batch, engine)
    engine.write(batch)
    assert {key[:1] for key in engine.tables["meta"].keys} <= KIND_OF.keys()
    assert len(KIND_OF) == len(MetaKind), "no two kinds have one letter"
    with pytest.raises(InvariantViolated, match="there is a rule"):
        engine.batch().put(b"z", b"", engine.meta)


def test_a_replica_whose_vote_cannot_be_read_votes_in_no_term_that_it_may_have_voted_in(filled: Any) -> None:
    leader = filled.leader
    victim, _ = filled.others
    before = filled.replica(leader).group.term
    damage(filled, victim, MetaKind.HARD_STATE, False)
    group = restart(filled, victim).replicas[1].group
    assert group.term > before + 100_000
    assert group.vote == victim
    assert load_hard_state(filled.engines[victim], 1) == HardState(group.term, victim)
    filled.until(lambda: filled.replica(victim).failure is None, 20_000)
    assert filled.replica(filled.leader).group.term >= group.term, "the others have followed"
    filled.isolate(filled.leader)
    filled.until(lambda: any(filled.replica(name).group.is_leader for name in filled.others))


@pytest.mark.parametrize("kind", [MetaKind.LOST, MetaKind.DROPPED], ids=lambda kind: kind.name)
def test_a_replica_of_which_nobody_knows_what_it_has_lost_gives_no_vote(filled: Any, kind: MetaKind) -> None:
    victim, _ = filled.others
    damage(filled, victim, kind, False)
    group = restart(filled, victim).replicas[1].group
    assert load_lost_to(filled.engines[victim], 1) == ANY_INDEX
    assert not is_remembered(filled.engines[victim], 1)
    filled.until(lambda: filled.replica(victim).failure is None, 20_000)
    assert group.is_silent


def test_of_a_log_whose_beginning_or_state_nobody_knows_nothing_is_believed(filled: Any) -> None:
    victim, other = filled.others
    last = filled.replica(victim).group.log.last_index
    for name, kind in ((victim, MetaKind.LOG_START), (other, MetaKind.FAILURE)):
        damage(filled, name, kind, False)
        failure = restart(filled, name).replicas[1].failure
        assert failure is not None
        assert failure.log_lost_to == last
        filled.until(lambda at=name: filled.replica(at).failure is None, 20_000)


def test_a_replica_of_which_nobody_knows_whence_it_came_waits_for_the_membership_on_the_map(filled: Any) -> None:
    victim = filled.others[0]
    damage(filled, victim, MetaKind.ORIGIN, False)
    restart(filled, victim)
    assert load_origin(filled.engines[victim], 1) == ReplicaOrigin(False, 1)
    filled.until(lambda: filled.replica(victim).failure is None, 20_000)
    assert not filled.replica(victim).group.is_silent


def test_entries_that_are_not_to_be_applied_are_forgotten_with_the_rows(filled: Any) -> None:
    victim = filled.others[0]
    damage(filled, victim, MetaKind.SKIPPED, False)
    assert restart(filled, victim).replicas[1].skipped == {}
    assert load_skipped(filled.engines[victim], 1) == {}


def test_several_damaged_rows_of_a_replica_are_one_failure(filled: Any) -> None:
    victim = filled.others[0]
    engine = filled.engines[victim]
    batch = engine.batch()
    put_all(batch, engine)
    engine.write(batch)
    batch = engine.batch()
    put_failure(batch, engine, 1, ReplicaFailure(FailureKind.DAMAGED, "a test", 1, 5))
    batch.put(hard_state_key(1), encode_hard_state(HardState(3, "n1")), engine.meta)
    engine.write(batch)
    engine.damage.add("meta", [key_of(MetaKind.HARD_STATE), key_of(MetaKind.LOST), key_of(MetaKind.SKIPPED)])
    failure = restart(filled, victim).replicas[1].failure
    assert failure is not None
    assert all(kind.what in failure.reason for kind in (MetaKind.HARD_STATE, MetaKind.LOST, MetaKind.SKIPPED))
    assert failure.log_lost_to == 5, "what it had lost before it has lost still"
    assert load_lost_to(engine, 1) == ANY_INDEX
    filled.until(lambda: filled.replica(victim).failure is None, 20_000)
