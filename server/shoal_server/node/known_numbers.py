"""The highest numbers of shards and migrations that a node knows of: managers that remember nothing begin above them.

A number that was given once is remembered where it was used: by the replicas of a shard, by what a node keeps of a replica that
it has dropped, by a parent of its children, and by both shards of a migration. Given again it would be taken for what it was
the first time.
"""

from __future__ import annotations

from shoal_server.node.replica import Replica
from shoal_server.node.replica_set import ReplicaSet
from shoal_server.storage.dropped_replicas import STORED_TWICE
from shoal_server.storage.engine import Engine


class KnownNumbers:
    """See the module's first lines. What was known once stays known for the life of the process."""

    __slots__ = ("_migration", "_replica_set", "_shard")

    def __init__(self, replica_set: ReplicaSet, engine: Engine) -> None:
        """Look for what the node remembers of shards of which it has no replica any more."""
        self._replica_set = replica_set
        self._shard = max((max(rows.stored_groups(engine)[0], default=0) for rows in STORED_TWICE), default=0)
        self._migration = 0

    def take(self) -> tuple[int, int]:
        """Return the highest numbers of a shard and of a migration, as the node knows them by now."""
        self._shard = max([self._shard, *self._replica_set.routes.shards])
        for replica in self._replica_set.by_shard.values():
            self.keep(replica)
        return self._shard, self._migration

    def keep(self, replica: Replica) -> None:
        """Remember what a replica knows, which may be about to go."""
        state = replica.machine.state
        self._shard = max([self._shard, replica.shard.id, *state.children])
        migrations = [ended.migration for ended in state.ended]
        migrations += [moving.migration for moving in (state.outgoing, state.incoming) if moving is not None]
        self._migration = max([self._migration, *migrations])
