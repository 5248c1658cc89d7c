"""What becomes of a node when maps replace each other, and when a replica goes in the middle of something."""

from __future__ import annotations

from random import Random
from typing import Any

from msgspec.structs import replace
from shoal.protocol.messages import ChangeMembership, Done, DropReplica, Failure, InstallShardMap, OpenSession, Put
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.node.core import Node
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.raft.membership import ChangeKind
from shoal_server.storage.folder import load_shard_map
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
    lone.node.adopt_derived_map(replace(MAP, version=2), lone.now)
    assert lone.node.map_is_derived
    lone.install(replace(MAP, version=2))
    assert not lone.node.map_is_derived


def test_a_derived_map_is_known_as_one_after_a_restart_until_the_managers_replaces_it() -> None:
    lone = LoneNode()
    lone.turn()
    lone.node.adopt_derived_map(replace(MAP, version=2), lone.now)
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


def test_a_replica_that_goes_and_comes_back_in_one_turn_begins_with_nothing(nodes: Any) -> None:
    """A node that hangs for a moment finds both requests in its inbox, each on a connection of its own."""
    nodes.answer(nodes.write(Put(b"k", b"v")))
    leader, (victim, other) = nodes.leader, nodes.others
    for kind in (ChangeKind.DEMOTE, ChangeKind.REMOVE):
        nodes.ask_and_wait(leader, lambda request, kind=kind: ChangeMembership(request, 1, kind, victim))
        nodes.pass_time(100)
    group = nodes.replica(leader).group
    shard = nodes.shard_map.shards[0]
    gone = replace(shard, voters=(leader, other), membership_version=group.membership.version)
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
    nodes.ask_and_wait(leader, lambda request: ChangeMembership(request, 1, ChangeKind.ADD_FOLLOWER, victim))
    nodes.until(lambda: nodes.stored_keys(victim) == [b"k"])
