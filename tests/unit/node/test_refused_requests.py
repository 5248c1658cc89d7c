"""A request that is refused costs its keyspace nothing, and who sent it what it took to see that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from shoal.bounds import WHOLE
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    MAX_READ_KEYS,
    Atomic,
    Done,
    Failure,
    InstallShardMap,
    KeyPresent,
    OpenSession,
    Put,
    Read,
    Request,
    Rows,
    Scan,
    Write,
    Written,
)
from shoal.protocol.quotas import QuotaShare, SetQuotaShares
from shoal.shardmap import Keyspace, MicroshardRange
from shoal_server.node import write_decoding
from shoal_server.node.replica_memory import ReplicaMemory
from shoal_server.node.request_costs import cost_of
from shoal_server.node.write_budget import EngineState, WriteBudget
from shoal_server.shard.machine import ShardStateMachine
from shoal_server.shard.reading import READ_KEYS

EVERYWHERE = (MicroshardRange(0, 4),)
MILLIONS = b"\xdd\xff\xff\xff\xff"
"""A list says that it has so many operations."""


def with_quotas(nodes: Any, *, full: bool = False) -> Any:
    """Return what the leader counts against a keyspace's quotas."""
    shard_map = nodes.shard_map
    [keyspace] = shard_map.keyspaces
    keyspace = replace(keyspace, reads_per_second=100_000, writes_per_second=100_000, max_bytes=1 << 30)
    nodes.shard_map = replace(shard_map, version=shard_map.version + 1, keyspaces=(keyspace,))
    for name in nodes.nodes:
        assert isinstance(nodes.ask_and_wait(name, lambda request: InstallShardMap(request, nodes.shard_map)), Done)
    share = (QuotaShare(1, WHOLE, WHOLE, full),)
    assert isinstance(nodes.ask_and_wait(nodes.leader, lambda request: SetQuotaShares(request, 1, 1, share)), Done)
    return nodes.replica(nodes.leader).reads.quota


def write(operations: bytes, keyspace: int = 1, number: int = 1) -> Callable[[int], Request]:
    return lambda request: Write(request, 1, keyspace, b"s" * 16, number, 1000, operations)


MANY = encode_operations([Put(b"k", b"v")] * 500)
REFUSED: dict[str, Callable[[int], Request]] = {
    "says millions": write(MILLIONS + bytes(1 << 20)),
    "too long": write(MILLIONS + bytes(9 << 20)),
    "other keyspace": write(MANY, keyspace=7),
    "too large a value": write(encode_operations([Put(b"k", b"v"), Put(b"k", bytes(2 << 20))] * 2)),
    "parts": write(encode_operations([Atomic([], [Put(b"k", b"v")] * 100)] * 5)[:-1]),
    "empty keys": lambda request: Read(request, 1, 1, 1000, [b""] * MAX_READ_KEYS),
    "microshards that there are not": lambda request: Scan(
        request, 1, 1, 1000, (MicroshardRange(3, 9),), b"", b"", reverse=False, keys_only=False, max_rows=10
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_given_back_to_the_quota(nodes: Any, name: str) -> None:
    quota = with_quotas(nodes)
    before, writes, reads = quota.use(nodes.now), quota._writes.level, quota._reads.level
    refused = nodes.ask_and_wait(nodes.leader, REFUSED[name])
    assert isinstance(refused, Failure)
    after = quota.use(nodes.now)
    assert (after.asked_reads, after.asked_writes) == (before.asked_reads, before.asked_writes)
    assert quota._writes.level >= writes
    assert quota._reads.level >= reads


def test_what_adds_to_a_full_keyspace_is_given_back_with_its_parts(nodes: Any) -> None:
    quota = with_quotas(nodes, full=True)
    nodes.write(Put(b"opens", b"the session"))
    before = quota.use(nodes.now).asked_writes
    refused = nodes.answer(nodes.write(Atomic([], [Put(b"k", b"v")] * 100)))
    assert isinstance(refused, Failure)
    assert refused.reason == "quota"
    assert quota.use(nodes.now).asked_writes == before


def test_what_could_not_be_proposed_is_given_back(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = with_quotas(nodes)
    assert isinstance(nodes.answer(nodes.write(Put(b"k", b"v"))), Written)
    before = quota.use(nodes.now).asked_writes
    budget: WriteBudget = nodes.nodes[nodes.leader].disk.budget
    budget.judge(EngineState(memtables=2.0), nodes.now)
    level = budget._bucket.level
    with monkeypatch.context() as patched:
        patched.setattr(ReplicaMemory, "has_room_for_entry", lambda *_: False)
        refused = nodes.answer(nodes.write(Put(b"k", b"v"), Atomic([], [Put(b"k", b"v")] * 10)))
        assert isinstance(refused, Failure)
        assert refused.reason == "uncommitted"
        assert isinstance(nodes.ask_and_wait(nodes.leader, lambda request: OpenSession(request, 1)), Failure)
    assert quota.use(nodes.now).asked_writes == before
    assert budget._bucket.level >= level


def test_a_disk_that_is_behind_takes_nothing_of_a_quota_and_what_is_refused_nothing_of_its_budget(nodes: Any) -> None:
    quota = with_quotas(nodes)
    assert isinstance(nodes.answer(nodes.write(Put(b"k", b"v"))), Written)
    budget: WriteBudget = nodes.nodes[nodes.leader].disk.budget
    budget.judge(EngineState(memtables=2.0), nodes.now)
    level, before = budget._bucket.level, quota.use(nodes.now).asked_writes
    refused = nodes.ask_and_wait(nodes.leader, write(MILLIONS + bytes(1 << 20)))
    assert refused.code == "too_large"
    assert budget._bucket.level >= level
    budget.judge(EngineState(stopped_ns=1), nodes.now)
    assert nodes.answer(nodes.write(Put(b"k", b"v"))).reason == "disk"
    assert quota.use(nodes.now).asked_writes == before


def test_of_a_read_as_many_keys_are_looked_at_as_an_answer_has_room_for(
    nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = with_quotas(nodes)
    before, looked_at, route = quota.use(nodes.now).asked_reads, [], ShardStateMachine.route

    def counting(machine: ShardStateMachine, keys: Any) -> Any:
        looked_at.append(len(keys))
        return route(machine, keys)

    monkeypatch.setattr(ShardStateMachine, "route", counting)
    rows = nodes.ask_and_wait(nodes.leader, lambda request: Read(request, 1, 1, 1000, [b"k"] * MAX_READ_KEYS))
    assert isinstance(rows, Rows)
    assert len(rows.values) == READ_KEYS == sum(looked_at)
    assert quota.use(nodes.now).asked_reads == before + READ_KEYS


def test_nobody_looks_for_more_than_the_first_that_is_not_here(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = nodes.replica(nodes.leader).machine
    looked_at: list[int] = []
    find = Keyspace.microshards_of

    def counting(keyspace: Keyspace, keys: Any) -> Any:
        looked_at.append(len(keys))
        return find(keyspace, keys)

    monkeypatch.setattr(Keyspace, "microshards_of", counting)
    monkeypatch.setattr(machine, "prefixes", {})
    refused = nodes.ask_and_wait(nodes.leader, lambda request: Read(request, 1, 1, 1000, [b"k"] * 4000))
    assert refused.code == "wrong_shard"
    assert len(looked_at) <= 2


def test_to_decode_a_write_that_is_refused_is_charged(nodes: Any) -> None:
    conditions = encode_operations([Atomic([KeyPresent(b"k")] * 9000, [])])
    admission = nodes.nodes[nodes.leader]._admission
    assert nodes.ask_and_wait(nodes.leader, write(conditions)).code == "too_large"
    assert admission.refusing_ns > 2_000_000
    assert nodes.ask_and_wait(nodes.leader, write(MILLIONS)).code == "too_large"
    assert admission.refusing_ns == 0, "nothing was decoded"


def test_scans_are_charged_for_their_ranges() -> None:
    def scan(ranges: int) -> Scan:
        return Scan(1, 1, 1, 1000, EVERYWHERE * ranges, b"", b"", reverse=False, keys_only=False, max_rows=10)

    assert cost_of(scan(60_000), 1_000_000, 0) > cost_of(scan(1), 1_000_000, 0) + 15_000_000


def test_a_write_that_there_is_no_memory_for_is_refused_and_no_more(
    nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(_: bytes) -> None:
        raise MemoryError

    nodes.answer(nodes.write(Put(b"opens", b"the session")))
    with monkeypatch.context() as patched:
        patched.setattr(write_decoding.operations_decoder, "_decode", decode)
        refused = nodes.answer(nodes.write(Put(b"k", b"v")))
    assert (refused.code, refused.reason) == ("overloaded", "memory")
    assert isinstance(nodes.answer(nodes.write(Put(b"k", b"v"))), Written)
