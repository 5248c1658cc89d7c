"""Clients behind slow links: large values get through, in both directions, and no node counts as hung meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import shoal
from shoal_chaos.clusters.faulty_cluster import ClusterShape, FaultyCluster
from shoal_chaos.clusters.links import CLIENTS, LinkRule, both_ways

MIB = 1024 * 1024
SLOW = 0.8e6
"""Bytes a second: of a 1 MiB value nothing but its beginning comes within a second."""


@asynccontextmanager
async def behind_slow_links(folder: Path, bytes_per_second: float) -> AsyncIterator[FaultyCluster]:
    """Run a cluster of one node, to and from which clients send so much."""
    cluster = FaultyCluster(folder, ClusterShape(nodes=1, voters=1), Random(0), system_faults=False)
    try:
        await cluster.start()
        rule = LinkRule(bytes_per_second=bytes_per_second)
        cluster.links.set(dict.fromkeys(both_ways([(CLIENTS, "n1")]), rule))
        yield cluster
    finally:
        await cluster.stop()


async def test_a_peer_behind_a_slow_link_is_not_taken_for_silent(tmp_path: Path) -> None:
    """It answers what has arrived; the newest heartbeat waits behind megabytes of what has not, and so do its own answers."""
    cluster = FaultyCluster(tmp_path, ClusterShape(nodes=3, shards=8), Random(0), system_faults=False)
    try:
        await cluster.start()
        rule = LinkRule(bytes_per_second=SLOW)
        cluster.links.set(dict.fromkeys(both_ways([("n1", "n3"), ("n2", "n3")]), rule))
        async with shoal.AsyncClient(cluster.url, timeout=20) as db:

            async def write(worker: int) -> None:
                for number in range(30):
                    await db.put(f"large-{worker}-{number}", b"x" * 50_000)

            await asyncio.gather(*(write(worker) for worker in range(32)))
        await asyncio.sleep(15)
        said = logs(tmp_path)
        assert said.count("peer_connected") >= 6, "or these are not the logs"
        assert said.count("peer_silent") == 0
    finally:
        await cluster.stop()


def logs(folder: Path) -> str:
    """All that the nodes have logged."""
    return "".join(path.read_text() for path in folder.rglob("n?.log"))


def lost(db: shoal.AsyncClient) -> float:
    """How many connections the client has lost."""
    [family] = [family for family in db.collect() if family.name == "shoal_client_connections_lost"]
    return family.samples[0].value


async def test_a_value_of_a_mebibyte_gets_through_at_a_megabyte_a_second_and_less(tmp_path: Path) -> None:
    async with (
        behind_slow_links(tmp_path, SLOW) as cluster,
        shoal.AsyncClient(cluster.url, timeout=20) as db,
    ):
        await db.put("large", b"x" * MIB)
        assert await db.get("large") == b"x" * MIB
        await db.put_many({f"large-{number}": b"x" * MIB for number in range(4)})
        assert lost(db) == 0


async def test_many_keys_with_large_values_get_through(tmp_path: Path) -> None:
    async with (
        behind_slow_links(tmp_path, 4e6) as cluster,
        shoal.AsyncClient(cluster.url, timeout=20) as db,
    ):
        keys = [f"large-{number}" for number in range(8)]
        await db.put_many(dict.fromkeys(keys, b"x" * MIB))
        assert await db.get_many(keys) == [b"x" * MIB] * 8
        assert lost(db) == 0


async def test_pages_of_large_rows_get_through(tmp_path: Path) -> None:
    async with (
        behind_slow_links(tmp_path, SLOW) as cluster,
        shoal.AsyncClient(cluster.url, timeout=20) as db,
    ):
        await db.put_many({f"row/{number}": b"x" * (MIB // 2) for number in range(6)})
        assert len([key async for key, _ in db.scan("row/", page_rows=2)]) == 6
        assert lost(db) == 0
