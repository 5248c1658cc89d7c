"""What damage that was met while reading means to a replica, and how its failing is said in the log of events.

Damaged rows of the data family are of what the replica has applied: its log, term and vote are whole, so it goes on to vote
and to take entries, and gets its rows anew from its leader. Damaged rows of its log may be entries that it has
acknowledged: it may neither vote nor be counted before it has them again (`Group.fail`). Rows of the meta family are looked
at when a replica is opened (storage/damaged_meta.py); what is met of them later ends the process, which opens again.
"""

from __future__ import annotations

import structlog

from shoal_server.node.replica import Replica
from shoal_server.storage.engine import Damaged
from shoal_server.storage.replica_failure import FailureKind, ReplicaFailure

log = structlog.get_logger("shoal.node")

_OF_REPLICAS = frozenset({"data", "log"})


def failure_of(damaged: Damaged, replica: Replica) -> ReplicaFailure:
    """Return how `replica` has failed, for which something could not be read.

    Raises:
        Damaged: the damage is in no family in which a replica fails while it runs.
    """
    if damaged.family not in _OF_REPLICAS:
        raise damaged
    lost_to = replica.group.log.last_index if damaged.family == "log" else 0
    return ReplicaFailure(FailureKind.DAMAGED, str(damaged), replica.machine.state.index, lost_to)


def say_failed(node: str, shard: int, failure: ReplicaFailure) -> None:
    """Log that the replica of `shard` on `node` has failed."""
    log.error(
        "replica_failed",
        node=node,
        shard=shard,
        kind=failure.kind.value,
        index=failure.at_index,
        reason=failure.reason,
    )
