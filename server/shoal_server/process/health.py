"""Watches the machine under a node process, for its core to judge: the disk's room and speed, and the process's CPU time.

Nothing here waits for the disk in the event loop's thread: a file system that hangs must not hold up the turn in which
the node says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from shoal_server.node.core import Node
from shoal_server.node.disk_health import DiskState, SyncLatency
from shoal_server.node.write_budget import EngineState
from shoal_server.process.driver import NodeDriver, monotonic_ns
from shoal_server.storage.rocks import RocksEngine

log = structlog.get_logger("shoal.node")

CHECK_SECONDS = 0.25
USED_SECONDS = 10.0
CPU_SECONDS = 1.0
PRESSED = 0.5
BLOCK_BYTES = 512
"""The unit of `st_blocks`, whatever the file system's own is."""


class HealthWatch:
    """Tells `node` how its machine is, about four times a second."""

    def __init__(
        self,
        node: Node,
        driver: NodeDriver,
        engine: RocksEngine,
        data: Path,
        disk_reserve_bytes: int,
        looked: Callable[[], None],
    ) -> None:
        """
        Args:
            looked: called after each look.
        """
        self._node = node
        self._driver = driver
        self._engine = engine
        self._data = data
        self._reserve_bytes = disk_reserve_bytes
        self._looked = looked
        self._latency = SyncLatency(monotonic_ns())
        self._free_bytes = disk_reserve_bytes
        self._used_bytes = 0
        self._measuring: asyncio.Task[None] | None = None
        self._used_due = 0.0
        self._not_leading = ""
        self._stopped_at: int | None = None
        self._slowing = ""
        self._cpu_at = time.monotonic()
        self._cpu_seconds = time.process_time()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            if self._measuring is None or self._measuring.done():
                self._measuring = asyncio.create_task(self._measure_room())
            self._measure_cpu()
            self._tell()
            self._looked()
            await asyncio.sleep(CHECK_SECONDS)

    def _tell(self) -> None:
        node = self._node
        now = monotonic_ns()
        durations = self._driver.take_sync_durations()
        for duration in durations:
            node.counters.syncs.record(duration / 1e9)
        state = DiskState(
            free_bytes=self._free_bytes,
            used_bytes=self._used_bytes,
            not_writable=self._not_writable(),
            syncing_ns=int(self._driver.sync_stalled_for() * 1e9),
            latency_us=self._latency.take(durations, now),
            engine=self._engine_state(now),
        )
        node.set_disk(state, now)
        before, self._not_leading = self._not_leading, node.not_leading
        after = self._not_leading
        if after and not before:
            log.error("leaderships_given_up", node=node.identity.node, reason=after)
        elif before and not after:
            log.info("leaderships_taken_again", node=node.identity.node, latency_us=state.latency_us)
        if after:
            self._driver.schedule_turn()
        self._say_pressure()

    def _engine_state(self, now: int) -> EngineState:
        backlog = self._engine.backlog
        backlog.pressed = True
        if not backlog.writes_stopped:
            self._stopped_at = None
        elif self._stopped_at is None:
            self._stopped_at = now
        return EngineState(
            memtables=backlog.memtables,
            first_level_files=backlog.first_level_files,
            pending_bytes=backlog.pending_bytes,
            delayed_rate=backlog.delayed_rate,
            stopped_ns=0 if self._stopped_at is None else max(1, now - self._stopped_at),
        )

    def _say_pressure(self) -> None:
        """Log that clients' writes are held up, or no more."""
        budget, node = self._node.disk.budget, self._node.identity.node
        self._engine.backlog.pressed = budget.pressure > PRESSED
        if budget.words and not self._slowing:
            log.warning("writes_slowed", node=node, reason=budget.words)
        elif self._slowing and not budget.words:
            log.info("writes_free", node=node)
        self._slowing = budget.words

    def _not_writable(self) -> str:
        full = self._free_bytes < self._reserve_bytes
        reason = (
            f"the disk under {self._data} has {self._free_bytes} bytes free, less than the reserve of "
            f"{self._reserve_bytes}: make room or add nodes"
            if full
            else ""
        )
        if reason and not self._node.disk.state.not_writable:
            log.error("writes_refused", node=self._node.identity.node, reason=reason)
        elif self._node.disk.state.not_writable and not reason:
            log.info("writes_accepted", node=self._node.identity.node, free_bytes=self._free_bytes)
        return reason

    async def _measure_room(self) -> None:
        self._free_bytes = await asyncio.to_thread(self._engine.free_bytes)
        if time.monotonic() >= self._used_due:
            self._used_bytes = await asyncio.to_thread(_used_bytes, self._data)
            self._used_due = time.monotonic() + USED_SECONDS

    def _measure_cpu(self) -> None:
        now = time.monotonic()
        if now - self._cpu_at >= CPU_SECONDS:
            used = time.process_time()
            self._node.cpu = (used - self._cpu_seconds) / (now - self._cpu_at)
            self._cpu_at, self._cpu_seconds = now, used


def _used_bytes(data: Path) -> int:
    """Return how many bytes of a disk a folder takes."""
    used = 0
    for path in data.rglob("*"):
        try:
            used += path.lstat().st_blocks * BLOCK_BYTES
        except FileNotFoundError:
            continue  # RocksDB removes files at any time
    return used
