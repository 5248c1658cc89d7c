"""Garbage is collected at moments of simulated time alone, so that what a collection sets off is the same in equal runs.

Left to itself the collector looks after so many allocations, whoever's they are. It closes what nobody has closed, and ends
generators and tasks that nobody waits for any more; a run in which that may happen at any moment is not to be had again.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from shoal_chaos.simulation.world.events import MILLISECOND, Events

COLLECTION_INTERVAL = 100 * MILLISECOND
YOUNG = 1
"""The generations of objects that are looked through: those that were made since the last time, not the whole process's."""


@contextmanager
def collecting_when_told() -> Iterator[None]:
    """Let nothing be collected but by `Collector`."""
    was_enabled = gc.isenabled()
    gc.collect(YOUNG)
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Collector:
    """Collects garbage now and then. `at_work`: it does so at this moment, and what happens is the collection's doing."""

    def __init__(self, events: Events) -> None:
        self.at_work = False
        self._events = events
        events.after(COLLECTION_INTERVAL, self._collect)

    def _collect(self) -> None:
        self._events.after(COLLECTION_INTERVAL, self._collect)
        self.at_work = True
        try:
            gc.collect(YOUNG)
        finally:
            self.at_work = False
