"""What operators do while others break things: leaders handed on, nodes emptied, shards split, merged and moved."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import ClassVar

from shoal import ShoalError

from shoal_chaos.clusters.commands import RequestFailed
from shoal_chaos.clusters.faulty_cluster import FaultyCluster
from shoal_chaos.nemeses.base import Disturbance, Nemesis, Target
from shoal_chaos.workloads.operations import Operation

PAUSE_SECONDS = 0.2


class Operations(Nemesis):
    """One operation after another, until the heal, which waits for the one under way."""

    name: ClassVar[str] = "operations"

    def __init__(self, operations: Sequence[Operation]) -> None:
        """
        Args:
            operations: in an order in which each has something to do. One that is refused does no harm here: what
                else is going on may be the reason. What it must not do is to lose data, or to hang.
        """
        self._operations = operations
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    async def start(self, cluster: FaultyCluster, random: Random) -> str:  # noqa: ARG002 - the order is given
        self._task = asyncio.create_task(self._run(cluster))
        return f"operators do, one after another: {', '.join(operation.name for operation in self._operations)}"

    async def heal(self, cluster: FaultyCluster) -> None:  # noqa: ARG002 - the operations know it
        self._stopping = True
        if self._task is not None:
            await self._task

    async def _run(self, cluster: FaultyCluster) -> None:
        for operation in self._operations:
            if self._stopping:
                return
            try:
                await operation.run(cluster.processes)
            except (RequestFailed, ShoalError) as error:
                cluster.remarks.append(f"{operation.name}: {error}")
            except RuntimeError as error:
                cluster.failures.append(f"{operation.name}: {error}")


class Shuffle(Disturbance):
    """Leaders are handed to others without pause, on any cluster."""

    name: ClassVar[str] = "shuffle"

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def start(self, cluster: Target, random: Random) -> str:
        self._task = asyncio.create_task(self._shuffle(cluster, random))
        return "leaders are handed to other voters, one shard after another"

    async def heal(self, cluster: Target) -> None:  # noqa: ARG002 - nothing is left of it
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _shuffle(self, cluster: Target, random: Random) -> None:
        while True:
            leaders, voters = await cluster.leaders(), await cluster.voters()
            shard = random.choice(sorted(leaders))
            others = [node for node in voters[shard] if node != leaders[shard]]
            try:
                await cluster.run("transfer-leader", str(shard), random.choice(others))
            except RequestFailed as error:
                cluster.remarks.append(str(error))
            await asyncio.sleep(PAUSE_SECONDS)
