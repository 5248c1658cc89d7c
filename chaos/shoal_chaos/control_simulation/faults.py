"""What goes wrong around a manager and its operations, besides what goes wrong in any cluster."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from shoal_shardmanager.control.rows import NodeState

from shoal_chaos.simulation.faults.base import Faults
from shoal_chaos.simulation.managers.rows import ROWS
from shoal_chaos.simulation.world.events import SECOND

if TYPE_CHECKING:
    from shoal_chaos.simulation.managers.cluster import ControlledCluster
    from shoal_chaos.simulation.managers.process import ManagerProcess

NODES_LEFT = 4
"""So many nodes must stay for one to be lost: a shard of three can then be healed."""


class ControlFaults(Faults):
    """Injects faults into nodes, links, managers and their rows."""

    intervals_ms = (300, 1000, 3000)

    def __init__(self, cluster: ControlledCluster, random: Random) -> None:
        self._controlled = cluster
        super().__init__(cluster, random)
        if self.late_requests in self.kinds:
            cluster.replays = random.choice([0.05, 0.3])

    def only(self, names: tuple[str, ...]) -> None:
        """Inject no others than these."""
        self.kinds = [kind for kind in self._all_kinds() if kind.__name__.strip("_") in names]
        self._active = bool(self.kinds)

    @property
    def loses_nodes(self) -> bool:
        return self._lose_node in self.kinds

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
            self._lose_node,
            self._crash_manager,
            self._pause_manager,
            self._elect,
            self._bad_rows,
            self.late_requests,
        ]

    def _mend_manager(self) -> None:
        cluster = self._controlled
        cluster.rows.loss = 0.0
        for manager in cluster.managers.values():
            manager.loop.paused_until = 0
            self._start_manager(manager)

    # -- names

    def _names(self) -> list[str]:
        return [*self._controlled.nodes, *self._controlled.managers, ROWS]

    def _partition(self) -> None:
        names = self._names()
        side = {name for name in names if self._random.random() < 0.5}
        self._cut({(a, b) for a in names for b in names if (a in side) != (b in side)})

    def _one_way_cut(self) -> None:
        names = self._names()
        self._cut({(a, b) for a in names for b in names if a != b and self._random.random() < 0.3})

    # -- kinds

    def _lose_node(self) -> None:
        """A machine is gone for ever, if every shard has its other replicas."""
        cluster = self._controlled
        alive = [node for node in cluster.controlled() if not node.ended]
        active = [node for node in alive if not node.joining or node.name in cluster.checks.nodes]
        lost = {node.name for node in cluster.controlled() if node.ended}
        nodes = cluster.checks.nodes
        if any(name in nodes and nodes[name].state not in (NodeState.GONE, NodeState.REMOVED) for name in lost):
            return  # nobody knows yet, and may count on it
        counted_on = {name for membership in cluster.checks.memberships.values() for name in membership.voters}
        counted_on |= {name for shard in cluster.checks.map.shards for name in shard.replicas}
        if len(active) <= NODES_LEFT or lost & counted_on:
            return
        self._random.choice(active).end()

    def _crash_manager(self) -> None:
        manager = self._some_manager()
        if manager.running:
            manager.crash()
            self._cluster.events.after(self._random.randrange(3 * SECOND), lambda: self._start_manager(manager))

    @staticmethod
    def _start_manager(manager: ManagerProcess) -> None:
        if not manager.running:
            manager.start()

    def _pause_manager(self) -> None:
        manager = self._some_manager()
        manager.loop.paused_until = self._cluster.events.now + self._random.randrange(8 * SECOND)

    def _elect(self) -> None:
        self._controlled.elect(self._some_manager().name)

    def _bad_rows(self) -> None:
        self._controlled.rows.loss = self._random.choice([0.0, 0.05, 0.5])

    def late_requests(self) -> None:
        """It is the requests themselves that come late; see `ControlledNode.from_client`."""

    def _some_manager(self) -> ManagerProcess:
        return self._random.choice(list(self._controlled.managers.values()))
