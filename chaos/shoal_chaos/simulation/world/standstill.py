"""Time that stands still for a cluster at rest, and goes on for the world around it.

A cluster at rest sends heartbeats to and fro, and its managers look at nodes that have nothing new to say. Nodes, managers
and what is under way between them know no time but that of their monotonic clocks and of their links. Where all of that
stands still together, nobody in it can tell: it goes on as if whoever comes next had come sooner. Wall clocks go on, so that
rows expire when they should, and nodes, which hold them against their monotonic ones, are told. The application, its clients
and the faults have the time of the world.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from shoal_chaos.simulation.world.events import MILLISECOND, Events

WORTH_A_LOOK = 5 * MILLISECOND
"""Where the world goes on sooner than that, it is not asked whether the cluster is at rest meanwhile."""


class ClusterEvents(Events):
    """What is to happen in the cluster, by the cluster's time. It happens in its place among the world's: see `WorldEvents`."""

    def __init__(self, world: WorldEvents) -> None:
        super().__init__()
        self._world = world

    def at(self, time: int, action: Callable[[], None]) -> None:
        if time <= self.now:
            self._world.at(self._world.now, action)
        else:
            heappush(self._heap, (time, self._world.next_sequence(), action))


class WorldEvents(Events):
    """What is to happen, in the world and in the cluster. There always is something in the world, where garbage is collected.

    Invariant: the world's time is that of the cluster and what that has stood still for, `stood_still` (ns).

    Args:
        quiet_until: is asked whether the cluster is at rest until a moment (true time), and answers until when, no later than
            that; with a moment that has passed, where it is not.
        stands_still: is told for how long the cluster stands still, ns.
    """

    def __init__(self, quiet_until: Callable[[int], int], stands_still: Callable[[int], None]) -> None:
        super().__init__()
        self.stood_still = 0
        self.of_cluster = ClusterEvents(self)
        self._in_cluster = self.of_cluster._heap
        self._quiet_until = quiet_until
        self._stands_still = stands_still

    def next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def step(self) -> None:
        cluster = self.of_cluster
        if (
            self._at_once
            and self._heap[0][0] > self.now
            and not (self._in_cluster and self._in_cluster[0][0] <= cluster.now)
        ):
            action = self._at_once.popleft()
        elif self._in_cluster and self._is_clusters_turn():
            cluster.now, _, action = heappop(self._in_cluster)
            self.now = cluster.now + self.stood_still
        else:
            self.now, _, action = heappop(self._heap)
            cluster.now = self.now - self.stood_still
        action()

    def _is_clusters_turn(self) -> bool:
        """Say whether what is next happens in the cluster. Where that may as well wait for the world, it does."""
        due, place, _ = self._in_cluster[0]
        due += self.stood_still
        worlds_due, worlds_place, _ = self._heap[0]
        if worlds_due - self.now >= WORTH_A_LOOK and due < worlds_due and not self._at_once:
            quiet_until = self._quiet_until(worlds_due)
            if quiet_until > due:
                pause = quiet_until - self.now
                self.stood_still += pause
                self._stands_still(pause)
                due += pause
        return (due, place) < (worlds_due, worlds_place)
