"""A client whose cluster is stopped, and comes back at the same addresses as another one: empty, or from an older copy."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import shoal
from shoal.admin.survey import survey
from shoal_server.process.copies import rename_stored_cluster

if TYPE_CHECKING:
    from shoal_chaos.clusters.process_cluster import ProcessCluster

WRITES = 10
OTHER = "0123456789abcdef" * 2


def empty(cluster: ProcessCluster) -> None:
    for name in cluster.names:
        shutil.rmtree(cluster.root / name)


def restored(cluster: ProcessCluster) -> None:
    empty(cluster)
    for name in cluster.names:
        shutil.copytree(cluster.root / f"{name}-copy", cluster.root / name)
        rename_stored_cluster([cluster.root / name], OTHER)


@pytest.mark.parametrize("comes_back", [empty, restored])
async def test_nothing_is_acknowledged_that_is_not_there_and_the_client_says_why(
    real_cluster: Any, comes_back: Callable[[ProcessCluster], None]
) -> None:
    async with real_cluster() as cluster:
        old = shoal.AsyncClient(cluster.url, timeout=10)
        session = old.session()
        await session.put("k", "before")
        await cluster.kill_all()
        for name in cluster.names:
            shutil.copytree(cluster.root / name, cluster.root / f"{name}-copy")
        cluster.start_all()
        for number in range(WRITES):
            await session.put(f"old-{number}", "v")
        token = session.token()
        await cluster.kill_all()
        comes_back(cluster)
        cluster.start_all()
        async with shoal.AsyncClient(cluster.url, timeout=20) as new:
            # As many writes as the old client's session had, in a session of the same place.
            for number in range(2 * WRITES):
                await new.put(f"new-{number}", "w")
            for number in range(WRITES):
                with pytest.raises((shoal.ProtocolMismatch, shoal.OutcomeUnknown), match="another cluster"):
                    await old.put(f"late-{number}", "lost")
                with pytest.raises(shoal.ProtocolMismatch, match="another cluster"):
                    await session.get("k")
            with pytest.raises(shoal.InvalidArgument, match="begin a new session"):
                new.session(token)
            assert await new.get("k") == (None if comes_back is empty else b"before")
            rows = [key async for key, _ in new.scan("")]
            assert not [key for key in rows if key.startswith((b"late-", b"old-"))]
            assert sum(key.startswith(b"new-") for key in rows) == 2 * WRITES
        found = await survey(old_addresses(cluster))
        ids = {report.status.cluster_id for report in found.nodes if report.status is not None}
        assert len(ids) == 1
        assert (ids == {OTHER}) is (comes_back is restored)
        await old.close()


def old_addresses(cluster: ProcessCluster) -> tuple[str, ...]:
    return cluster.addresses


async def test_a_node_whose_folder_was_left_out_is_refused_by_the_others_and_says_why(real_cluster: Any) -> None:
    async with real_cluster() as cluster:
        async with shoal.AsyncClient(cluster.url, timeout=20) as db:
            await db.put("k", "v")
        await cluster.kill_all()
        for name in cluster.names[:2]:
            rename_stored_cluster([cluster.root / name], OTHER)
        cluster.start_all()
        others = ",".join(old_addresses(cluster)[:2])
        async with shoal.AsyncClient(f"shoal://{others}/default", timeout=20) as db:
            async with asyncio.timeout(20):
                while "is of another cluster" not in cluster.log_of("n3"):
                    await asyncio.sleep(0.05)
            assert OTHER in cluster.log_of("n3")
            assert await db.get("k") == b"v"
