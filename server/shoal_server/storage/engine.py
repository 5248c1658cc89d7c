"""What the node asks of its storage engine: batches that are visible at once, and two ways of making them durable.

Three families of rows share one write-ahead log. A batch written with `write` goes to that log, and is durable after
the next `sync`. One written with `write_unlogged` does not: it may change the data family only, and is durable after
the next `flush`. After a crash the log and meta families hold a prefix of the logged batches; the data family holds a
prefix of all batches and the logged ones behind it, where the first prefix is never the longer one: no crash leaves the
effects of an entry without the entry. Each batch is there whole or not at all.

`RocksEngine` (rocks.py) keeps the families on disk, `MemoryEngine` (memory.py) in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NewType, Protocol

Family = NewType("Family", object)
"""An engine's own handle of a column family: passed back to its batches, opaque to everyone else."""


class Batch(Protocol):
    """Changes that take effect together, in order. `delete_range` removes [start, end)."""

    def put(self, key: bytes, value: bytes, family: Family) -> None: ...
    def delete(self, key: bytes, family: Family) -> None: ...
    def delete_range(self, start: bytes, end: bytes, family: Family) -> None: ...
    def is_empty(self) -> bool: ...


class View(Protocol):
    """A consistent view of the rows at one instant. Close it: it holds back compaction."""

    def scan(self, family: Family, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows of [start, end) in key order; raise `Damaged` where they cannot be read to the end."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RowCount:
    """Rows and the bytes of their keys and values, `size`. `resume`: where to count on, None where no more rows follow."""

    rows: int
    size: int
    resume: bytes | None


class Engine(Protocol):
    """An ordered, crash-consistent store of bytes.

    Writes and reads belong to one thread; `sync` and `flush` may each run in another at the same time and cover every
    write that returned before they began. A failure of any of them raises `StorageFailed` and must end the process:
    after a failed fsync nobody knows what is on disk.

    What a scan yields are all rows there are: one that cannot go on to its end raises `Damaged`, as does a `get`.
    """

    log: Family
    data: Family
    meta: Family

    @property
    def damaged_families(self) -> tuple[str, ...]:
        """The families that have damaged tables."""
        ...

    def batch(self) -> Batch: ...
    def write(self, batch: Batch) -> None: ...
    def write_unlogged(self, batch: Batch) -> None: ...
    def sync(self) -> None: ...
    def flush(self) -> None: ...
    def get(self, family: Family, key: bytes) -> bytes | None: ...
    def get_many(self, family: Family, keys: list[bytes]) -> list[bytes | None]: ...
    def scan(self, family: Family, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]: ...
    def scan_reverse(self, family: Family, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]: ...
    def count_rows(self, family: Family, start: bytes, end: bytes, max_rows: int) -> RowCount:
        """Count at most `max_rows` rows of [start, end), without pushing others out of a cache."""
        ...

    def view(self) -> View: ...
    def close(self) -> None: ...


class StorageFailed(Exception):
    """The disk or the engine failed; what reached the disk is unknown. The process must end."""


class StorageFull(StorageFailed):
    """The disk is full. RocksDB takes no more writes after it, so the process must end here, too."""


class Damaged(StorageFailed):
    """Rows cannot be read: what is on disk is not what was written there.

    Every read of an engine raises it rather than leave rows out. `family` names where: damage in "data" or "log" is that of
    the replicas whose rows are there, and fails those (see node/damage.py); for that in "meta" see meta_rows.py.
    """

    def __init__(self, family: str, reason: str) -> None:
        super().__init__(reason)
        self.family = family


class StorageDamaged(StorageFailed):
    """What was confirmed to be on disk is gone or cannot be read. The node has to be replaced; the message says how."""


REPLACE_NODE = (
    "what it held is on the other replicas: keep the folder aside, start the node with an empty one and a new id "
    "(`shoal node --join`), and take the old id out of the cluster (`shoal remove-node`)"
)
"""What to do about a node whose disk has lost something."""


class DataFolderRefused(Exception):
    """The data folder may not be opened: another cluster's or node's, of a newer format, or in use."""


class DataFolderInUse(DataFolderRefused):
    """A process has the data folder open, be it this one."""
