"""An entry that cannot be applied: only its shard stops, the status names it, and an operator's order goes past it."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from shoal.protocol.failures import FailureKind as ShownKind
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    STRONG,
    Done,
    Failure,
    GetStatus,
    OpenSession,
    Put,
    Read,
    Rows,
    SessionOpened,
    SkipEntry,
    StatusReply,
    Write,
    Written,
)
from shoal.shardmap import MicroshardRange, Shard
from shoal_server.node.core import Node
from shoal_server.node.outbox import NOBODY
from shoal_server.node.waiting import QueuedCommand
from shoal_server.shard.commands import SplitCommand
from shoal_server.storage.replica_failure import FailureKind

NODES = ("n1", "n2", "n3")
SHARDS = (
    Shard(1, 1, (MicroshardRange(0, 2),), NODES),
    Shard(2, 1, (MicroshardRange(2, 4),), NODES),
)
POISON = SplitCommand(Shard(1 << 40, 1, (MicroshardRange(0, 1),), NODES), 2)
"""No key can be made of the number of the child."""


def key_of(nodes: Any, shard: int) -> bytes:
    microshards = SHARDS[shard - 1].ranges[0]
    keyspace = nodes.shard_map.keyspaces[0]
    keys = (b"k%d" % number for number in range(100))
    return next(key for key in keys if microshards.first <= keyspace.microshard_of(key) < microshards.end)


def leader_of(nodes: Any, shard: int) -> str:
    def leading() -> list[str]:
        return [name for name in NODES if nodes.nodes[name].replicas[shard].group.read_index(nodes.now) is not None]

    nodes.until(lambda: bool(leading()))
    return leading()[0]


class Writer:
    """A client that writes in one session of one shard."""

    def __init__(self, nodes: Any, shard: int) -> None:
        self.nodes, self.shard, self.number = nodes, shard, 0
        opened = nodes.ask_and_wait(leader_of(nodes, shard), lambda request: OpenSession(request, shard))
        assert isinstance(opened, SessionOpened)
        self.session = opened.session

    def put(self, value: bytes) -> Any:
        self.number += 1
        body = encode_operations([Put(key_of(self.nodes, self.shard), value)])
        where = leader_of(self.nodes, self.shard)
        return self.nodes.ask_and_wait(
            where, lambda request: Write(request, self.shard, 1, self.session, self.number, 1000, body)
        )

    def get(self) -> Any:
        key = key_of(self.nodes, self.shard)
        where = leader_of(self.nodes, self.shard)
        return self.nodes.ask_and_wait(where, lambda request: Read(request, self.shard, 1, 1000, [key], STRONG))


def poison(nodes: Any) -> int:
    """Have an entry committed that cannot be applied, as a Shoal without the checks would; return its index."""
    leader = leader_of(nodes, 1)
    node = nodes.nodes[leader]
    replica = node.replicas[1]
    replica.queue_command(QueuedCommand(NOBODY, 0, POISON, None, 100))
    node._agenda.mark(replica)
    index = replica.group.log.last_index + 1
    nodes.until(lambda: all(nodes.nodes[name].replicas[1].failure is not None for name in NODES))
    return int(index)


def skip(nodes: Any, name: str, at: int, **wrong: int) -> Any:
    [entry] = nodes.nodes[name].replicas[1].group.log.entries(at, at + 1, 1)
    fields = {"shard": 1, "index": at, "term": entry.term, "checksum": entry.checksum} | wrong
    return nodes.ask_and_wait(name, lambda request: SkipEntry(request, **fields))


def status_of(nodes: Any, name: str) -> StatusReply:
    reply = nodes.ask_and_wait(name, GetStatus)
    assert isinstance(reply, StatusReply)
    return reply


def test_only_the_shard_of_an_entry_that_cannot_be_applied_stops(make_nodes: Any) -> None:
    nodes = make_nodes(shards=SHARDS)
    first, second = Writer(nodes, 1), Writer(nodes, 2)
    assert isinstance(first.put(b"before"), Written)
    index = poison(nodes)
    for name in NODES:
        failure = nodes.nodes[name].replicas[1].failure
        assert (failure.kind, failure.at_index) == (FailureKind.STUCK, index)
        assert nodes.nodes[name].replicas[1].machine.state.index == index - 1
        shown = next(each.failure for each in status_of(nodes, name).replicas if each.shard == 1)
        [entry] = nodes.nodes[name].replicas[1].group.log.entries(index, index + 1, 1)
        assert (shown.kind, shown.index, shown.term, shown.checksum) == ("stuck", index, entry.term, entry.checksum)
        assert f"entry {index} (term {entry.term}, checksum {entry.checksum:08x}" in shown.reason
    assert isinstance(second.put(b"served"), Written)
    nodes.pass_time(2000)
    refused = nodes.ask_and_wait("n1", lambda request: Read(request, 1, 1, 1000, [key_of(nodes, 1)], STRONG))
    assert isinstance(refused, Failure)


def test_replicas_go_past_a_poisoned_entry_and_nothing_else_is_lost(make_nodes: Any) -> None:
    nodes = make_nodes(shards=SHARDS)
    first = Writer(nodes, 1)
    first.put(b"before")
    index = poison(nodes)
    for name in NODES:
        assert isinstance(skip(nodes, name, index), Done)
        assert isinstance(skip(nodes, name, index), Done), "an order may come twice"
    found = first.get()
    assert isinstance(found, Rows)
    assert found.values == [b"before"]
    assert isinstance(first.put(b"after"), Written)
    assert first.get().values == [b"after"]
    nodes.pass_time(500)
    assert len({nodes.nodes[name].replicas[1].machine.state.shared for name in NODES}) == 1
    # A process that starts again comes to the entry once more, and passes it.
    again = Node(nodes.nodes["n2"].identity, nodes.shard_map, nodes.engines["n2"], nodes.settings, Random(1), nodes.now)
    assert list(again.replicas[1].skipped) == [index]


@pytest.mark.parametrize("wrong", [{"index": 1}, {"term": 999}, {"checksum": 1}, {"shard": 2}, {"shard": 77}])
def test_an_entry_that_a_replica_is_not_stuck_at_is_not_skipped(make_nodes: Any, wrong: dict[str, int]) -> None:
    nodes = make_nodes(shards=SHARDS)
    index = poison(nodes)
    refused = skip(nodes, "n1", index, **wrong)
    assert isinstance(refused, Failure)
    assert refused.code == "invalid_argument"
    assert nodes.nodes["n1"].replicas[1].failure is not None


def test_a_replica_that_is_well_skips_nothing(make_nodes: Any) -> None:
    nodes = make_nodes(shards=SHARDS)
    first = Writer(nodes, 1)
    first.put(b"v")
    last = nodes.nodes["n1"].replicas[1].group.log.last_index
    assert isinstance(skip(nodes, "n1", last), Failure)
    assert first.get().values == [b"v"]


def test_what_stands_before_a_poisoned_entry_in_the_same_turn_is_applied(make_nodes: Any) -> None:
    """Followers apply many entries at once: those before it take effect, and once."""
    nodes = make_nodes(shards=SHARDS)
    first = Writer(nodes, 1)
    leader = leader_of(nodes, 1)
    follower = next(name for name in NODES if name != leader)
    nodes.slow_flushes.add(follower)
    for number in range(5):
        assert isinstance(first.put(b"%d" % number), Written)
    poison(nodes)
    machine = nodes.nodes[follower].replicas[1].machine
    key = key_of(nodes, 1)
    microshard = nodes.shard_map.keyspaces[0].microshard_of(key)
    assert machine.read([key], [microshard], 0)[0] == [b"4"]


def test_every_kind_of_failure_has_a_name_on_the_wire() -> None:
    assert {kind.value for kind in FailureKind} <= set(ShownKind)
