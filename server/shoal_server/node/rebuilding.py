"""Replicas that get their rows anew: they ask their leader for a snapshot until one is adopted.

A replica whose rows are damaged, or are not those of the others, is still a voter with a whole log: it takes entries and
votes meanwhile, and keeps what it has acknowledged behind the snapshot. One whose log is damaged says so to its leader, which
does not count it any more and sends a snapshot, too. Nobody asks where nobody leads: the only copy is not made of itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from shoal_server.node.outbox import Outbox
from shoal_server.node.replica import Replica
from shoal_server.node.snapshot_transfers import SnapshotTransfers
from shoal_server.storage.replica_failure import STORED
from shoal_server.storage.snapshot import SnapshotWanted

ASK_AGAIN_NS = 1_000_000_000
"""A snapshot that has not begun by then is asked for again."""


class Rebuilding:
    """The failed replicas of a node, of which those rebuild themselves whose failure does not go by itself.

    Nobody says which those are: each look finds them, however and whenever they came to be failed.
    """

    __slots__ = ("_due", "_replicas", "_transfers")

    def __init__(self, replicas: Mapping[int, Replica], transfers: SnapshotTransfers) -> None:
        """`replicas` are, at every moment, those of the node, by shard."""
        self._replicas = replicas
        self._transfers = transfers
        self._due: dict[int, int] = {}

    def tick(self, now: int, outbox: Outbox) -> int | None:
        """Ask for the snapshots that are due; return when to look again, None where no replica waits for one."""
        known = self._due
        self._due = {
            shard: known.get(shard, now)
            for shard, replica in self._replicas.items()
            if replica.failure is not None and replica.failure.kind in STORED
        }
        for shard, due in self._due.items():
            if due <= now:
                self._due[shard] = now + ASK_AGAIN_NS
                if not self._transfers.takes(shard):
                    self._ask(self._replicas[shard], outbox)
        return min(self._due.values(), default=None)

    def _ask(self, replica: Replica, outbox: Outbox) -> None:
        group = replica.group
        if group.leader and not group.is_leader and not group.report_lost_log():
            outbox.send(group.leader, SnapshotWanted(group.group, group.term))
