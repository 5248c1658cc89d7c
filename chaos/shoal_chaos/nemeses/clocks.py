"""Clocks that jump, and clocks that run too fast or too slow."""

from __future__ import annotations

from random import Random
from typing import ClassVar

from shoal_chaos.nemeses.base import Nemesis
from shoal_chaos.nemeses.faulty_cluster import FaultyCluster

MILLION = 1_000_000


class WallJump(Nemesis):
    """The wall clock of each node is set to another wrong time."""

    name: ClassVar[str] = "wall-jump"

    def __init__(self, seconds: float) -> None:
        """
        Args:
            seconds: at most so far off, either way.
        """
        self._seconds = seconds

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        jumps = {name: random.uniform(-self._seconds, self._seconds) for name in cluster.nodes}
        for name, seconds in jumps.items():
            cluster.system(name).jump(seconds)
        return "wall clocks are off: " + ", ".join(f"{name} by {seconds:+.1f} s" for name, seconds in jumps.items())

    async def heal(self, cluster: FaultyCluster) -> None:
        for name in cluster.nodes:
            cluster.system(name).jump(0)


class Drift(Nemesis):
    """Clocks, wall and monotonic, run at rates of their own. Monotonic ones stay where they have got to."""

    name: ClassVar[str] = "drift"

    def __init__(self, permille: float) -> None:
        """
        Args:
            permille: by how much two nodes may differ in the end.
        """
        self._most_ppm = round(permille * 1000 / 2)

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        rates = {name: random.choice((-1, 1)) * random.randint(0, self._most_ppm) for name in cluster.nodes}
        slowest, fastest, *_ = random.sample(cluster.nodes, len(cluster.nodes))
        rates |= {slowest: -self._most_ppm, fastest: self._most_ppm}
        for name, rate in rates.items():
            cluster.system(name).drift_monotonic(rate)
            cluster.system(name).drift_wall(rate)
        return "clocks drift: " + ", ".join(f"{name} by {rate / MILLION:+.2%}" for name, rate in rates.items())

    async def heal(self, cluster: FaultyCluster) -> None:
        for name in cluster.nodes:
            cluster.system(name).drift_monotonic(0)
            cluster.system(name).jump(0)
