"""Nodes that no manager controls: all are connected, and replicas are opened wherever a shard is to have one."""

from __future__ import annotations

import msgspec
from shoal.protocol.messages import Answer
from shoal.shardmap import ShardMap
from shoal_server.node.core import Node
from shoal_server.storage.engine import Damaged
from shoal_server.storage.promises import load_hard_state

from shoal_chaos.simulation.cluster.cluster import Cluster
from shoal_chaos.simulation.cluster.node import SimulatedNode


class UnmanagedNodes:
    """The `Keeper` of such nodes."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def first_map(self, node: SimulatedNode) -> ShardMap:  # noqa: ARG002 - it is the same for all
        return self._cluster.shard_map

    def open_replicas(self, node: SimulatedNode, core: Node, shard_map: ShardMap) -> None:  # noqa: ARG002
        """Open those which changes of membership have brought or may bring."""
        first = {shard.id for shard in self._cluster.shard_map.shards}
        for shard in shard_map.shards:
            if shard.id in first or _has_voted(node, shard.id):
                make_room(node, shard.id)

    def connect(self, node: SimulatedNode, core: Node) -> None:
        for other in self._cluster.nodes.values():
            if other is not node and other.node is not None:
                core.peer_connected(other.name)
                other.node.peer_connected(node.name)
                other.turn_soon()

    def process_ends(self, node: SimulatedNode) -> None:
        """Nobody minds."""

    def turn_taken(self, node: SimulatedNode, core: Node) -> None:
        """What must hold of it, the cluster looks at itself."""

    def answered(self, node: SimulatedNode, client: int, answers: list[Answer]) -> None:  # noqa: ARG002
        raise AssertionError(f"all clients are on the network here, not {client}")


def make_room(node: SimulatedNode, shard_id: int) -> bool:
    """Open a replica that the map does not put there, so that the shard may add the node; return whether it is open."""
    core = node.node
    if core is None or shard_id not in core.routes.shards:
        return False
    shard = core.routes.shards[shard_id]
    elsewhere = msgspec.structs.replace(shard, followers=(*shard.followers, node.name))
    if core.replica_set.lacks(elsewhere):
        core.replica_set.open(shard_id, node.local_now())
    return shard_id in core.replicas


def _has_voted(node: SimulatedNode, shard: int) -> bool:
    try:
        return load_hard_state(node.engine, shard).term > 0
    except Damaged:
        return True
