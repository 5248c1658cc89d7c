"""A simulated disk under the real storage code: what was not synced or flushed when the power goes may be lost.

Like the engine on RocksDB, it keeps a prefix of the logged batches that were written (a torn last one is dropped by
recovery), and of the data family a shorter or equal prefix of all batches, with the logged ones behind it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from random import Random
from typing import cast

from shoal_server.storage.engine import Batch, Family, Reader
from shoal_server.storage.memory import Change, MemoryBatch, MemoryEngine, Table
from shoal_server.storage.watched import WatchedEngine

from shoal_chaos.simulation.world.short_pieces import ShortPieces

DATA = "data"
SHORT_PIECES = 0.2
"""So many of the readers end their pieces when they like."""


@dataclass(slots=True)
class _Written:
    """A batch: its place in the order of all batches, and what it changes."""

    position: int
    logged: bool
    changes: list[Change]


class SimulatedEngine(WatchedEngine):
    """What is written is visible at once, and safe when a sync or a flush that began later has ended."""

    def __init__(self, life: int = 0) -> None:
        """`life`: another one ends its pieces elsewhere."""
        super().__init__()
        self._pieces = Random(life)
        self._durable = MemoryEngine()
        self._unsynced: deque[_Written] = deque()
        self._unflushed: deque[_Written] = deque()
        self._written = 0
        self._safe = 0

    @property
    def written(self) -> int:
        """How many batches were ever written: what a sync or a flush that begins now will cover."""
        return self._written

    def write(self, batch: Batch) -> None:
        self._take(cast(MemoryBatch, batch).changes, logged=True)

    def write_unlogged(self, batch: Batch) -> None:
        self._take(cast(MemoryBatch, batch).changes, logged=False)

    def _take(self, changes: list[Change], *, logged: bool) -> None:
        self.apply(changes)
        self._written += 1
        others = [change for change in changes if change[1] != DATA]
        data = [change for change in changes if change[1] == DATA]
        assert logged or not others, "only the data family may be written past the log"
        if others:
            self._unsynced.append(_Written(self._written, logged, others))
        if data:
            self._unflushed.append(_Written(self._written, logged, data))

    def reader(self, family: Family, *, fill_cache: bool = True) -> Reader:
        reader = super().reader(family, fill_cache=fill_cache)
        return ShortPieces(reader, self._pieces) if self._pieces.random() < SHORT_PIECES else reader

    def sync(self) -> None:
        """What a process start does in the foreground: everything is safe."""
        self.synced(self._written)

    def flush(self) -> None:
        self.flushed(self._written)

    def synced(self, written: int) -> None:
        """A sync that began when `written` batches were written has ended."""
        while self._unsynced and self._unsynced[0].position <= written:
            self._durable.apply(self._unsynced.popleft().changes)
        self._safe = max(self._safe, written)

    def flushed(self, written: int) -> None:
        """A flush that began when `written` batches were written has ended; it syncs the log before it begins."""
        self.synced(written)
        while self._unflushed and self._unflushed[0].position <= written:
            self._durable.apply(self._unflushed.popleft().changes)

    def is_durable(self, key: bytes) -> bool:
        """Whether a row of the log would survive a crash now."""
        return key in self._durable.tables["log"].rows

    def safe_rows(self, family: str) -> Table:
        """Return the rows of a family that a crash now would leave, to be changed as nobody may."""
        return self._durable.tables[family]

    def durable_meta(self, key: bytes) -> bytes | None:
        """Return the row of the meta family that would survive a crash now."""
        return self._durable.tables["meta"].rows.get(key)

    def after_crash(self, random: Random) -> SimulatedEngine:
        """Return the disk as the next process finds it: some of the last batches are gone."""
        kept = random.randint(self._safe, self._written)
        # RocksDB flushes when it likes: some of what nobody asked to flush may be there.
        flushed = random.choice([0, random.randint(0, kept)])
        recovered = SimulatedEngine(self._written + 1)
        recovered._durable.tables = self._durable.copy_tables()
        for written in self._unsynced:
            if written.position <= kept:
                recovered._durable.apply(written.changes)
        for written in self._unflushed:
            if written.position <= flushed or (written.logged and written.position <= kept):
                recovered._durable.apply(written.changes)
        recovered.tables = recovered._durable.copy_tables()
        # Of what is not on the disk any more, nothing is damaged there.
        recovered.damage = self.damage.copy()
        return recovered
