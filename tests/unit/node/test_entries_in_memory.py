"""What a replica holds of its log in memory is bounded, also where it applies nothing, or more slowly than entries come."""

from __future__ import annotations

from typing import Any

import pytest
from shoal.protocol.messages import Done, Put, SkipEntry, Written
from shoal_server.node.replica import Replica
from shoal_server.node.settings import NodeSettings
from shoal_server.raft.config import RaftConfig
from shoal_server.shard.machine import ShardStateMachine
from shoal_server.storage.replica_failure import FailureKind

KIB = 1024
CACHE = 64 * KIB
UNAPPLIED = 256 * KIB
SETTINGS = NodeSettings(raft=RaftConfig(cache_bytes=CACHE, unapplied_bytes=UNAPPLIED))
VALUE = bytes(16 * KIB)
WRITES = 100
MESSAGE = 2 * len(VALUE)
"""What may come between two looks at the bound, and more."""


def fill(nodes: Any) -> None:
    for number in range(WRITES):
        assert isinstance(nodes.answer(nodes.write(Put(b"k%03d" % number, VALUE))), Written)
    nodes.pass_time(20)


def lags(nodes: Any, name: str) -> bool:
    log = nodes.replica(name).group.log
    return log.last_index - log.applied_index >= WRITES


def all_equal(nodes: Any) -> bool:
    positions = {nodes.replica(name).machine.state.index for name in nodes.nodes}
    return positions == {nodes.replica(nodes.leader).group.log.last_index}


def test_a_replica_that_is_stuck_keeps_few_entries_and_applies_all_of_them_later(
    make_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = make_nodes(SETTINGS)
    nodes.answer(nodes.write(Put(b"before", b"v")))
    nodes.pass_time(20)
    stuck = nodes.others[0]
    machine, write = nodes.replica(stuck).machine, ShardStateMachine._write

    def broken(self: ShardStateMachine, *arguments: Any) -> Any:
        if self is machine:
            raise ValueError("a defect of this node's version")
        return write(self, *arguments)

    monkeypatch.setattr(ShardStateMachine, "_write", broken)
    nodes.answer(nodes.write(Put(b"poison", b"v")))
    nodes.until(lambda: nodes.replica(stuck).failure is not None)
    failure = nodes.replica(stuck).failure
    assert failure.kind is FailureKind.STUCK
    fill(nodes)
    assert lags(nodes, stuck)
    log = nodes.replica(stuck).group.log
    assert log.cached_bytes <= 2 * CACHE + MESSAGE

    monkeypatch.undo()
    [entry] = log.entries(failure.at_index, failure.at_index + 1, 1)
    order = (1, entry.index, entry.term, entry.checksum)
    assert isinstance(nodes.ask_and_wait(stuck, lambda request: SkipEntry(request, *order)), Done)
    nodes.until(lambda: all_equal(nodes))
    assert {key[-4:] for key in nodes.stored_keys(stuck)} >= {b"k%03d" % number for number in range(WRITES)}


def test_a_replica_that_applies_more_slowly_than_entries_come_holds_a_bounded_part_of_them(
    make_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = make_nodes(SETTINGS)
    nodes.answer(nodes.write(Put(b"before", b"v")))
    nodes.pass_time(20)
    slow = nodes.others[0]
    replica = nodes.replica(slow)
    apply = Replica.apply
    monkeypatch.setattr(Replica, "apply", lambda self, *work: 0 if self is replica else apply(self, *work))
    fill(nodes)
    assert lags(nodes, slow)
    assert replica.group.log.cached_bytes <= 2 * UNAPPLIED + MESSAGE
    monkeypatch.undo()
    nodes.until(lambda: all_equal(nodes))
    assert nodes.stored_keys(slow) == nodes.stored_keys(nodes.leader)
