"""What a shard manager does for a simulated cluster: it splits shards now and then, and pushes the map that comes of it.

It looks at nodes directly, where a real one asks them; its pushes arrive at once, but only at nodes that run.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import msgspec
from shoal.protocol.messages import InstallShardMap, SplitShard
from shoal.shardmap import MicroshardRange, Shard, ShardMap, without_ranges
from shoal_server.node.core import Node

from shoal_chaos.simulation.events import MILLISECOND

if TYPE_CHECKING:
    from shoal_chaos.simulation.cluster import Cluster

CLIENT = 0
REQUEST = 1 << 41
MAX_SHARDS = 6
PUSH_INTERVAL = 150 * MILLISECOND


class SimulatedManager:
    """Holds the map as it should be. `splits` are those proposed, of which nobody knows yet whether they happen."""

    def __init__(self, cluster: Cluster, shard_map: ShardMap, random: Random) -> None:
        self.map = shard_map
        self._cluster = cluster
        self._random = random
        self._splits: dict[int, Shard] = {}
        self._next_shard = max(shard.id for shard in shard_map.shards)
        cluster.events.after(PUSH_INTERVAL, self._push)

    def _running(self) -> list[Node]:
        return [node.node for node in self._cluster.nodes.values() if node.node is not None]

    def _push(self) -> None:
        """Learn of splits that have happened, and give every node the newest map."""
        nodes = self._running()
        for child in list(self._splits.values()):
            if any(child.id in node.replicas for node in nodes):
                del self._splits[child.id]
                self._adopt(child)
        newest = max((node.routes.map.version for node in nodes), default=0)
        if newest > self.map.version or any(node.map_is_derived for node in nodes):
            self.map = msgspec.structs.replace(self.map, version=max(newest, self.map.version) + 1)
        for name, node in self._cluster.nodes.items():
            if node.node is not None and node.node.routes.map.version < self.map.version:
                node.node.receive_client(CLIENT, [InstallShardMap(REQUEST, self.map)])
                self._cluster.nodes[name].turn_soon()
        self._cluster.events.after(PUSH_INTERVAL, self._push)

    def _adopt(self, child: Shard) -> None:
        shards = tuple(
            msgspec.structs.replace(
                shard,
                ranges=without_ranges(shard.ranges, child.ranges),
                founding_ranges=shard.founding_ranges or shard.ranges,
            )
            for shard in self.map.shards
        )
        self.map = msgspec.structs.replace(self.map, version=self.map.version + 1, shards=(*shards, child))

    def split(self) -> None:
        """Ask the leader of some shard to split it, at microshards chosen at random."""
        random = self._random
        if len(self.map.shards) + len(self._splits) >= MAX_SHARDS or self._splits:
            return
        shard = random.choice(self.map.shards)
        microshards = [microshard for span in shard.ranges for microshard in range(span.first, span.end)]
        if len(microshards) < 2:
            return
        staying = random.sample(microshards, random.randint(1, len(microshards) - 1))
        ranges = without_ranges(shard.ranges, tuple(MicroshardRange(one, one + 1) for one in staying))
        self._next_shard += 1
        for name, node in self._cluster.nodes.items():
            replica = None if node.node is None else node.node.replicas.get(shard.id)
            if node.node is None or replica is None or not replica.group.is_leader:
                continue
            membership = replica.group.membership
            voters = (name, *(voter for voter in membership.voters if voter != name))
            # As the leader will make it: its founders are who has a replica when it is split.
            child = Shard(
                self._next_shard,
                shard.keyspace,
                ranges,
                voters,
                membership.followers,
                founders=membership.voters,
                founding_followers=membership.followers,
                membership_version=membership.version,
                founding_ranges=ranges,
            )
            self._splits[child.id] = child
            node.node.receive_client(CLIENT, [SplitShard(REQUEST, shard.id, child, self.map.version + 1)])
            node.turn_soon()
