"""A disk that does not keep up with what clients write: they are told so, and the node never stands still for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import shoal
from shoal.admin.connection import AdminConnection
from shoal.errors import ShoalError
from shoal_chaos.clusters.configuration import Configuration, loopback
from shoal_chaos.clusters.process_cluster import ProcessCluster
from shoal_chaos.clusters.system_faults import Field, LibraryMissing, SystemFaults

SYNC_SECONDS = 1.0
"""A flush of RocksDB makes two or three syncs: so it brings a third of a buffer to disk in a second."""
STANDSTILL_SECONDS = 1.5
LOAD_SECONDS = 15.0
VALUE = Random(1).randbytes(100_000)


@pytest.mark.timeout(180)
async def test_a_node_whose_disk_is_behind_refuses_writes_and_answers_all_the_while(tmp_path: Path) -> None:
    # Nobody else could lead, so the disk is to count neither as slow nor as hung.
    configuration = loopback(
        founders=1, keyspace="microshards: 16, shards: 4, voters: 1", timing="sync_stall: 60s, sync_slow: 60s"
    )
    more = "\nstorage: {write_buffer: 1MiB}\n"
    try:
        system = SystemFaults("n1", tmp_path / "faults", tmp_path / "n1")
    except LibraryMissing as missing:
        pytest.skip(str(missing))
    cluster = ProcessCluster(
        tmp_path, Configuration(configuration.text + more), environments={"n1": system.environment}
    )
    outcomes: Counter[str] = Counter()
    errors: list[str] = []
    slowest = 0.0
    slowed: set[str] = set()
    loop = asyncio.get_running_loop()
    try:
        cluster.start_all()
        await cluster.ready()
        async with shoal.AsyncClient(cluster.url, timeout=10.0) as db:
            await db.put("before", "v")
            system.set(Field.SYNC_DELAY_NS, round(SYNC_SECONDS * 1e9))
            until = loop.time() + LOAD_SECONDS

            async def write(number: int) -> None:
                count = 0
                while loop.time() < until:
                    count += 1
                    try:
                        await db.put(f"{number}-{count}", VALUE)
                        outcomes["done"] += 1
                    except shoal.Overloaded as error:
                        outcomes["refused"] += 1
                        errors.append(str(error))
                    except ShoalError as error:
                        outcomes[type(error).__name__] += 1
                        errors.append(str(error))

            async def look() -> None:
                nonlocal slowest
                async with await AdminConnection.open(cluster.addresses[0], 30.0) as node:
                    while loop.time() < until:
                        asked = loop.time()
                        status = await node.status()
                        slowest = max(slowest, loop.time() - asked)
                        if status.writes_slowed:
                            slowed.add(status.writes_slowed.partition(":")[0])
                        await asyncio.sleep(0.02)

            await asyncio.gather(look(), *(write(number) for number in range(32)))
            print("slowest answer", slowest, dict(outcomes), slowed, errors[:2])
            system.heal_disk()
            await db.put("after", "v", timeout=30)
        assert slowed, "the node says that its disk is behind"
        assert outcomes["done"] > 10
        assert slowest < STANDSTILL_SECONDS, f"nothing was answered for {slowest:.1f} s"
        async with await AdminConnection.open(cluster.addresses[0], 10.0) as node, asyncio.timeout(30):
            while (await node.status()).writes_slowed:
                await asyncio.sleep(0.1)
        assert "writes_slowed" in cluster.log_of("n1")
    finally:
        await cluster.kill_all()
        system.close()
