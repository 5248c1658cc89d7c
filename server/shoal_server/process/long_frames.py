"""Has connections receive frames that are work in turn: so much in each round of the loop, and not all that has come.

Long frames are, and dense ones, and many.

A loop reads from a connection for as long as there is anything, megabytes at a time; with forty on which long frames come, one
round takes a tenth of a second, and whatever else the process has to do waits for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

ROUND_BYTES = 1024 * 1024
"""Of long frames, in one round: about a millisecond."""
AT_ONCE = 4
"""Connections that go on in one round, each of which is read from at least once."""


class Receiving(Protocol):
    """A connection on which a long frame comes."""

    def rest(self) -> None:
        """Receive nothing."""

    def go_on(self) -> None:
        """Receive again, if there is nothing else against it."""


class LongFrames:
    """See the module's first lines."""

    __slots__ = ("_left", "_loop", "_resting", "_scheduled")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._left = ROUND_BYTES
        self._resting: deque[Receiving] = deque()
        self._scheduled = False

    def received(self, connection: Receiving, size: int) -> None:
        """So many bytes more of an incomplete frame have come; or frames were about so many nanoseconds of work.

        Where that was enough, or others wait for their turn, the connection rests.
        """
        self._left -= size
        if self._left < 0 or self._resting:
            self.wait(connection)
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._round)

    def wait(self, connection: Receiving) -> None:
        """A connection, which does not rest, has frames that wait for their turn: it rests until then."""
        connection.rest()
        self._resting.append(connection)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._round)

    def _round(self) -> None:
        # Where the last round was too long, as frames that are much work make it, one alone goes on.
        most = AT_ONCE if self._left >= 0 else 1
        self._left = ROUND_BYTES
        for _ in range(min(most, len(self._resting))):
            if self._left >= 0:
                self._resting.popleft().go_on()
        # There is one round at a time: those that go on want the next one, too.
        self._scheduled = bool(self._resting) or self._left < ROUND_BYTES
        if self._scheduled:
            self._loop.call_soon(self._round)
