"""Nodes that hang, and disks that hang or are slow, lose their leaderships by themselves; real processes, real disks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import shoal
from shoal.admin.connection import AdminConnection
from shoal.protocol.messages import StatusReply

SHARDS = 8
WAIT_SECONDS = 40
NODE_WITH_A_DISK_THAT_CAN_BE_SLOWED = """
import sys, time
from pathlib import Path
from shoal.cli.main import main
from shoal_server.storage.rocks import RocksEngine

slowness = Path("slowness")  # how many seconds a sync takes longer; a sync does not end while it says so
sync = RocksEngine.sync

def slow_sync(engine):
    began = time.monotonic()
    while slowness.exists() and time.monotonic() - began < float(slowness.read_text() or 0):
        time.sleep(0.01)
    sync(engine)

RocksEngine.sync = slow_sync
del sys.argv[1:4]  # the command in whose place this is run: python -m shoal.cli
main()
"""


class Observer:
    """What the nodes say, asked one by one, those that may not answer left out."""

    def __init__(self, cluster: Any) -> None:
        self._addresses = dict(zip(cluster.names, cluster.ports, strict=True))

    async def status(self, node: str) -> StatusReply:
        async with await AdminConnection.open(f"127.0.0.1:{self._addresses[node]}", 5) as connection:
            return await connection.status()

    async def answers(self, node: str) -> None:
        """Wait until a node that was just started answers."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    await self.status(node)
                except shoal.Unavailable:
                    await asyncio.sleep(0.05)
                else:
                    return

    async def led_by(self, nodes: list[str]) -> dict[str, set[int]]:
        """Return the shards that each of `nodes` leads under a lease."""
        found = {}
        for node in nodes:
            replicas = (await self.status(node)).replicas
            found[node] = {replica.shard for replica in replicas if replica.role == "leader" and replica.lease_ms > 0}
        return found

    async def all_led_by(self, nodes: list[str]) -> None:
        """Wait until `nodes` lead all shards."""
        async with asyncio.timeout(WAIT_SECONDS):
            while sum(map(len, (await self.led_by(nodes)).values())) < SHARDS:
                await asyncio.sleep(0.05)

    async def unfit(self, node: str) -> str:
        """Wait until a node says that it leads nothing; return the reason."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not (reason := (await self.status(node)).not_leading):
                await asyncio.sleep(0.05)
        return reason


class SlowDisk:
    """How much longer a node's syncs take; see above."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "slowness"

    def set(self, seconds: float) -> None:
        self._file.write_text(str(seconds))

    def mend(self) -> None:
        self._file.unlink(missing_ok=True)


async def busiest(observer: Observer, nodes: list[str]) -> str:
    led = await observer.led_by(nodes)
    return max(led, key=lambda node: len(led[node]))


@asynccontextmanager
async def with_a_slow_disk(cluster: Any, node: str) -> AsyncIterator[SlowDisk]:
    """Restart `node` on a disk that can be slowed down."""
    disk = SlowDisk(cluster.root)
    await cluster.stop(node)
    cluster.wrappers[node] = (sys.executable, "-c", NODE_WITH_A_DISK_THAT_CAN_BE_SLOWED)
    cluster.start(node)
    await Observer(cluster).answers(node)
    try:
        yield disk
    finally:
        disk.mend()


async def give_leaderships(cluster: Any, db: shoal.AsyncClient, observer: Observer, node: str) -> None:
    """Have `node` lead some shards."""
    others = [name for name in cluster.names if name != node]
    async with asyncio.timeout(WAIT_SECONDS):
        while len((await observer.led_by([node]))[node]) < 2:
            for other in others:
                for shard in sorted((await observer.led_by([other]))[other])[:2]:
                    await transfer(observer, other, shard, node)
            await db.put("meanwhile", "written")


async def transfer(observer: Observer, leader: str, shard: int, target: str) -> None:
    async with await AdminConnection.open(f"127.0.0.1:{observer._addresses[leader]}", 5) as connection:
        try:
            await connection.transfer_leader(shard, target)
        except shoal.ShoalError:
            return  # the target is still starting: asked again


@pytest.mark.timeout(120)
async def test_every_shard_of_a_stopped_node_is_led_by_others_though_nobody_uses_it(real_cluster: Any) -> None:
    async with real_cluster() as cluster:
        observer = Observer(cluster)
        await observer.all_led_by(cluster.names)
        stopped = await busiest(observer, cluster.names)
        others = [name for name in cluster.names if name != stopped]
        cluster.pause(stopped)
        await observer.all_led_by(others)
        cluster.resume(stopped)
        async with asyncio.timeout(WAIT_SECONDS):
            while (await observer.led_by([stopped]))[stopped]:
                await asyncio.sleep(0.05)
        await observer.all_led_by(others)


@pytest.mark.timeout(180)
async def test_a_node_whose_disk_hangs_hands_over_all_it_leads_and_comes_back_with_the_disk(real_cluster: Any) -> None:
    async with real_cluster() as cluster, shoal.AsyncClient(cluster.url, timeout=20) as db:
        observer = Observer(cluster)
        async with with_a_slow_disk(cluster, "n1") as disk:
            await give_leaderships(cluster, db, observer, "n1")
            disk.set(1000)
            # A sync must be under way for the node to know; whoever writes meanwhile is served by the other two.
            await db.put_many({f"key-{number}": "hung" for number in range(200)})
            assert "has not ended for" in await observer.unfit("n1")
            await observer.all_led_by(["n2", "n3"])
            with pytest.raises(shoal.Unavailable, match="takes no leadership now"):
                async with await AdminConnection.open(f"127.0.0.1:{cluster.ports[1]}", 5) as connection:
                    await connection.transfer_leader(min((await observer.led_by(["n2"]))["n2"]), "n1")
            disk.mend()
            async with asyncio.timeout(WAIT_SECONDS):
                while (await observer.status("n1")).not_leading:
                    await asyncio.sleep(0.05)
            await give_leaderships(cluster, db, observer, "n1")
            assert set(await db.get_many([f"key-{number}" for number in range(200)])) == {b"hung"}


@pytest.mark.timeout(180)
async def test_a_node_whose_disk_is_far_slower_than_the_others_hands_over_all_it_leads(real_cluster: Any) -> None:
    async with real_cluster() as cluster, shoal.AsyncClient(cluster.url, timeout=20) as db:
        observer = Observer(cluster)
        async with with_a_slow_disk(cluster, "n1") as disk:
            await give_leaderships(cluster, db, observer, "n1")
            disk.set(0.5)

            async def write() -> None:
                while True:
                    await db.put_many({f"key-{number}": "slow" for number in range(50)})

            writing = asyncio.create_task(write())
            try:
                assert "far longer than on other nodes" in await observer.unfit("n1")
                await observer.all_led_by(["n2", "n3"])
            finally:
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
            assert (await observer.status("n1")).disk_latency_us >= 100_000


@pytest.mark.timeout(120)
async def test_nodes_count_their_rows_also_after_a_restart(real_cluster: Any) -> None:
    async with real_cluster() as cluster, shoal.AsyncClient(cluster.url, timeout=20) as db:
        observer = Observer(cluster)
        await db.put_many({f"key-{number}": "v" * 100 for number in range(5000)})
        expected = 5000 + 200  # those of `ready`

        async def counted(node: str) -> None:
            async with asyncio.timeout(WAIT_SECONDS):
                while sum(replica.keys for replica in (await observer.status(node)).replicas) != expected:
                    await asyncio.sleep(0.1)
            replicas = (await observer.status(node)).replicas
            assert sum(replica.bytes for replica in replicas) > 5000 * 110
            assert all(replica.counted for replica in replicas)

        for node in cluster.names:
            await counted(node)
        await cluster.kill("n2")
        cluster.start("n2")
        await observer.answers("n2")
        await counted("n2")
        status = await observer.status("n1")
        assert status.disk_used_bytes > 0
        assert status.cpu > 0
