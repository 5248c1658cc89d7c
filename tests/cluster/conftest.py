"""Real clusters for tests: processes, sockets and RocksDB in a temporary folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import shoal
from shoal_chaos.clusters.configuration import loopback
from shoal_chaos.clusters.process_cluster import ProcessCluster

from .managed import OperatedCluster
from .real import real_nodes


@pytest.fixture
def real_cluster(tmp_path: Path) -> Callable[..., object]:
    """Return a context manager that runs a cluster: `async with real_cluster() as cluster`."""

    @asynccontextmanager
    async def run(
        extra: str = "", nodes: int = 3, layout: Callable[[Sequence[int]], str] | None = None
    ) -> AsyncIterator[ProcessCluster]:
        cluster = real_nodes(tmp_path, extra, nodes, layout)
        try:
            cluster.start_all()
            await cluster.ready()
            yield cluster
        finally:
            await cluster.kill_all()

    return run


@pytest.fixture
def managed_cluster(tmp_path: Path) -> Callable[..., Any]:
    """Return a context manager that runs a cluster with managers."""

    @asynccontextmanager
    async def run(*, nodes: int, managers: int, first_nodes: int = 3) -> AsyncIterator[OperatedCluster]:
        configuration = loopback(
            founders=first_nodes,
            joiners=nodes - first_nodes,
            managers=managers,
            keyspace="microshards: 16, shards: 4",
        )
        cluster = OperatedCluster(tmp_path, configuration)
        try:
            cluster.start_all()
            async with shoal.AsyncClient(cluster.url, timeout=20.0) as db:
                await db.put_many({f"key-{number}": f"value-{number}" for number in range(200)})
            yield cluster
        finally:
            await cluster.kill_all()

    return run
