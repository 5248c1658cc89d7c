"""The engine on disk: RocksDB through rocksdict, one database a node with three column families and one write-ahead log.

`write` leaves a batch in the operating system's cache; `sync` is `flush_wal(True)`, which lets go of the interpreter lock
while it waits for the disk (a write with `sync=True` does not), so a thread may do it while the event loop works. A write
to the log waits for a sync of it that is under way; `write_unlogged` has nothing to wait for, and half the bytes to write.

Recovery is point-in-time: what comes back of the log is a prefix of its batches, each whole, and shorter than what was
synced only where it was damaged since, which wal_watermark.py notices. What is found is in synced tables before anybody
reads it. RocksDB flushes the data family when `flush` says so, and by itself when its buffer is full; either way it syncs
the logs written until then first, so flushed rows never run ahead of the log.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast
from weakref import WeakSet

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from shoal_server.storage.engine import (
    REPLACE_NODE,
    Batch,
    Damaged,
    Family,
    Reader,
    StorageDamaged,
    StorageFailed,
    StorageFull,
)
from shoal_server.storage.engine_memory import LOG_BUFFER_BYTES, META_BUFFER_BYTES, WRITE_BUFFERS
from shoal_server.storage.manifest import ManifestWatermark
from shoal_server.storage.mending import SECOND, DamagedFamilies, other_column
from shoal_server.storage.rocks_backlog import FIRST_LEVEL_FILES, PENDING_COMPACTION_BYTES, RocksBacklog
from shoal_server.storage.rocks_reader import RocksReader, RocksScan
from shoal_server.storage.rocks_tidying import compact_marks, put_aside
from shoal_server.storage.wal_watermark import WATERMARK_FILE, WalWatermark

OPEN_FILES = 512
INFO_LOGS = 2
INFO_LOG_BYTES = 4 * 1024 * 1024
BLOOM_BITS = 10
NO_SPACE = "no space left"
DAMAGED = "Corruption"
OF_REPLICAS = ("data", "log")
"""The families in which replicas may be damaged, and rebuilt."""
COPY_BYTES = 4 * 1024 * 1024
_MAX_CLEARINGS = ("memtable_max_range_deletions", "512")
"""Ranges that are removed in one memtable before it is flushed: the read behind each one puts all of them in order."""
DELETIONS_WINDOW, DELETIONS_IN_WINDOW, DELETIONS_RATIO = 1024, 512, 0.5
"""A table is compacted where half of its rows are marks of removed ones, or half of those in a window."""
_COMPACTS_NOT = "disable_auto_compactions"
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
    options.set_max_write_buffer_number(WRITE_BUFFERS)
    # It is not to slow writes down by itself, within the call: node/write_budget.py does so, long before.
    options.set_level_zero_slowdown_writes_trigger(FIRST_LEVEL_FILES)
    options.set_level_zero_stop_writes_trigger(FIRST_LEVEL_FILES)
    options.set_soft_pending_compaction_bytes_limit(PENDING_COMPACTION_BYTES)
    options.set_hard_pending_compaction_bytes_limit(PENDING_COMPACTION_BYTES)
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_compression_type(DBCompressionType.lz4() if compressed else DBCompressionType.none())
    options.add_compact_on_deletion_collector_factory(DELETIONS_WINDOW, DELETIONS_IN_WINDOW, DELETIONS_RATIO)
    return options


def _columns(path: Path, options: Options, families: Iterable[str]) -> dict[str, list[str]]:
    """Return, of each family, the column families that the database has of it, or is to be made with."""
    stored = set(Rdict.list_cf(str(path), options)) if (path / "CURRENT").exists() else set()
    return {name: [each for each in (name, name + SECOND) if each in stored] or [name] for name in families}


class Rewriting:
    """A family with damaged tables that is written anew: what is to stay is copied to its other column family.

    That one takes the place of the old one with `finish`. A crash before leaves the old one, and a copy that the next start
    removes. Where it is dropped, everything is in the new one.
    """

    __slots__ = ("_batch", "_engine", "_name", "_size", "_source", "_target")

    def __init__(self, engine: RocksEngine, name: str, target: str) -> None:
        self._engine = engine
        self._name = name
        self._target = target
        self._source = engine._family_named(name)
        self._batch, self._size = WriteBatch(raw_mode=True), 0

    def copy(self, start: bytes, end: bytes) -> None:
        """Copy the rows of [start, end).

        Raises:
            Damaged: they cannot be read to the end; what comes before that is copied.
        """
        engine, handle = self._engine, self._engine._database.get_column_family_handle(self._target)
        for key, row in engine._scan(self._source).rows(start, end, fill_cache=False):
            self._batch.put(key, row, handle)
            self._size += len(key) + len(row)
            if self._size >= COPY_BYTES:
                self._write()

    def copy_row(self, key: bytes) -> None:
        """Copy the row of a key, if there is one: where it was written lately, whatever else is damaged near it.

        Raises:
            Damaged: it cannot be read.
        """
        row = self._engine.get(self._source, key)
        if row is not None:
            self._batch.put(key, row, self._engine._database.get_column_family_handle(self._target))
            self._size += len(key) + len(row)

    def _write(self) -> None:
        self._engine.write_unlogged(cast(Batch, self._batch))
        self._batch, self._size = WriteBatch(raw_mode=True), 0

    def abandon(self) -> None:
        """Leave the family as it is."""
        self._engine._database.drop_column_family(self._target)

    def finish(self) -> None:
        """Have what was copied be all there is of the family. What else goes with that must be on disk by now.

        Raises:
            StorageFailed: it is not known what is on disk; the next start will see to it.
        """
        self._write()
        try:
            self._engine._database.get_column_family(self._target).flush()
            self._engine._replace_column(self._name, self._target)
        except Exception as error:
            raise self._engine._failure("write to", error) from error


class RocksEngine:
    """Implements `Engine` on the folder `path`, which must exist and belong to this process alone.

    `backlog`: how far it is behind with what it has taken.
    """

    def __init__(
        self,
        path: Path,
        *,
        block_cache_bytes: int,
        write_buffer_bytes: int,
        counters: bool = False,
        open_files: int = OPEN_FILES,
    ) -> None:
        """
        Args:
            counters: RocksDB counts what it looks up and writes: see `tickers`. It costs a few percent of the reads.
            open_files: so many files RocksDB may keep open, besides a few.

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
        options.set_max_open_files(open_files)
        if counters:
            options.enable_statistics()
        self._options = options
        self._buffer_bytes = {"log": LOG_BUFFER_BYTES, "data": write_buffer_bytes, "meta": META_BUFFER_BYTES}
        families = {
            name: _family_options(size, cache, compressed=name == "data") for name, size in self._buffer_bytes.items()
        }
        self._options_of = families
        self.rewritten: tuple[str, ...] = ()
        try:
            self._manifest = self._open_manifest()
            self._damage = DamagedFamilies(path)
            for name in self._damage.columns:
                families[name].set_disable_auto_compactions(True)
            columns = _columns(path, options, families)
            known = {column: families[name] for name, found in columns.items() for column in found}
            self._database = Rdict(str(path), options, column_families=known)
            # Before anything is written: numbers are given on from where recovery has come to.
            self._written = self._database.latest_sequence_number()
            self._writes = 0
            self._readers: WeakSet[RocksReader] = WeakSet()
            self._watermark = self._open_watermark(self._written)
            self._families: dict[Family, Rdict] = {}
            self._by_name: dict[str, Rdict] = {}
            self.backlog = RocksBacklog(self._by_name, self._buffer_bytes)
            self._columns: dict[str, str] = {}
            self._names: dict[Family, str] = {}
            self.log, self.data, self.meta = (
                self._open_family(name, self._column_to_open(name, columns[name])) for name in ("log", "data", "meta")
            )
        except StorageFailed:
            raise
        except Exception as error:  # rocksdict raises plain Exception for whatever RocksDB reports
            if DAMAGED in str(error):
                raise StorageDamaged(f"the database in {path} is damaged: {error}; {REPLACE_NODE}") from error
            raise StorageFailed(f"the database in {path} cannot be opened: {error}") from error
        self._keep_what_was_recovered()

    def _open_manifest(self) -> ManifestWatermark:
        """Check that the tables are known that were confirmed to be on disk, before anything goes on without them."""
        try:
            manifest = ManifestWatermark(self._path)
            lost = manifest.lost()
        except OSError as error:
            raise self._failure("read the MANIFEST of", error) from error
        if lost:
            raise _lost(f"the database in {self._path}", lost, manifest.path)
        return manifest

    def _open_watermark(self, found: int) -> WalWatermark:
        """Check that everything is there that a sync has ever confirmed.

        Args:
            found: the number of the last write that recovery has brought back.
        """
        try:
            watermark = WalWatermark(self._path / WATERMARK_FILE, self._manifest.note)
        except OSError as error:
            raise self._failure("read the marks of", error) from error
        if found < watermark.noted:
            self._database.close()
            del self._database
            lost = f"it ends at {found}, and was synced up to {watermark.noted}"
            raise _lost(f"the write-ahead log in {self._path}", lost, watermark.path)
        return watermark

    def _keep_what_was_recovered(self) -> None:
        """Have on disk for good what a killed process had written and never synced, and recovery has found.

        Whoever opens the database counts it as synced: a replica promises it without storing it once more. RocksDB puts
        what it recovers into tables by default; this makes sure of it, and finds nothing to do then.
        """
        try:
            for family in self._families.values():
                family.flush()
            self._manifest.note()
        except Exception as error:
            raise self._failure("flush", error) from error

    def _open_family(self, name: str, column: str) -> Family:
        family = Family(self._database.get_column_family_handle(column))
        rows = self._families[family] = self._by_name[name] = self._database.get_column_family(column)
        if name == "data":
            # It holds for memtables that are begun from now on.
            rows.set_options(dict([_MAX_CLEARINGS]))
        self._names[family] = name
        self._columns[name] = column
        return family

    # -- damaged tables

    @property
    def damaged_families(self) -> tuple[str, ...]:
        """The families that have damaged tables, and are not compacted until they have been written anew, at a start."""
        return tuple(sorted(self._damage.columns))

    def _column_to_open(self, name: str, found: list[str]) -> str:
        """Return the column family that has a family's rows, having ended a writing anew that was begun."""
        source = self._damage.columns.get(name, found[0])
        if name not in self._damage:
            return source
        target = other_column(name, source)
        if source not in found:
            # It was dropped, which is done when everything is in the other one.
            self._mended(name, target)
            return target
        if target in found:
            self._database.drop_column_family(target)
        return source

    def _mended(self, name: str, column: str) -> None:
        """A family has no damaged tables any more: all its rows are in `column`."""
        self._database.get_column_family(column).set_options({_COMPACTS_NOT: "false"})
        self._damage.remove(name)
        self.rewritten = (*self.rewritten, name)

    def rewriting(self, name: str) -> Rewriting:
        """Begin to write a family with damaged tables anew. Nobody else may have to do with the engine before that has ended.

        Raises:
            StorageFailed: it cannot be begun.
        """
        source = self._columns[name]
        target = other_column(name, source)
        try:
            self._database.create_column_family(target, self._options_of[name])
        except Exception as error:
            raise self._failure("write to", error) from error
        return Rewriting(self, name, target)

    def _family_named(self, name: str) -> Family:
        return next(family for family, each in self._names.items() if each == name)

    def _replace_column(self, name: str, target: str) -> None:
        """Have `target`, which is on disk, take the place of a family's column family, which goes."""
        source, old = self._columns[name], self._family_named(name)
        del self._families[old], self._names[old], self._by_name[name]
        self._database.drop_column_family(source)
        setattr(self, name, self._open_family(name, target))
        self._mended(name, target)

    def _read_failure(self, name: str, error: Exception) -> StorageFailed:
        """Return what to raise where reading a family has failed; where it is damaged, have it compacted no more."""
        if DAMAGED not in str(error):
            return StorageFailed(f"the {name} family cannot be read: {error}")
        if name not in self._damage:
            try:
                self._damage.add([(name, self._columns[name])])
                self._by_name[name].set_options({_COMPACTS_NOT: "true"})
            except Exception as failed:
                return StorageFailed(f"damage to the {name} family cannot be noted: {failed}")
        return Damaged(name, f"rows of the {name} family cannot be read: {error}")

    @property
    def writes_stopped(self) -> bool:
        return self.backlog.writes_stopped

    def batch(self) -> Batch:
        # rocksdict's own object, without a wrapper: a put is the hottest call of a node.
        return cast(Batch, WriteBatch(raw_mode=True))

    def write(self, batch: Batch) -> None:
        if batch.is_empty():
            # It would be numbered as the last write is, which may be one that is not logged.
            return
        self._writes += 1
        try:
            self._database.write(cast(WriteBatch, batch))
            # Only now: a sync that runs in its thread meanwhile may have begun before this was there to be covered.
            self._written = self._database.latest_sequence_number()
        except Exception as error:
            raise self._failure("write to", error) from error

    def write_unlogged(self, batch: Batch) -> None:
        self._writes += 1
        try:
            self._database.write(cast(WriteBatch, batch), self._unlogged)
        except Exception as error:
            raise self._failure("write to", error) from error

    def sync(self) -> None:
        written = self._written
        try:
            self._database.flush_wal(True)
            if written > self._watermark.noted:
                self._watermark.note(written)
        except Exception as error:
            raise self._failure("sync", error) from error

    def flush(self) -> None:
        try:
            self._families[self.data].flush()
        except Exception as error:
            raise self._failure("flush", error) from error
        self._watermark.look_again()

    def before_clearing(self) -> None:
        """See `Engine`.

        RocksDB goes over the rows that a range removes in their own memtable one by one, and jumps over those in older ones
        (200,000 rows: 15 ms, in reverse 150, against 0.05). So what was written before goes into one of its own.
        """
        try:
            put_aside(self._families[self.data])
        except Exception as error:
            raise self._failure("flush", error) from error

    def tidy(self) -> None:
        """See `Engine`."""
        try:
            compact_marks(self._database, self._families[self.data])
        except Exception as error:
            raise self._failure("flush", error) from error

    def get(self, family: Family, key: bytes) -> bytes | None:
        try:
            return cast("bytes | None", self._families[family].get(key))
        except Exception as error:
            raise self._read_failure(self._names[family], error) from error

    def get_many(self, family: Family, keys: list[bytes]) -> list[bytes | None]:
        try:
            return cast(
                "list[bytes | None]", self._families[family].get(cast("list[str | int | float | bytes | bool]", keys))
            )
        except Exception as error:
            raise self._read_failure(self._names[family], error) from error

    def scan(self, family: Family, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._scan(family).rows(start, end)

    def reader(self, family: Family, *, fill_cache: bool = True) -> Reader:
        failure = partial(self._read_failure, self._names[family])
        reader = RocksReader(self._families[family], failure, lambda: self._writes, fill_cache=fill_cache)
        self._readers.add(reader)
        return reader

    def _scan(self, family: Family) -> RocksScan:
        return RocksScan(self._families[family], partial(self._read_failure, self._names[family]))

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
            self._watermark.close()
            self._families[self.data].flush()
            self._close_database()
            self._manifest.note()
        except Exception as error:
            raise self._failure("close", error) from error

    def _close_database(self) -> None:
        for reader in self._readers:
            reader.close()
        for rows in self._families.values():
            rows.close()
        self._database.close()
        # rocksdict gives the database's lock back when the last of its handles is gone.
        del self._database, self._families, self._by_name, self._names, self.log, self.data, self.meta

    def _failure(self, verb: str, error: Exception) -> StorageFailed | StorageFull:
        if DAMAGED in str(error):
            # A compaction has met it: RocksDB takes no more writes until the database is opened again.
            with suppress(OSError):
                self._damage.add(self._columns.items())
            return StorageDamaged(
                f"could not {verb} the database in {self._path}, one of whose tables is damaged: {error}; start the node "
                "again: it compacts no more, finds which replicas are damaged, and rebuilds them"
            )
        kind = StorageFull if NO_SPACE in str(error).lower() else StorageFailed
        return kind(f"could not {verb} the database in {self._path}: {error}")


def _lost(what: str, how: str, note: Path) -> StorageDamaged:
    """Return the refusal to start with less than `note` says that there was."""
    return StorageDamaged(
        f"{what} has lost what was confirmed to be on disk ({how}): the disk lies, or files were damaged or brought back from "
        f"an old copy; {REPLACE_NODE}. Only where no other replica is left: remove {note} to start with what is there"
    )
