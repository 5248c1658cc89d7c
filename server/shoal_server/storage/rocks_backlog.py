"""How far RocksDB is behind with putting on disk what it has taken, and whether it would hold up the next write.

It takes no writes with too many full memtables of a column family, files of the first level, or bytes to be compacted. A write
then waits within the call, and rocksdict keeps the interpreter meanwhile: no thread of the process runs. Writes that are not to
wait (`no_slowdown`) are no way out: rocksdict parts with the batch whether it was written or not. So it is asked before.
"""

from __future__ import annotations

from collections.abc import Mapping

from rocksdict import Rdict

from shoal_server.storage.engine_memory import WRITE_BUFFERS

FILLED = ("log", "data")
"""The families whose memtables fill up while a node works."""
NEARLY_FULL = WRITE_BUFFERS - 0.25
"""Memtables, the present one among them."""
FIRST_LEVEL_FILES = 48
PENDING_COMPACTION_BYTES = 256 << 30
"""Beyond one of these, or with `WRITE_BUFFERS` full memtables, of one column family, RocksDB takes no writes."""

_UNFLUSHED = "rocksdb.cur-size-all-mem-tables"
_PRESENT = "rocksdb.cur-size-active-mem-table"
_FULL = "rocksdb.num-immutable-mem-table"
_STOPPED = "rocksdb.is-write-stopped"
"""Of the whole database, whichever column family is asked."""


class RocksBacklog:
    """See the module's first lines.

    `pressed`: whoever looks after the disk has found that it is far behind; so it is asked more closely.
    """

    __slots__ = ("_buffer_bytes", "_families", "pressed")

    def __init__(self, families: Mapping[str, Rdict], buffer_bytes: Mapping[str, int]) -> None:
        """`families`: the column families, at every moment; `buffer_bytes`: of a memtable of each."""
        self.pressed = False
        self._families = families
        self._buffer_bytes = buffer_bytes

    @property
    def writes_stopped(self) -> bool:
        """Whether a write would have to wait. Asked before each turn's: it takes under two microseconds.

        The write that finds a memtable full puts another one in its place, and is itself what waits where that is one too
        many. So the last one may not become full before another is on disk.
        """
        for name in FILLED:
            rows = self._families[name]
            if (rows.property_int_value(_UNFLUSHED) or 0) > NEARLY_FULL * self._buffer_bytes[name] and (
                rows.property_int_value(_FULL) or 0
            ) >= WRITE_BUFFERS - 1:
                return True
        return self.pressed and bool(self._families["data"].property_int_value(_STOPPED))

    @property
    def memtables(self) -> float:
        """How many are full, and how far the present one is, of the family with most of them."""
        return max(self._memtables(name) for name in FILLED)

    def _memtables(self, name: str) -> float:
        rows = self._families[name]
        filled = (rows.property_int_value(_PRESENT) or 0) / self._buffer_bytes[name]
        return (rows.property_int_value(_FULL) or 0) + min(filled, 1.0)

    @property
    def first_level_files(self) -> int:
        """How many are to be compacted, of the family with most of them."""
        return max(int(self._families[name].property_value("rocksdb.num-files-at-level0") or 0) for name in FILLED)

    @property
    def pending_bytes(self) -> int:
        """How many are to be compacted, of the family with most of them, estimated."""
        name = "rocksdb.estimate-pending-compaction-bytes"
        return max(self._families[family].property_int_value(name) or 0 for family in FILLED)

    @property
    def delayed_rate(self) -> int:
        """To what RocksDB slows writes down (bytes a second), 0: it does not."""
        return self._families["data"].property_int_value("rocksdb.actual-delayed-write-rate") or 0
