"""What a shard manager does for a simulated cluster: it splits shards and moves microshards between them now and then,
and pushes the map that comes of it.

It looks at nodes directly, where a real one asks them; its pushes arrive at once, but only at nodes that run. What drives
a migration is a client like others, and may die.
"""

from __future__ import annotations

from random import Random

import msgspec
from shoal.map_changes import with_migrated, with_split
from shoal.protocol.messages import InstallShardMap, SplitShard
from shoal.protocol.migration import MigrationEnd
from shoal.shardmap import MicroshardRange, Shard, microshards_in, ranges_of, without_ranges
from shoal_server.node.core import Node
from shoal_server.node.replica import Replica

from shoal_chaos.simulation.clients.answers import decoding
from shoal_chaos.simulation.cluster.cluster import Cluster
from shoal_chaos.simulation.cluster.node import client_name
from shoal_chaos.simulation.resharding.migrating import PlannedMigration, SimulatedMigrator
from shoal_chaos.simulation.world.events import MILLISECOND

CLIENT = 0
FIRST_MIGRATOR = 1000
"""The number, as a client, of the first migrator of a migration."""
REQUEST = 1 << 41
MAX_SHARDS = 6
PUSH_INTERVAL = 150 * MILLISECOND


class SimulatedManager:
    """Holds the map as it should be. `splits` are those proposed, of which nobody knows yet whether they happen.

    `migrators` are all that there ever were, by the number of the client that each of them is.
    """

    def __init__(self, cluster: Cluster, random: Random) -> None:
        shard_map = cluster.shard_map
        self.map = shard_map
        self.migrators: list[SimulatedMigrator] = []
        self.migrations = 0
        self._planned: PlannedMigration | None = None
        self._version = shard_map.version
        self._cluster = cluster
        self._events = cluster.world.events
        self._random = random
        self._splits: dict[int, Shard] = {}
        self._next_shard = max(shard.id for shard in shard_map.shards)
        self._events.after(PUSH_INTERVAL, self._push)

    def _running(self) -> list[Node]:
        return [node.node for node in self._cluster.nodes.values() if node.node is not None]

    def _push(self) -> None:
        """Learn of splits that have happened, and give every node the newest map."""
        nodes = self._running()
        for child in list(self._splits.values()):
            if any(child.id in node.replicas for node in nodes):
                del self._splits[child.id]
                self._adopt(child)
        self._follow_migration()
        newest = max((node.routes.map.version for node in nodes), default=0)
        if newest > self.map.version or any(node.map_is_derived for node in nodes):
            self.map = msgspec.structs.replace(self.map, version=max(newest, self.map.version) + 1)
        for name, node in self._cluster.nodes.items():
            if node.node is not None and node.node.routes.map.version < self.map.version:
                node.node.receive_client(CLIENT, [InstallShardMap(REQUEST, self.map)])
                self._cluster.nodes[name].turn_soon()
        self._events.after(PUSH_INTERVAL, self._push)

    def _adopt(self, child: Shard) -> None:
        self.map = with_split(self.map, child, self.map.version + 1)

    # -- migrations

    @property
    def migrating(self) -> bool:
        """Whether a migration is under way, or the map does not know of its end yet."""
        planned = self._planned
        return planned is not None and not (planned.over and (planned.mapped or not planned.moved))

    def moves(self, shard: int) -> bool:
        """Say whether the migration under way is of a shard."""
        planned = self._planned
        return planned is not None and self.migrating and shard in (planned.source, planned.target)

    def migrate(self) -> None:
        """Have some of a shard's microshards moved to another, or give up the migration under way, or drive it anew."""
        random = self._random
        planned = self._planned
        if self.migrating:
            assert planned is not None, "one is under way"
            if random.random() < 0.2:
                planned.cancelled = True
            self._drive(planned, alone=random.random() < 0.5)
            return
        sources = [shard for shard in self.map.shards if shard.ranges]
        if len(self.map.shards) < 2 or not sources:
            return
        source = random.choice(sources)
        target = random.choice([shard for shard in self.map.shards if shard is not source])
        microshards = list(microshards_in(source.ranges))
        moving = random.sample(microshards, random.choice([1, len(microshards), random.randint(1, len(microshards))]))
        self.migrations += 1
        self._planned = PlannedMigration(self.migrations, source.id, target.id, ranges_of(moving))
        self._drive(self._planned, alone=True)

    def resume(self) -> None:
        """Have a migrator at work on what is under way, whatever became of those before it, which is to come to its end."""
        if self._planned is not None and not self._planned.over:
            self._drive(self._planned, alone=True, in_haste=True)

    def _drive(self, planned: PlannedMigration, *, alone: bool, in_haste: bool = False) -> None:
        """Put a migrator to work; those before it have died, if it is `alone`."""
        if alone:
            for migrator in self.migrators:
                migrator.stop()
        world, name = self._cluster.world, client_name(FIRST_MIGRATOR + len(self.migrators))
        migrator = SimulatedMigrator(
            planned,
            list(self._cluster.nodes),
            world.events,
            Random(self._random.getrandbits(64)),
            world.sender(name),
            self._next_version,
            in_haste=in_haste,
        )
        world.listen(name, decoding(migrator.receive))
        self.migrators.append(migrator)

    def _next_version(self) -> int:
        """Return a version that no map had yet, for a change that is about to happen."""
        versions = [node.routes.map.version for node in self._running()]
        self._version = max([self.map.version, self._version, *versions]) + 1
        return self._version

    def _follow_migration(self) -> None:
        """Take into the map what the shards have agreed on."""
        planned = self._planned
        replicas = [replica for node in self._running() for replica in node.replicas.values()]
        if planned is None or planned.mapped or not any(_has_handed_over(replica, planned) for replica in replicas):
            return
        planned.mapped = True
        self.map = with_migrated(self.map, planned.source, planned.target, planned.ranges, self._next_version())

    # -- splits

    def split(self, shard_id: int = 0) -> None:
        """Ask the leader of a shard, 0: of some one, to split it, at microshards chosen at random."""
        random = self._random
        if len(self.map.shards) + len(self._splits) >= MAX_SHARDS or self._splits:
            return
        shard = random.choice([each for each in self.map.shards if shard_id in (0, each.id)])
        microshards = list(microshards_in(shard.ranges))
        if len(microshards) < 2 or self.migrating:
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
                membership.learners,
                founders=membership.voters,
                founding_followers=membership.learners,
                membership_version=membership.version,
                founding_ranges=ranges,
                parent=shard.id,
            )
            self._splits[child.id] = child
            node.node.receive_client(CLIENT, [SplitShard(REQUEST, shard.id, child, self.map.version + 1)])
            node.turn_soon()


def _has_handed_over(replica: Replica, planned: PlannedMigration) -> bool:
    """Say whether a replica knows for sure that the microshards are the target's."""
    state = replica.machine.state
    if replica.shard.id == planned.source:
        outgoing = state.outgoing
        return outgoing is not None and outgoing.migration == planned.migration and outgoing.sealed
    ends = {each.migration: each.end for each in state.ended}
    return replica.shard.id == planned.target and ends.get(planned.migration) is MigrationEnd.ADOPTED
