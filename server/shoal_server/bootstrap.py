"""The first shard map of a cluster, computed from its configuration: pure, and the same on every node."""

from __future__ import annotations

from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap

from shoal_server.config.schema import ClusterConfig, KeyspaceConfig, NodeConfig

FIRST_VERSION = 1


def initial_shard_map(config: ClusterConfig) -> ShardMap:
    """Return the map: contiguous ranges of microshards, replicas spread over regions and zones, leaders spread evenly.

    Nodes that should lead take turns from shard to shard, across keyspaces; the other replicas of a shard go to the
    nodes that share the fewest failure domains with those it already has, then to the ones with the fewest replicas.
    """
    replicas_on = dict.fromkeys((node.id for node in config.nodes), 0)
    keyspaces: list[Keyspace] = []
    shards: list[Shard] = []
    for number, (name, settings) in enumerate(config.keyspaces.items(), start=1):
        keyspaces.append(
            Keyspace(
                id=number,
                name=name,
                microshards=settings.microshards,
                delimiter=settings.delimiter.encode(),
                max_staleness_ms=settings.max_staleness_ns // 1_000_000,
                default_ttl_ms=(settings.default_ttl_ns or 0) // 1_000_000,
                reads_per_second=settings.reads_per_second or 0,
                writes_per_second=settings.writes_per_second or 0,
                max_bytes=settings.max_bytes or 0,
            )
        )
        for part in range(settings.shards):
            first = config.nodes[len(shards) % len(config.nodes)]
            chosen = _choose(config.nodes, first, settings.voters + settings.followers, replicas_on)
            shards.append(
                Shard(
                    id=len(shards) + 1,
                    keyspace=number,
                    ranges=(_part(settings, part),),
                    voters=tuple(chosen[: settings.voters]),
                    followers=tuple(chosen[settings.voters :]),
                    founders=tuple(chosen[: settings.voters]),
                    founding_followers=tuple(chosen[settings.voters :]),
                )
            )
    nodes = tuple(NodeAddress(node.id, node.address, node.region, node.zone) for node in config.nodes)
    return ShardMap(FIRST_VERSION, config.cluster, nodes, tuple(keyspaces), tuple(shards))


def empty_shard_map(config: ClusterConfig, node_id: str) -> ShardMap:
    """Return the map of a node that joins a cluster: itself, and nothing yet; any real map is newer."""
    node = next(node for node in config.nodes if node.id == node_id)
    return ShardMap(0, config.cluster, (NodeAddress(node.id, node.address, node.region, node.zone),), (), ())


def _part(settings: KeyspaceConfig, part: int) -> MicroshardRange:
    """Return the microshards of the shard number `part` of a keyspace; sizes differ by one at the most."""
    return MicroshardRange(
        settings.microshards * part // settings.shards, settings.microshards * (part + 1) // settings.shards
    )


def _choose(nodes: tuple[NodeConfig, ...], first: NodeConfig, count: int, replicas_on: dict[str, int]) -> list[str]:
    """Choose `count` nodes for a shard, beginning with `first`, and count them in `replicas_on`."""
    chosen = [first]
    replicas_on[first.id] += 1
    order = {node.id: place for place, node in enumerate(nodes)}
    start = order[first.id]
    while len(chosen) < count:

        def cost(node: NodeConfig) -> tuple[int, int, int, int]:
            same_region = sum(node.region == other.region for other in chosen)
            same_zone = sum((node.region, node.zone) == (other.region, other.zone) for other in chosen)
            return same_zone, same_region, replicas_on[node.id], (order[node.id] - start) % len(nodes)

        best = min((node for node in nodes if node not in chosen), key=cost)
        chosen.append(best)
        replicas_on[best.id] += 1
    return [node.id for node in chosen]
