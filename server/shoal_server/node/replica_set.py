"""The replicas of a node and the shard map that they follow: the one place where replicas come, go, and get a newer map.

The map says where replicas are to be. One is opened with what is stored of its shard; empty, where a map newly puts it
here (administration.py) or a group is about to add this node; or by what a split has made (splits.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from shoal.shardmap import Routes, Shard, ShardMap

from shoal_server.invariants import invariant
from shoal_server.node.agenda import Agenda
from shoal_server.node.counters import NodeCounters
from shoal_server.node.opening import ReplicaOpener, put_origin_of_new
from shoal_server.node.outbox import Outbox
from shoal_server.node.replica import Replica
from shoal_server.node.settings import NodeIdentity
from shoal_server.raft.membership import MembershipChange
from shoal_server.shard.beginnings import Beginnings
from shoal_server.storage.engine import Engine
from shoal_server.storage.layout import is_split_off
from shoal_server.storage.node_rows import load_derived_version, put_shard_map
from shoal_server.storage.replica_rows import is_stored


class ReplicaSet:
    """See the module's first lines.

    Attributes:
        routes: by the newest map that the node knows.
        by_shard: the open replicas.
        peers: the other nodes of the map.
        may_lack: a replica has gone, and one that it might have split off may be opened now.
        map_adopted, opened, forgotten: called with new routes, and with a replica that has come, or has gone.
    """

    __slots__ = (
        "_agenda",
        "_beginnings",
        "_counters",
        "_derived_version",
        "_engine",
        "_opener",
        "_outbox",
        "by_shard",
        "forgotten",
        "identity",
        "map_adopted",
        "may_lack",
        "opened",
        "peers",
        "routes",
    )

    def __init__(
        self,
        identity: NodeIdentity,
        shard_map: ShardMap,
        engine: Engine,
        opener: ReplicaOpener,
        beginnings: Beginnings,
        counters: NodeCounters,
        agenda: Agenda,
        outbox: Outbox,
        now: int,
    ) -> None:
        """Open the replicas that `shard_map` puts on this node, as far as the engine has them; make the others.

        Raises:
            Damaged: a row cannot be read that is the node's own.
        """
        self.identity = identity
        self.routes = Routes(shard_map)
        self.peers = self._peers()
        self.by_shard: dict[int, Replica] = {}
        self.may_lack = False
        self.map_adopted: list[Callable[[Routes], None]] = []
        self.opened: list[Callable[[Replica], None]] = []
        self.forgotten: list[Callable[[Replica], None]] = []
        self._engine = engine
        self._opener = opener
        self._beginnings = beginnings
        self._counters = counters
        self._agenda = agenda
        self._outbox = outbox
        for shard in shard_map.shards:
            # Of what a split makes nothing is stored before this node has applied it. Any other replica that a later map
            # than the first one has brought here has its origin stored.
            if identity.node in shard.replicas and (is_stored(engine, shard.id) or not shard.parent):
                agenda.mark(self._open(shard.id, now))
        self._derived_version = load_derived_version(engine)

    def _peers(self) -> list[str]:
        return [node.id for node in self.routes.map.nodes if node.id != self.identity.node]

    # -- the map

    @property
    def cluster_id(self) -> str:
        """What tells this cluster from every other one, "" before that is known here."""
        return self.routes.map.cluster_id

    @property
    def map_is_derived(self) -> bool:
        """Whether the shard map is one that was derived here, for the time until the shard manager's comes."""
        return self._derived_version == self.routes.map.version

    def adopt_map(self, routes: Routes, shards: Iterable[int], now: int) -> None:
        """Route by a newer shard map, and open the replicas of `shards`, which it puts here and whose origins are stored."""
        invariant(routes.map.version >= self.routes.map.version, "a map is never replaced by an older one")
        if routes is not self.routes:
            self._derived_version = 0
        self._route_by(routes)
        self.peers = self._peers()
        for shard_id, replica in self.by_shard.items():
            shard = routes.shards.get(shard_id)
            if shard is not None:
                replica.adopt_shard(shard, routes.keyspaces[shard.keyspace])
        for shard_id in shards:
            self._add(shard_id, now)
        self._agenda.next_tick = now

    def _route_by(self, routes: Routes) -> None:
        self.routes = routes
        self._outbox.map_version = routes.map.version
        for adopted in self.map_adopted:
            adopted(routes)

    def adopt_derived_map(self, derived: ShardMap, now: int) -> None:
        """Route by a map that follows from what a replica here has applied, until the shard manager's comes."""
        batch = self._engine.batch()
        put_shard_map(batch, self._engine, derived, derived=True)
        self._engine.write(batch)
        self.adopt_map(Routes(derived), (), now)
        self._derived_version = derived.version

    def name_cluster(self, routes: Routes) -> None:
        """Go on with the same map, but for the cluster's id."""
        self._route_by(routes)

    # -- replicas come

    def lacks(self, shard: Shard) -> bool:
        """Say whether the map puts a replica of `shard` here that is to be opened empty.

        One that a replica of its parent here may yet make, by applying the split, is not.
        """
        if self.identity.node not in shard.replicas or shard.id in self.by_shard:
            return False
        return not self._may_be_split_off(shard)

    def _may_be_split_off(self, shard: Shard) -> bool:
        """Say whether a split makes a replica of `shard` here, has made one that is to be opened, or may yet make one."""
        if is_split_off(self._engine, shard.id):
            return True
        if not shard.parent:
            return False
        parent = self.by_shard.get(shard.parent)
        if parent is not None:
            return shard.id not in parent.machine.state.children
        known = self.routes.shards.get(shard.parent)
        return known is not None and self.identity.node in known.replicas and self._may_be_split_off(known)

    def open(self, shard_id: int, now: int) -> None:
        """Make room for a replica that the shard map does not put here: a group may then add this node as a follower."""
        if shard_id in self.by_shard:
            return
        engine = self._engine
        batch = engine.batch()
        put_origin_of_new(batch, engine, self.identity.node, self.routes.shards[shard_id], founds=False)
        if not batch.is_empty():
            engine.write(batch)
        self._add(shard_id, now)

    def open_missing(self, now: int) -> None:
        """Open what the map puts here, as far as no split may yet make it."""
        self.may_lack = False
        for shard in self.routes.map.shards:
            if self.lacks(shard):
                self.open(shard.id, now)

    def _open(self, shard_id: int, now: int) -> Replica:
        """Have the replica of a shard that is open nowhere yet; it may have failed before it was."""
        replica = self.by_shard[shard_id] = self._opener.open(self.routes, shard_id, now)
        if replica.failure is not None:
            self._counters.failed_replica(replica.failure.kind.value)
        return replica

    def _add(self, shard_id: int, now: int) -> None:
        replica = self._open(shard_id, now)
        for opened in self.opened:
            opened(replica)
        self._agenda.mark(replica)

    # -- and go

    def forget(self, shard_id: int) -> None:
        """Go on without a replica, whose rows are being removed."""
        self.may_lack = True
        replica = self.by_shard.pop(shard_id)
        self._beginnings.forget(shard_id)
        self._counters.retire(replica.machine.traffic)
        self._agenda.forget(shard_id)
        for forgotten in self.forgotten:
            forgotten(replica)
        replica.fail_all(self._outbox)

    # -- meanwhile

    def propose_membership(self, shard: int, change: MembershipChange, now: int) -> int:
        """Propose a change of a group's membership on its leader; return the entry's index (see `Group`)."""
        replica = self.by_shard[shard]
        self._agenda.mark(replica)
        return replica.group.propose_membership(change, now)

    def wake_groups_with(self, peer: str, now: int, tick_interval_ns: int) -> None:
        """Support for or by a peer has changed: have its groups looked at."""
        agenda = self._agenda
        for replica in self.by_shard.values():
            if peer in replica.group.members:
                replica.group.wake(now)
                agenda.mark(replica)
        agenda.next_tick = min(agenda.next_tick, now + tick_interval_ns)

    def map_with_leaders(self) -> ShardMap:
        """Return the shard map with the leaders that this node knows of its own replicas."""
        shard_map, replicas = self.routes.map, self.by_shard
        shards = tuple(
            replicas[shard.id].refusals.route if shard.id in replicas else shard for shard in shard_map.shards
        )
        return msgspec.structs.replace(shard_map, shards=shards)
