"""What becomes one entry of a log, and what is applied in one turn, is bounded by its work, and not by its bytes alone."""

from __future__ import annotations

from typing import Any

import pytest
from shoal.protocol.digest import RangeDigest
from shoal.protocol.messages import Atomic, Delete, Increment, Operation, Put, RangeUnchanged, Written
from shoal.shardmap import MicroshardRange
from shoal_server.node.replica import Replica
from shoal_server.raft.messages import Entry, EntryKind
from shoal_server.shard.commands import WriteCommand, decode_commands, decode_operations
from shoal_server.shard.costs import ENTRY_US, write_cost
from shoal_server.storage.engine import Piece
from shoal_server.storage.memory import MemoryReader

WRITES = 30


def cost_of(entry: Entry) -> tuple[int, int]:
    """Return the number of writes in an entry, and what they cost."""
    if entry.kind != EntryKind.COMMAND:
        return 0, 0
    writes = [each for each in decode_commands(entry.payload).commands if isinstance(each, WriteCommand)]
    return len(writes), sum(write_cost(decode_operations(each), len(each.operations)) for each in writes)


@pytest.mark.parametrize(
    "operations",
    [[Put(b"k%d" % n, b"v") for n in range(1000)], [Increment(b"n")] * 300, [Delete(b"gone")]],
    ids=["puts", "increments", "a delete"],
)
def test_the_writes_of_a_turn_become_entries_of_bounded_work(
    nodes: Any, operations: list[Operation], monkeypatch: pytest.MonkeyPatch
) -> None:
    # However many one turn takes.
    monkeypatch.setattr(nodes.nodes[nodes.leader]._client_input._turn_length, "budget", 1 << 40)
    requests = [nodes.write(*operations) for _ in range(WRITES)]
    assert all(isinstance(nodes.answer(request), Written) for request in requests)
    log = nodes.replica(nodes.leader).group.log
    entries = [cost_of(entry) for entry in log.entries(log.truncated_index + 1, log.last_index + 1, 1 << 30)]
    assert sum(writes for writes, _ in entries) == WRITES
    assert all(cost <= ENTRY_US for _, cost in entries)
    together = sum(cost for _, cost in entries)
    filled = [cost for writes, cost in entries if writes]
    assert len(filled) <= together // (ENTRY_US // 2) + 1, "and no more entries than that takes"


def test_a_write_on_condition_of_a_range_begins_an_entry(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Applying can pause before that: what stands before it in the turn is applied, and nothing of it."""
    monkeypatch.setattr(nodes.nodes[nodes.leader]._client_input._turn_length, "budget", 1 << 40)
    empty = Atomic([RangeUnchanged((MicroshardRange(0, 4),), b"x", b"y", RangeDigest().value())], [])
    writes: list[Operation] = [Put(b"a", b""), Put(b"b", b""), empty, Put(b"c", b""), empty, empty]
    requests = [nodes.write(write) for write in writes]
    assert all(isinstance(nodes.answer(request), Written) for request in requests)
    log = nodes.replica(nodes.leader).group.log
    found = [cost_of(entry)[0] for entry in log.entries(log.truncated_index + 1, log.last_index + 1, 1 << 30)]
    assert [writes for writes in found if writes] == [2, 2, 1, 1]


def test_an_entry_that_pauses_holds_up_its_own_shard_and_is_applied_everywhere(
    nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = MemoryReader.read

    def among_removed_rows(*args: Any, **named: Any) -> Piece:
        return read(*args, **named)._replace(passed=5_000)

    monkeypatch.setattr(MemoryReader, "read", among_removed_rows)
    turns: list[int] = []
    apply = Replica.apply

    def counted(self: Replica, batch: Any, max_us: int | None = None) -> int:
        before = self.machine.state.index
        done = apply(self, batch, max_us)
        if done:
            turns.append(self.machine.state.index - before)
        return done

    monkeypatch.setattr(Replica, "apply", counted)
    empty = [
        RangeUnchanged((MicroshardRange(0, 4),), start, start + b"x", RangeDigest().value())
        for start in (b"v", b"w", b"x")
    ]
    first, second = nodes.write(Atomic(empty, [Put(b"k", b"v")])), nodes.write(Put(b"l", b"v"))
    assert all(isinstance(nodes.answer(request), Written) for request in (first, second))
    nodes.pass_time(100)
    assert turns.count(0) >= 3 * 2, "a range is looked for in four microshards, in two of them a turn, on three nodes"
    assert len({nodes.replica(node).machine.state for node in nodes.nodes}) == 1
    assert nodes.stored_keys(nodes.leader) == [b"k", b"l"]


def test_a_turn_applies_up_to_its_bound_and_the_next_one_goes_on(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    whole = Replica.apply

    def apply(self: Replica, batch: Any, max_us: int | None = None) -> int:
        before = self.machine.state.index
        done = whole(self, batch, ENTRY_US)
        if done:
            turns.append(done)
            assert self.machine.state.index > before, "a turn applies one entry at least"
        return done

    monkeypatch.setattr(Replica, "apply", apply)
    for first in range(0, WRITES, 5):
        requests = [nodes.write(*[Put(b"k%d" % n, b"v") for n in range(1000)]) for _ in range(first, first + 5)]
        assert all(isinstance(nodes.answer(request), Written) for request in requests)
    nodes.pass_time(100)
    assert max(turns) < 2 * ENTRY_US
    assert len({nodes.replica(node).machine.state for node in nodes.nodes}) == 1
