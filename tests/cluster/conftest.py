"""Real clusters for tests: processes, sockets and RocksDB in a temporary folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import shoal

from .managed import ManagedCluster
from .real import RealCluster


@pytest.fixture
def real_cluster(tmp_path: Path) -> Callable[..., object]:
    """Return a context manager that runs a cluster: `async with real_cluster() as cluster`."""

    @asynccontextmanager
    async def run(
        extra: str = "", nodes: int = 3, layout: Callable[[Sequence[int]], str] | None = None
    ) -> AsyncIterator[RealCluster]:
        cluster = RealCluster(tmp_path, extra, nodes, layout)
        try:
            await cluster.start_all()
            await cluster.ready()
            yield cluster
        finally:
            await cluster.stop_all()

    return run


@pytest.fixture
def managed_cluster(tmp_path: Path) -> Callable[..., Any]:
    """Return a context manager that runs a cluster with managers."""

    @asynccontextmanager
    async def run(*, nodes: int, managers: int, first_nodes: int = 3) -> AsyncIterator[ManagedCluster]:
        cluster = ManagedCluster(tmp_path, nodes=nodes, managers=managers, first_nodes=first_nodes)
        try:
            for number in range(1, first_nodes + 1):
                await cluster.start(f"n{number}")
            for number in range(1, managers + 1):
                await cluster.start(f"m{number}")
            async with shoal.AsyncClient(cluster.url, timeout=20.0) as db:
                await db.put_many({f"key-{number}": f"value-{number}" for number in range(200)})
            yield cluster
        finally:
            await cluster.stop_all()

    return run
