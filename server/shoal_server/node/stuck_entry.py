"""An entry of its log that a replica cannot apply: how it fails for that, and what an operator names to have it go on."""

from __future__ import annotations

from dataclasses import dataclass

from shoal_server.raft.messages import Entry
from shoal_server.storage.replica_failure import FailureKind, ReplicaFailure
from shoal_server.storage.skipped_entries import SkippedEntry

MAX_REASON = 2000
"""Characters of why an entry cannot be applied: what was wrong in it may be long."""


@dataclass(frozen=True, slots=True)
class StuckEntry:
    """See the module's first line."""

    failure: ReplicaFailure
    entry: SkippedEntry

    @classmethod
    def at(cls, entry: Entry, reason: str) -> StuckEntry:
        """Return what becomes of a replica that cannot apply `entry`, for a reason of any length."""
        failure = ReplicaFailure(FailureKind.STUCK, reason[:MAX_REASON], entry.index)
        return cls(failure, SkippedEntry(entry.term, entry.checksum))
