"""The engine in memory: what `RocksEngine` does, without a disk. For tests, simulation and databases that keep nothing."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from enum import Enum
from typing import TypeAlias, cast

from shoal_server.storage.engine import Batch, Family, RowCount, View


class ChangeKind(Enum):
    """What a change in a batch does."""

    PUT = "put"
    DELETE = "delete"
    DELETE_RANGE = "delete range"


Change: TypeAlias = tuple[ChangeKind, str, bytes, bytes]
"""(kind, family, key or start, value or end)"""


class MemoryBatch:
    """A batch as the list of its changes."""

    __slots__ = ("changes",)

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def put(self, key: bytes, value: bytes, family: Family) -> None:
        self.changes.append((ChangeKind.PUT, cast(str, family), key, value))

    def delete(self, key: bytes, family: Family) -> None:
        self.changes.append((ChangeKind.DELETE, cast(str, family), key, b""))

    def delete_range(self, start: bytes, end: bytes, family: Family) -> None:
        self.changes.append((ChangeKind.DELETE_RANGE, cast(str, family), start, end))

    def is_empty(self) -> bool:
        return not self.changes


class _Table:
    """One family: a dictionary and its keys in order."""

    __slots__ = ("keys", "rows")

    def __init__(self, keys: list[bytes], rows: dict[bytes, bytes]) -> None:
        self.keys = keys
        self.rows = rows

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.rows:
            insort(self.keys, key)
        self.rows[key] = value

    def delete(self, key: bytes) -> None:
        if key in self.rows:
            del self.rows[key]
            del self.keys[bisect_left(self.keys, key)]

    def delete_range(self, start: bytes, end: bytes) -> None:
        first, last = bisect_left(self.keys, start), bisect_left(self.keys, end)
        for key in self.keys[first:last]:
            del self.rows[key]
        del self.keys[first:last]

    def scan(self, start: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        rows = self.rows
        return [(key, rows[key]) for key in self.keys[bisect_left(self.keys, start) : bisect_left(self.keys, end)]]

    def copy(self) -> _Table:
        return _Table(list(self.keys), dict(self.rows))


class _MemoryView:
    """A copy of the tables, made when the view was taken."""

    def __init__(self, tables: dict[str, _Table]) -> None:
        self._tables = tables

    def scan(self, family: Family, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._tables[cast(str, family)].scan(start, end))

    def close(self) -> None:
        self._tables = {}


class MemoryEngine:
    """Implements `Engine`. `apply` is where a batch takes effect; a simulated disk overrides `write` and `sync`."""

    def __init__(self) -> None:
        self.log = Family("log")
        self.data = Family("data")
        self.meta = Family("meta")
        self.tables: dict[str, _Table] = {name: _Table([], {}) for name in ("log", "data", "meta")}

    def batch(self) -> Batch:
        return MemoryBatch()

    def write(self, batch: Batch) -> None:
        self.apply(cast(MemoryBatch, batch).changes)

    def write_unlogged(self, batch: Batch) -> None:
        self.write(batch)

    def apply(self, changes: list[Change]) -> None:
        """Make the changes of a batch, in order."""
        for kind, family, key, value in changes:
            table = self.tables[family]
            if kind is ChangeKind.PUT:
                table.put(key, value)
            elif kind is ChangeKind.DELETE:
                table.delete(key)
            else:
                table.delete_range(key, value)

    def sync(self) -> None:
        """Nothing to do: what is in memory is as durable as it gets."""

    def flush(self) -> None:
        """Nothing to do."""

    def get(self, family: Family, key: bytes) -> bytes | None:
        return self.tables[cast(str, family)].rows.get(key)

    def get_many(self, family: Family, keys: list[bytes]) -> list[bytes | None]:
        return list(map(self.tables[cast(str, family)].rows.get, keys))

    def scan(self, family: Family, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.tables[cast(str, family)].scan(start, end))

    def scan_reverse(self, family: Family, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return reversed(self.tables[cast(str, family)].scan(start, end))

    def count_rows(self, family: Family, start: bytes, end: bytes, max_rows: int) -> RowCount:
        table = self.tables[cast(str, family)]
        first, last = bisect_left(table.keys, start), bisect_left(table.keys, end)
        keys = table.keys[first : min(last, first + max_rows)]
        size = sum([len(key) + len(table.rows[key]) for key in keys])
        return RowCount(len(keys), size, keys[-1] + b"\x00" if len(keys) == max_rows else None)

    def view(self) -> View:
        return _MemoryView(self.copy_tables())

    def copy_tables(self) -> dict[str, _Table]:
        """Return the rows as they are now."""
        return {name: table.copy() for name, table in self.tables.items()}

    def close(self) -> None:
        """Nothing to do."""
