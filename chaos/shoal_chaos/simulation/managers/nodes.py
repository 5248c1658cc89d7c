"""Nodes that managers control: they listen for connections, join, are emptied, and delete what they are told to."""

from __future__ import annotations

import msgspec
from shoal.protocol.messages import Answer
from shoal.shardmap import ShardMap
from shoal_server.node.core import Node
from shoal_server.process.joining import JOINS, JoinRequest

from shoal_chaos.simulation.checks.control_plane import ControlChecks
from shoal_chaos.simulation.cluster.cluster import Cluster, node_addresses
from shoal_chaos.simulation.cluster.node import SimulatedNode
from shoal_chaos.simulation.managers.listener import Listeners
from shoal_chaos.simulation.managers.rows import ManagerRows
from shoal_chaos.simulation.world.events import SECOND, Clock

JOIN_INTERVAL = 3 * SECOND
NOTICED = 0.7
"""How often whoever has a connection with a process is told that this has ended."""


class ManagedNodes:
    """The `Keeper` of such nodes. `joining`: those that began with no map, to ask whether they may join."""

    def __init__(self, cluster: Cluster, listeners: Listeners, rows: ManagerRows, checks: ControlChecks) -> None:
        self.joining: set[str] = set()
        self._cluster = cluster
        self._listeners = listeners
        self._rows = rows
        self._checks = checks
        self._linked: dict[str, set[str]] = {}
        for node in cluster.nodes.values():
            listeners.listen(node)

    def add_node(self) -> SimulatedNode:
        """Start a node that no map knows, and that asks to join."""
        cluster = self._cluster
        name, number = f"n{len(cluster.nodes) + 1}", len(cluster.nodes)
        node = cluster.add_node(name, Clock(cluster.world.events, 1 + number * SECOND, 1000))
        self.joining.add(name)
        self._listeners.listen(node)
        node.start()
        self._ask_to_join(node)
        return node

    def _ask_to_join(self, node: SimulatedNode) -> None:
        if node.ended or (node.node is not None and node.node.routes.map.version > 0):
            return
        if node.node is not None:
            name = node.name
            request = JoinRequest(self._cluster.shard_map.cluster, name, f"{name}:1", "", "", f"{name}-1")
            self._rows.data[JOINS + name] = msgspec.msgpack.encode(request)
        self._cluster.world.events.after(JOIN_INTERVAL, lambda: self._ask_to_join(node))

    # -- what is asked of a keeper

    def first_map(self, node: SimulatedNode) -> ShardMap:
        known = self._cluster.shard_map
        if node.name in self.joining:
            return ShardMap(0, known.cluster, node_addresses([node.name]), (), ())
        return known

    def open_replicas(self, node: SimulatedNode, core: Node, shard_map: ShardMap) -> None:  # noqa: ARG002
        """Replicas come by the managers' maps alone."""
        core.replica_set.forgotten.append(lambda replica: self._dropped(node, replica.shard.id))

    def _dropped(self, node: SimulatedNode, shard: int) -> None:
        self._cluster.invariants.forget_replica(node.name, shard)
        self._checks.replica_dropped(node, shard)

    def connect(self, node: SimulatedNode, core: Node) -> None:
        self._link(node, core)
        for other in self._cluster.nodes.values():
            if other is not node and other.node is not None and node.name in other.node.peers:
                other.node.peer_connected(node.name)
                other.turn_soon()

    def _link(self, node: SimulatedNode, core: Node) -> None:
        """Connect with the peers that the map names and that run."""
        linked = self._linked.setdefault(node.name, set())
        for peer in core.peers:
            other = self._cluster.nodes.get(peer)
            if peer not in linked and other is not None and other.node is not None:
                linked.add(peer)
                core.peer_connected(peer)

    def process_ends(self, node: SimulatedNode) -> None:
        self._linked.pop(node.name, None)
        self._listeners.process_ends(node.name, noticed=node.random.random() < NOTICED)

    def turn_taken(self, node: SimulatedNode, core: Node) -> None:
        self._checks.check_node(node)
        if not self._linked.setdefault(node.name, set()).issuperset(core.peers):
            self._link(node, core)

    def answered(self, node: SimulatedNode, client: int, answers: list[Answer]) -> None:
        self._listeners.answered(node.name, client, answers)
