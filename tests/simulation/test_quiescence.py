"""A simulated cluster's time stands still while it is at rest, and nobody can tell but by how little happens meanwhile."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from random import Random

import pytest
import shoal
from shoal_chaos.application_simulation import Crash, Fault, ShoalSimulation, Simulation
from shoal_chaos.application_simulation.quiescence import Quiescence
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND, Events
from shoal_chaos.simulation.world.standstill import WorldEvents

HOUR = 3600


def run(application: Callable[[Simulation], Awaitable[object]], *faults: Fault, **shape: object) -> object:
    return ShoalSimulation(3).run(application, faults=faults, seconds_max=10 * HOUR, **shape)  # type: ignore[arg-type]


def cluster_seconds(sim: Simulation) -> float:
    """Return how much time has passed for nodes and managers."""
    return sim._scene.world.events.now / SECOND


def rows_on(sim: Simulation, prefix: bytes) -> int:
    """Return how many rows of this prefix the replicas hold, expired ones and all."""
    stored = [key for node in sim._scene.nodes.values() for key in node.engine.tables["data"].rows]
    return sum(prefix in key for key in stored)


# -- the order of what happens


def order_of(world: Events, cluster: Events) -> list[int]:
    """Let random things happen in the two, which schedule others, and return in what order they do."""
    random, happened = Random(1), list[int]()

    def happen(number: int) -> None:
        happened.append(number)
        if len(happened) < 300:
            for _ in range(random.choice([0, 1, 2])):
                random.choice([world, cluster]).after(random.randrange(4), lambda: happen(random.randrange(1 << 30)))

    for number in range(60):
        random.choice([world, cluster]).at(random.randrange(20), lambda number=number: happen(number))  # type: ignore[misc]
    world.at(1 << 40, lambda: happened.append(-1))
    while not happened or happened[-1] >= 0:
        world.step()
    return happened


def test_what_happens_in_a_cluster_that_never_rests_happens_in_the_order_of_one_timeline() -> None:
    plain = Events()
    world = WorldEvents(lambda _: 0, lambda _: None)
    happened = order_of(world, world.of_cluster)
    assert happened == order_of(plain, plain)
    assert len(happened) > 300


def test_the_clusters_events_come_later_by_as_much_as_it_has_stood_still() -> None:
    # It rests until 70 ms, and then no more.
    pauses: list[int] = []
    world = WorldEvents(lambda until: min(until, 70 * MILLISECOND), pauses.append)
    cluster, happened = world.of_cluster, list[tuple[str, int, int]]()

    def note(name: str) -> Callable[[], None]:
        return lambda: happened.append((name, world.now // MILLISECOND, cluster.now // MILLISECOND))

    cluster.at(10 * MILLISECOND, note("in the cluster"))
    for milliseconds in (30, 60, 90):
        world.at(milliseconds * MILLISECOND, note("in the world"))
    for _ in range(4):
        world.step()
    assert happened == [
        ("in the world", 30, 0),
        ("in the world", 60, 0),
        ("in the cluster", 70, 10),
        ("in the world", 90, 30),
    ]
    assert sum(pauses) == world.stood_still == 60 * MILLISECOND


# -- clusters


@pytest.mark.parametrize("managers", [0, 1, 2])
def test_hours_of_sleep_are_seconds_for_the_cluster_and_all_is_as_before(managers: int) -> None:
    async def application(sim: Simulation) -> float:
        async with sim.client() as db:
            for number in range(3):
                await db.put("key", str(number))
                await asyncio.sleep(HOUR)
                assert await db.get("key") == str(number).encode()
                assert await db.get("key", consistency="eventual") == str(number).encode()
        assert sim.now > 2.9 * HOUR
        return cluster_seconds(sim)

    assert run(application, managers=managers) < 60


def test_applications_see_the_same_whether_or_not_clusters_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    async def application(sim: Simulation) -> list[object]:
        seen: list[object] = []
        async with sim.client(timeout="20s") as db:
            for number in range(6):
                await db.put(f"lives-long/{number}", str(number), ttl=20)
                await db.put(f"lives-short/{number}", str(number), ttl=4)
                seen.append(await db.increment("rounds"))
                await asyncio.sleep(7)
                for name in ("long", "short"):
                    seen.append([await db.get(f"lives-{name}/{each}") for each in range(6)])
        return seen

    rested = run(application, Crash(name="n2", at=15, seconds=2))
    monkeypatch.setattr(Quiescence, "quiet_until", lambda *_: 0)
    assert run(application, Crash(name="n2", at=15, seconds=2)) == rested


def test_rows_expire_by_the_worlds_clock_and_are_removed_while_nobody_looks() -> None:
    async def application(sim: Simulation) -> None:
        async with sim.client() as db:
            await db.put("short/lived", "value", ttl=HOUR)
            assert rows_on(sim, b"short/lived")
            await asyncio.sleep(HOUR - 20)
            assert await db.get("short/lived") == b"value"
            await asyncio.sleep(40)
            assert not rows_on(sim, b"short/lived")
            assert await db.get("short/lived") is None
        assert cluster_seconds(sim) < 120

    run(application)


def test_time_goes_on_for_a_cluster_while_a_fault_lasts() -> None:
    async def application(sim: Simulation) -> None:
        async with sim.client(timeout="60s") as db:
            await db.put("key", "first")
            await asyncio.sleep(HOUR)
            leader = sim.leader_of("key")
            assert leader is not None
            sim.inject(Crash(name=leader, seconds=20))
            stood_still = sim._scene.time.stood_still
            await asyncio.sleep(19)
            assert sim._scene.time.stood_still == stood_still
            assert sim.leader_of("key") not in (None, leader)
            await db.put("key", "second")
            await asyncio.sleep(HOUR)
            assert await db.get("key") == b"second"
        assert cluster_seconds(sim) < 120

    run(application)


def test_a_cluster_does_not_rest_before_a_write_is_on_every_replica() -> None:
    async def application(sim: Simulation) -> None:
        async with sim.client() as db:
            for number in range(20):
                await db.put("key", str(number), durability="fast")
                await asyncio.sleep(0.5)
                positions = {
                    replica.group.log.applied_index
                    for node in sim._scene.nodes.values()
                    for replica in node.replicas.values()
                    if replica.group.group == shard_of(sim, b"key")
                }
                assert len(positions) == 1
            assert sim._scene.time.stood_still > 0

    run(application)


def shard_of(sim: Simulation, key: bytes) -> int:
    replicas = [replica for node in sim._scene.nodes.values() for replica in node.replicas.values()]
    microshard = replicas[0].keyspace.microshard_of(key)
    return next(
        replica.shard.id
        for replica in replicas
        if any(span.first <= microshard < span.end for span in replica.machine.state.ranges)
    )


def test_what_fails_after_hours_is_told_with_the_worlds_time() -> None:
    async def application(sim: Simulation) -> None:
        async with sim.client() as db:
            await db.put("key", "value")
            await asyncio.sleep(HOUR)
            raise shoal.ShoalError("as it happens")

    with pytest.raises(shoal.ShoalError) as failed:
        run(application, Crash(name="n1", at=1800, seconds=1))
    told = "\n".join(failed.value.__notes__)
    assert re.search(r"after 36\d\d\.\d+ simulated seconds", told)
    assert "1800.000 s  Crash" in told
