"""The log of connections that were turned away: one event each, and no more of them than somebody can read."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

log = structlog.get_logger("shoal.node")

EVENTS_PER_WINDOW = 5
WINDOW_SECONDS = 1.0


class RefusalLog:
    """Logs `connection_refused`, at most `EVENTS_PER_WINDOW` times a second: anybody can make us refuse something."""

    def __init__(self, node: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is in seconds."""
        self._node = node
        self._clock = clock
        self._window_began = 0.0
        self._logged = 0
        self._left_out = 0

    def take(self, address: str, reason: str, *, peer: str = "", client: int | None = None) -> None:
        """Log that whoever is at `address` was turned away.

        Args:
            peer: the node that it said to be.
            client: its number, where it had been taken for a client.
        """
        now = self._clock()
        if now - self._window_began >= WINDOW_SECONDS:
            if self._left_out:
                log.warning("connections_refused_left_out", node=self._node, connections=self._left_out)
            self._window_began, self._logged, self._left_out = now, 0, 0
        if self._logged >= EVENTS_PER_WINDOW:
            self._left_out += 1
            return
        self._logged += 1
        log.warning("connection_refused", node=self._node, address=address, peer=peer, client=client, reason=reason)
