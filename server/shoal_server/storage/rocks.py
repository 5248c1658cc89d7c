"""The engine on disk: RocksDB through rocksdict, one database a node with three column families and one write-ahead log.

`write` leaves a batch in the operating system's cache; `sync` is `flush_wal(True)`, which lets go of the interpreter lock
while it waits for the disk (a write with `sync=True` does not), so a thread may do it while the event loop works. A write
to the log waits for a sync of it that is under way; `write_unlogged` has nothing to wait for, and half the bytes to write.

Recovery is point-in-time: what comes back of the log is a prefix of its batches, each whole, and shorter than what was
synced only where it was damaged since, which marks.py notices. RocksDB flushes the data
family when `flush` says so, and by itself when its buffer is full; either way it syncs the logs written until then
first, so flushed rows never run ahead of the log.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import cast

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    RdictIter,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from shoal_server.storage.engine import (
    REPLACE_NODE,
    Batch,
    Family,
    RowCount,
    StorageDamaged,
    StorageFailed,
    StorageFull,
    View,
)
from shoal_server.storage.layout import MARK_ROW
from shoal_server.storage.marks import MARK_SECONDS, SyncedMarks

LOG_BUFFER_BYTES = 16 * 1024 * 1024
META_BUFFER_BYTES = 8 * 1024 * 1024
OPEN_FILES = 512
INFO_LOGS = 2
INFO_LOG_BYTES = 4 * 1024 * 1024
BLOOM_BITS = 10
NO_SPACE = "no space left"
DAMAGED = "Corruption"
MARKS_FILE = "SYNCED"
_TICKER = re.compile(r"^rocksdb\.(\S+) COUNT : (\d+)$", re.MULTILINE)


def _family_options(write_buffer_bytes: int, cache: Cache, *, compressed: bool) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_bloom_filter(BLOOM_BITS, False)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    options = Options(raw_mode=True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(write_buffer_bytes)
    options.set_max_write_buffer_number(3)
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_compression_type(DBCompressionType.lz4() if compressed else DBCompressionType.none())
    return options


def _rows(source: Rdict, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows of [start, end) in order.

    A generator, because it keeps the read options: RocksDB's iterator points to the bound in them and does not own it.
    """
    bounds = ReadOptions()
    bounds.set_iterate_upper_bound(end)
    yield from cast(Iterator[tuple[bytes, bytes]], source.items(from_key=start, read_opt=bounds))


class _RocksView:
    """A view: one RocksDB iterator a family, made between two writes of the only thread that writes.

    An iterator sees its family as it was when it was made. (rocksdict 0.3.29's snapshots do not: their iterators read
    what is there now.) One scan of a family at a time.
    """

    def __init__(self, iterators: dict[Family, RdictIter]) -> None:
        self._iterators = iterators

    def scan(self, family: Family, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        iterator = self._iterators[family]
        iterator.seek(start)
        while iterator.valid():
            key = iterator.key()
            if key >= end:
                return
            yield key, iterator.value()
            iterator.next()
        try:
            iterator.status()
        except Exception as error:
            raise StorageFailed(f"a snapshot cannot be read: {error}") from error

    def close(self) -> None:
        self._iterators = {}


class RocksEngine:
    """Implements `Engine` on the folder `path`, which must exist and belong to this process alone."""

    def __init__(self, path: Path, *, block_cache_bytes: int, write_buffer_bytes: int, counters: bool = False) -> None:
        """
        Args:
            counters: RocksDB counts what it looks up and writes: see `tickers`. It costs a few percent of the reads.

        Raises:
            StorageFailed: the database cannot be opened.
            StorageDamaged: it can be, and lacks what was once confirmed to be on disk.
        """
        self._path = path
        self._unlogged = WriteOptions()
        self._unlogged.disable_wal = True  # type: ignore[method-assign, assignment]  # a property, whatever the stub says
        cache = Cache(block_cache_bytes)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
        options.set_keep_log_file_num(INFO_LOGS)
        options.set_max_log_file_size(INFO_LOG_BYTES)
        options.set_max_open_files(OPEN_FILES)
        if counters:
            options.enable_statistics()
        self._options = options
        families = {
            "log": _family_options(LOG_BUFFER_BYTES, cache, compressed=False),
            "data": _family_options(write_buffer_bytes, cache, compressed=True),
            "meta": _family_options(META_BUFFER_BYTES, cache, compressed=False),
        }
        try:
            self._database = Rdict(str(path), options, column_families=families)
            self._families: dict[Family, Rdict] = {}
            self._by_name: dict[str, Rdict] = {}
            self.log, self.data, self.meta = (self._open_family(name) for name in ("log", "data", "meta"))
        except Exception as error:  # rocksdict raises plain Exception for whatever RocksDB reports
            if DAMAGED in str(error):
                raise StorageDamaged(f"the database in {path} is damaged: {error}; {REPLACE_NODE}") from error
            raise StorageFailed(f"the database in {path} cannot be opened: {error}") from error
        self._marks = self._open_marks()
        self._mark_due = 0.0
        self._written_mark = self._marks.noted

    def _open_marks(self) -> SyncedMarks:
        """Check that everything is there that a sync had confirmed by the last mark."""
        row = self.get(self.meta, MARK_ROW)
        found = 0 if row is None else int.from_bytes(row, "big")
        try:
            marks = SyncedMarks(self._path / MARKS_FILE)
        except OSError as error:
            raise self._failure("read the marks of", error) from error
        if found < marks.noted:
            self._close_database()
            raise StorageDamaged(
                f"the write-ahead log in {self._path} has lost what was confirmed to be on disk (its last mark is {found}, "
                f"{marks.noted} was synced): the disk lies, or files were damaged or brought back from an old copy; "
                f"{REPLACE_NODE}. Only where no other replica is left: remove {marks.path} to start with what is there"
            )
        marks.noted = found
        return marks

    def _open_family(self, name: str) -> Family:
        family = Family(self._database.get_column_family_handle(name))
        self._families[family] = self._by_name[name] = self._database.get_column_family(name)
        return family

    def batch(self) -> Batch:
        # rocksdict's own object, without a wrapper: a put is the hottest call of a node.
        return cast(Batch, WriteBatch(raw_mode=True))

    def write(self, batch: Batch) -> None:
        now = time.monotonic()
        if now >= self._mark_due:
            self._mark_due = now + MARK_SECONDS
            self._write_marked(batch)
            return
        self._write(batch)

    def _write(self, batch: Batch) -> None:
        try:
            self._database.write(cast(WriteBatch, batch))
        except Exception as error:
            raise self._failure("write to", error) from error

    def _write_marked(self, batch: Batch) -> None:
        mark = self._written_mark + 1
        batch.put(MARK_ROW, mark.to_bytes(8, "big"), self.meta)
        self._write(batch)
        # Only now: a sync that runs in its thread meanwhile may have begun before the mark was there to be covered.
        self._written_mark = mark

    def write_unlogged(self, batch: Batch) -> None:
        try:
            self._database.write(cast(WriteBatch, batch), self._unlogged)
        except Exception as error:
            raise self._failure("write to", error) from error

    def sync(self) -> None:
        mark = self._written_mark
        try:
            self._database.flush_wal(True)
            if mark > self._marks.noted:
                self._marks.note(mark)
        except Exception as error:
            raise self._failure("sync", error) from error

    def flush(self) -> None:
        try:
            self._families[self.data].flush()
        except Exception as error:
            raise self._failure("flush", error) from error

    def get(self, family: Family, key: bytes) -> bytes | None:
        return cast("bytes | None", self._families[family].get(key))

    def get_many(self, family: Family, keys: list[bytes]) -> list[bytes | None]:
        return cast(
            "list[bytes | None]", self._families[family].get(cast("list[str | int | float | bytes | bool]", keys))
        )

    def scan(self, family: Family, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return _rows(self._families[family], start, end)

    def scan_reverse(self, family: Family, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        # Without bounds in the read options: rocksdict 0.3.29 takes a lower bound for an upper one.
        items = self._families[family].items(backwards=True, from_key=end)
        for key, value in cast(Iterator[tuple[bytes, bytes]], items):
            if key < start:
                return
            if key < end:
                yield key, value

    def count_rows(self, family: Family, start: bytes, end: bytes, max_rows: int) -> RowCount:
        options = ReadOptions()
        options.set_iterate_upper_bound(end)
        options.fill_cache(False)  # type: ignore[call-arg]  # it takes an argument, whatever the stub says
        items = self._families[family].items(from_key=start, read_opt=options)
        rows = list(islice(cast(Iterator[tuple[bytes, bytes]], items), max_rows))
        size = sum([len(key) + len(value) for key, value in rows])
        return RowCount(len(rows), size, rows[-1][0] + b"\x00" if len(rows) == max_rows else None)

    def view(self) -> View:
        return _RocksView({family: rows.iter() for family, rows in self._families.items()})

    @property
    def family_names(self) -> tuple[str, ...]:
        """The names of the column families."""
        return tuple(self._by_name)

    def property_number(self, family: str, name: str) -> int:
        """Return one of RocksDB's properties (without its `rocksdb.`) that is a number; 0 where this version lacks it."""
        return self._by_name[family].property_int_value(f"rocksdb.{name}") or 0

    def property_text(self, family: str, name: str) -> str:
        """Return one of RocksDB's properties (without its `rocksdb.`) as text; "" where this version lacks it."""
        return self._by_name[family].property_value(f"rocksdb.{name}") or ""

    def tickers(self) -> dict[str, int]:
        """Return RocksDB's own counters since the database was opened, by name (without its `rocksdb.`); none without them."""
        statistics = self._options.get_statistics() or ""
        return {name: int(count) for name, count in _TICKER.findall(statistics)}

    def free_bytes(self) -> int:
        """Return how many bytes the disk under the database has left for this process."""
        usage = os.statvfs(self._path)
        return usage.f_bavail * usage.f_frsize

    def close(self) -> None:
        """Flush and close.

        Raises:
            StorageFailed: what was written may not all be on disk.
        """
        self.sync()
        try:
            self._marks.close()
            self._families[self.data].flush()
            self._close_database()
        except Exception as error:
            raise self._failure("close", error) from error

    def _close_database(self) -> None:
        for rows in self._families.values():
            rows.close()
        self._database.close()
        # rocksdict gives the database's lock back when the last of its handles is gone.
        del self._database, self._families, self._by_name, self.log, self.data, self.meta

    def _failure(self, verb: str, error: Exception) -> StorageFailed | StorageFull:
        kind = StorageFull if NO_SPACE in str(error).lower() else StorageFailed
        return kind(f"could not {verb} the database in {self._path}: {error}")
