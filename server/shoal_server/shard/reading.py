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


def read_rows(
    engine: Engine, stored: list[bytes], now: int, max_bytes: int
) -> tuple[list[bytes | None], list[int], list[int]]:
    """Return values (None: absent), their seqs (0: absent) and expiries: of the first keys, as many as fit, at least one.

    How many are looked up next goes by how large the rows before were, so that of large ones few are read in vain.

    Args:
        stored: what the rows are stored under.
        max_bytes: of the rows that are given.
    """
    rows = engine.get_many(engine.data, stored[:1])
    size = _size(rows)
    while len(rows) < len(stored) and size < max_bytes:
        fitting = (max_bytes - size) * len(rows) // size if size else SLICE_KEYS
        count = max(1, min(fitting, SLICE_KEYS))
        found = engine.get_many(engine.data, stored[len(rows) : len(rows) + count])
        size += _size(found)
        rows += found
    while size > max_bytes and len(rows) > 1:
        # At most the last slice's.
        size -= len(rows.pop() or b"")
    return split_rows(stored[: len(rows)], rows, now)


def _size(rows: list[bytes | None]) -> int:
    return sum([len(row) for row in rows if row is not None])
