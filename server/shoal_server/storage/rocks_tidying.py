"""What RocksDB is asked to do about rows that were removed and are still in the way of readers."""

from __future__ import annotations

from rocksdict import Rdict

CLEARED_IN_MEMORY = 16 * 1024
"""Rows in a memtable that a range may be removed over: going over them takes a millisecond, in reverse ten times that."""
_ENTRIES = "rocksdb.num-entries-active-mem-table"
_WAITING = "rocksdb.num-immutable-mem-table"


def put_aside(rows: Rdict) -> None:
    """Have a family's memtable written to a table, where there is much in it, without waiting for that."""
    many = (rows.property_int_value(_ENTRIES) or 0) > CLEARED_IN_MEMORY
    if many and not rows.property_int_value(_WAITING):
        rows.flush(wait=False)


def compact_marks(database: Rdict, rows: Rdict) -> None:
    """Have marks of removed rows of a family of the database compacted away, without waiting for that.

    RocksDB moves a table that is full of them down to the last level as it is, if nothing is in its way, and leaves it there.
    Which tables of that level have anything to be dropped it looks when a snapshot is given back.
    """
    put_aside(rows)
    snapshot = database.snapshot()
    del snapshot
