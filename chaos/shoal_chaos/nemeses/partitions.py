"""Partitions of every shape: which links between nodes are cut, and for how long at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import ClassVar

from shoal_chaos.clusters.faulty_cluster import FaultyCluster
from shoal_chaos.clusters.links import CLIENTS, HELD, Link, both_ways
from shoal_chaos.nemeses.base import Nemesis
from shoal_chaos.nemeses.choosing import Who, choose

Cut = Callable[[Sequence[str]], list[Link]]
"""Which links are cut, given all nodes, of which the first is to suffer most."""


def isolated(nodes: Sequence[str]) -> list[Link]:
    """The first hears nobody, and nobody hears it; clients still reach it."""
    return both_ways((nodes[0], other) for other in nodes[1:])


def isolated_from_all(nodes: Sequence[str]) -> list[Link]:
    """As `isolated`, and clients do not reach it either."""
    return [*isolated(nodes), *both_ways([(CLIENTS, nodes[0])])]


def halves(nodes: Sequence[str]) -> list[Link]:
    """A minority, the first among it, and the majority."""
    smaller = (len(nodes) - 1) // 2
    return both_ways((one, other) for one in nodes[:smaller] for other in nodes[smaller:])


def bridge(nodes: Sequence[str]) -> list[Link]:
    """Two halves that only the first node is in touch with."""
    rest = nodes[1:]
    half = len(rest) // 2
    return both_ways((one, other) for one in rest[:half] for other in rest[half:])


def ring(nodes: Sequence[str]) -> list[Link]:
    """Each is in touch with its two neighbours only: with five nodes everybody sees a majority, and each another one."""
    count = len(nodes)
    return [
        (nodes[one], nodes[other])
        for one in range(count)
        for other in range(count)
        if one != other and (one - other) % count not in (1, count - 1)
    ]


def one_way_out(nodes: Sequence[str]) -> list[Link]:
    """What the first says reaches no node; it hears all."""
    return [(nodes[0], other) for other in nodes[1:]]


def one_way_in(nodes: Sequence[str]) -> list[Link]:
    """The first hears no node; all hear it."""
    return [(other, nodes[0]) for other in nodes[1:]]


SHAPES: dict[Cut, str] = {
    isolated: "{0} is cut off from all nodes",
    isolated_from_all: "{0} is cut off from all nodes and clients",
    halves: "{0} is on the smaller side of a cut",
    bridge: "only {0} is in touch with both halves",
    ring: "each node is in touch with two neighbours only",
    one_way_out: "nothing that {0} says reaches a node",
    one_way_in: "nothing that nodes say reaches {0}",
}
"""In words, of the node that suffers most."""


class Partition(Nemesis):
    """Links are cut, in which bytes are held until the heal."""

    name: ClassVar[str] = "partition"

    def __init__(self, cut: Cut, who: Who = Who.LEADER) -> None:
        """
        Args:
            who: suffers most.
        """
        self._cut = cut
        self._who = who
        self.links: list[Link] = []

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        (first,) = await choose(cluster, self._who, random)
        others = [node for node in cluster.nodes if node != first]
        random.shuffle(others)
        self.links = self._cut([first, *others])
        cluster.links.set(dict.fromkeys(self.links, HELD))
        return SHAPES[self._cut].format(first)

    async def heal(self, cluster: FaultyCluster) -> None:
        cluster.links.clear(self.links)


class Flapping(Nemesis):
    """A partition that comes and goes."""

    name: ClassVar[str] = "flapping"

    def __init__(self, cut: Cut, cut_seconds: float, whole_seconds: float) -> None:
        """
        Args:
            cut_seconds, whole_seconds: at most; each time is drawn anew.
        """
        self._partition = Partition(cut)
        self._cut_seconds = cut_seconds
        self._whole_seconds = whole_seconds
        self._task: asyncio.Task[None] | None = None

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        words = await self._partition.start(cluster, random)
        self._task = asyncio.create_task(self._flap(cluster, random))
        return f"again and again, {words}"

    async def heal(self, cluster: FaultyCluster) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._partition.heal(cluster)

    async def _flap(self, cluster: FaultyCluster, random: Random) -> None:
        links = self._partition.links
        while True:
            await asyncio.sleep(random.uniform(0, self._cut_seconds))
            cluster.links.clear(links)
            await asyncio.sleep(random.uniform(0, self._whole_seconds))
            cluster.links.set(dict.fromkeys(links, HELD))
