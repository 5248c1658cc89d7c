"""What a shard's leader says of comparing its replicas in the background."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from shoal.bounds import (
    Count,
    CountOrNone,
    LogIndex,
    MicroshardNumber,
    Names,
    Text,
)


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """As in `shoal.protocol.messages`, which this module may not import."""


class Divergence(_Message, frozen=True):
    """Replicas have different rows, and no copy is that of most of them.

    Args:
        index: the log entry after which they were compared.
        first_microshard, last_microshard: where the rows are.
        rows: the same in words, with keys as hashes.
        copies: the nodes by the copy that they have, those of most nodes first.
    """

    index: LogIndex
    first_microshard: MicroshardNumber
    last_microshard: MicroshardNumber
    rows: Text
    copies: tuple[Names, ...]

    def is_replaced(self, members: Iterable[str]) -> bool:
        """Say whether no two of these are left that had different copies."""
        left = set(members)
        return sum(not left.isdisjoint(nodes) for nodes in self.copies) < 2

    def __str__(self) -> str:
        copies = "; ".join(" and ".join(nodes) for nodes in self.copies)
        return f"different copies at log index {self.index} of the rows {self.rows}: {copies}"


class ComparisonStatus(_Message, frozen=True):
    """How far the comparison of a shard's replicas is.

    Args:
        compared_ms: how long ago the last round ended in which all replicas took part, -1 where none has under this leader.
        rounds: that have ended under this leader.
        divergence: what was found that nobody could decide, until that is over: see `AppliedState.divergence`.
    """

    compared_ms: CountOrNone
    rounds: Count
    divergence: Divergence | None = None
