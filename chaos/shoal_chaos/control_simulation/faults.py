"""What goes wrong around a manager and its operations, besides what goes wrong in any cluster."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from shoal_shardmanager.control.rows import NodeState

from shoal_chaos.simulation.faults.base import Faults
from shoal_chaos.simulation.managers.process import ManagerProcess
from shoal_chaos.simulation.managers.rows import ROWS
from shoal_chaos.simulation.managers.scene import ManagedScene
from shoal_chaos.simulation.world.events import SECOND

NODES_LEFT = 4
"""So many nodes must stay for one to be lost: a shard of three can then be healed."""


class ControlFaults(Faults):
    """Injects faults into nodes, links, managers and their rows."""

    intervals_ms = (300, 1000, 3000)

    def __init__(self, scene: ManagedScene, random: Random) -> None:
        self._scene = scene
        super().__init__(scene.cluster, random)
        if self.late_requests in self.kinds:
            scene.listeners.replays = random.choice([0.05, 0.3])

    def only(self, names: tuple[str, ...]) -> None:
        """Inject no others than these."""
        self.kinds = [kind for kind in self._all_kinds() if kind.__name__.strip("_") in names]
        self._active = bool(self.kinds)

    @property
    def loses_nodes(self) -> bool:
        return self._lose_node in self.kinds

    def _all_kinds(self) -> list[Callable[[], None]]:
        return [
            *super()._all_kinds(),
            self._lose_node,
            self._crash_manager,
            self._pause_manager,
            self._elect,
            self._bad_rows,
            self.late_requests,
        ]

    def _mend_others(self) -> None:
        self._scene.rows.loss = 0.0
        for manager in self._scene.managers.processes.values():
            manager.loop.paused_until = 0
            self._start_manager(manager)

    def _names(self) -> list[str]:
        return [*super()._names(), *self._scene.managers.processes, ROWS]

    # -- kinds

    def _lose_node(self) -> None:
        """A machine is gone for ever, if every shard has its other replicas."""
        checks, joining = self._scene.checks, self._scene.nodes.joining
        everybody = self._cluster.nodes.values()
        nodes = checks.nodes
        active = [node for node in everybody if not node.ended and (node.name not in joining or node.name in nodes)]
        lost = {node.name for node in everybody if node.ended}
        if any(name in nodes and nodes[name].state not in (NodeState.GONE, NodeState.REMOVED) for name in lost):
            return  # nobody knows yet, and may count on it
        counted_on = {name for membership in checks.memberships.values() for name in membership.voters}
        counted_on |= {name for shard in checks.map.shards for name in shard.replicas}
        if len(active) <= NODES_LEFT or lost & counted_on:
            return
        self._random.choice(active).end()

    def _crash_manager(self) -> None:
        manager = self._some_manager()
        if manager.running:
            manager.crash()
            self._events.after(self._random.randrange(3 * SECOND), lambda: self._start_manager(manager))

    @staticmethod
    def _start_manager(manager: ManagerProcess) -> None:
        if not manager.running:
            manager.start()

    def _pause_manager(self) -> None:
        manager = self._some_manager()
        manager.loop.paused_until = self._events.now + self._random.randrange(8 * SECOND)

    def _elect(self) -> None:
        self._scene.managers.elect(self._some_manager().name)

    def _bad_rows(self) -> None:
        self._scene.rows.loss = self._random.choice([0.0, 0.05, 0.5])

    def late_requests(self) -> None:
        """It is the requests themselves that come late; see `Listener.from_client`."""

    def _some_manager(self) -> ManagerProcess:
        return self._random.choice(list(self._scene.managers.processes.values()))
