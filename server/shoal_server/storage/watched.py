"""An engine in memory that refuses to be read past a batch: for simulations and tests.

A batch that is being put together is not visible to readers. Whoever reads what it has changed sees what was, and goes by
what will not be when it is written. The node is built so that this does not happen (see node/core.py); this engine finds
where it does. It finds rows of the meta family, too, of a kind that meta_rows.py does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import cast
from weakref import WeakSet

from shoal_server.invariants import invariant
from shoal_server.storage.engine import Batch, Family, Piece, Reader
from shoal_server.storage.memory import Change, MemoryBatch, MemoryEngine
from shoal_server.storage.meta_rows import KIND_OF

RULED = "for damage in a row of the meta family there is a rule"
UNWRITTEN = "nothing is read that a batch which is not written yet has changed"


class _WatchedBatch(MemoryBatch):
    """A batch that knows what it has changed, and is known to its engine as soon as it has changed something."""

    __slots__ = ("__weakref__", "_open", "keys", "ranges")

    def __init__(self, opened: WeakSet[_WatchedBatch]) -> None:
        super().__init__()
        self._open = opened
        self.keys: set[tuple[str, bytes]] = set()
        self.ranges: list[tuple[str, bytes, bytes]] = []

    def put(self, key: bytes, value: bytes, family: Family) -> None:
        invariant(cast(str, family) != "meta" or key[:1] in KIND_OF, RULED)
        super().put(key, value, family)
        self.keys.add((cast(str, family), key))
        self._open.add(self)

    def delete(self, key: bytes, family: Family) -> None:
        super().delete(key, family)
        self.keys.add((cast(str, family), key))
        self._open.add(self)

    def delete_range(self, start: bytes, end: bytes, family: Family) -> None:
        super().delete_range(start, end, family)
        self.ranges.append((cast(str, family), start, end))
        self._open.add(self)

    def has_changed(self, family: str, start: bytes, end: bytes) -> bool:
        """Say whether anything in [start, end) was put or deleted."""
        return any(name == family and start <= key < end for name, key in self.keys) or any(
            name == family and first < end and start < last for name, first, last in self.ranges
        )

    def has_changed_key(self, family: str, key: bytes) -> bool:
        """Say whether a row was put or deleted."""
        return (family, key) in self.keys or any(
            name == family and first <= key < last for name, first, last in self.ranges
        )


class WatchedEngine(MemoryEngine):
    """See the module's first lines."""

    def __init__(self) -> None:
        super().__init__()
        self._open: WeakSet[_WatchedBatch] = WeakSet()

    def batch(self) -> Batch:
        return _WatchedBatch(self._open)

    def apply(self, changes: list[Change]) -> None:
        for batch in list(self._open):
            if batch.changes is changes:
                self._open.discard(batch)
        super().apply(changes)

    def _check_keys(self, family: Family, keys: Iterable[bytes]) -> None:
        if self._open:
            name = cast(str, family)
            for batch in self._open:
                invariant(not any(batch.has_changed_key(name, key) for key in keys), UNWRITTEN)

    def _check_range(self, family: Family, start: bytes, end: bytes) -> None:
        if self._open:
            name = cast(str, family)
            for batch in self._open:
                invariant(not batch.has_changed(name, start, end), UNWRITTEN)

    def get(self, family: Family, key: bytes) -> bytes | None:
        self._check_keys(family, [key])
        return super().get(family, key)

    def get_many(self, family: Family, keys: list[bytes]) -> list[bytes | None]:
        self._check_keys(family, keys)
        return super().get_many(family, keys)

    def scan(self, family: Family, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._check_range(family, start, end)
        return super().scan(family, start, end)

    def reader(self, family: Family, *, fill_cache: bool = True) -> Reader:
        return _WatchedReader(super().reader(family, fill_cache=fill_cache), list(self._open), self._open, family)


class _WatchedReader:
    """A reader of what was there when it was made: it must not be what a batch had changed by then that is not written."""

    __slots__ = ("_family", "_open", "_reader", "_unwritten")

    def __init__(
        self, reader: Reader, unwritten: list[_WatchedBatch], opened: WeakSet[_WatchedBatch], family: Family
    ) -> None:
        self._reader = reader
        self._unwritten = unwritten
        self._open = opened
        self._family = cast(str, family)

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
        self._check(start, end)
        return self._reader.read(start, end, max_rows, max_bytes, reverse=reverse, keys_only=keys_only)

    def heads(self, spans: Sequence[tuple[bytes, bytes]], *, reverse: bool = False) -> list[bytes | Piece | None]:
        for start, end in spans:
            self._check(start, end)
        return self._reader.heads(spans, reverse=reverse)

    def few_keys(self, spans: Sequence[tuple[bytes, bytes]], max_keys: int) -> list[list[bytes] | None]:
        for start, end in spans:
            self._check(start, end)
        return self._reader.few_keys(spans, max_keys)

    def _check(self, start: bytes, end: bytes) -> None:
        for batch in self._unwritten:
            invariant(batch not in self._open or not batch.has_changed(self._family, start, end), UNWRITTEN)

    def close(self) -> None:
        self._reader.close()
