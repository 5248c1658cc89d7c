"""What a simulation of nodes alone consists of: a cluster, who splits its shards and moves microshards, and clients."""

from __future__ import annotations

from dataclasses import dataclass

from shoal_server.node.settings import NodeSettings

from shoal_chaos.simulation.clients.clients import Clients
from shoal_chaos.simulation.cluster.cluster import Cluster, one_keyspace
from shoal_chaos.simulation.cluster.unmanaged import UnmanagedNodes
from shoal_chaos.simulation.resharding.manager import SimulatedManager
from shoal_chaos.simulation.world.world import World, plain_world


@dataclass(frozen=True, slots=True)
class NodesScene:
    """Everything of one run."""

    cluster: Cluster
    manager: SimulatedManager
    clients: Clients

    @property
    def world(self) -> World:
        return self.cluster.world


def nodes_scene(
    seed: int, *, nodes: int, shards: int, clients: int, keys: int, range_clients: int, settings: NodeSettings
) -> NodesScene:
    """Return a cluster that has just begun, and everybody beside it."""
    world = plain_world(seed)
    cluster = Cluster(world, one_keyspace(nodes, shards), settings)
    crowd = Clients(world, cluster.shard_map, clients=clients, keys=keys, range_clients=range_clients)
    manager = SimulatedManager(cluster, world.random("manager"))
    cluster.start(UnmanagedNodes(cluster))
    crowd.start()
    return NodesScene(cluster, manager, crowd)
