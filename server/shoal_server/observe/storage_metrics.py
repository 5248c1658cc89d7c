"""What RocksDB says of itself, as families of samples: sizes, levels, stalls and the cache, by its own properties."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from shoal.metrics import Family, counter, gauge

from shoal_server.storage.rocks import RocksEngine

LEVELS = 7
_STALLS = re.compile(r"total-(delays|stops): (\d+)")

_BY_FAMILY = (
    ("total-sst-files-size", "shoal_storage_files_bytes", "Bytes of the table files, with those no longer in use"),
    (
        "estimate-live-data-size",
        "shoal_storage_live_bytes",
        "Bytes of the rows that are not yet overwritten, estimated",
    ),
    ("estimate-num-keys", "shoal_storage_rows", "Rows, estimated"),
    ("size-all-mem-tables", "shoal_storage_memtables_bytes", "Bytes of the memtables"),
    ("num-immutable-mem-table", "shoal_storage_memtables_to_flush", "Full memtables that are not on disk yet"),
    (
        "estimate-pending-compaction-bytes",
        "shoal_storage_compaction_pending_bytes",
        "Bytes that compaction has yet to rewrite, estimated",
    ),
)
_OF_DATABASE = (
    ("block-cache-usage", "shoal_storage_cache_bytes", "Bytes in the block cache"),
    ("block-cache-capacity", "shoal_storage_cache_limit_bytes", "The bound of the block cache"),
    ("num-running-compactions", "shoal_storage_compactions_running", "Compactions under way"),
    ("num-running-flushes", "shoal_storage_flushes_running", "Flushes under way"),
    ("is-write-stopped", "shoal_storage_writes_stopped", "1 while RocksDB takes no writes, until it has compacted"),
    (
        "actual-delayed-write-rate",
        "shoal_storage_delayed_write_bytes_per_second",
        "What RocksDB slows writes down to, 0 where it does not",
    ),
    ("background-errors", "shoal_storage_background_errors", "Errors of RocksDB's own threads"),
)
_CACHED_BLOCKS = ("data", "index", "filter")
_WRITTEN_BY = {"log": "wal.bytes", "flush": "flush.write.bytes", "compaction": "compact.write.bytes"}


def storage_families(engine: RocksEngine) -> Iterator[Family]:
    """Yield the families of a node's database, by column family where they differ."""
    for name, family, documentation in _BY_FAMILY:
        found = Family(family, "gauge", documentation)
        for column_family in engine.family_names:
            found.add(engine.property_number(column_family, name), family=column_family)
        yield found
    yield gauge(
        "shoal_storage_damaged_families",
        "Column families with damaged tables, which are not compacted before a start writes them anew",
        len(engine.damaged_families),
    )
    levels = Family("shoal_storage_level_files", "gauge", "Table files of each level")
    stalls = Family("shoal_storage_stalls", "counter", "How often RocksDB slowed writes down or stopped them")
    for column_family in engine.family_names:
        for level in range(LEVELS):
            files = engine.property_text(column_family, f"num-files-at-level{level}")
            levels.add(float(files or 0), family=column_family, level=str(level))
        for kind, count in _STALLS.findall(engine.property_text(column_family, "cf-write-stall-stats")):
            stalls.add(float(count), family=column_family, kind=kind)
    yield levels
    yield stalls
    for name, family, documentation in _OF_DATABASE:
        yield gauge(family, documentation, engine.property_number("data", name))
    tickers = engine.tickers()
    if tickers:
        yield from _counted(tickers)


def _counted(tickers: Mapping[str, int]) -> Iterator[Family]:
    """Yield what RocksDB counts by itself, for all column families at once."""
    lookups = Family(
        "shoal_storage_cache_lookups", "counter", "Blocks looked up in the block cache, found there or read"
    )
    for block in _CACHED_BLOCKS:
        for result in ("hit", "miss"):
            lookups.add(tickers[f"block.cache.{block}.{result}"], block=block, result=result)
    yield lookups
    written = Family("shoal_storage_written_bytes", "counter", "Bytes written to disk, by what for")
    for purpose, name in _WRITTEN_BY.items():
        written.add(tickers[name], purpose=purpose)
    yield written
    yield counter(
        "shoal_storage_compaction_read_bytes", "Bytes that compactions have read", tickers["compact.read.bytes"]
    )
    yield counter(
        "shoal_storage_stall_seconds",
        "How long writes were held up until RocksDB had compacted",
        tickers["stall.micros"] / 1e6,
    )
