"""A leadership as a task: what it does about writes whose outcome nobody knows, and that it can always be ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
import shoal
from shoal.protocol.messages import AtomicOperation, Condition, ReplicaStatus, StatusReply
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.config import ClusterConfig
from shoal_shardmanager.control.controller import adopted
from shoal_shardmanager.control.observed import NodeReport, ObservedState
from shoal_shardmanager.control.requests import Create, KeyspaceRequest, Refused, begun_by
from shoal_shardmanager.control.rows import MoveLeader
from shoal_shardmanager.process import leadership as leadership_module
from shoal_shardmanager.process.leadership import Leadership, begin_leadership
from shoal_shardmanager.process.node_watcher import NodeWatcher
from shoal_shardmanager.process.store import Store

NOBODY = "127.0.0.1:1"
MAP = ShardMap(
    3,
    "c",
    (NodeAddress("n1", NOBODY),),
    (Keyspace(1, "default", 4, b"/"),),
    (Shard(1, 1, (MicroshardRange(0, 4),), ("n1",)),),
)


class LosingClient(shoal.AsyncClient):
    """Loses the answer of a write, if told to; the write is done."""

    loses = False

    async def write(
        self,
        ops: Iterable[AtomicOperation],
        *,
        when: Iterable[Condition] = (),
        timeout: float | None = None,  # noqa: ASYNC109 - the client's own signature
    ) -> shoal.WriteResult:
        result = await super().write(ops, when=when, timeout=timeout)
        if self.loses:
            raise shoal.DeadlineExceeded("the answer is lost", maybe_applied=True)
        return result


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[LosingClient]:
    async with LosingClient(f"embedded://{tmp_path}/db?microshards=1") as opened:
        yield opened


async def begun(client: LosingClient) -> Leadership:
    first = Store(client, "m1")
    await first.take_over()
    await first.write(adopted(MAP, {}, 7, {}))
    config = ClusterConfig.model_validate(
        {"cluster": "c", "nodes": [{"id": "n1", "address": NOBODY, "data": "n1"}], "keyspaces": {"default": {}}}
    )
    return await begin_leadership(config, Store(client, "m1"))


def new_keyspace(name: str) -> dict[str, Any]:
    return {
        "request": Create(KeyspaceRequest(name, microshards=4, shards=1, voters=1)),
        "plan_only": False,
        "if_version": 0,
    }


async def test_a_write_of_unknown_outcome_ends_the_term(client: LosingClient, monkeypatch: pytest.MonkeyPatch) -> None:
    leadership = await begun(client)
    empty = NodeReport(StatusReply(1, "n1", "c", "i", "0", 1, 3, (), "", 1, ()), 0)
    monkeypatch.setattr(leadership, "observed", lambda: ObservedState(0, 0, {"n1": empty}))
    running = asyncio.create_task(leadership.run())
    while not leadership.state.nodes["n1"].incarnation:
        await leadership.next_progress(5)
    client.loses = True
    with pytest.raises(shoal.DeadlineExceeded):
        await leadership.request(**new_keyspace("one"))
    client.loses = False
    with pytest.raises(shoal.DeadlineExceeded):
        await leadership.request(**new_keyspace("two"))
    with pytest.raises(shoal.DeadlineExceeded):
        await running
    rows = await Store(client, "m1").load()
    assert rows is not None
    assert [keyspace.name for keyspace in rows.map.keyspaces] == ["default", "one"]


async def test_a_request_that_comes_twice_begins_one_operation(
    client: LosingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    leadership = await begun(client)
    empty = NodeReport(StatusReply(1, "n1", "c", "i", "0", 1, 3, (), "", 1, ()), 0)
    monkeypatch.setattr(leadership, "observed", lambda: ObservedState(0, 0, {"n1": empty}))
    running = asyncio.create_task(leadership.run())
    first = await leadership.request(**new_keyspace("one"), request_id="a")
    again = await leadership.request(**new_keyspace("one"), request_id="a")
    assert (again.operation.id, again.changes) == (first.operation.id, ())
    with pytest.raises(Refused, match="there is a keyspace 'one' already"):
        await leadership.request(**new_keyspace("one"), request_id="b")
    with pytest.raises(Refused, match="at most 64 characters, this one has 65"):
        await leadership.request(**new_keyspace("two"), request_id=65 * "a")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_next_term_knows_a_request_whose_answer_was_lost(
    client: LosingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = NodeReport(StatusReply(1, "n1", "c", "i", "0", 1, 3, (), "", 1, ()), 0)
    leadership = await begun(client)
    monkeypatch.setattr(leadership, "observed", lambda: ObservedState(0, 0, {"n1": empty}))
    running = asyncio.create_task(leadership.run())
    while not leadership.state.nodes["n1"].incarnation:
        await leadership.next_progress(5)
    client.loses = True
    with pytest.raises(shoal.DeadlineExceeded):
        await leadership.request(**new_keyspace("one"), request_id="a")
    client.loses = False
    await asyncio.gather(running, return_exceptions=True)
    rows = await Store(client, "m1").load()
    assert rows is not None
    found = begun_by("a", rows)
    assert found is not None
    assert found.operation.kind == "create-keyspace"


async def test_a_request_for_a_shard_without_a_leader_is_held_until_it_has_one(
    client: LosingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    leadership = await begun(client)
    replica = ReplicaStatus(1, "leader", "n1", 1, 1, 1, 1, 1, 1, 1, ("n1",), ())
    leading = NodeReport(StatusReply(1, "n1", "c", "i", "0", 1, 3, (), "", 1, (replica,)), 0)
    known: dict[str, NodeReport] = {}
    monkeypatch.setattr(leadership, "observed", lambda: ObservedState(0, 0, known))
    running = asyncio.create_task(leadership.run())
    request = asyncio.create_task(leadership.request(MoveLeader(1, "n1"), plan_only=True, if_version=0))
    for _ in range(3):
        await leadership.next_progress(5)
    assert not request.done()
    known["n1"] = leading
    async with asyncio.timeout(10):
        assert (await request).steps == ("n1 leads shard 1 already",)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_request_for_a_shard_that_stays_without_a_leader_is_refused(
    client: LosingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership_module, "SETTLE_SECONDS", 0.1)
    leadership = await begun(client)
    running = asyncio.create_task(leadership.run())
    with pytest.raises(Refused, match="hear no leader of shard 1"):
        await leadership.request(MoveLeader(1, "n1"), plan_only=False, if_version=0)
    assert not leadership.state.operations
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_watcher_that_is_asked_to_poll_and_to_stop_in_one_moment_stops() -> None:
    watcher = NodeWatcher("n1", NOBODY, lambda: None)
    watcher.start()
    while not watcher.silent_because:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    watcher.poll_now()
    async with asyncio.timeout(10):
        await watcher.stop()
