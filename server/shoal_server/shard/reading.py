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


class RowReader:
    """Reads rows of one shard.

    How many are looked up together goes by how large rows were lately, so that of large ones few are read in vain.
    """

    __slots__ = ("_engine", "_row_bytes")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._row_bytes = READ_BYTES
        """About what a row has at the most: the mean of the last slice's, or half of what was thought before it."""

    def read(self, stored: list[bytes], now: int, max_bytes: int) -> tuple[list[bytes | None], list[int], list[int]]:
        """Return values (None: absent), their seqs (0: absent) and expiries: of the first keys, as many as fit, at least one.

        Args:
            stored: what the rows are stored under.
            max_bytes: of the rows that are given.
        """
        engine, data = self._engine, self._engine.data
        rows: list[bytes | None] = []
        size = 0
        while len(rows) < len(stored) and (size < max_bytes or not rows):
            fitting = (max_bytes - size) // self._row_bytes
            count = SLICE_KEYS if fitting > SLICE_KEYS else max(1, fitting)
            found = engine.get_many(data, stored if count >= len(stored) else stored[len(rows) : len(rows) + count])
            found_bytes = sum([len(row) for row in found if row is not None])
            self._row_bytes = max(1, self._row_bytes // 2, found_bytes // len(found))
            size += found_bytes
            rows += found
        while size > max_bytes and len(rows) > 1:
            # At most the last slice's.
            size -= len(rows.pop() or b"")
        return split_rows(stored if len(rows) == len(stored) else stored[: len(rows)], rows, now)
