"""A simulated cluster: nodes that know each other, in a world, and what must hold of them."""

from __future__ import annotations

from random import Random

from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.node.settings import NodeSettings

from shoal_chaos.simulation.cluster.node import DISK_LOOK_INTERVAL, Keeper, SimulatedNode
from shoal_chaos.simulation.invariants import Invariants
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND, Clock
from shoal_chaos.simulation.world.world import World

CLUSTER = "simulated"
MICROSHARDS = 12
REPLICAS = 3
REDIAL = 100 * MILLISECOND
"""So long after it was ended a connection between nodes is made anew."""


def node_names(count: int) -> list[str]:
    return [f"n{number}" for number in range(1, count + 1)]


def node_addresses(names: list[str]) -> tuple[NodeAddress, ...]:
    return tuple(NodeAddress(name, f"{name}:1") for name in names)


def evenly_split(names: list[str], shards: int, *, keyspace: int = 1, first_shard: int = 1) -> tuple[Shard, ...]:
    """Return the shards of a keyspace, each with as many microshards and its replicas on the nodes that are next."""
    return tuple(
        Shard(
            first_shard + part,
            keyspace,
            (MicroshardRange(MICROSHARDS * part // shards, MICROSHARDS * (part + 1) // shards),),
            tuple(names[(keyspace - 1 + part + place) % len(names)] for place in range(REPLICAS)),
        )
        for part in range(shards)
    )


def one_keyspace(nodes: int, shards: int) -> ShardMap:
    """Return the map of a new cluster with one keyspace."""
    names = node_names(nodes)
    keyspace = Keyspace(1, "default", MICROSHARDS, b"/")
    return ShardMap(1, CLUSTER, node_addresses(names), (keyspace,), evenly_split(names, shards))


class Cluster:
    """Nodes, which begin with `start`. Who keeps them, and who uses them, is beside it: see `scene.py`.

    `shard_map`: the first one. `introduced`: by the number of a client, whom its certificate is of, and where it comes from.
    `settings`: those that processes begin with. `turns_take_time`: as long as what comes of them is worth (see `work.py`);
    else none.
    """

    keeper: Keeper

    def __init__(self, world: World, shard_map: ShardMap, settings: NodeSettings) -> None:
        self.world = world
        self.shard_map = shard_map
        self.settings = settings
        self.invariants = Invariants(settings.sync_stall_ns + DISK_LOOK_INTERVAL + settings.timing.support_ns)
        self.introduced: dict[int, tuple[bytes, str]] = {}
        self.turns_take_time = False
        self.nodes: dict[str, SimulatedNode] = {}
        clocks = world.random("clocks")
        drift = settings.timing.drift_permille // 2
        for node in shard_map.nodes:
            start = clocks.randrange(1, 1000 * SECOND)
            self.add_node(node.id, Clock(world.events, start, 1000 + clocks.randint(-drift, drift)))

    def start(self, keeper: Keeper) -> None:
        """Let all nodes begin."""
        self.keeper = keeper
        for node in self.nodes.values():
            node.start()

    def add_node(self, name: str, clock: Clock) -> SimulatedNode:
        """Put one more node there, which is still to be started."""
        node = SimulatedNode(self, name, clock, self.world.random(f"node {name}"))
        self.nodes[name] = node
        self.world.listen(name, node.receive)
        return node

    def introduce(self, client: int, identity: bytes = b"", address: str = "") -> None:
        """Have all nodes know whom a client's certificate is of, and where it comes from, in all their lives."""
        self.introduced[client] = identity, address
        for node in self.nodes.values():
            if node.node is not None:
                node.node.client_connected(client, identity, address=address)

    # -- links between nodes

    def break_link(self, sender: str, receiver: str) -> None:
        """End the connection by which `sender` speaks to `receiver`, and what is in it; it is dialled again soon."""
        self.world.network.break_off(sender, receiver)
        node = self.nodes[sender]
        if node.node is not None:
            node.node.peer_lost(receiver)
            node.turn_soon()
        self.world.events.after(REDIAL, lambda: self._redial(sender, receiver))

    def _redial(self, sender: str, receiver: str) -> None:
        self.world.network.mend(sender, receiver)
        node = self.nodes[sender]
        if node.node is not None and self.nodes[receiver].node is not None:
            node.node.peer_connected(receiver)
            node.turn_soon()

    def tell_of_links(self, random: Random) -> None:
        """Tell nodes which of their links carry something now; sometimes nobody notices that one is cut."""
        for node in self.nodes.values():
            if node.node is None:
                continue
            for peer in node.node.peers:
                other = self.nodes.get(peer)
                if other is not None and other.node is not None and self.world.network.connected(node.name, peer):
                    node.node.peer_connected(peer)
                elif random.random() < 0.5:
                    node.node.peer_lost(peer)
            node.turn_soon()
