"""Reads the rows of many keys in slices: no more is read than an answer holds, however many keys are asked for."""

from __future__ import annotations

from shoal_server.storage.engine import Engine
from shoal_server.storage.layout import split_rows

READ_BYTES = 1024 * 1024
"""The rows of one answer; one row is given however large it is."""
READ_KEYS = 4096
"""The keys of one answer: those that are absent take time, too. Clients ask for no more at once."""
SLICE_KEYS = 16
"""Keys that are looked up together at the most. Where small rows precede large ones, so many are read in vain."""


SMALL_BYTES = 4096
"""Rows of no more are not told apart: a slice of them is little to read in vain."""


class RowReader:
    """Reads rows of one shard.

    How many are looked up together goes by how large rows were lately, so that of large ones few are read in vain.

    Attributes:
        read_bytes: of the rows that the last call has looked up, in vain or not.
    """

    __slots__ = ("_engine", "_row_bytes", "read_bytes")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.read_bytes = 0
        self._row_bytes = READ_BYTES
        """About what a row has at the most: the mean of the last slice's, or half of what was thought before it."""

    def read(self, stored: list[bytes], now: int, max_bytes: int) -> tuple[list[bytes | None], list[int], list[int]]:
        """Return values (None: absent), their seqs (0: absent) and expiries: of the first keys, as many as fit, at least one.

        Args:
            stored: what the rows are stored under.
            max_bytes: of the rows that are given.
        """
        engine, wanted = self._engine, len(stored)
        if wanted <= SLICE_KEYS and wanted * self._row_bytes <= max_bytes:
            # As nearly all are: the loop below comes to the same.
            rows = engine.get_many(engine.data, stored)
            size = sum(map(len, filter(None, rows)))
            if self._row_bytes > SMALL_BYTES or size > wanted * SMALL_BYTES:
                self._note(wanted, size)
        else:
            rows, size = [], 0
            while len(rows) < wanted and (size < max_bytes or not rows):
                count = max(1, min(SLICE_KEYS, (max_bytes - size) // self._row_bytes))
                found = engine.get_many(engine.data, stored[len(rows) : len(rows) + count])
                found_bytes = sum(map(len, filter(None, found)))
                self._note(count, found_bytes)
                size += found_bytes
                rows += found
        self.read_bytes = size
        if size > max_bytes or len(rows) < wanted:
            while size > max_bytes and len(rows) > 1:
                # At most the last slice's.
                size -= len(rows.pop() or b"")
            stored = stored[: len(rows)]
        return split_rows(stored, rows, now)

    def _note(self, count: int, size: int) -> None:
        """Remember how large rows are, of which so many were looked up together, of so many bytes."""
        self._row_bytes = max(SMALL_BYTES, self._row_bytes // 2, size // max(1, count))
