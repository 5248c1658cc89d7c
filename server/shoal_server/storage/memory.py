"""The engine in memory: what `RocksEngine` does, without a disk. For tests, simulation and databases that keep nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from itertools import islice
from typing import TypeAlias, cast
from weakref import WeakSet

from sortedcontainers import SortedList

from shoal_server.invariants import invariant
from shoal_server.storage.engine import Batch, Damaged, Family, Piece, Reader, rows_of


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
    """One family: a dictionary, and its keys in order. Whoever reads it sees it as it was then: see `MemoryReader`."""

    __slots__ = ("_readers", "keys", "rows")

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.keys = SortedList()
        self._readers: WeakSet[MemoryReader] = WeakSet()

    def put(self, key: bytes, value: bytes) -> None:
        if self._readers:
            self._part()
        if key not in self.rows:
            self.keys.add(key)
        self.rows[key] = value

    def delete(self, key: bytes) -> None:
        if key in self.rows:
            if self._readers:
                self._part()
            del self.rows[key]
            self.keys.remove(key)

    def delete_range(self, start: bytes, end: bytes) -> None:
        gone = list(self.keys.irange(start, end, (True, False)))
        if gone and self._readers:
            self._part()
        if len(gone) > len(self.rows) // 4:
            rows = self.rows
            for key in gone:
                del rows[key]
            self.keys = SortedList(rows)
        else:
            for key in gone:
                del self.rows[key]
                self.keys.remove(key)

    def scan(self, start: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        """Return the rows of [start, end) in key order."""
        rows = self.rows
        return [(key, rows[key]) for key in self.keys.irange(start, end, (True, False))]

    def copy(self) -> Table:
        copy = Table()
        copy.rows = dict(self.rows)
        copy.keys = SortedList(self.keys)
        return copy

    def read_by(self, reader: MemoryReader) -> None:
        """Leave to `reader` the rows as they are now, until it is closed."""
        self._readers.add(reader)

    def left_by(self, reader: MemoryReader) -> None:
        """The reader is closed."""
        self._readers.discard(reader)

    def _part(self) -> None:
        """Give readers a copy of what is about to change, which is their own from here on."""
        copy = self.copy()
        for reader in self._readers:
            reader.table = copy
        self._readers = WeakSet()


class MemoryReader:
    """Implements `Reader` on one table, which is copied when it changes while somebody reads it."""

    __slots__ = ("__weakref__", "_damage", "_family", "table")

    def __init__(self, table: Table, damage: _Damage, family: str) -> None:
        self.table: Table | None = table
        self._damage = damage
        self._family = family
        table.read_by(self)

    def read(
        self,
        start: bytes,
        end: bytes,
        max_rows: int,
        max_bytes: int,
        *,
        reverse: bool = False,
        keys_only: bool = False,
    ) -> Piece:
        """See `Reader`."""
        table = self.table
        invariant(table is not None, "a reader that was closed reads nothing")
        assert table is not None
        found: list[tuple[bytes, bytes]] = []
        size = 0
        for key in table.keys.irange(start, end, (True, False), reverse):
            if len(found) >= max_rows or size >= max_bytes:
                return Piece(found, found[-1][0] if reverse else key, size)
            if self._damage and self._damage.has(self._family, key):
                if found:
                    return Piece(found, found[-1][0] if reverse else key, size)
                self._damage.check(self._family, [key])
            value = b"" if keys_only else table.rows[key]
            found.append((key, value))
            size += len(key) + len(value)
        return Piece(found, None, size)

    def heads(self, spans: Sequence[tuple[bytes, bytes]], *, reverse: bool = False) -> list[bytes | Piece | None]:
        """See `Reader`."""
        found: list[bytes | Piece | None] = []
        for start, end in spans:
            piece = self.read(start, end, 1, 1, reverse=reverse)
            found.append(piece.rows[0][0] if piece.rows else None)
        return found

    def few_keys(self, spans: Sequence[tuple[bytes, bytes]], max_keys: int) -> list[list[bytes] | None]:
        """See `Reader`."""
        table = self.table
        assert table is not None, "a reader that was closed reads nothing"
        found: list[list[bytes] | None] = []
        for start, end in spans:
            keys = list(islice(table.keys.irange(start, end, (True, False)), max_keys + 1))
            readable = not self._damage or not any(self._damage.has(self._family, key) for key in keys)
            found.append(keys if len(keys) <= max_keys and readable else None)
        return found

    def close(self) -> None:
        if self.table is not None:
            self.table.left_by(self)
            self.table = None


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

    def has(self, family: str, key: bytes) -> bool:
        """Say whether a row cannot be read."""
        return key in self._keys.get(family, ())


class MemoryEngine:
    """Implements `Engine`. `apply` is where a batch takes effect; a simulated disk overrides `write` and `sync`."""

    def __init__(self) -> None:
        self.damage = _Damage()
        self.damaged_families: tuple[str, ...] = ()
        self.writes_stopped = False
        self.log = Family("log")
        self.data = Family("data")
        self.meta = Family("meta")
        self.tables: dict[str, Table] = {name: Table() for name in ("log", "data", "meta")}

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
        return rows_of(MemoryReader(self.tables[cast(str, family)], self.damage, cast(str, family)), start, end)

    def reader(self, family: Family, *, fill_cache: bool = True) -> Reader:  # noqa: ARG002 - there is no cache
        return MemoryReader(self.tables[cast(str, family)], self.damage, cast(str, family))

    def tidy(self) -> None:
        """See `Engine`: what is removed is gone."""

    def before_clearing(self) -> None:
        """Nothing to do: what was removed is gone."""

    def copy_tables(self) -> dict[str, Table]:
        """Return the rows as they are now."""
        return {name: table.copy() for name, table in self.tables.items()}

    def close(self) -> None:
        """Nothing to do."""
