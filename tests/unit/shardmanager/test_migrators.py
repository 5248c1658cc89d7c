"""The migrators of a leadership: begun once, ended when nobody wants them, and what they write down of an operation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs
from shoal.errors import Unavailable
from shoal.shardmap import MicroshardRange
from shoal_shardmanager.control.observed import ObservedState
from shoal_shardmanager.control.operations.migrate import undone
from shoal_shardmanager.control.requests import MoveMicroshardsRequest
from shoal_shardmanager.control.rows import Step
from shoal_shardmanager.control.state import ClusterState, RowChange, changed
from shoal_shardmanager.process.migrator import CannotSeal
from shoal_shardmanager.process.migrators import Migrators

MOVE = MoveMicroshardsRequest(1, 2, (MicroshardRange(0, 1),))


class Leadership:
    """In place of `leadership.Leadership`: the rows of a simulated cluster."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.asked: list[str] = []

    @property
    def state(self) -> ClusterState:
        state: ClusterState = self.cluster.state
        return state

    def observed(self) -> ObservedState:
        observed: ObservedState = self.cluster.observed()
        return observed

    def address_of(self, node: str) -> str:
        return f"{node}:1"

    async def change(self, made: Callable[[ClusterState, ObservedState], tuple[RowChange, ...]]) -> None:
        self.cluster.state = changed(self.cluster.state, made(self.state, self.observed()))

    async def open(self, address: str) -> Any:
        self.asked.append(address)
        raise Unavailable("nobody is there")


@pytest.fixture
def leadership(simulated: Any) -> Leadership:
    cluster = simulated()
    operation = cluster.request(MOVE)
    assert cluster.run(5, lambda: cluster.state.operations[operation].step is Step.COPY)
    return Leadership(cluster)


async def test_one_migrator_is_at_work_for_as_long_as_it_is_wanted(leadership: Leadership) -> None:
    migrators = Migrators(leadership, leadership.open)
    migrators.follow([1])
    migrators.follow([1])
    async with asyncio.timeout(5):
        while not migrators.progress()[1].trouble:
            await asyncio.sleep(0)
    assert leadership.asked == ["n1:1"]
    assert migrators.progress()[1].trouble == "nobody is there"
    migrators.follow([])
    assert not migrators.progress()
    await migrators.stop()


async def test_the_seal_is_written_once_and_names_a_newer_map(leadership: Leadership) -> None:
    migrators = Migrators(leadership, leadership.open)
    version = await migrators.sealing(1)
    row = leadership.state.operations[1]
    assert (row.step, version) == (Step.SEAL, leadership.state.map.version + 1)
    assert await migrators.sealing(1) == version
    assert leadership.state.operations[1] is row


async def test_what_was_cancelled_is_not_sealed(leadership: Leadership) -> None:
    leadership.cluster.state = changed(leadership.state, [undone(leadership.state.operations[1], "cancelled", 5)])
    with pytest.raises(CannotSeal):
        await Migrators(leadership, leadership.open).sealing(1)
    assert leadership.state.operations[1].step is Step.UNDO


async def test_the_map_follows_the_adoption_and_is_newer_than_those_that_nodes_derived(leadership: Leadership) -> None:
    migrators = Migrators(leadership, leadership.open)
    await migrators.sealing(1)
    leadership.cluster.derive("n1", 40)
    await migrators.adopted(1, 6)
    assert leadership.state.map.version == 41
    assert leadership.state.shard(1).ranges == (MicroshardRange(1, 4),)  # type: ignore[union-attr]
    assert leadership.state.shard(2).ranges == (MicroshardRange(0, 1), MicroshardRange(4, 8))  # type: ignore[union-attr]
    assert leadership.state.operations[1].step is Step.FORGET
    with pytest.raises(CannotSeal):
        await migrators.adopted(1, 6)


async def test_shards_are_busy_whose_leaders_let_clients_wait(leadership: Leadership) -> None:
    migrators = Migrators(leadership, leadership.open)
    assert not migrators.is_busy((1, 2))
    observed = leadership.observed()
    leader = observed.leader(1)
    assert leader is not None
    report = observed.reports[leader.node]
    waits = replace(report, status=structs.replace(report.status, queue_delay_us=20_000))
    leadership.observed = lambda: ObservedState(  # type: ignore[method-assign]
        observed.now_ms, observed.wall_ms, {**observed.reports, leader.node: waits}
    )
    assert migrators.is_busy((1, 2))
    assert migrators.is_busy((2, 1))
    assert not migrators.is_busy((99, 98))
