"""What a simulated cluster for an application is like: how many of what, and its first map."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.shardmap import Keyspace, ShardMap

from shoal_chaos.simulation.cluster.cluster import (
    CLUSTER,
    MICROSHARDS,
    REPLICAS,
    evenly_split,
    node_addresses,
    node_names,
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a simulated cluster is like.

    Args:
        shards: of each keyspace.
        keyspaces: their names; the first is that of clients which name none.
        max_staleness: of eventual reads that name none, in seconds.
        default_ttl: of writes that name none, in seconds; 0: they never expire.
    """

    nodes: int = 3
    shards: int = 2
    managers: int = 1
    keyspaces: tuple[str, ...] = ("default",)
    max_staleness: float = 5.0
    default_ttl: float = 0.0

    def __post_init__(self) -> None:
        if self.nodes < REPLICAS or not 1 <= self.shards <= MICROSHARDS or self.managers < 0 or not self.keyspaces:
            raise ValueError(
                f"a simulated cluster has at least {REPLICAS} nodes, 1 to {MICROSHARDS} shards a keyspace, "
                f"and a keyspace, not as in {self}"
            )

    def first_map(self) -> ShardMap:
        """Return the map of the new cluster, whose id is settled."""
        names = node_names(self.nodes)
        keyspaces = tuple(
            Keyspace(number, name, MICROSHARDS, b"/", round(self.max_staleness * 1000), round(self.default_ttl * 1000))
            for number, name in enumerate(self.keyspaces, 1)
        )
        shards = [
            shard
            for keyspace in keyspaces
            for shard in evenly_split(
                names, self.shards, keyspace=keyspace.id, first_shard=1 + (keyspace.id - 1) * self.shards
            )
        ]
        return ShardMap(1, CLUSTER, node_addresses(names), keyspaces, tuple(shards), CLUSTER)
