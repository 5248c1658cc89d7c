"""Damage in any kind of row of the meta family: of a replica, that one fails and is rebuilt; of the node, it does not open."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from msgspec.structs import replace
from shoal.protocol.messages import Done, DropReplica, InstallShardMap, Put, Written
from shoal.shardmap import MicroshardRange, Shard
from shoal_server.invariants import InvariantViolated
from shoal_server.node.core import Node
from shoal_server.node.settings import NodeIdentity
from shoal_server.raft.messages import AppendAccepted, HardState, VoteRequest, VoteResponse
from shoal_server.storage.damaged_meta import LOADERS
from shoal_server.storage.dropped_replicas import (
    STORED_TWICE,
    DroppedReplica,
    has_never_had,
    is_remembered,
    load_dropped,
    put_dropped,
)
from shoal_server.storage.engine import Batch, Damaged, Engine
from shoal_server.storage.layout import group_key, peer_key
from shoal_server.storage.meta_rows import KIND_OF, DamageRule, MetaKind
from shoal_server.storage.promises import put_forgotten, put_hard_state
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
from shoal_server.storage.twice import COPIES, TwiceStored
from shoal_server.storage.watched import WatchedEngine

SHARDS = (
    Shard(1, 1, (MicroshardRange(0, 3),), ("n1", "n2", "n3"), membership_version=1),
    Shard(2, 1, (MicroshardRange(3, 4),), ("n1", "n2", "n3"), membership_version=1),
)
SKIPPED_INDEX = 10_000
OF_REPLICAS = [kind for kind in MetaKind if kind.rule is DamageRule.REPLICA_FAILS]
FORGETTING = [MetaKind.HARD_STATE, MetaKind.DROPPED, MetaKind.FORGOTTEN]
"""Whose rows may have said anything of votes."""
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
    if kind is MetaKind.FORGOTTEN:
        put_forgotten(batch, engine, 1)
    engine.write(batch)
    key = key_of(kind)
    damage_row(engine, "meta", key, garbage)
    if kind.stored_twice:
        damage_row(engine, "log", COPIES + key, garbage)


def damage_row(engine: WatchedEngine, family: str, key: bytes, garbage: bool) -> None:
    if garbage or key not in engine.tables[family].rows:
        engine.tables[family].put(key, b"\xc1")
    if not garbage:
        engine.damage.add(family, [key])


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
@pytest.mark.parametrize("kind", [kind for kind in OF_REPLICAS if kind not in FORGETTING], ids=lambda kind: kind.name)
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


@pytest.mark.parametrize("garbage", [False, True], ids=["unreadable", "garbage"])
@pytest.mark.parametrize("family", ["meta", "log"])
@pytest.mark.parametrize("rows", STORED_TWICE, ids=lambda rows: rows.kind.name)
def test_of_a_row_that_is_stored_twice_either_copy_is_enough_and_the_other_is_written_anew(
    filled: Any, rows: TwiceStored[Any], family: str, garbage: bool
) -> None:
    victim = filled.others[0]
    engine: WatchedEngine = filled.engines[victim]
    batch = engine.batch()
    put_all(batch, engine)
    put_forgotten(batch, engine, 7)
    put_dropped(batch, engine, 7, DroppedReplica(9, "n3", 4))
    put_lost_to(batch, engine, 7, 4)
    put_hard_state(batch, engine, 7, HardState(9, "n3"))
    engine.write(batch)
    before = rows.load(engine, 7)
    assert before is not None
    key = group_key(rows.kind, 7)
    place = COPIES + key if family == "log" else key
    damage_row(engine, family, place, garbage)
    assert rows.load(engine, 7) == before
    rows.mend(engine, 7)
    assert engine.get(engine.meta, key) == engine.get(engine.log, COPIES + key)
    assert rows.load(engine, 7) == before


@pytest.mark.parametrize("family", ["meta", "log"])
@pytest.mark.parametrize("kind", [kind for kind in MetaKind if kind.stored_twice], ids=lambda kind: kind.name)
def test_a_replica_does_not_fail_for_one_copy_of_a_row(filled: Any, kind: MetaKind, family: str) -> None:
    victim = filled.others[0]
    group = filled.replica(victim).group
    engine: WatchedEngine = filled.engines[victim]
    batch = engine.batch()
    put_all(batch, engine)
    engine.write(batch)
    damage_row(engine, family, (COPIES if family == "log" else b"") + key_of(kind), False)
    again = restart(filled, victim).replicas[1]
    assert again.failure is None
    assert (again.group.term, again.group.vote) == (group.term, group.vote)
    assert not engine.damage, "it is written anew"


@pytest.mark.parametrize("garbage", [False, True], ids=["unreadable", "garbage"])
@pytest.mark.parametrize("kind", FORGETTING, ids=lambda kind: kind.name)
def test_a_replica_of_which_nobody_knows_what_it_has_promised_promises_nothing_any_more(
    filled: Any, kind: MetaKind, garbage: bool
) -> None:
    victim, other = filled.others
    damage(filled, victim, kind, garbage)
    for _ in range(2):
        replica = restart(filled, victim).replicas[1]
        group = replica.group
        assert replica.failure is not None
        assert "neither votes nor takes entries" in replica.failure.reason
        read_all(filled, victim)
        last = group.log.last_index
        assert isinstance(filled.answer(filled.write(Put(b"k000", b"later"))), Written)
        group.step(other, VoteRequest(1, 1000, 1000, 999, False, False), filled.now)
        filled.pass_time(3000)
        assert group.log.last_index == last, "it takes no entries"
        assert group.is_silent
        assert group.term < 1000
        assert not group.may_campaign
        said = [message for _, message in (*group.messages, *group.durable_messages)]
        assert not any(isinstance(message, AppendAccepted | VoteResponse) for message in said)
    assert filled.nodes[victim].replicas[2].failure is None


def test_what_is_forgotten_is_not_remembered_by_dropping_the_replica(filled: Any) -> None:
    victim = filled.others[0]
    engine = filled.engines[victim]
    damage(filled, victim, MetaKind.HARD_STATE, False)
    restart(filled, victim)
    known = filled.nodes[victim].routes.map
    without = replace(known, version=known.version + 1, shards=(), keyspaces=())
    filled.ask_and_wait(victim, lambda request: InstallShardMap(request, without))
    assert isinstance(filled.ask_and_wait(victim, lambda request: DropReplica(request, 1)), Done)
    assert is_remembered(engine, 1)
    assert not has_never_had(engine, 1)
    again = replace(known, version=known.version + 2)
    filled.ask_and_wait(victim, lambda request: InstallShardMap(request, again))
    replica = filled.nodes[victim].replicas[1]
    assert replica.failure is not None
    assert "neither votes nor takes entries" in replica.failure.reason
    assert replica.group.is_silent


def test_a_replica_of_which_nobody_knows_what_it_has_lost_gives_no_vote(filled: Any) -> None:
    victim, _ = filled.others
    damage(filled, victim, MetaKind.LOST, False)
    group = restart(filled, victim).replicas[1].group
    assert load_lost_to(filled.engines[victim], 1) == ANY_INDEX
    filled.until(lambda: filled.replica(victim).failure is None, 20_000)
    assert group.is_silent


@pytest.mark.parametrize("lost_to", [0, 3, ANY_INDEX])
def test_what_a_replica_in_any_state_had_promised_can_be_read_when_it_is_dropped(filled: Any, lost_to: int) -> None:
    victim = filled.others[0]
    engine = filled.engines[victim]
    if lost_to:
        batch = engine.batch()
        put_lost_to(batch, engine, 1, lost_to)
        engine.write(batch)
        restart(filled, victim)
    group = filled.nodes[victim].replicas[1].group
    term, vote, last = group.term, group.vote, group.log.last_index
    known = filled.nodes[victim].routes.map
    without = replace(known, version=known.version + 1, shards=(), keyspaces=())
    filled.ask_and_wait(victim, lambda request: InstallShardMap(request, without))
    assert isinstance(filled.ask_and_wait(victim, lambda request: DropReplica(request, 1)), Done)
    assert load_dropped(engine, 1) == DroppedReplica(term, vote, max(last, lost_to))


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
    engine.write(batch)
    engine.damage.add("meta", [key_of(MetaKind.ORIGIN), key_of(MetaKind.LOST), key_of(MetaKind.SKIPPED)])
    engine.damage.add("log", [COPIES + key_of(MetaKind.LOST)])
    failure = restart(filled, victim).replicas[1].failure
    assert failure is not None
    assert all(kind.what in failure.reason for kind in (MetaKind.ORIGIN, MetaKind.LOST, MetaKind.SKIPPED))
    assert failure.log_lost_to == 5, "what it had lost before it has lost still"
    assert load_lost_to(engine, 1) == ANY_INDEX
    filled.until(lambda: filled.replica(victim).failure is None, 20_000)
