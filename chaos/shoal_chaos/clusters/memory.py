"""What the processes of a cluster hold in memory, and an end for those that hold more than this machine can spare."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from signal import SIGKILL

import psutil

from shoal_chaos.clusters.process_cluster import ProcessCluster

LOOK_SECONDS = 0.1
MIB = 1024 * 1024
FORGET_PEAK = "5"
"""Written to Linux's `clear_refs`, it has the peak begin anew."""


class MemoryWatch:
    """Looks again and again. Where Linux keeps a process's peak itself, what came and went between two looks counts as well.

    Attributes:
        peaks: by process, the most that it had since `mark`, in MiB.
        ended: the processes that were ended, and with how much.
    """

    def __init__(self, cluster: ProcessCluster, ceiling_mib: float) -> None:
        self.peaks: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self._cluster = cluster
        self._ceiling_mib = ceiling_mib

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look for the length of an `async with` block."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def mark(self) -> None:
        """Forget the peaks of before."""
        self.peaks.clear()
        for child in self._cluster.running.values():
            with suppress(OSError):
                Path(f"/proc/{child.pid}/clear_refs").write_text(FORGET_PEAK)

    def now(self) -> float:
        """Return what the largest process has, in MiB."""
        return max((_resident(child.pid) for child in self._cluster.running.values()), default=0.0)

    def peak(self) -> float:
        """Return the most that any process had since `mark`, in MiB."""
        self._look()
        return max(self.peaks.values(), default=0.0)

    async def _watch(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> None:
        for name, child in self._cluster.running.items():
            resident = _resident(child.pid)
            self.peaks[name] = max(self.peaks.get(name, 0.0), resident, _peak(child.pid))
            if resident > self._ceiling_mib and name not in self.ended:
                self.ended[name] = self.peaks[name]
                child.signal(SIGKILL)


def _resident(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss) / MIB
    except psutil.NoSuchProcess:
        return 0.0


def _peak(pid: int) -> float:
    """Return the peak that Linux keeps; elsewhere, and of a process that is gone, 0."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
