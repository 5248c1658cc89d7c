"""Keeps a process's memory within what it may have: what is free goes back to the system, and bounds shrink if need be.

What is freed is not given back by itself: the C library keeps a page for as long as anything in it is used, and what lies
between. After a spike a process had as much memory as at its peak, for good; `malloc_trim` gives the free pages back. It takes
a fifth of a millisecond for each MiB, in which nobody allocates, so it is done as soon as there is a little to give, on a
thread.

The accounts (node/memory.py) count what is held, and not what it costs to hold it. So a process may have more than it should:
its bounds are made smaller then, step by step, and larger again when it has room.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

import structlog

from shoal_server.node.memory import MemoryBudget

log = structlog.get_logger("shoal.node")

MIB = 1 << 20
TRIM_BYTES = 32 * MIB
"""The process has so much more than after the last time, or holds so much less for others: some of it may be free."""
TRIM_SECONDS = 2.0
"""Between two times, at the least."""
TRIM_ANYWAY_SECONDS = 60.0
"""Between two times, at the most: not all that comes and goes is in accounts."""
SMALLER, LARGER = 0.8, 1.1
"""What the bounds are multiplied with at each look."""
ROOM = 0.9
"""Below this part of what there may be, there is room."""


def trim() -> bool:
    """Give free pages back to the system; return whether the C library can."""
    function = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if function is None:
        return False
    function(0)
    return True


class MemoryWatch:
    """See the module's first lines. `look` is to be called about once a second.

    Attributes:
        resident: what the process has (bytes), as of the last look; most: what it may have.
        trims: how often free pages were given back.
    """

    def __init__(
        self,
        memory: MemoryBudget,
        most: int,
        *,
        resident: Callable[[], int],
        clock: Callable[[], float],
        give_back: Callable[[], object] = trim,
    ) -> None:
        """
        Args:
            resident: says what the process has (bytes).
            clock: seconds, monotonic.
            give_back: gives free pages back; called on another thread.
        """
        self.most = most
        self.resident = resident()
        self.trims = 0
        self._memory = memory
        self._measure = resident
        self._clock = clock
        self._give_back = give_back
        self._trimming: asyncio.Task[None] | None = None
        self._trimmed_at = clock()
        self._least = self.resident
        self._held = memory.used_total
        self._over = False

    def look(self) -> None:
        """Look at what the process has."""
        self.resident = self._measure()
        self._least = min(self._least, self.resident)
        self._held = max(self._held, self._memory.used_total)
        if self._may_trim and (self._trimming is None or self._trimming.done()):
            self._trimming = asyncio.create_task(self._trim())
        self._squeeze()

    @property
    def _may_trim(self) -> bool:
        """Whether there may be something to give back, and it is time."""
        waited = self._clock() - self._trimmed_at
        if waited < TRIM_SECONDS:
            return False
        more, less = self.resident - self._least, self._held - self._memory.used_total
        return more >= TRIM_BYTES or less >= TRIM_BYTES or waited >= TRIM_ANYWAY_SECONDS

    async def _trim(self) -> None:
        await asyncio.to_thread(self._give_back)
        self.trims += 1
        self._trimmed_at = self._clock()
        # What is left is in use; less than that is not to be had.
        self.resident = self._least = self._measure()
        self._held = self._memory.used_total

    def _squeeze(self) -> None:
        memory, over = self._memory, self.resident > self.most
        if over:
            memory.squeeze(memory.squeezed * SMALLER)
        elif memory.squeezed < 1.0 and self.resident < ROOM * self.most:
            memory.squeeze(memory.squeezed * LARGER)
        if over and not self._over:
            log.warning(
                "memory_over",
                resident_bytes=self.resident,
                most_bytes=self.most,
                held_bytes=memory.used_total,
                reason="the process has more memory than limits.memory: it holds less for clients until it has not",
            )
        elif self._over and memory.squeezed == 1.0:
            log.info("memory_within", resident_bytes=self.resident, most_bytes=self.most)
        self._over = over or (self._over and memory.squeezed < 1.0)
