"""Quotas on real processes: a greedy keyspace is held to its own, others feel nothing, with managers or without."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import shoal

from .managed import OperatedCluster

SHARDS = 4
WRITES = 100
READS = 300


class Load:
    """Tasks that write and read a keyspace as fast as they are let, for as long as the block lasts.

    `done` and `refused` count calls since `begin`, by kind.
    """

    def __init__(self, db: shoal.AsyncClient, name: str, writers: int, readers: int, pause: float = 0.0) -> None:
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.errors: list[str] = []
        self._keyspace = db.keyspace(name)
        self._work = [self._write] * writers + [self._read] * readers
        self._pause = pause
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        self.done.clear()
        self.refused.clear()

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(work(number)) for number, work in enumerate(self._work)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write(self, number: int) -> None:
        count = 0
        while True:
            count += 1
            await self._one("write", self._keyspace.put(f"k{number}-{count % 50}", "v"))

    async def _read(self, number: int) -> None:
        count = 0
        while True:
            count += 1
            await self._one("read", self._keyspace.get(f"k{number}-{count % 50}"))

    async def _one(self, kind: str, call: Any) -> None:
        try:
            await call
        except shoal.Overloaded as error:
            self.refused[kind] += 1
            if error.reason != "quota":
                self.errors.append(repr(error))
            await asyncio.sleep(0.01)
        except shoal.ShoalError as error:
            self.errors.append(repr(error))
            await asyncio.sleep(0.01)
        else:
            self.done[kind] += 1
        await asyncio.sleep(self._pause)


async def rates(load: Load, seconds: float) -> tuple[float, float]:
    """Return how many writes and reads a second are done."""
    loop = asyncio.get_running_loop()
    load.begin()
    began = loop.time()
    await asyncio.sleep(seconds)
    lasted = loop.time() - began
    return load.done["write"] / lasted, load.done["read"] / lasted


async def create(cluster: OperatedCluster, name: str, *options: str) -> None:
    await cluster.done("keyspace", "create", name, "--shards", str(SHARDS), "--microshards", "16", *options)


def held(rate: float, quota: int, refused: float) -> bool:
    """No more than ten percent above the quota goes through; and most of it, unless nothing was refused: then it was not asked.

    Not all: some is kept for the idle, and callers that each wait for one node leave others' shares unused meanwhile.
    """
    return rate <= 1.1 * quota and (rate >= 0.7 * quota or not refused)


def refused_by_nodes(db: shoal.AsyncClient) -> float:
    """How many requests of this client nodes have refused, for a quota."""
    [family] = [family for family in db.collect() if family.name == "shoal_client_overloads"]
    return sum(sample.value for sample in family.samples if dict(sample.labels)["reason"] == "quota")


@pytest.mark.timeout(240)
async def test_a_greedy_keyspace_is_held_to_its_quota_and_another_one_feels_nothing(
    managed_cluster: Callable[..., Any],
) -> None:
    async with managed_cluster(nodes=3, managers=1) as cluster:
        await create(cluster, "greedy", "--writes-per-second", str(WRITES), "--reads-per-second", str(READS))
        await create(cluster, "modest")
        code, text = await cluster.shoal("keyspaces")
        assert code == 0
        assert f"{READS} reads/s, {WRITES} writes/s" in " ".join(text.split())
        async with (
            shoal.AsyncClient(cluster.url, timeout=5.0) as one,
            shoal.AsyncClient(cluster.url, timeout=5.0) as other,
            Load(one, "greedy", 24, 24) as greedy,
            Load(other, "modest", 2, 2, pause=0.02) as modest,
        ):
            await rates(greedy, 8)
            before_refused = refused_by_nodes(one)
            found = await rates(greedy, 8)
            refused = refused_by_nodes(one) - before_refused
            print("held to", found, "refused", dict(greedy.refused))
            assert held(found[0], WRITES, refused), found
            assert held(found[1], READS, refused), found
            # Without managers nodes keep what they have.
            await cluster.kill("m1")
            await rates(greedy, 2)
            before_refused = refused_by_nodes(one)
            found = await rates(greedy, 8)
            refused = refused_by_nodes(one) - before_refused
            print("without managers", found)
            assert held(found[0], WRITES, refused), found
            assert held(found[1], READS, refused), found
            before = await cluster.shoal("keyspaces")
            assert before[0] == 0
            assert not modest.errors
            assert not modest.refused
            assert modest.done["write"] > 50
            assert not greedy.errors
            cluster.start("m1")
            await cluster.wait_for(cluster.controller)
            await cluster.done(
                "keyspace", "alter", "greedy", "--writes-per-second", "none", "--reads-per-second", "none"
            )
            await rates(greedy, 1)
            found = await rates(greedy, 3)
            print("lifted", found)
            assert found[0] > 1.5 * WRITES
            assert not greedy.refused


@pytest.mark.timeout(240)
async def test_a_full_keyspace_takes_deletes_and_heals_when_they_are_counted(
    managed_cluster: Callable[..., Any],
) -> None:
    async with managed_cluster(nodes=3, managers=1) as cluster:
        await create(cluster, "small", "--max-bytes", "100KiB")
        async with shoal.AsyncClient(cluster.url, timeout=5.0).keyspace("small") as db:

            async def refused() -> bool:
                try:
                    await db.put("one-more", "v")
                except shoal.Overloaded as error:
                    assert not error.maybe_applied
                    assert "102400 bytes" in str(error)
                    return True
                return False

            async def accepted() -> bool:
                return not await refused()

            await db.put_many({f"row-{number}": "v" * 1000 for number in range(150)})
            await cluster.wait_for(refused)
            assert await db.get("row-1") == b"v" * 1000
            assert await db.touch("row-2", 600)
            with pytest.raises(shoal.Overloaded):
                await db.increment("counter")
            await db.delete_prefix("row-1")
            # Many callers' writes travel together: those that add fail, and the others are done.
            outcomes = await asyncio.gather(
                *(db.put(f"new-{number}", "v") for number in range(50)),
                *(db.delete(f"row-{number}") for number in range(2, 100)),
                return_exceptions=True,
            )
            assert all(isinstance(outcome, shoal.Overloaded) for outcome in outcomes[:50])
            assert not any(isinstance(outcome, Exception) for outcome in outcomes[50:])
            await cluster.wait_for(accepted)
            await db.put_many({f"row-{number}": "v" * 1000 for number in range(150)})
            await cluster.wait_for(refused)
            await cluster.done("keyspace", "alter", "small", "--max-bytes", "none")
            await cluster.wait_for(accepted)
            code, text = await cluster.shoal("keyspaces", "--json")
            assert code == 0
            assert all("max_bytes" not in keyspace for keyspace in json.loads(text))
