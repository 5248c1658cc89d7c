"""What a simulation with managers consists of: a cluster whose nodes they control, the managers, and their rows."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.shardmap import ShardMap
from shoal_server.node.settings import NodeSettings
from shoal_shardmanager.control.rows import SettingsRow

from shoal_chaos.simulation.checks.control_plane import ControlChecks
from shoal_chaos.simulation.cluster.cluster import Cluster
from shoal_chaos.simulation.managers.listener import Listeners
from shoal_chaos.simulation.managers.managers import Managers, first_rows
from shoal_chaos.simulation.managers.nodes import ManagedNodes
from shoal_chaos.simulation.managers.rows import ManagerRows
from shoal_chaos.simulation.world.garbage import Collector
from shoal_chaos.simulation.world.streams import Streams
from shoal_chaos.simulation.world.world import World


@dataclass(frozen=True, slots=True)
class ManagedScene:
    """Everything of one run but those who use the cluster. Its nodes begin with `start`."""

    cluster: Cluster
    nodes: ManagedNodes
    managers: Managers
    rows: ManagerRows
    checks: ControlChecks
    streams: Streams
    listeners: Listeners

    @property
    def world(self) -> World:
        return self.cluster.world

    def start(self) -> None:
        self.cluster.start(self.nodes)

    def failures(self) -> list[str]:
        """Return what went wrong in managers, and in whoever had connections, that nobody was told of."""
        return [*(failure for loop in self.managers.loops for failure in loop.failures), *self.streams.left_open]

    def finish(self) -> None:
        """After the simulation, however it ended."""
        self.managers.finish()
        self.listeners.loop.close()


def managed_scene(
    world: World,
    shard_map: ShardMap,
    settings: NodeSettings,
    *,
    managers: int,
    managers_settings: SettingsRow,
    features: tuple[str, ...] = (),
) -> ManagedScene:
    """Return a cluster that is about to begin, and its managers, which have begun.

    Args:
        features: what nodes say in their welcomes that they have.
    """
    cluster = Cluster(world, shard_map, settings)
    checks = ControlChecks(cluster.nodes)
    rows = ManagerRows(checks.rows_written)
    first = first_rows(shard_map, managers_settings)
    rows.data.update(first)
    checks.rows_written(dict(first))
    streams = Streams(world.random("streams"), world.network, Collector(world.time))
    listeners = Listeners(world, streams, features)
    processes = Managers(cluster, streams, rows, managers)
    nodes = ManagedNodes(cluster, listeners, rows, checks)
    return ManagedScene(cluster, nodes, processes, rows, checks, streams, listeners)
