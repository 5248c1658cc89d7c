"""How much an entry of a log may look at of which its writes do not say how large it is, the same on every replica.

A condition on a key says nothing of how long the row is that it is about, one on a range nothing of the expired rows that are
still in it. What is counted here is of the shard's rows as they are by the log: how a replica stores them, how it put entries
together to apply them, and what it has read before does not count. So all replicas come to the same end.
"""

from __future__ import annotations

from shoal.write_costs import ROW_US

LOOKED_AT_US = 16_000
"""Of work, for an entry: about 16 MiB of rows that are read, 4 MiB of those that are written again, or 5,000 expired ones."""
LOOKED_AT_BYTES_SHIFT = 10
"""A KiB of a row: a microsecond, to read it."""
REWRITTEN = 4
"""Times that, to write it again: to the log, to the memtable, and some day to a file."""
LARGE_ROW_BYTES = 4 * 1024
"""A row that is no larger is always looked at by whoever names its key: what it takes is in the cost of naming it."""


class Looking:
    """What was looked at for one entry: bytes of rows, and rows that have expired."""

    __slots__ = ("bytes", "expired")

    def __init__(self) -> None:
        self.bytes = 0
        self.expired = 0

    @property
    def us(self) -> int:
        """How long it has taken, about."""
        return ROW_US * self.expired + (self.bytes >> LOOKED_AT_BYTES_SHIFT)

    @property
    def is_too_much(self) -> bool:
        """Whether it is more than an entry may look at."""
        return self.us > LOOKED_AT_US

    def count(self, row: bytes | None) -> None:
        """Count a row that an operation names."""
        if row is not None:
            self.bytes += len(row)

    def count_rewritten(self, row: bytes) -> None:
        """Count a row that is written again as it was, which the operation does not have in it."""
        self.bytes += REWRITTEN * len(row)

    def may_use(self, row: bytes | None) -> bool:
        """Say whether an operation may go on with a row that it names and that was counted."""
        return row is None or len(row) <= LARGE_ROW_BYTES or not self.is_too_much


def is_more_than_any_entry_may(size: int) -> bool:
    """Say whether rows of so many bytes are too many whatever else is in an entry."""
    return size >> LOOKED_AT_BYTES_SHIFT > LOOKED_AT_US


TOO_LARGE_ROWS = (
    "the rows that it is about are too large to be looked at together: "
    f"{LOOKED_AT_US >> (20 - LOOKED_AT_BYTES_SHIFT)} MiB at once are accepted, since a replica serves nobody else meanwhile. "
    "Do it for fewer, or again"
)
"""Why an operation is not done: said to whoever has made it."""
