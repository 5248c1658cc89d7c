"""Replicas that splits make on this node: opened when what made them is on disk for good.

Applying a split takes microshards from a replica and writes where the new one begins, unlogged like all applied state.
Were the new replica to vote or accept entries at once, a crash could take its beginning away and leave what it promised.
So it is opened after the flush that follows; on every node by itself, without the shard manager, by a map that is
derived from the split, until the manager's of the same version comes.
"""

from __future__ import annotations

import structlog
from shoal.bounds import MAX_VERSION
from shoal.map_changes import with_split

from shoal_server.node.replica import Replica
from shoal_server.node.replica_set import ReplicaSet
from shoal_server.raft.messages import VoteRequest
from shoal_server.storage.engine import Damaged, Engine
from shoal_server.storage.layout import (
    SplitOff,
    load_split_off,
)

log = structlog.get_logger("shoal.node")

EARLY_REQUESTS = 256


class Splits:
    """What splits have left to do on a node."""

    __slots__ = ("_durable", "_early", "_replicas")

    def __init__(self, replicas: ReplicaSet, engine: Engine) -> None:
        """Take up what the last process left."""
        self._replicas = replicas
        node, opened = replicas.identity.node, replicas.by_shard
        self._early: dict[tuple[int, str], VoteRequest] = {}
        routes = replicas.routes
        self._durable: list[SplitOff] = []
        children = {child for replica in opened.values() for child in replica.machine.state.children}
        for shard in sorted({*routes.shards, *children} - opened.keys()):
            known = routes.shards.get(shard)
            if known is not None and node not in known.replicas:
                continue
            try:
                split_off = load_split_off(engine, shard)
            except Damaged as error:
                # See `is_split_off`.
                log.error("split_off_damaged", node=node, shard=shard, reason=str(error))
                continue
            if split_off is not None:
                self._durable.append(split_off)

    @property
    def waiting(self) -> bool:
        """Whether there are replicas to be opened."""
        return bool(self._durable)

    def keep(self, sender: str, request: VoteRequest) -> None:
        """Keep what another node asks of a replica that is not here, or not yet.

        Each node opens its replica after a flush of its own. Whoever is first campaigns, and would wait for its next attempt
        if the others forgot that they were asked. An answer that comes late, or never, is as good as any to Raft.
        """
        self._early.pop((request.group, sender), None)
        self._early[request.group, sender] = request
        if len(self._early) > EARLY_REQUESTS:
            del self._early[next(iter(self._early))]

    def _answer_early(self, shard: int, now: int) -> None:
        group = self._replicas.by_shard[shard].group
        for voter in group.members:
            request = self._early.pop((shard, voter), None)
            if request is not None:
                group.step(voter, request, now)

    def flushed(self, replica: Replica, index: int) -> None:
        """What `replica` had applied up to `index` is on disk."""
        split_offs = replica.machine.microshards.split_offs
        while split_offs and split_offs[0][0] <= index:
            self._durable.append(split_offs.pop(0)[1])

    def open_children(self, now: int) -> None:
        """Open the replicas that are on disk for good."""
        replicas = self._replicas
        durable, self._durable = self._durable, []
        for split_off in durable:
            child = split_off.child
            if child.id in replicas.by_shard:
                continue
            if child.id not in replicas.routes.shards:
                self._derive_map(split_off, now)
            replicas.adopt_map(replicas.routes, (child.id,), now)
            self._answer_early(child.id, now)
            log.info(
                "shard_split", node=replicas.identity.node, child=child.id, map_version=replicas.routes.map.version
            )
            if child.voters and child.voters[0] == replicas.identity.node:
                replicas.by_shard[child.id].group.campaign(now)

    def _derive_map(self, split_off: SplitOff, now: int) -> None:
        """Route by the map that the split makes of the present one."""
        replicas = self._replicas
        known, child = replicas.routes.map, split_off.child
        version = min(max(split_off.map_version, known.version + 1), MAX_VERSION)
        replicas.adopt_derived_map(with_split(known, child, version), now)
