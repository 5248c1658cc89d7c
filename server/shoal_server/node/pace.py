"""What a node does by itself, and nobody waits for, goes on at half its pace while clients' requests wait.

Snapshots, the counting of rows, the comparison of replicas; managers do so with migrations (process/migrator.py). Never slower
than that: a replica that is being filled, or one that differs, is a risk, and clients may be many for hours.
"""

from __future__ import annotations

from collections.abc import Callable

YIELD_NS = 10_000_000
"""Clients' requests that have waited for longer than this are too many."""


class Pace:
    """How fast such work may go on."""

    __slots__ = ("_delay_ns",)

    def __init__(self, delay_ns: Callable[[int], int]) -> None:
        """`delay_ns` says how long clients' requests wait, at a time (both ns)."""
        self._delay_ns = delay_ns

    def pause(self, usual_ns: int, now: int) -> int:
        """Return how long to wait between two pieces of work, where usually it is `usual_ns`."""
        return 2 * usual_ns if self._delay_ns(now) > YIELD_NS else usual_ns

    def extra(self, lasted_ns: int, now: int) -> int:
        """Return how long to wait after a piece of work that lasted so long and is usually followed by the next at once."""
        return lasted_ns if self._delay_ns(now) > YIELD_NS else 0
