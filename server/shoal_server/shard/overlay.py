"""The rows of a shard as applying sees them: the engine's, under what the entries applied just now have changed.

What is applied in one turn reaches the engine in one batch at the end of it; conditions, increments and range reads of
later entries must see it before. Later changes of a key replace earlier ones here, so the batch names each key once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from heapq import merge

from shoal_server.storage.engine import Batch, Engine
from shoal_server.storage.layout import whole_row

_ABSENT = object()


class RecordedRows(dict[bytes, "bytes | None"]):
    """Rows that remember which keys were set."""

    __slots__ = ("keys_set",)

    def __init__(self, rows: dict[bytes, bytes | None]) -> None:
        super().__init__(rows)
        self.keys_set: dict[bytes, None] = {}

    def __setitem__(self, key: bytes, row: bytes | None) -> None:
        self.keys_set[key] = None
        super().__setitem__(key, row)


class Overlay:
    """Changes to the data family, in memory until `write_to`. Keys and rows as stored (see `storage.layout`).

    What is cleared are the ranges from `_starts` to, not with, `_ends`: in order, none touching the next, none empty.
    """

    __slots__ = ("_ends", "_engine", "_known", "_spans_cleared", "_starts", "rows")

    def __init__(self, engine: Engine) -> None:
        self.rows: dict[bytes, bytes | None] = {}
        self._spans_cleared: list[tuple[bytes, bytes]] | None = None
        self._engine = engine
        self._starts: list[bytes] = []
        self._ends: list[bytes] = []
        self._known: dict[bytes, bytes | None] = {}

    # -- changing

    def clear(self, spans: list[tuple[bytes, bytes]]) -> None:
        """Remove every row of the ranges [start, end): in order, and none empty (engines refuse an end before its start)."""
        if not spans:
            return
        if self._spans_cleared is not None:
            self._spans_cleared += spans
        firsts = [start for start, _ in spans]
        for key in list(self.rows):
            at = bisect_right(firsts, key)
            if at and key < spans[at - 1][1]:
                del self.rows[key]
        for start, end in spans:
            self._clear(start, end)

    def _clear(self, start: bytes, end: bytes) -> None:
        """Add a range to those cleared, in one with all that it touches."""
        starts, ends = self._starts, self._ends
        first, behind = bisect_left(ends, start), bisect_right(starts, end)
        if first < behind:
            start, end = min(start, starts[first]), max(end, ends[behind - 1])
        starts[first:behind] = [start]
        ends[first:behind] = [end]

    def savepoint(self, keys: Iterable[bytes]) -> dict[bytes, object]:
        """Return what is needed to take back changes of `keys` that follow."""
        rows = self.rows
        return {key: rows.get(key, _ABSENT) for key in keys}

    def take_back(self, savepoint: dict[bytes, object]) -> None:
        """Undo the changes made to the keys of `savepoint` since."""
        for key, row in savepoint.items():
            if row is _ABSENT:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row  # type: ignore[assignment]  # what `rows` held

    # -- recording

    def record(self) -> None:
        """From now on, remember what is changed, for `take_changes`."""
        self.rows = RecordedRows(self.rows)
        self._spans_cleared = []

    def take_changes(self) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        """Return the keys set, and the ranges cleared, since the last time, while changes are recorded."""
        rows, spans = self.rows, self._spans_cleared
        if spans is None or not isinstance(rows, RecordedRows):
            return [], []
        keys, rows.keys_set = list(rows.keys_set), {}
        self._spans_cleared = []
        return keys, spans

    # -- reading

    def fetch(self, keys: Iterable[bytes]) -> None:
        """Read rows that are about to be asked for, all at once."""
        missing = [key for key in keys if key not in self.rows and key not in self._known]
        if missing:
            for key, row in zip(missing, self._engine.get_many(self._engine.data, missing), strict=True):
                self._known[key] = None if row is None else whole_row(key, row)

    def get(self, key: bytes) -> bytes | None:
        """Return the row under `key`, or None."""
        row = self.rows.get(key, _ABSENT)
        if row is not _ABSENT:
            return row  # type: ignore[return-value]  # what `rows` held
        if self._starts and self._is_cleared(key):
            return None
        if key not in self._known:
            row = self._engine.get(self._engine.data, key)
            self._known[key] = None if row is None else whole_row(key, row)
        return self._known[key]

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows of [start, end) in key order."""
        rows = self.rows
        changed = sorted((key, row) for key, row in rows.items() if start <= key < end)
        kept = ((key, whole_row(key, row)) for key, row in self._stored(start, end) if key not in rows)
        for key, row in merge(kept, changed, key=lambda item: item[0]):
            if row is not None:
                yield key, row

    def _is_cleared(self, key: bytes) -> bool:
        at = bisect_right(self._starts, key)
        return at > 0 and key < self._ends[at - 1]

    def _stored(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the engine's rows of [start, end) that are not cleared."""
        scan, data = self._engine.scan, self._engine.data
        at = bisect_right(self._ends, start)
        while start < end:
            if at == len(self._starts) or self._starts[at] >= end:
                yield from scan(data, start, end)
                return
            if start < self._starts[at]:
                yield from scan(data, start, self._starts[at])
            start = self._ends[at]
            at += 1

    # -- the end

    def write_to(self, batch: Batch) -> None:
        """Put the changes into `batch`."""
        family = self._engine.data
        for start, end in zip(self._starts, self._ends, strict=True):
            batch.delete_range(start, end, family)
        put = batch.put
        for key, row in self.rows.items():
            if row is None:
                batch.delete(key, family)
            else:
                put(key, row, family)
