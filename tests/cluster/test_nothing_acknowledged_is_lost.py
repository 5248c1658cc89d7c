"""Real processes are killed in the middle of a write load, again and again: what was acknowledged stays."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import shoal

KILLS = 5
WRITERS = 32


class Load:
    """Writers that each own some keys and remember, for each, the last acknowledged and the newest written value."""

    def __init__(self, db: shoal.AsyncClient) -> None:
        self.acknowledged: dict[str, int] = {}
        self.attempted: dict[str, int] = {}
        self.stopping = False
        self._db = db

    async def write(self, writer: int) -> None:
        number = 0
        while not self.stopping:
            number += 1
            key = f"w{writer}-{number % 50}"
            self.attempted[key] = number
            try:
                await self._db.put(key, str(number), timeout=10)
            except shoal.ShoalError as error:
                assert error.maybe_applied or isinstance(error, shoal.Unavailable), repr(error)
                # Whether it was done is open: this writer touches the key no more.
                return
            self.acknowledged[key] = number

    def check(self, key: str, value: bytes | None) -> str:
        acknowledged, attempted = self.acknowledged.get(key, 0), self.attempted[key]
        found = int(value) if value is not None else 0
        if acknowledged <= found <= attempted:
            return ""
        return f"{key} is {found}, but {acknowledged} was acknowledged and {attempted} was the last written"


async def check_all(load: Load, db: shoal.AsyncClient) -> None:
    keys = list(load.attempted)
    values = await db.get_many(keys, timeout=30)
    problems = [problem for key, value in zip(keys, values, strict=True) if (problem := load.check(key, value))]
    assert not problems, problems[:5]
    assert len(load.acknowledged) > WRITERS, "the load must have written something"


@pytest.mark.timeout(180)
async def test_killing_nodes_under_load_loses_no_acknowledged_write(real_cluster: Any) -> None:
    chance = random.Random(7)
    async with real_cluster() as cluster, shoal.AsyncClient(cluster.url) as db:
        load = Load(db)
        writers = [asyncio.create_task(load.write(number)) for number in range(WRITERS)]
        for _ in range(KILLS):
            before = len(load.acknowledged), sum(load.acknowledged.values())
            victim = chance.choice(cluster.names)
            await cluster.kill(victim)
            # The cluster goes on without it before it comes back.
            await db.put_many({f"without-{number}": victim for number in range(50)}, timeout=10)
            cluster.start(victim)
            await cluster.ready()
            assert (len(load.acknowledged), sum(load.acknowledged.values())) > before
        load.stopping = True
        await asyncio.gather(*writers)
        await check_all(load, db)


@pytest.mark.timeout(180)
async def test_killing_all_nodes_at_once_under_load_loses_no_acknowledged_write(real_cluster: Any) -> None:
    async with real_cluster() as cluster:
        for _ in range(2):
            async with shoal.AsyncClient(cluster.url) as db:
                load = Load(db)
                writers = [asyncio.create_task(load.write(number)) for number in range(WRITERS)]
                while len(load.acknowledged) < 40 * WRITERS:
                    await asyncio.sleep(0.01)
                await asyncio.gather(*(cluster.kill(name) for name in cluster.names))
                load.stopping = True
                cluster.start_all()
                await asyncio.gather(*writers)
                await check_all(load, db)


@pytest.mark.timeout(120)
async def test_a_terminated_node_hands_over_ends_cleanly_and_comes_back_with_its_data(real_cluster: Any) -> None:
    async with real_cluster() as cluster, shoal.AsyncClient(cluster.url) as db:
        await db.put_many({f"key-{number}": str(number) for number in range(500)})
        assert await cluster.stop("n1") == 0
        assert "node_stopped" in cluster.log_of("n1")
        assert "hand_over_incomplete" not in cluster.log_of("n1")
        await db.put("after", "n1 left", timeout=10)
        cluster.start("n1")
        for name in ("n2", "n3"):
            await cluster.stop(name)
            cluster.start(name)
        await cluster.ready()
        values = await db.get_many([f"key-{number}" for number in range(500)], timeout=20)
        assert values == [str(number).encode() for number in range(500)]
        assert await db.get("after") == b"n1 left"


@pytest.mark.timeout(180)
async def test_a_node_that_was_away_for_longer_than_the_log_catches_up_by_snapshots(real_cluster: Any) -> None:
    extra = "storage: {log_retain: 64KiB}\n"
    async with real_cluster(extra) as cluster, shoal.AsyncClient(cluster.url) as db:
        await db.put_many({f"old-{number}": "before" for number in range(1000)})
        await cluster.kill("n1")
        for part in range(10):
            await db.put_many({f"key-{part}-{number}": "x" * 2000 for number in range(1000)}, timeout=20)
        await db.delete_many([f"old-{number}" for number in range(1000)], timeout=20)
        cluster.start("n1")
        async with asyncio.timeout(60):
            while cluster.log_of("n1").count("snapshot_adopted") < 8:
                await db.put("meanwhile", "the others go on")
        # With the other two ended in turn, what n1 took in by snapshot is what a majority rests on.
        for name in ("n2", "n3"):
            assert await cluster.stop(name) == 0
            cluster.start(name)
            await cluster.ready()
        found = await db.get_many([f"key-{part}-{number}" for part in range(10) for number in range(1000)], timeout=30)
        assert found == [b"x" * 2000] * 10_000
        assert await db.get_many([f"old-{number}" for number in range(1000)], timeout=30) == [None] * 1000
