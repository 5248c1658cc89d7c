"""What a simulation of an application consists of: a cluster with managers, and the application's processes."""

from __future__ import annotations

from random import Random

from shoal.protocol.messages import ONE_PARTITION_FEATURE
from shoal_server.node.settings import NodeSettings
from shoal_shardmanager.control.rows import SettingsRow

from shoal_chaos.application_simulation.processes import Process
from shoal_chaos.application_simulation.quiescence import Quiescence
from shoal_chaos.application_simulation.shape import Shape
from shoal_chaos.simulation.managers.scene import managed_scene
from shoal_chaos.simulation.world.standstill import WorldEvents
from shoal_chaos.simulation.world.world import World


class ApplicationScene:
    """Everything of one run. Time stands still for the cluster while it is quiet.

    `managed`: the cluster, its nodes and managers. `under_fault`: whether one lasts.
    """

    def __init__(self, seed: int, shape: Shape) -> None:
        self.shape = shape
        self.under_fault = False
        self.processes: dict[str, Process] = {}
        self.time = WorldEvents(lambda until: self._quiescence.quiet_until(until), self._stand_still)
        self.world = World(seed, self.time, self.time.of_cluster)
        self.managed = managed_scene(
            self.world,
            shape.first_map(),
            NodeSettings(),
            managers=shape.managers,
            managers_settings=SettingsRow(),
            features=(ONE_PARTITION_FEATURE,),
        )
        self.nodes = self.managed.cluster.nodes
        self.managers = self.managed.managers.processes
        self._quiescence = Quiescence(self.managed, lambda: self.under_fault)
        self.managed.start()

    def _stand_still(self, duration: int) -> None:
        for node in self.nodes.values():
            if node.node is not None:
                node.node.clock.stood_still(duration)

    # -- processes

    def names(self) -> list[str]:
        """Return everybody who can be cut off."""
        return [*self.nodes, *self.managers, *self.processes]

    def pause(self, name: str, until: int) -> None:
        """Hold a process up until a moment in true time, ns; 0: not, or no longer."""
        clusters_until = until - self.time.stood_still
        if name in self.nodes:
            self.nodes[name].paused_until = clusters_until
            self.nodes[name].turn_soon()
        elif name in self.managers:
            self.managers[name].loop.paused_until = clusters_until
        else:
            self.processes[name].loop.paused_until = until

    def start_again(self, name: str) -> None:
        """Begin a new process of a node or manager, unless one runs."""
        if name not in self.managers:
            self.nodes[name].start_again()
        elif not self.managers[name].running:
            self.managers[name].start()

    def leader_of(self, keyspace: str, key: bytes) -> str | None:
        """Return who leads the shard of a key, as far as anybody outside can know: the node with the newest term."""
        found: list[tuple[int, str]] = []
        for node in self.nodes.values():
            for replica in node.replicas.values():
                microshard = replica.keyspace.microshard_of(key)
                holds = any(span.first <= microshard < span.end for span in replica.machine.state.ranges)
                if replica.keyspace.name == keyspace and holds and replica.group.is_leader:
                    found.append((replica.group.term, node.name))
        return max(found)[1] if found else None

    def random(self, name: str) -> Random:
        """Return a source of chance for something that only a simulation of an application has."""
        return self.world.random(f"application/{name}")

    def finish(self) -> None:
        """After the simulation, however it ended."""
        for process in self.processes.values():
            process.finish()
        self.managed.finish()
