"""What becomes of a node when maps replace each other, and when a replica goes in the middle of something."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace
from shoal.bounds import MAX_MOVED_SEQ, MAX_VERSION
from shoal.map_changes import with_members
from shoal.map_rules import MAX_LEAP, refuse_map
from shoal.protocol.messages import (
    Answer,
    ChangeMembership,
    Done,
    DropReplica,
    Failure,
    Freshness,
    InstallShardMap,
    OpenSession,
    Put,
    Request,
    SplitShard,
    Written,
)
from shoal.protocol.migration import AdoptMicroshards, MigrationCursor, SealMicroshards, StoreMoved
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.node.core import Node
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.raft.membership import ChangeKind, MembershipChange
from shoal_server.raft.messages import HardState
from shoal_server.storage.dropped_replicas import DroppedReplica, put_dropped, take_up_dropped
from shoal_server.storage.node_rows import load_shard_map
from shoal_server.storage.promises import load_hard_state
from shoal_server.storage.replica_failure import load_lost_to
from shoal_server.storage.watched import WatchedEngine

MS = 1_000_000
NODES = (NodeAddress("n1", "n1:1"), NodeAddress("n2", "n2:1"))
MAP = ShardMap(
    1,
    "test",
    NODES,
    (Keyspace(1, "default", 4, b"/"),),
    (Shard(1, 1, (MicroshardRange(0, 4),), ("n1",)),),
)


class LoneNode:
    """One node, which the test gives its turns."""

    def __init__(self) -> None:
        self.now = 1000 * MS
        self.engine = WatchedEngine()
        self.begin(MAP, epoch=1)

    def begin(self, shard_map: ShardMap, epoch: int) -> None:
        """Begin a life of the process on what the engine has."""
        # A log that is to be cut off after every entry asks for a flush again and again.
        settings = NodeSettings(log_retain_bytes=1, log_checkpoint_bytes=1)
        identity = NodeIdentity("test", "n1", "n1-1", epoch)
        self.node = Node(identity, shard_map, self.engine, settings, Random(1), self.now)

    def turn(self) -> int | None:
        """Take a turn; return the ticket of the flush that is under way or wanted."""
        self.now += 10 * MS
        turn = self.node.turn(self.now, 1_700_000_000_000)
        if turn.sync is not None:
            self.node.synced(turn.sync)
        return self.node.finish_turn(self.now).flush

    def install(self, shard_map: ShardMap) -> None:
        self.node.receive_client(1, [InstallShardMap(1, shard_map, [])])
        self.turn()


def test_a_replica_may_be_dropped_while_it_is_flushed() -> None:
    lone = LoneNode()
    ticket = None
    for request in range(1000):
        lone.node.receive_client(1, [OpenSession(request, 1)])
        ticket = ticket or lone.turn()
    assert ticket is not None, "the log grows, so what was applied has to be flushed"
    lone.install(replace(MAP, version=2, keyspaces=(), shards=()))
    lone.node.receive_client(1, [DropReplica(2, 1)])
    assert lone.turn() == ticket, "one flush at a time"
    assert not lone.node.replicas
    lone.node.flushed(ticket)
    assert lone.turn() != ticket


def test_a_node_that_forgets_a_peer_rests() -> None:
    lone = LoneNode()
    for _ in range(500):
        lone.turn()
    lone.install(replace(MAP, version=2, nodes=NODES[:1], keyspaces=(), shards=()))
    lone.node.receive_client(1, [DropReplica(2, 1)])
    for _ in range(500):
        lone.turn()
    lone.node.turn(lone.now, 1_700_000_000_000)
    assert lone.node.finish_turn(lone.now).wake_at > lone.now


def test_the_managers_map_replaces_one_that_was_derived() -> None:
    lone = LoneNode()
    lone.turn()
    lone.node.replica_set.adopt_derived_map(replace(MAP, version=2), lone.now)
    assert lone.node.map_is_derived
    lone.install(replace(MAP, version=2))
    assert not lone.node.map_is_derived


def test_a_derived_map_is_known_as_one_after_a_restart_until_the_managers_replaces_it() -> None:
    lone = LoneNode()
    lone.turn()
    lone.node.replica_set.adopt_derived_map(replace(MAP, version=2), lone.now)
    lone.begin(stored_map(lone), epoch=2)
    assert lone.node.map_is_derived
    lone.install(replace(MAP, version=2))
    lone.begin(stored_map(lone), epoch=3)
    assert not lone.node.map_is_derived


def stored_map(lone: LoneNode) -> ShardMap:
    found = load_shard_map(lone.engine)
    assert found is not None
    return found


def test_a_change_of_membership_that_comes_twice_changes_nothing(nodes: Any) -> None:
    leader, demoted = nodes.leader, nodes.others[0]
    version = nodes.replica(leader).group.membership.version

    def demote(name: str) -> Done | Failure:
        answer = nodes.ask_and_wait(leader, lambda request: ChangeMembership(request, 1, 3, name, version))
        assert isinstance(answer, Done | Failure)
        return answer

    assert isinstance(demote(demoted), Done)
    nodes.pass_time(100)
    late = demote(next(name for name in nodes.others if name != demoted))
    assert isinstance(late, Failure)
    assert "is of version 2 by now" in late.message
    assert len(nodes.replica(leader).group.membership.voters) == 2


def test_a_node_that_the_map_lacks_is_not_added_before_the_map_has_it(nodes: Any) -> None:
    leader = nodes.leader

    def add() -> Answer:
        return order(nodes, leader, lambda request: ChangeMembership(request, 1, ChangeKind.ADD_LEARNER, "n9"))

    last = nodes.replica(leader).group.log.last_index
    refusal = add()
    assert isinstance(refusal, Failure)
    assert "has no node 'n9': install one that has it first, and ask again" in refusal.message
    assert nodes.replica(leader).group.log.last_index == last
    known = nodes.shard_map
    grown = replace(known, version=known.version + 1, nodes=(*known.nodes, NodeAddress("n9", "n9:1")))
    assert isinstance(order(nodes, leader, lambda request: InstallShardMap(request, grown)), Done)
    nodes.cut.update((name, "n9") for name in nodes.nodes)
    assert isinstance(add(), Done)


def test_a_shard_with_a_member_that_the_map_lacks_is_not_split(nodes: Any) -> None:
    """An earlier version may have let one in: the map that the split makes would be one that no node takes."""
    leader = nodes.leader
    nodes.cut.update((name, "n9") for name in nodes.nodes)
    nodes.nodes[leader].replica_set.propose_membership(1, MembershipChange(ChangeKind.ADD_LEARNER, "n9"), nodes.now)
    nodes.pass_time(200)
    child = Shard(2, 1, (MicroshardRange(2, 4),), VOTERS, ("n9",))
    refusal = order(nodes, leader, lambda request: SplitShard(request, 1, child, 9))
    assert isinstance(refusal, Failure)
    assert "replicas on n9, which the shard map has not" in refusal.message


def test_a_replica_that_goes_and_comes_back_in_one_turn_begins_with_nothing(nodes: Any) -> None:
    """A node that hangs for a moment finds both requests in its inbox, each on a connection of its own."""
    nodes.answer(nodes.write(Put(b"k", b"v")))
    leader, (victim, other) = nodes.leader, nodes.others
    for kind in (ChangeKind.DEMOTE, ChangeKind.REMOVE):
        nodes.ask_and_wait(leader, lambda request, kind=kind: ChangeMembership(request, 1, kind, victim))
        nodes.pass_time(100)
    group = nodes.replica(leader).group
    shard = nodes.shard_map.shards[0]
    gone = with_members(shard, (leader, other), (), group.membership.version)
    back = replace(gone, followers=(victim,), membership_version=group.membership.version + 1)
    without, again = (replace(nodes.shard_map, version=2 + n, shards=(each,)) for n, each in enumerate((gone, back)))
    for name in nodes.nodes:
        nodes.ask_and_wait(name, lambda request: InstallShardMap(request, without, []))
    dropped = nodes.ask(victim, lambda request: DropReplica(request, 1))
    installed = nodes.ask(victim, lambda request: InstallShardMap(request, again, []))
    nodes.step()
    replica = nodes.replica(victim)
    assert (replica.machine.state.index, replica.group.log.last_index) == (0, 0)
    assert not any(True for _ in nodes.engines[victim].scan(nodes.engines[victim].data, b"", b"\xff"))
    for request in (dropped, installed):
        assert isinstance(nodes.answer(request), Done)
    nodes.ask_and_wait(leader, lambda request: ChangeMembership(request, 1, ChangeKind.ADD_LEARNER, victim))
    nodes.until(lambda: nodes.stored_keys(victim) == [b"k"])


# -- replicas that go and come back

VOTERS = ("n1", "n2", "n3")


def order(nodes: Any, node: str, make: Callable[[int], Request]) -> Answer:
    answer: Answer = nodes.ask_and_wait(node, make)
    return answer


def without(shard_map: ShardMap, node: str, version: int, membership_version: int) -> ShardMap:
    """The map without a replica of its one shard on a node."""
    shard = shard_map.shards[0]
    voters = tuple(voter for voter in shard.voters if voter != node)
    return replace(shard_map, version=version, shards=(with_members(shard, voters, (), membership_version),))


def write_behind_the_back_of_one(nodes: Any) -> tuple[str, str, str]:
    """Write what a leader and one other have; return them and the one that lacks it."""
    nodes.answer(nodes.write(Put(b"a", b"1")))
    nodes.pass_time(2000)
    leader = nodes.leader
    lacking, having = nodes.others
    nodes.isolate(lacking)
    assert isinstance(nodes.answer(nodes.write(Put(b"b", b"1"))), Written)
    nodes.pass_time(100)
    return leader, having, lacking


def test_a_node_that_votes_in_a_group_does_not_drop_its_replica(nodes: Any) -> None:
    _, having, _ = write_behind_the_back_of_one(nodes)
    known = nodes.nodes[having].routes.map
    assert isinstance(
        order(nodes, having, lambda request: InstallShardMap(request, without(known, having, 2, 1))), Done
    )
    refusal = order(nodes, having, lambda request: DropReplica(request, 1))
    assert isinstance(refusal, Failure)
    assert "remove it from the group first" in refusal.message
    assert 1 in nodes.nodes[having].replicas


def test_a_node_that_missed_its_removal_drops_its_replica_by_a_map_of_the_newer_membership(nodes: Any) -> None:
    leader, removed = nodes.leader, nodes.others[0]
    nodes.pass_time(2000)
    nodes.isolate(removed)
    for kind in (ChangeKind.DEMOTE, ChangeKind.REMOVE):
        change = order(nodes, leader, lambda request, kind=kind: ChangeMembership(request, 1, kind, removed))
        assert isinstance(change, Done)
        nodes.pass_time(200)
    known = nodes.nodes[removed].routes.map
    nodes.ask_and_wait(removed, lambda request: InstallShardMap(request, without(known, removed, 2, 3)))
    assert isinstance(order(nodes, removed, lambda request: DropReplica(request, 1)), Done)
    assert 1 not in nodes.nodes[removed].replicas


@pytest.mark.parametrize("removed_by", ["no shard", "a newer membership"])
def test_a_replica_that_comes_back_gives_no_vote_before_it_has_what_it_had_acknowledged(
    nodes: Any, removed_by: str
) -> None:
    """Whatever a map says: its group still counts on it."""
    leader, having, lacking = write_behind_the_back_of_one(nodes)
    known = nodes.nodes[having].routes.map
    gone = (
        replace(known, version=2, keyspaces=(), shards=()) if removed_by == "no shard" else without(known, having, 2, 9)
    )
    before = nodes.replica(having).group
    for make in (
        lambda request: InstallShardMap(request, gone),
        lambda request: DropReplica(request, 1),
        lambda request: InstallShardMap(request, replace(known, version=3)),
    ):
        nodes.isolate(leader)
        assert isinstance(order(nodes, having, make), Done)
    group = nodes.replica(having).group
    assert (group.term, group.vote) == (before.term, before.vote)
    nodes.heal()
    nodes.isolate(leader)
    for node in (having, lacking):
        nodes.nodes[node].peer_lost(leader)
    nodes.pass_time(10_000)
    assert not any(nodes.replica(node).group.is_leader for node in (having, lacking))
    nodes.heal()
    for node in (having, lacking):
        nodes.nodes[node].peer_connected(leader)
        nodes.nodes[leader].peer_connected(node)
    nodes.until(lambda: nodes.replica(having).group.may_campaign, milliseconds=20_000)
    leading = nodes.leader
    read = nodes.answer(nodes.read(leading, b"b", freshness=Freshness()))
    assert read.values == [b"1"]


def test_what_a_replica_had_promised_is_known_however_often_it_is_dropped_and_whenever_the_node_starts() -> None:
    engine = WatchedEngine()
    batch = engine.batch()
    put_dropped(batch, engine, 1, DroppedReplica(7, "n2", 20))
    engine.write(batch)
    take_up_dropped(engine, 1)
    take_up_dropped(engine, 1)
    assert load_hard_state(engine, 1) == HardState(7, "n2")
    assert load_lost_to(engine, 1) == 20
    batch = engine.batch()
    put_dropped(batch, engine, 1, DroppedReplica(9, "", 3))
    engine.write(batch)
    take_up_dropped(engine, 1)
    assert load_hard_state(engine, 1) == HardState(9, "")
    assert load_lost_to(engine, 1) == 20, "what was lost before is as lost as it was"


# -- shards that a map founds


def test_a_map_founds_no_shard_that_is_there(make_nodes: Callable[..., Any]) -> None:
    shards = (
        Shard(1, 1, (MicroshardRange(0, 2),), ("n1", "n2")),
        Shard(2, 1, (MicroshardRange(2, 4),), VOTERS),
    )
    nodes = make_nodes(shards=shards)
    nodes.pass_time(3000)
    known = nodes.nodes["n3"].routes.map
    moved = replace(known.shards[0], voters=("n3",), founders=("n1", "n2"))
    wrong = replace(known, version=2, shards=(moved, known.shards[1]))
    refusal = order(nodes, "n3", lambda request: InstallShardMap(request, wrong, (1,)))
    assert isinstance(refusal, Failure)
    assert "is there already" in refusal.message
    assert 1 not in nodes.nodes["n3"].replicas


def test_a_node_that_has_dropped_a_replica_takes_a_map_that_founds_its_shard_anew_and_begins_as_a_newcomer(
    nodes: Any,
) -> None:
    """Were the map refused, and every later one with it, one shard would keep all news from the node."""
    node = nodes.others[0]
    known = nodes.nodes[node].routes.map
    for make in (
        lambda request: InstallShardMap(request, replace(known, version=2, keyspaces=(), shards=())),
        lambda request: DropReplica(request, 1),
    ):
        assert isinstance(order(nodes, node, make), Done)
    again = replace(known, version=3)
    assert isinstance(order(nodes, node, lambda request: InstallShardMap(request, again, (1,))), Done)
    assert nodes.nodes[node].routes.map.version == 3
    group = nodes.replica(node).group
    assert group.awaits_snapshot
    assert group.is_silent
    assert not group.may_campaign


@pytest.mark.parametrize("left_out", ["the shard", "the node"])
def test_a_shard_that_a_map_has_left_out_while_the_node_was_killed_is_there_again_with_the_next(left_out: str) -> None:
    """Whoever wrote that map: no log is thrown away by one, nor taken for that of a newcomer."""
    lone = LoneNode()
    lone.turn()
    lone.node.receive_client(1, [OpenSession(1, 1)])
    for _ in range(50):
        lone.turn()
    index = lone.node.replicas[1].group.log.last_index
    elsewhere = replace(MAP.shards[0], voters=("n2",), founders=("n1",), membership_version=9)
    wrong = {
        "the shard": replace(MAP, version=2, keyspaces=(), shards=()),
        "the node": replace(MAP, version=2, shards=(elsewhere,)),
    }[left_out]
    lone.install(wrong)
    lone.begin(wrong, epoch=2)
    assert not lone.node.replicas
    lone.install(replace(MAP, version=3))
    for _ in range(50):
        lone.turn()
    replica = lone.node.replicas[1]
    assert replica.failure is None
    assert replica.group.log.last_index >= index
    assert not replica.group.awaits_snapshot


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"founders": ("n2",)}, "was founded by n1, not by n2"),
        ({"voters": ("n2",)}, "was founded by n1, not by n2"),
        ({"founders": ("n1",), "founding_followers": ("n2",)}, r"not by n1 \(and n2 without a vote\)"),
        ({"ranges": (MicroshardRange(0, 2),)}, "was founded with other microshards"),
        ({"founding_ranges": (MicroshardRange(0, 2),)}, "was founded with other microshards"),
        ({"parent": 7}, "has been split off shard 0, not 7"),
    ],
)
def test_what_a_shard_was_founded_as_is_for_ever(changed: dict[str, Any], words: str) -> None:
    """A replica that has applied nothing begins with it: two that began with other founders elect a leader each."""
    shard = MAP.shards[0]
    wrong = replace(MAP, version=2, shards=(replace(shard, **changed),))
    assert re.search(words, refuse_map(wrong, MAP))
    changed_since = replace(shard, voters=("n2",), founders=("n1",), ranges=(), founding_ranges=shard.ranges)
    assert not refuse_map(replace(MAP, version=2, shards=(changed_since,)), MAP)


def test_versions_leave_room_for_those_that_follow(nodes: Any) -> None:
    """The highest there is would be the last: no map, no split and no migration could follow it."""
    leader = nodes.leader
    known = nodes.nodes[leader].routes.map
    [shard] = known.shards
    child = Shard(9, 1, (MicroshardRange(1, 2),), VOTERS)
    for make in (
        lambda request: InstallShardMap(request, replace(known, version=MAX_VERSION)),
        lambda request: InstallShardMap(request, replace(known, version=known.version + MAX_LEAP + 1)),
        lambda request: InstallShardMap(
            request, replace(known, version=2, shards=(replace(shard, membership_version=MAX_VERSION),))
        ),
        lambda request: SplitShard(request, 1, child, MAX_VERSION - 1),
        lambda request: SealMicroshards(request, 1, 7, MAX_VERSION),
        lambda request: AdoptMicroshards(request, 1, 7, MAX_VERSION),
    ):
        refusal = order(nodes, leader, make)
        assert isinstance(refusal, Failure)
        assert "by a mistake, it seems" in refusal.message
    page = StoreMoved(0, 1, 7, 1, [], [], MigrationCursor(seq=MAX_MOVED_SEQ))
    refusal = order(nodes, leader, lambda request: replace(page, request=request))
    assert isinstance(refusal, Failure)
    assert "by a mistake, it seems" in refusal.message
    assert isinstance(order(nodes, leader, lambda request: InstallShardMap(request, replace(known, version=7))), Done)
    assert isinstance(order(nodes, leader, lambda request: SplitShard(request, 1, child, 8)), Done)


@pytest.mark.parametrize("kind", [ChangeKind.DEMOTE, ChangeKind.PROMOTE])
def test_a_change_is_refused_after_which_too_few_voters_would_live_to_commit_it(nodes: Any, kind: ChangeKind) -> None:
    leader, (live, dead) = nodes.leader, nodes.others

    def change(kind: ChangeKind, name: str) -> Done | Failure:
        answer = nodes.ask_and_wait(leader, lambda request: ChangeMembership(request, 1, kind, name))
        assert isinstance(answer, Done | Failure)
        nodes.pass_time(200)
        return answer

    if kind == ChangeKind.PROMOTE:
        assert isinstance(change(ChangeKind.DEMOTE, live), Done)
        assert isinstance(change(ChangeKind.DEMOTE, dead), Done)
    nodes.isolate(dead)
    nodes.pass_time(3000)
    refused = change(kind, live if kind == ChangeKind.DEMOTE else dead)
    assert isinstance(refused, Failure)
    assert f"bring {dead} back" in refused.message
    assert isinstance(nodes.answer(nodes.write(Put(b"a", b"1"))), Written)
    if kind == ChangeKind.DEMOTE:
        assert isinstance(change(ChangeKind.DEMOTE, dead), Done)
        assert isinstance(nodes.answer(nodes.write(Put(b"b", b"1"))), Written)
