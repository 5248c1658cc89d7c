"""Who is to suffer: the leader of some shard, a majority, all, and so on."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from random import Random

from shoal_chaos.clusters.faulty_cluster import FaultyCluster


class Who(StrEnum):
    """Nodes, or managers, by what they are at the moment."""

    LEADER = "leader"
    FOLLOWER = "follower"
    MANAGER = "manager"
    ANY = "any"
    MAJORITY = "majority"
    ALL = "all"


async def choose(cluster: FaultyCluster, who: Who, random: Random) -> list[str]:
    """Return the names; LEADER is the node that leads most shards, FOLLOWER one that leads fewest."""
    nodes = [name for name in cluster.nodes if name not in cluster.lost]
    match who:
        case Who.MANAGER:
            return [random.choice(cluster.managers)]
        case Who.ANY:
            return [random.choice(nodes)]
        case Who.MAJORITY:
            return sorted(random.sample(nodes, len(cluster.nodes) // 2 + 1))
        case Who.ALL:
            return nodes
    led = Counter((await cluster.leaders()).values())
    random.shuffle(nodes)
    best = max if who is Who.LEADER else min
    return [best(nodes, key=lambda node: led[node])]
