"""A node whose disk is nearly full turns writes away with the reason, and goes on serving reads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import shoal


@pytest.mark.timeout(120)
async def test_with_every_disk_full_writes_are_refused_with_the_reason_and_reads_are_served(real_cluster: Any) -> None:
    async with real_cluster() as cluster:
        async with shoal.AsyncClient(cluster.url) as db:
            await db.put("before", "it was full")
        for name in cluster.names:
            await cluster.stop(name)
        cluster.folder.config_file.write_text(
            cluster.folder.config_file.read_text() + "storage: {disk_reserve: 1000000GiB}\n"
        )
        cluster.start_all()
        async with shoal.AsyncClient(cluster.url, timeout=20) as db:
            assert await db.get("before") == b"it was full"
            with pytest.raises(shoal.Unavailable, match="bytes free, less than the reserve") as caught:
                await db.put("after", "no", timeout=3)
            assert not caught.value.maybe_applied
            assert await db.get("after") is None


@pytest.mark.timeout(120)
async def test_a_node_with_a_full_disk_hands_its_leaderships_to_those_that_have_room(real_cluster: Any) -> None:
    async with real_cluster() as cluster, shoal.AsyncClient(cluster.url, timeout=20) as db:
        await cluster.stop("n1")
        good = cluster.folder.config_file.read_text()
        cluster.folder.config_file.write_text(good + "storage: {disk_reserve: 1000000GiB}\n")
        cluster.start("n1")
        async with asyncio.timeout(30):
            while "writes_refused" not in cluster.log_of("n1"):
                await db.put("meanwhile", "written")
        # n1 is alive and a voter; with n2 gone it may be elected, and must give the leadership on to n3.
        await cluster.kill("n2")
        await db.put_many({f"key-{number}": "written" for number in range(200)}, timeout=20)
        assert await db.get_many([f"key-{number}" for number in range(200)]) == [b"written"] * 200
