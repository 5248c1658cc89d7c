"""How replicas fail, as nodes say it of theirs."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from shoal.bounds import Checksum, LogIndex, Term, Text, Word


class FailureKind(StrEnum):
    """What has befallen a replica, as it travels on the wire."""

    DAMAGED = "damaged"
    """Rows or log entries cannot be read: they are not what was written. It is rebuilt from its leader."""
    DIVERGED = "diverged"
    """Its rows are not those of the other replicas at the same position. It is rebuilt from its leader."""
    STUCK = "stuck"
    """It cannot apply a committed entry."""
    OUT_OF_TERMS = "out_of_terms"
    """Its group has come to the last term there is, and elects nobody any more."""


class ReplicaFailure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Why a replica serves nothing.

    Args:
        kind: a `FailureKind`; one that is not known is of a newer node.
        reason: in words, with what to look at.
        index: what the replica had applied; of a stuck one, the entry that it cannot apply.
        term, checksum: of that entry; 0 where the replica is not stuck.
    """

    kind: Word
    reason: Text
    index: LogIndex = 0
    term: Term = 0
    checksum: Checksum = 0

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"

    def is_at(self, index: int) -> bool:
        """Say whether the replica is stuck at the entry of this index."""
        return self.kind == FailureKind.STUCK and self.index == index
