"""The clocks of a manager's process, passed in: a simulation brings its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the time comes from, in seconds.

    Args:
        monotonic: what reports are stamped with and waits are measured by.
        unix: what rows are stamped with.
    """

    monotonic: Callable[[], float] = time.monotonic
    unix: Callable[[], float] = time.time

    def now_ms(self) -> int:
        """The monotonic clock in milliseconds."""
        return int(self.monotonic() * 1000)

    def wall_ms(self) -> int:
        """Unix time in milliseconds."""
        return int(self.unix() * 1000)


SYSTEM = Clock()
"""The machine's own."""
