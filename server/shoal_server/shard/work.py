"""What reading takes, about: counted as it is done, and turned into microseconds of one core."""

from __future__ import annotations

from dataclasses import dataclass

from shoal_server.storage.engine import Piece

SEEK_US = 6
"""To look for a place."""
ROW_US = 2
"""To read a row, look at it and give it."""
PASSED_US = 1
"""A removed row that is passed over."""
_BYTES_SHIFT = 12
"""Four KiB, read or put together: a microsecond."""


@dataclass(slots=True)
class Work:
    """Rows that were read (hidden ones included), their bytes, places that were looked for, removed rows passed over.

    `ends`: bytes of the ends of ranges, which are put together anew in each microshard.

    What was read is counted whether it was given to anybody or not.
    """

    rows: int = 0
    bytes: int = 0
    seeks: int = 0
    passed: int = 0
    ends: int = 0

    def add(self, piece: Piece) -> None:
        """Count a piece."""
        self.rows += len(piece.rows)
        self.bytes += piece.size
        self.seeks += piece.seeks
        self.passed += piece.passed

    @property
    def us_passed(self) -> int:
        """How long passing over removed rows has taken, about."""
        return PASSED_US * self.passed

    @property
    def us(self) -> int:
        """How long it has taken, about."""
        size = self.bytes + self.ends
        return SEEK_US * self.seeks + ROW_US * self.rows + self.us_passed + (size >> _BYTES_SHIFT)
