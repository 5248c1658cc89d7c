"""A simulated disk under the real storage code: what was not synced when the power goes may be lost, in whole batches.

Like the engine on RocksDB, it keeps a prefix of the batches that were written: a torn last one is dropped by recovery.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import cast

from shoal_server.storage.engine import Batch
from shoal_server.storage.memory import Change, MemoryBatch, MemoryEngine


class SimulatedEngine(MemoryEngine):
    """What is written is visible at once, and safe when a sync that began later has ended."""

    def __init__(self) -> None:
        super().__init__()
        self._durable = MemoryEngine()
        self._unsynced: deque[list[Change]] = deque()
        self._written = 0
        self._safe = 0

    @property
    def written(self) -> int:
        """How many batches were ever written: what a sync that begins now will cover."""
        return self._written

    def write(self, batch: Batch) -> None:
        changes = cast(MemoryBatch, batch).changes
        self.apply(changes)
        self._unsynced.append(changes)
        self._written += 1

    def sync(self) -> None:
        """What a process start does in the foreground: everything is safe."""
        self.synced(self._written)

    def synced(self, written: int) -> None:
        """A sync that began when `written` batches were written has ended."""
        while self._safe < written:
            self._durable.apply(self._unsynced.popleft())
            self._safe += 1

    def is_durable(self, key: bytes) -> bool:
        """Whether a row of the log would survive a crash now."""
        return key in self._durable.tables["log"].rows

    def durable_meta(self, key: bytes) -> bytes | None:
        """Return the row of the meta family that would survive a crash now."""
        return self._durable.tables["meta"].rows.get(key)

    def after_crash(self, random: Random) -> SimulatedEngine:
        """Return the disk as the next process finds it: some of the last batches are gone."""
        kept = random.randint(0, len(self._unsynced))
        recovered = SimulatedEngine()
        recovered._durable.tables = self._durable.copy_tables()
        for changes in list(self._unsynced)[:kept]:
            recovered._durable.apply(changes)
        recovered.tables = recovered._durable.copy_tables()
        return recovered
