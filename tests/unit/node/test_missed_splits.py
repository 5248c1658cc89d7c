"""Voters that a snapshot of the parent has taken past a split: they have none of the child, and owe nobody anything in it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace
from shoal.keys import microshard_of
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    Done,
    DropReplica,
    InstallShardMap,
    OpenSession,
    Put,
    SessionOpened,
    SplitShard,
    Write,
    Written,
)
from shoal.shardmap import MicroshardRange, Shard, ShardMap
from shoal_server.node.core import Node
from shoal_server.node.opening import origin_of_empty
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.storage.layout import group_key, log_key
from shoal_server.storage.meta_rows import DamageRule, MetaKind
from shoal_server.storage.replica_failure import FailureKind, ReplicaFailure
from shoal_server.storage.twice import COPIES
from shoal_server.storage.watched import WatchedEngine

PARENT, CHILD = 1, 2
CHILD_RANGES = (MicroshardRange(2, 4),)
KEYS = [b"key-%d" % number for number in range(40)]
CHILD_KEYS = [key for key in KEYS if microshard_of(key, b"/", 4) >= 2]


class Missed:
    """A split that `failed` and `lagging` have missed: the first had the entry and could not apply it, the second was cut off.

    Only `leader` has made the child. Nobody but it knows yet that there is one.
    """

    def __init__(self, make_nodes: Callable[..., Any]) -> None:
        # Whoever has been away for an entry or two is sent a snapshot.
        self.nodes = nodes = make_nodes(NodeSettings(log_retain_bytes=1, log_checkpoint_bytes=1))
        self.leader: str = nodes.leader
        self.failed, self.lagging = nodes.others
        nodes.answer(nodes.write(*(Put(key, b"v") for key in KEYS)))
        nodes.pass_time(2000)
        self.cut_off(self.lagging)
        child = Shard(CHILD, 1, CHILD_RANGES, (self.leader, self.failed, self.lagging))
        nodes.ask(self.leader, lambda request: SplitShard(request, PARENT, child, 2))
        parent = nodes.replica(self.failed)
        acknowledged = parent.group.log.last_index
        nodes.until(lambda: parent.group.log.last_index > acknowledged)
        assert CHILD not in parent.machine.state.children
        nodes.nodes[self.failed].failing.fail(
            parent, ReplicaFailure(FailureKind.DIVERGED, "a test", parent.machine.state.index), nodes.now
        )

    def cut_off(self, name: str) -> None:
        nodes = self.nodes
        nodes.isolate(name)
        for other in nodes.nodes:
            if other != name:
                nodes.nodes[other].peer_lost(name)
                nodes.nodes[name].peer_lost(other)

    def heal(self) -> None:
        nodes = self.nodes
        nodes.heal()
        for node in nodes.nodes:
            for other in nodes.nodes:
                if other != node:
                    nodes.nodes[node].peer_connected(other)

    def rebuild(self) -> None:
        """Have both parents' replicas take their snapshot, and all nodes the map with the child."""
        nodes = self.nodes
        nodes.until(lambda: nodes.replica(self.failed).failure is None)
        for number in range(4):
            nodes.answer(nodes.write(Put(b"more-%d" % number, b"v")))
        nodes.pass_time(200)
        self.heal()
        leader = nodes.replica(self.leader)
        nodes.until(lambda: CHILD in nodes.replica(self.lagging).machine.state.children)
        assert nodes.replica(self.lagging).machine.state.copied_index >= leader.group.log.first_index - 1 > 0
        newest: ShardMap = nodes.nodes[self.leader].routes.map
        for name in nodes.nodes:
            self.install(name, replace(newest, version=newest.version + 1))

    def install(self, name: str, shard_map: ShardMap) -> None:
        installed = self.nodes.ask_and_wait(name, lambda request: InstallShardMap(request, shard_map))
        assert isinstance(installed, Done)

    def child(self, name: str) -> Any:
        return self.nodes.nodes[name].replicas[CHILD]

    @property
    def child_leaders(self) -> list[str]:
        nodes = self.nodes.nodes
        return [name for name, node in nodes.items() if CHILD in node.replicas and self.child(name).group.is_leader]

    def settle(self) -> None:
        """Have the child led, and all of its replicas level."""
        nodes = self.nodes
        nodes.until(lambda: self.child_leaders == [self.leader])
        index = self.child(self.leader).group.log.last_index
        nodes.until(lambda: all(self.child(name).machine.state.index >= index for name in nodes.nodes))

    def write_to_child(self) -> None:
        nodes = self.nodes
        opened = nodes.ask_and_wait(self.leader, lambda request: OpenSession(request, CHILD))
        assert isinstance(opened, SessionOpened)
        puts = encode_operations([Put(CHILD_KEYS[0], b"acknowledged")])
        written = nodes.ask_and_wait(
            self.leader, lambda request: Write(request, CHILD, 1, opened.session, 1, 1000, puts)
        )
        assert isinstance(written, Written)


@pytest.fixture
def missed(make_nodes: Callable[..., Any]) -> Missed:
    return Missed(make_nodes)


def test_where_most_voters_missed_the_split_the_one_that_made_the_child_is_elected_and_feeds_them(
    missed: Missed,
) -> None:
    nodes = missed.nodes
    nodes.until(lambda: CHILD in nodes.nodes[missed.leader].replicas)
    missed.rebuild()
    for name in (missed.failed, missed.lagging):
        assert not missed.child(name).group.may_campaign
        assert missed.child(name).machine.state.index == 0
    missed.settle()
    [microshard, *_] = missed.child(missed.leader).machine.route([CHILD_KEYS[0]])
    for name in nodes.nodes:
        assert missed.child(name).machine.read([CHILD_KEYS[0]], [microshard], 0)[0][0] == b"v"


def test_nobody_is_taken_past_a_split_by_who_may_yet_forget_the_child(make_nodes: Callable[..., Any]) -> None:
    """Its log may be lost, too, and then nobody would have the child's rows."""

    def make_slow(settings: NodeSettings) -> Any:
        nodes = make_nodes(settings)
        nodes.slow_flushes.add(nodes.leader)
        return nodes

    missed = Missed(make_slow)
    nodes, parent = missed.nodes, missed.nodes.replica(missed.failed)
    nodes.pass_time(3000)
    assert parent.failure is not None
    assert CHILD not in nodes.nodes[missed.leader].replicas
    nodes.slow_flushes.clear()
    nodes.until(lambda: parent.failure is None)
    assert CHILD in nodes.nodes[missed.leader].replicas


@pytest.mark.parametrize("how", ["its log is damaged", "it is dropped"])
def test_one_that_had_the_child_and_lost_it_gives_no_vote(missed: Missed, how: str) -> None:
    nodes = missed.nodes
    nodes.until(lambda: CHILD in nodes.nodes[missed.leader].replicas)
    missed.rebuild()
    missed.settle()
    missed.cut_off(missed.lagging)
    missed.write_to_child()
    acknowledged = missed.child(missed.failed).group.log.last_index
    missed.cut_off(missed.leader)
    forgetful: Node = nodes.nodes[missed.failed]
    if how == "it is dropped":
        known = forgetful.routes.map
        missed.install(missed.failed, replace(known, version=known.version + 1, keyspaces=(), shards=()))
        dropped = nodes.ask_and_wait(missed.failed, lambda request: DropReplica(request, CHILD))
        assert isinstance(dropped, Done)
        missed.install(missed.failed, replace(known, version=known.version + 2))
    else:
        keys = nodes.engines[missed.failed].tables["log"].keys
        damaged = [key for key in keys if log_key(CHILD, 0) <= key < log_key(CHILD, acknowledged)]
        nodes.engines[missed.failed].damage.add("log", damaged)
        nodes.nodes[missed.failed] = Node(
            NodeIdentity("test", missed.failed, f"{missed.failed}-1", 2),
            forgetful.routes.map,
            nodes.engines[missed.failed],
            nodes.settings,
            Random(9),
            nodes.now,
        )
    # The two would be a majority without what the third has acknowledged.
    missed.heal()
    missed.cut_off(missed.leader)
    nodes.pass_time(10_000)
    assert missed.child_leaders == [] or missed.child_leaders == [missed.leader]
    missed.heal()
    nodes.until(lambda: missed.child(missed.failed).group.log.last_index >= acknowledged, milliseconds=20_000)


# -- who has promised nothing

FOUNDED = Shard(CHILD, 1, CHILD_RANGES, ("n1", "n2", "n3"), founders=("n1", "n2", "n3"), parent=PARENT)


def test_a_founding_voter_that_never_had_the_child_votes_from_the_beginning() -> None:
    assert origin_of_empty(WatchedEngine(), "n1", FOUNDED).membership_version == 0


@pytest.mark.parametrize(
    "shard",
    [
        replace(FOUNDED, parent=0),
        replace(FOUNDED, founders=("n2", "n3")),
        replace(FOUNDED, voters=("n2", "n3"), followers=("n1",)),
        replace(FOUNDED, parent=0, membership_version=0),
    ],
    ids=["no child", "added later", "no voter any more", "without a version"],
)
def test_any_other_replica_does_not(shard: Shard) -> None:
    assert origin_of_empty(WatchedEngine(), "n1", shard).membership_version == 1


ROWS_OF_REPLICAS = [
    group_key(kind, CHILD)
    for kind in MetaKind
    if kind.rule is DamageRule.REPLICA_FAILS and kind is not MetaKind.SKIPPED
]


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize("key", ROWS_OF_REPLICAS, ids=lambda key: key[:1].decode())
def test_nor_does_one_on_a_node_that_has_anything_of_another_one(key: bytes, readable: bool) -> None:
    engine = WatchedEngine()
    batch = engine.batch()
    batch.put(key, b"a row", engine.meta)
    batch.put(COPIES + key, b"a row", engine.log)
    engine.write(batch)
    if not readable:
        engine.damage.add("meta", [key])
        engine.damage.add("log", [COPIES + key])
    assert origin_of_empty(engine, "n1", FOUNDED).membership_version == 1
