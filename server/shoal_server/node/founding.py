"""Which cluster this is: an id that is drawn once, settled by the log of its first shard, and then in every shard map.

All nodes of a new cluster begin by themselves, with equal maps, so none of them can say by itself which cluster they are.
The first shard's leader proposes an id; the first one in its log is the cluster's. The replicas of the shard learn it by
applying, other nodes from a peer's greeting, which they ask for again and again until then, and those that join later from
the map that they are given. Once a node knows it, it does not change but by an operator's hand, on a copy of the data (see
docs/operating.md).
"""

from __future__ import annotations

from random import Random

import structlog
from msgspec.structs import replace
from shoal.shardmap import Routes

from shoal_server.node.agenda import Agenda
from shoal_server.node.outbox import NOBODY
from shoal_server.node.replica_set import ReplicaSet
from shoal_server.node.waiting import QueuedCommand
from shoal_server.shard.commands import FoundCommand
from shoal_server.storage.engine import Engine
from shoal_server.storage.node_rows import CLUSTER_ID_BYTES, put_shard_map

log = structlog.get_logger("shoal.node")

FIRST_SHARD = 1
"""The one whose log settles it: every cluster has it when it is founded."""
PROPOSE_AGAIN_NS = 1_000_000_000
"""A proposal that has come to nothing, for want of room in the log, is made anew after so long."""


class Founding:
    """Has the cluster's id settled, and takes it up, on one node."""

    __slots__ = ("_agenda", "_engine", "_propose_at", "_random", "_replicas")

    def __init__(self, replicas: ReplicaSet, engine: Engine, agenda: Agenda, random: Random) -> None:
        self._replicas = replicas
        self._engine = engine
        self._agenda = agenda
        self._random = random
        self._propose_at = 0

    def step(self, now: int) -> None:
        """Go on, on a node that does not know the id yet."""
        replica = self._replicas.by_shard.get(FIRST_SHARD)
        if replica is None:
            return
        state = replica.machine.state
        if state.cluster_id:
            self.learn(state.cluster_id)
        elif replica.group.is_leader and state.term == replica.group.term and now >= self._propose_at:
            # All that was proposed before this leadership is applied, and there is no id in it.
            self._propose_at = now + PROPOSE_AGAIN_NS
            found = FoundCommand(self._random.randbytes(CLUSTER_ID_BYTES).hex())
            replica.queue_command(QueuedCommand(NOBODY, 0, found, None, len(found.cluster_id)))
            self._agenda.want_turn(replica, now)

    def learn(self, cluster_id: str) -> None:
        """Take up the id, for good. A crash may lose it again, but neither the log nor the peers do."""
        replicas, engine = self._replicas, self._engine
        if replicas.cluster_id:
            return
        known = replace(replicas.routes.map, cluster_id=cluster_id)
        batch = engine.batch()
        put_shard_map(batch, engine, known, derived=replicas.map_is_derived)
        engine.write(batch)
        replicas.name_cluster(Routes(known))
        log.info("cluster_known", node=replicas.identity.node, cluster=known.cluster, id=cluster_id)
