"""The driver: one turn for all that arrived, and nothing after a failure or a stop."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from shoal.protocol.messages import Answer, Done, Ping
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.node.core import Node
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.process.driver import NodeDriver, monotonic_ns, welcome_of
from shoal_server.storage.engine import StorageFailed
from shoal_server.storage.watched import WatchedEngine

SHARD_MAP = ShardMap(
    1,
    "demo",
    (NodeAddress("n1", "127.0.0.1:7400"),),
    (Keyspace(1, "default", 4, b"/"),),
    (Shard(1, 1, (MicroshardRange(0, 4),), ("n1",)),),
)


class FailingEngine(WatchedEngine):
    """Its syncs fail once it is `broken`."""

    broken = False

    def sync(self) -> None:
        if self.broken:
            raise StorageFailed("the disk is gone")


class Driven:
    """A node that is its group's only voter, driven on the running loop."""

    def __init__(self, engine: WatchedEngine) -> None:
        self.answers: list[dict[int, list[Answer]]] = []
        self.failures: list[tuple[str, Exception | None]] = []
        self.failed = asyncio.Event()
        identity = NodeIdentity("demo", "n1", "incarnation", 1)
        self.node = Node(identity, SHARD_MAP, engine, NodeSettings(), Random(1), monotonic_ns())
        self.driver = NodeDriver(
            self.node,
            engine,
            asyncio.get_running_loop(),
            to_peers=lambda _: None,
            to_clients=self.answers.append,
            failed=self._failed,
            map_changed=lambda: None,
        )

    def _failed(self, reason: str, error: Exception | None) -> None:
        self.failures.append((reason, error))
        self.failed.set()

    def ping(self, client: int, request: int) -> None:
        self.node.receive_client(client, [Ping(request)])
        self.driver.schedule_turn()


async def test_what_arrives_together_is_one_turn_and_its_timer_takes_the_next() -> None:
    driven = Driven(WatchedEngine())
    driven.ping(1, 10)
    driven.ping(2, 20)
    await asyncio.sleep(0)
    assert driven.answers == [{1: [Done(10)], 2: [Done(20)]}]
    async with asyncio.timeout(10):
        while welcome_of(driven.node, 1).shard_map.shards[0].leader != "n1":
            await asyncio.sleep(0.01)
    driven.driver.stop()
    driven.ping(1, 11)
    await asyncio.sleep(0.01)
    assert len(driven.answers) == 1
    driven.driver.close()
    assert not driven.failures


async def test_a_failed_sync_is_told_once_and_ends_the_turns() -> None:
    engine = FailingEngine()
    driven = Driven(engine)
    engine.broken = True
    driven.driver.schedule_turn()
    async with asyncio.timeout(10):
        await driven.failed.wait()
    assert driven.driver.failure == "the disk is gone"
    driven.ping(1, 10)
    driven.driver.fail("something else")
    await asyncio.sleep(0.01)
    assert driven.failures == [("the disk is gone", None)]
    assert not driven.answers
    driven.driver.stop()


async def test_a_failed_turn_is_told_with_its_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    driven = Driven(WatchedEngine())
    error = ValueError("broken")

    def turn(*_: Any) -> None:
        raise error

    monkeypatch.setattr(driven.node, "turn", turn)
    driven.driver.schedule_turn()
    await asyncio.sleep(0.01)
    assert driven.failures == [("ValueError: broken", error)]
    driven.driver.stop()
    driven.driver.close()


async def test_clients_that_more_may_be_received_of_are_named_after_their_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driven = Driven(WatchedEngine())
    told: list[tuple[list[int], int]] = []
    driven.driver._resumed = lambda clients: told.append((clients, len(driven.answers)))
    finish_turn = driven.node.finish_turn

    def with_resumed(now: int) -> Any:
        end = finish_turn(now)
        end.resumed = [7] if end.to_clients else []
        return end

    monkeypatch.setattr(driven.node, "finish_turn", with_resumed)
    driven.driver.turn()
    assert not told
    driven.ping(7, 1)
    driven.driver.turn()
    assert told == [([7], 1)]
    driven.driver.stop()
    driven.driver.close()
