"""Links that deliver late, lose segments, carry little, break, are left half open, or lead to a machine that is gone."""

from __future__ import annotations

from random import Random
from typing import ClassVar

from shoal_chaos.clusters.faulty_cluster import FaultyCluster
from shoal_chaos.clusters.links import CLIENTS, HELD, Link, LinkRule, both_ways
from shoal_chaos.nemeses.base import Nemesis
from shoal_chaos.nemeses.choosing import Who, choose


class PoorLinks(Nemesis):
    """All links of some nodes follow one rule."""

    name: ClassVar[str] = "poor-links"

    def __init__(self, rule: LinkRule, words: str, who: Who = Who.ALL) -> None:
        """
        Args:
            words: what the rule does, in words.
        """
        self._rule = rule
        self._words = words
        self._who = who
        self._links: list[Link] = []

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        names = await choose(cluster, self._who, random)
        ends = [*cluster.nodes, CLIENTS]
        self._links = both_ways((name, other) for name in names for other in ends if name != other)
        cluster.links.set(dict.fromkeys(self._links, self._rule))
        return f"links of {', '.join(names)}: {self._words}"

    async def heal(self, cluster: FaultyCluster) -> None:
        cluster.links.clear(self._links)


class MachineGone(Nemesis):
    """A node's links are cut, and then it is killed: packets to it vanish, and so do the ends of its connections."""

    name: ClassVar[str] = "machine-gone"

    def __init__(self, who: Who = Who.LEADER) -> None:
        self._who = who
        self._names: list[str] = []
        self._links: list[Link] = []

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        self._names = await choose(cluster, self._who, random)
        ends = [*cluster.nodes, CLIENTS]
        self._links = both_ways((name, other) for name in self._names for other in ends if name != other)
        cluster.links.set(dict.fromkeys(self._links, HELD))
        await cluster.kill(self._names)
        return f"the machine of {', '.join(self._names)} is gone, and nobody is told"

    async def heal(self, cluster: FaultyCluster) -> None:
        cluster.links.clear(self._links)
        cluster.restart(self._names)


class HalfOpen(Nemesis):
    """A node is killed, and whoever was connected to it does not hear of that: those connections stay open for ever."""

    name: ClassVar[str] = "half-open"

    def __init__(self, who: Who = Who.LEADER) -> None:
        self._who = who
        self._names: list[str] = []

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        self._names = await choose(cluster, self._who, random)
        abandoned = 0
        for name in self._names:
            abandoned += cluster.proxy(name).abandon(*cluster.nodes, CLIENTS)
            abandoned += sum(cluster.proxy(other).abandon(name) for other in cluster.nodes if other != name)
        await cluster.kill(self._names)
        return f"killed {', '.join(self._names)}, and {abandoned} connections were left half open"

    async def heal(self, cluster: FaultyCluster) -> None:
        cluster.restart(self._names)
