"""Clocks that jump, and clocks that run too fast or too slow."""

from __future__ import annotations

from random import Random
from typing import ClassVar

from shoal_chaos.clusters.faulty_cluster import FaultyCluster
from shoal_chaos.nemeses.base import Nemesis
from shoal_chaos.nemeses.choosing import Who, choose

MILLION = 1_000_000

HOUR_SECONDS = 3600.0
WRONG_SECONDS = (2.0, HOUR_SECONDS, 8 * HOUR_SECONDS, 365 * 24 * HOUR_SECONDS)
"""How far off one clock is: a little, an hour, a time zone, a year."""


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


class OneWallWrong(Nemesis):
    """One node's wall clock is set ahead or back by seconds to a year, and right again at the heal."""

    name: ClassVar[str] = "one-wall-wrong"

    def __init__(self, who: Who) -> None:
        """
        Args:
            who: one node.
        """
        self._who = who
        self._node = ""

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        (self._node,) = await choose(cluster, self._who, random)
        seconds = random.choice((-1, 1)) * random.choice(WRONG_SECONDS)
        cluster.system(self._node).jump(seconds)
        return f"the wall clock of {self._node} ({self._who}) is off by {seconds:+,.0f} s"

    async def heal(self, cluster: FaultyCluster) -> None:
        if self._node:
            cluster.system(self._node).jump(0)


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
