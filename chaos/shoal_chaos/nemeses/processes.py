"""Processes are killed and started again, stopped for longer than a lease, or lose the power of their machine."""

from __future__ import annotations

from random import Random
from typing import ClassVar

from shoal_chaos.clusters.faulty_cluster import FaultyCluster
from shoal_chaos.nemeses.base import Nemesis
from shoal_chaos.nemeses.choosing import Who, choose


class Kill(Nemesis):
    """SIGKILL; started again at the heal."""

    name: ClassVar[str] = "kill"

    def __init__(self, who: Who) -> None:
        self._who = who
        self._names: list[str] = []

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        self._names = await choose(cluster, self._who, random)
        await cluster.kill(self._names)
        return f"killed {', '.join(self._names)} ({self._who})"

    async def heal(self, cluster: FaultyCluster) -> None:
        cluster.restart(self._names)


class LosePower(Nemesis):
    """SIGKILL, and whatever was not put on disk by a sync is gone; started again at the heal."""

    name: ClassVar[str] = "lose-power"

    def __init__(self, who: Who) -> None:
        self._who = who
        self._names: list[str] = []

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        self._names = await choose(cluster, self._who, random)
        await cluster.kill(self._names)
        lost = sum(cluster.system(name).lose_power() for name in self._names)
        return f"power lost at {', '.join(self._names)}, and with it {lost:,} bytes that were not on disk"

    async def heal(self, cluster: FaultyCluster) -> None:
        cluster.restart(self._names)


class Pause(Nemesis):
    """SIGSTOP; SIGCONT at the heal."""

    name: ClassVar[str] = "pause"

    def __init__(self, who: Who) -> None:
        self._who = who
        self._names: list[str] = []

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        self._names = await choose(cluster, self._who, random)
        cluster.pause(self._names)
        return f"stopped {', '.join(self._names)} ({self._who})"

    async def heal(self, cluster: FaultyCluster) -> None:
        cluster.resume(self._names)
