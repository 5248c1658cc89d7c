"""The quotas of all keyspaces that a node serves: they follow the shard map, and the shares that a manager deals out."""

from __future__ import annotations

from shoal.protocol.quotas import QuotaUse, SetQuotaShares
from shoal.quotas import sharers_of
from shoal.shardmap import Routes

from shoal_server.node.keyspace_quota import KeyspaceQuota
from shoal_server.node.replica import Replica
from shoal_server.node.replica_set import ReplicaSet

LATE_NS = 10_000_000_000
"""What a deposed manager has sent is heard no later than this. One whose leadership has a lower number after that is of
managers that have begun anew."""


class Quotas:
    """The quotas of all keyspaces that have one, and a replica here: each replica has its keyspace's at hand, None for none.

    `now`: of the turn under way (ns). `epoch`: of the newest leadership among managers that has dealt out shares.
    `by_keyspace`: by the keyspace's number.
    """

    __slots__ = ("_heard_at", "_number", "_replica_set", "by_keyspace", "epoch", "now")

    def __init__(self, replica_set: ReplicaSet, now: int) -> None:
        """Follow the shard map and the replicas of `replica_set` from now on."""
        self.epoch = 0
        self.by_keyspace: dict[int, KeyspaceQuota] = {}
        self.now = now
        self._replica_set = replica_set
        self._number = 0
        self._heard_at = now
        replica_set.map_adopted.append(self._adopt)
        replica_set.opened.append(self._give)
        self._adopt(replica_set.routes)

    def _adopt(self, routes: Routes) -> None:
        """Follow a newer shard map."""
        node, sharers = self._replica_set.identity.node, sharers_of(routes.map)
        for gone in self.by_keyspace.keys() - sharers.keys():
            del self.by_keyspace[gone]
        for number, nodes in sharers.items():
            keyspace = routes.keyspaces[number]
            if number not in self.by_keyspace:
                self.by_keyspace[number] = KeyspaceQuota(node, keyspace, self.now)
            self.by_keyspace[number].adopt(keyspace, len(nodes), self.now)
        for replica in self._replica_set.by_shard.values():
            self._give(replica)

    def _give(self, replica: Replica) -> None:
        """Have a replica find its keyspace's quotas."""
        replica.reads.quota = self.by_keyspace.get(replica.keyspace.id)

    def take(self, request: SetQuotaShares) -> str:
        """Take shares that a manager has dealt out; return "" or why not."""
        known, late = (self.epoch, self._number), (request.epoch, request.number)
        if late < known and self.now - self._heard_at < LATE_NS:
            return f"shares of quotas, number {late[1]} of leadership {late[0]}, came after {known[1]} of {known[0]}"
        self.epoch, self._number, self._heard_at = request.epoch, request.number, self.now
        for share in request.shares:
            quota = self.by_keyspace.get(share.keyspace)
            if quota is not None:
                quota.set_shares(share.reads, share.writes, full=share.full, now=self.now)
        return ""

    def uses(self, now: int) -> tuple[QuotaUse, ...]:
        """Return how the keyspaces stand."""
        return tuple(quota.use(now) for _, quota in sorted(self.by_keyspace.items()))
