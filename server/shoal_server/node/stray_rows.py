"""Rows that a replica has left behind whose applied state could not be read: nobody knew any more which were its own.

What is known is which rows all others have. So once every replica of the keyspace on this node knows its rows, those of the
keyspace that are nobody's are removed. That this is to be done is stored when such a replica is opened, and forgotten with
the removal: it outlives the process, as the rows do.
"""

from __future__ import annotations

from collections import defaultdict

import structlog

from shoal_server.node.replica import Replica
from shoal_server.node.replica_set import ReplicaSet
from shoal_server.node.splits import Splits
from shoal_server.storage.engine import Damaged, Engine
from shoal_server.storage.layout import is_split_off, stored_groups
from shoal_server.storage.replica_rows import (
    drop_all_but,
    drop_own_rows_but,
    forget_strays,
    load_staged,
    load_strays,
)

LOOK_NS = 1_000_000_000

log = structlog.get_logger("shoal.node")


class StrayRows:
    """What is left to remove on a node: `_left` has the keyspaces of such shards, by shard."""

    __slots__ = ("_due", "_engine", "_left", "_replicas", "_splits")

    def __init__(self, replicas: ReplicaSet, engine: Engine, splits: Splits, now: int) -> None:
        self._replicas = replicas
        self._engine = engine
        self._splits = splits
        self._left = load_strays(engine, [replica.shard for replica in replicas.by_shard.values()])
        self._due = now

    def opened(self, replica: Replica) -> None:
        """A replica has been opened, be it that it does not know its rows."""
        if replica.rows_unknown:
            self._left[replica.shard.id] = replica.keyspace.id

    def tick(self, now: int) -> int | None:
        """Remove what can be removed, in a batch of its own; return when to look again, None where nothing is left."""
        if self._left and now >= self._due:
            self._due = now + LOOK_NS
            for keyspace in sorted(set(self._left.values())):
                if self._all_known(keyspace):
                    self._remove(keyspace)
        return self._due if self._left else None

    def _all_known(self, keyspace: int) -> bool:
        """Say whether it is known of every row of a keyspace that is somebody's."""
        opened = self._replicas.by_shard
        try:
            unopened = stored_groups(self._engine) - opened.keys()
        except Damaged:
            # It is known when the rows of the node have been written anew, at its next start.
            return False
        if self._splits.waiting or unopened:
            return False
        replicas = [replica for replica in opened.values() if replica.keyspace.id == keyspace]
        if any(replica.rows_unknown or replica.machine.microshards.split_offs for replica in replicas):
            return False
        children = {child for replica in replicas for child in replica.machine.state.children}
        return not any(is_split_off(self._engine, child) for child in children - opened.keys())

    def _remove(self, keyspace: int) -> None:
        replicas, engine = self._replicas, self._engine
        known: defaultdict[int, set[int]] = defaultdict(set)
        own: defaultdict[int, set[int]] = defaultdict(set)
        for shard, replica in replicas.by_shard.items():
            if replica.keyspace.id != keyspace:
                continue
            state = replica.stored_state
            own[shard].add(state.generation)
            for microshard, generation in state.generations(state.stored_ranges).items():
                known[microshard].add(generation)
            # After a crash it may remove them once more, and read them before.
            for cleared in replica.cleared_rows:
                for microshard, generation in cleared.items():
                    known[microshard].add(generation)
            staged = load_staged(engine, shard)
            if staged is not None:
                own[shard].add(staged.generation)
                for microshard in staged.microshards:
                    known[microshard].add(staged.generation)
        shards = [shard for shard, of in self._left.items() if of == keyspace]
        batch = engine.batch()
        drop_all_but(batch, engine, keyspace, replicas.routes.keyspaces[keyspace].microshards, known)
        for shard in shards:
            drop_own_rows_but(batch, engine, shard, own[shard])
            forget_strays(batch, engine, shard)
            del self._left[shard]
        engine.write(batch)
        log.info("stray_rows_removed", node=replicas.identity.node, keyspace=keyspace, shards=shards)
