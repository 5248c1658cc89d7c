"""What goes wrong with the nodes of any simulated cluster: each seed picks some kinds of faults and how often they come."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import ClassVar

from shoal_chaos.simulation.cluster.cluster import Cluster
from shoal_chaos.simulation.cluster.node import USUAL_SYNC_DELAY, SimulatedNode
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND
from shoal_chaos.simulation.world.network import Conditions


class Faults:
    """Injects faults at random moments until told to stop."""

    intervals_ms: ClassVar[tuple[int, ...]] = (100, 300, 1000)

    def __init__(self, cluster: Cluster, random: Random) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._network = cluster.world.network
        self._events = cluster.world.events
        self._random = random
        self._active = True
        # Swarm testing (Groce and others, ISSTA 2012): leaving kinds out finds what their presence would mask.
        self.kinds = [kind for kind in self._all_kinds() if random.random() < 0.5] or [self._crash]
        self._interval = random.choice(self.intervals_ms) * MILLISECOND
        self._next()

    def _all_kinds(self) -> list[Callable[[], None]]:
        return [
            self._crash,
            self._crash_many,
            self._pause,
            self._partition,
            self._one_way_cut,
            self._bad_network,
            self._slow_disk,
            self._failing_sync,
        ]

    def _next(self) -> None:
        self._events.after(self._random.randrange(1, 2 * self._interval), self._inject)

    def _inject(self) -> None:
        if self._active:
            self._random.choice(self.kinds)()
            self._next()

    def stop(self) -> None:
        """Inject no more, and mend everything."""
        self._active = False
        cluster = self._cluster
        self._network.cut(set())
        self._network.conditions = Conditions()
        for node in cluster.nodes.values():
            node.paused_until = 0
            node.syncs_fail = False
            node.sync_delay = USUAL_SYNC_DELAY
            node.start_again()
            node.turn_soon()
        self._cluster.tell_of_links(self._random)
        self._mend_others()

    def _mend_others(self) -> None:
        """Mend what is not of nodes or links."""

    # -- kinds

    def _names(self) -> list[str]:
        """Return everybody who may be cut off."""
        return list(self._cluster.nodes)

    def _some_node(self) -> SimulatedNode:
        return self._random.choice(list(self._cluster.nodes.values()))

    def _crash_one(self, node: SimulatedNode) -> None:
        if node.node is not None:
            node.crash()
            self._events.after(self._random.randrange(3 * SECOND), node.start_again)

    def _crash(self) -> None:
        self._crash_one(self._some_node())

    def _crash_many(self) -> None:
        for node in self._cluster.nodes.values():
            if self._random.random() < 0.6:
                self._crash_one(node)

    def _pause(self) -> None:
        node = self._some_node()
        node.paused_until = self._events.now + self._random.randrange(3 * SECOND)

    def _partition(self) -> None:
        names = self._names()
        side = {name for name in names if self._random.random() < 0.5}
        self._cut({(a, b) for a in names for b in names if (a in side) != (b in side)})

    def _one_way_cut(self) -> None:
        names = self._names()
        self._cut({(a, b) for a in names for b in names if a != b and self._random.random() < 0.3})

    def _cut(self, links: set[tuple[str, str]]) -> None:
        self._network.cut(links)
        self._cluster.tell_of_links(self._random)
        self._events.after(self._random.randrange(4 * SECOND), self._heal)

    def _heal(self) -> None:
        self._network.cut(set())
        self._cluster.tell_of_links(self._random)

    def _bad_network(self) -> None:
        random = self._random
        self._network.conditions = Conditions(
            loss=random.choice([0, 0.02, 0.2]),
            repeat=random.choice([0, 0.1]),
            reorder=random.choice([0, 0.3]),
            delay_max=random.choice([2, 20, 200]) * MILLISECOND,
        )

    def _slow_disk(self) -> None:
        self._some_node().sync_delay = (MILLISECOND, self._random.choice([5, 50, 2000, 8000]) * MILLISECOND)

    def _failing_sync(self) -> None:
        self._some_node().syncs_fail = True
