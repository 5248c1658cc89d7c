"""A new cluster of real processes comes to one id, also on nodes that have no replica of the shard that settles it."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any

import pytest
import shoal

KNOWN = '"event": "cluster_known"'
WAIT_SECONDS = 20.0


async def said(cluster: Any, name: str, event: str, times: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while cluster.log_of(name).count(event) < times:
            await asyncio.sleep(0.05)


@pytest.mark.timeout(90)
async def test_a_node_that_met_its_peers_before_the_id_was_settled_serves(real_cluster: Any) -> None:
    async with real_cluster(nodes=4) as cluster:
        await cluster.kill_all()
        for name in cluster.names:
            # One of the four may have been stopped before it had made its folder: the others serve without it.
            shutil.rmtree(cluster.root / name, ignore_errors=True)
            cluster.folder.log_file(name).unlink()
        # n4 has no replica of the first shard, and neither of the two that it meets can know anything yet.
        cluster.start("n1")
        cluster.start("n4")
        await said(cluster, "n4", '"event": "peer_connected"', 1)
        cluster.start("n2")
        await said(cluster, "n1", KNOWN, 1)
        await said(cluster, "n4", KNOWN, 1)
        async with shoal.AsyncClient(cluster.url, timeout=WAIT_SECONDS) as db:
            await db.put_many({f"key-{number}": "value" for number in range(200)})
