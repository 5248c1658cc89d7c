"""Another cluster answers at the addresses of the one that clients know: empty, or made of an older copy of it."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import AsyncExitStack
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import ClassVar

from shoal import AsyncClient, ShoalError

from shoal_chaos.clusters.faulty_cluster import FaultyCluster
from shoal_chaos.nemeses.base import Nemesis
from shoal_chaos.workloads.recorder import says_another_cluster

CALLS = 10
ROWS = 100
CALL_SECONDS = 10.0
AGED_SECONDS = 1.0
"""For so long a cluster goes on after it was copied, so that it acknowledges what the copy has not."""


class ComesBack(StrEnum):
    """As what a cluster comes back."""

    EMPTY = "empty"
    OLDER = "from an older copy"


class OtherCluster(Nemesis):
    """All nodes are killed, and another cluster is started at their addresses; at the heal the own one is put back.

    Clients that are made meanwhile use the other one. Those of before may neither read nor write there: what it acknowledged
    to them would be missing afterwards, where the workloads look for it. Here, one such client is made to call on purpose.
    """

    name: ClassVar[str] = "other-cluster"

    def __init__(self, as_what: ComesBack) -> None:
        self._as_what = as_what
        self._exit = AsyncExitStack()
        self._left: AsyncClient | None = None
        self._run = ""

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        self._run = f"other-{random.getrandbits(32):x}"
        left = await self._exit.enter_async_context(AsyncClient(cluster.url, timeout=CALL_SECONDS))
        await left.put(f"{self._run}-before", "by the client that is left")
        if self._as_what is ComesBack.OLDER:
            await cluster.kill(cluster.nodes)
            for name in cluster.nodes:
                shutil.copytree(_data(cluster, name), _aside(cluster, name, "older"))
            cluster.restart(cluster.nodes)
            await cluster.ready()
            await asyncio.sleep(AGED_SECONDS)
        await cluster.kill(cluster.nodes)
        for name in cluster.nodes:
            _data(cluster, name).rename(_aside(cluster, name, "own"))
        if self._as_what is ComesBack.OLDER:
            for name in cluster.nodes:
                _aside(cluster, name, "older").rename(_data(cluster, name))
            await cluster.run("new-cluster-id", *(str(_data(cluster, name)) for name in cluster.nodes))
        self._left = left
        cluster.restart(cluster.nodes)
        await cluster.ready()
        async with AsyncClient(cluster.url, timeout=CALL_SECONDS) as new:
            await new.put_many({f"{self._run}-new-{number}": str(number) for number in range(ROWS)})
        return f"another cluster answers at the addresses of this one: {self._as_what}"

    async def heal(self, cluster: FaultyCluster) -> None:
        try:
            if self._left is not None:
                await self._call_as_the_one_left(cluster, self._left)
                await self._look_around(cluster)
        except ShoalError as error:
            cluster.remarks.append(f"the other cluster could not be looked at: {error}")
        finally:
            await self._exit.aclose()
            await self._put_back(cluster)

    async def _call_as_the_one_left(self, cluster: FaultyCluster, left: AsyncClient) -> None:
        for number in range(CALLS):
            for what, call in (
                ("a write", left.put(f"{self._run}-late-{number}", "lost")),
                ("a read", left.get(f"{self._run}-before")),
            ):
                try:
                    answer = await call
                except ShoalError as error:
                    if not says_another_cluster(error):
                        cluster.broken.append(f"{what} does not say that another cluster is there: {error!r}")
                else:
                    cluster.broken.append(f"{what} was answered by another cluster than the client's: {answer!r}")

    async def _look_around(self, cluster: FaultyCluster) -> None:
        """See that the other cluster has what it acknowledged, and nothing of those that are not its clients."""
        async with AsyncClient(cluster.url, timeout=CALL_SECONDS) as new:
            rows = {key: value async for key, value in new.scan("")}
        gone = [number for number in range(ROWS) if rows.get(b"%s-new-%d" % (self._run.encode(), number)) is None]
        if gone:
            cluster.broken.append(f"the other cluster has lost {len(gone)} of {ROWS} rows that it acknowledged")
        own = (b"ready-", f"{self._run}-new-".encode())
        strange = [key for key in rows if not key.startswith(own)]
        if self._as_what is ComesBack.EMPTY and strange:
            cluster.broken.append(f"the other cluster has {len(strange)} rows of others' clients, as {strange[0]!r}")

    async def _put_back(self, cluster: FaultyCluster) -> None:
        kept = [name for name in cluster.nodes if _aside(cluster, name, "own").exists()]
        await cluster.kill(cluster.nodes)
        for name in kept:
            shutil.rmtree(_data(cluster, name), ignore_errors=True)
            _aside(cluster, name, "own").rename(_data(cluster, name))
        for name in cluster.nodes:
            shutil.rmtree(_aside(cluster, name, "older"), ignore_errors=True)
        cluster.restart(cluster.nodes)


def _data(cluster: FaultyCluster, name: str) -> Path:
    return cluster.root / name


def _aside(cluster: FaultyCluster, name: str, what: str) -> Path:
    return cluster.root / f"{name}.{what}"
