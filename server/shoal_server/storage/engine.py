"""What the node asks of its storage engine: batches that are visible at once, and two ways of making them durable.

Three families of rows share one write-ahead log. A batch written with `write` goes to that log, and is durable after
the next `sync`. One written with `write_unlogged` does not: it may change the data family only, and is durable after
the next `flush`. After a crash the log and meta families hold a prefix of the logged batches; the data family holds a
prefix of all batches and the logged ones behind it, where the first prefix is never the longer one: no crash leaves the
effects of an entry without the entry. Each batch is there whole or not at all.

`RocksEngine` (rocks.py) keeps the families on disk, `MemoryEngine` (memory.py) in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, NewType, Protocol

Family = NewType("Family", object)
"""An engine's own handle of a column family: passed back to its batches, opaque to everyone else."""


class Batch(Protocol):
    """Changes that take effect together, in order. `delete_range` removes [start, end)."""

    def put(self, key: bytes, value: bytes, family: Family) -> None: ...
    def delete(self, key: bytes, family: Family) -> None: ...
    def delete_range(self, start: bytes, end: bytes, family: Family) -> None: ...
    def is_empty(self) -> bool: ...


class Piece(NamedTuple):
    """Rows that were read at once, in the order of reading, and where to go on; None: the rest of the range has no rows.

    Reading forwards, that is the next start, and all up to it was read; backwards, the next end, and all from it on was read.

    Args:
        size: bytes of the keys and values.
        seeks: how often a place was looked for.
        passed: at most so many removed rows, which are not gone from the disk yet, lay between.
    """

    rows: list[tuple[bytes, bytes]]
    resume: bytes | None
    size: int
    seeks: int = 1
    passed: int = 0


class Reader(Protocol):
    """Reads the rows of one family as they were when it was made, piece by piece. Close it: it holds back compaction."""

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
        """Return the first rows of [start, end); with `reverse` the last ones, from the end down.

        A piece is a bounded piece of work. It may have less than was asked for, even nothing where removed rows are in the
        way; but each one comes further, so whoever goes on at `resume` comes to the end.

        Args:
            max_rows, max_bytes: it ends with the row that reaches either.
            keys_only: the values are left out, and do not count.

        Raises:
            Damaged: the rows cannot be read on.
        """
        ...

    def heads(self, spans: Sequence[tuple[bytes, bytes]], *, reverse: bool = False) -> list[bytes | Piece | None]:
        """Return of each range [start, end) the key of its first row, with `reverse` of its last one; None: it has none.

        Where removed rows are in the way, a piece as `read` returns it. How many ranges there are is for the caller to bound.

        Raises:
            Damaged: a row cannot be read.
        """
        ...

    def few_keys(self, spans: Sequence[tuple[bytes, bytes]], max_keys: int) -> list[list[bytes] | None]:
        """Return of each range [start, end) the keys of its rows, where that is quickly said; None where it is not.

        It is not where there are more than `max_keys`, where removed rows are in the way or rows cannot be read, and where the
        ranges before took long.
        """
        ...

    def close(self) -> None: ...


def rows_of(reader: Reader, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield all rows of [start, end) in key order. However many they are: nobody bounds the work but whoever takes them."""
    max_rows = FIRST_ROWS
    while True:
        piece = reader.read(start, end, max_rows, CHUNK_BYTES)
        yield from piece.rows
        if piece.resume is None:
            return
        start = piece.resume
        max_rows = min(4 * max_rows, CHUNK_ROWS)


FIRST_ROWS = 8
CHUNK_ROWS = 512
CHUNK_BYTES = 256 * 1024
"""Of what `rows_of` reads at once: little at first, since many want one row only."""


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

    @property
    def writes_stopped(self) -> bool:
        """Whether a write would have to wait until what was written before is on disk. Cheap to ask."""
        ...

    def batch(self) -> Batch: ...
    def write(self, batch: Batch) -> None: ...
    def write_unlogged(self, batch: Batch) -> None: ...
    def sync(self) -> None: ...
    def flush(self) -> None: ...
    def get(self, family: Family, key: bytes) -> bytes | None: ...
    def get_many(self, family: Family, keys: list[bytes]) -> list[bytes | None]: ...
    def scan(self, family: Family, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]: ...
    def reader(self, family: Family, *, fill_cache: bool = True) -> Reader:
        """Return a reader of a family as it is now.

        Args:
            fill_cache: what it reads is likely to be read again, and may push other rows out of a cache.
        """
        ...

    def before_clearing(self) -> None:
        """Ranges that may have many rows are about to be removed: see that readers come over them soon. It does not wait."""
        ...

    def tidy(self) -> None:
        """Rows that were removed are much in the way of readers: see that they are gone soon. It does not wait."""
        ...

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
