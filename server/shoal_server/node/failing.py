"""Takes a failed replica of a node out: it serves nothing, applies nothing and leads nobody; the others of the node go on."""

from __future__ import annotations

from shoal_server.node.agenda import Agenda
from shoal_server.node.counters import NodeCounters
from shoal_server.node.damage import failure_of, say_failed
from shoal_server.node.outbox import Outbox
from shoal_server.node.replica import Replica
from shoal_server.node.snapshot_transfers import SnapshotTransfers
from shoal_server.storage.engine import Damaged, Engine
from shoal_server.storage.replica_failure import STORED, FailureKind, ReplicaFailure, put_failure


class Failing:
    """See the module's first line. `has_stored`: a failure was stored, and a sync is wanted for that."""

    __slots__ = ("_agenda", "_counters", "_engine", "_node", "_outbox", "_transfers", "has_stored")

    def __init__(
        self,
        node: str,
        engine: Engine,
        counters: NodeCounters,
        agenda: Agenda,
        transfers: SnapshotTransfers,
        outbox: Outbox,
    ) -> None:
        self.has_stored = False
        self._node = node
        self._engine = engine
        self._counters = counters
        self._agenda = agenda
        self._transfers = transfers
        self._outbox = outbox

    def fail(self, replica: Replica, failure: ReplicaFailure, now: int) -> None:
        """Have a replica serve nothing, apply nothing and lead nobody from here on.

        What was read from it and is on its way to become a copy is given up. Of two failures the first one counts, but for
        one that goes by itself, which any other replaces.
        """
        before = replica.failure
        if before is not None and (before.kind in STORED or failure.kind not in STORED) and not failure.log_lost_to:
            return
        shard = replica.shard.id
        say_failed(self._node, shard, failure)
        self._counters.failed_replica(failure.kind.value)
        replica.fail(failure, now, self._outbox)
        self._transfers.give_up(replica, f"the replica of {self._node} has failed")
        if failure.kind in STORED:
            batch = self._engine.batch()
            put_failure(batch, self._engine, shard, failure)
            self._engine.write(batch)
            self.has_stored = True
        # What it has to say leaves with the next turn, whichever part of this one has come to its end.
        self._agenda.again[shard] = replica
        self._agenda.want_turn(replica, now)

    def damaged(self, replica: Replica, error: Damaged, now: int) -> None:
        """Something that the replica needs could not be read."""
        self.fail(replica, failure_of(error, replica), now)

    def diverged(self, replica: Replica, at_index: int, reason: str, now: int) -> None:
        """A replica has other rows than most."""
        self.fail(replica, ReplicaFailure(FailureKind.DIVERGED, reason, at_index), now)
