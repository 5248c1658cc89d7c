"""The engine in memory: what `RocksEngine` does, without a disk. For tests, simulation and databases that keep nothing."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import TypeAlias, cast

from shoal_server.storage.engine import Batch, Damaged, Family, RowCount, View


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


class Table:
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

    def copy(self) -> Table:
        return Table(list(self.keys), dict(self.rows))


class _Damage:
    """Rows that are on the disk and cannot be read, by family: simulated. What replaces or removes them mends that.

    `met`: those that somebody has tried to read, until whoever looks at it clears it.
    """

    __slots__ = ("_keys", "met")

    def __init__(self, keys: dict[str, set[bytes]] | None = None) -> None:
        self._keys = keys or {}
        self.met: set[bytes] = set()

    def __bool__(self) -> bool:
        return bool(self._keys)

    def add(self, family: str, keys: Iterable[bytes]) -> None:
        self._keys.setdefault(family, set()).update(keys)

    def of(self, family: str) -> set[bytes]:
        """Return the keys of a family that cannot be read."""
        return set(self._keys.get(family, ()))

    def clear(self) -> None:
        self._keys = {}

    def mend(self, changes: list[Change]) -> None:
        for kind, family, key, value in changes:
            damaged = self._keys.get(family, set())
            if kind is ChangeKind.DELETE_RANGE:
                damaged.difference_update([each for each in damaged if key <= each < value])
            else:
                damaged.discard(key)
        self._keys = {family: keys for family, keys in self._keys.items() if keys}

    def copy(self) -> _Damage:
        return _Damage({family: set(keys) for family, keys in self._keys.items()})

    def check(self, family: str, keys: Iterable[bytes]) -> None:
        damaged = self._keys.get(family)
        if damaged:
            for key in keys:
                if key in damaged:
                    self.met.add(key)
                    raise Damaged(family, f"rows of the {family} family cannot be read: {key.hex()} is damaged")

    def checked(self, family: str, rows: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for row in rows:
            self.check(family, row[:1])
            yield row


class _MemoryView:
    """A copy of the tables, made when the view was taken."""

    def __init__(self, tables: dict[str, Table], damage: _Damage) -> None:
        self._tables = tables
        self._damage = damage

    def scan(self, family: Family, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        name = cast(str, family)
        return self._damage.checked(name, self._tables[name].scan(start, end))

    def close(self) -> None:
        self._tables = {}


class MemoryEngine:
    """Implements `Engine`. `apply` is where a batch takes effect; a simulated disk overrides `write` and `sync`."""

    def __init__(self) -> None:
        self.damage = _Damage()
        self.damaged_families: tuple[str, ...] = ()
        self.log = Family("log")
        self.data = Family("data")
        self.meta = Family("meta")
        self.tables: dict[str, Table] = {name: Table([], {}) for name in ("log", "data", "meta")}

    def batch(self) -> Batch:
        return MemoryBatch()

    def write(self, batch: Batch) -> None:
        self.apply(cast(MemoryBatch, batch).changes)

    def write_unlogged(self, batch: Batch) -> None:
        self.write(batch)

    def apply(self, changes: list[Change]) -> None:
        """Make the changes of a batch, in order."""
        if self.damage:
            self.damage.mend(changes)
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
        if self.damage:
            self.damage.check(cast(str, family), [key])
        return self.tables[cast(str, family)].rows.get(key)

    def get_many(self, family: Family, keys: list[bytes]) -> list[bytes | None]:
        if self.damage:
            self.damage.check(cast(str, family), keys)
        return list(map(self.tables[cast(str, family)].rows.get, keys))

    def scan(self, family: Family, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        rows = self.tables[cast(str, family)].scan(start, end)
        return self.damage.checked(cast(str, family), rows) if self.damage else iter(rows)

    def scan_reverse(self, family: Family, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        rows = reversed(self.tables[cast(str, family)].scan(start, end))
        return self.damage.checked(cast(str, family), rows) if self.damage else rows

    def count_rows(self, family: Family, start: bytes, end: bytes, max_rows: int) -> RowCount:
        table = self.tables[cast(str, family)]
        first, last = bisect_left(table.keys, start), bisect_left(table.keys, end)
        keys = table.keys[first : min(last, first + max_rows)]
        if self.damage:
            self.damage.check(cast(str, family), keys)
        size = sum([len(key) + len(table.rows[key]) for key in keys])
        return RowCount(len(keys), size, keys[-1] + b"\x00" if len(keys) == max_rows else None)

    def view(self) -> View:
        return _MemoryView(self.copy_tables(), self.damage.copy())

    def copy_tables(self) -> dict[str, Table]:
        """Return the rows as they are now."""
        return {name: table.copy() for name, table in self.tables.items()}

    def close(self) -> None:
        """Nothing to do."""
