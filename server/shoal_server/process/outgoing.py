"""What a connection has still to send: given to its transport as that takes it, counted, and seen to move or not.

A transport keeps in memory whatever it is given, so it is given little at a time: what it does not take waits here. Over TLS
it says nothing of what it has encrypted and not sent, however much that is, so it is given pieces of bounded size.

A client that is behind by as much as one may be is said to be, and again when it has caught up to half of that: in between no
more answers are made for it. How long it has not moved at all is for whoever looks at it, about once a second, to ask.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from math import inf

from shoal_server.node.memory import Account, MemoryBudget

GIVEN_BYTES = 256 * 1024
"""Of which a transport says that it is enough."""
PIECE_BYTES = 64 * 1024
"""Given to a transport over TLS at once."""
PACE_SECONDS = 2.0
"""For so long a pace is looked at before anything is said of it."""
GRAIN_BYTES = 16 * 1024
"""The account of unsent answers is right to so much for each connection: it is not touched for every small answer."""


class Outgoing:
    """See the module's first lines. All sizes are in bytes."""

    __slots__ = (
        "_accounted",
        "_behind",
        "_finishing",
        "_full",
        "_handed",
        "_left",
        "_memory",
        "_most",
        "_moved_at",
        "_tell_behind",
        "_tls",
        "_transport",
        "_waiting",
        "_waiting_bytes",
        "_waits_from",
        "_waits_since",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        memory: MemoryBudget,
        most: int,
        behind: Callable[[bool], None],
        *,
        tls: bool,
    ) -> None:
        """
        Args:
            most: with so much unsent the client is behind: more than `GIVEN_BYTES`.
            behind: told when the client has become behind, and when it is no more.
            tls: what is given to the transport is encrypted before it leaves.
        """
        transport.set_write_buffer_limits(high=GIVEN_BYTES)
        self._transport = transport
        self._memory = memory
        self._most = most
        self._tell_behind = behind
        self._tls = tls
        self._behind = self._full = self._finishing = False
        self._waiting: deque[bytes | memoryview] = deque()
        self._waiting_bytes = 0
        self._accounted = 0
        self._handed = self._left = 0
        self._moved_at = 0.0
        self._waits_since: float | None = None
        self._waits_from = 0

    @property
    def unsent(self) -> int:
        """What has not left yet, as far as the transport says."""
        return self._waiting_bytes + self._transport.get_write_buffer_size()

    def write(self, frame: bytes) -> None:
        """Send a frame, now or when there is room for it."""
        self._handed += len(frame)
        if self._full or (self._tls and len(frame) > PIECE_BYTES):
            self._waiting.append(frame)
            self._waiting_bytes += len(frame)
            self._give()
        else:
            self._transport.write(frame)
        self._settle()

    def pause(self) -> None:
        """The transport has enough."""
        self._full = True

    def resume(self) -> None:
        """The transport takes more."""
        self._full = False
        self._give()
        self._settle()

    def finish(self) -> None:
        """Send nothing more: the other side is told so behind what waits."""
        self._finishing = True
        self._give()

    def look(self, now: float) -> float:
        """Return for how many seconds nothing has left although something waits. To be asked about once a second.

        Args:
            now: seconds of a clock that goes on evenly.
        """
        self._settle()
        unsent = self.unsent
        if not unsent:
            self._waits_since = None
            return 0.0
        left = self._handed - unsent
        if self._waits_since is None:
            self._waits_since, self._waits_from = now, left
            self._left, self._moved_at = left, now
        elif left > self._left:
            # Over TLS what waits is a little more than was handed over, so `left` may fall when more is, and has to rise again.
            self._left, self._moved_at = left, now
        return now - self._moved_at

    def seconds_left(self, now: float) -> float:
        """Return how long what waits takes to leave, by the pace since it was seen to wait; 0.0 where that is too short ago."""
        if self._waits_since is None or now - self._waits_since < PACE_SECONDS:
            return 0.0
        unsent = self.unsent
        gone = self._handed - unsent - self._waits_from
        return unsent * (now - self._waits_since) / gone if gone > 0 else inf

    def end(self) -> None:
        """Nothing leaves any more: give back what was held for it."""
        self._waiting.clear()
        self._waiting_bytes = 0
        self._full = True
        self._memory.give_back(Account.ANSWERS, self._accounted)
        self._accounted = 0

    def _give(self) -> None:
        """Give the transport what waits, until it has enough."""
        waiting, transport = self._waiting, self._transport
        while waiting and not self._full and not transport.is_closing():
            piece = waiting.popleft()
            if self._tls and len(piece) > PIECE_BYTES:
                whole = memoryview(piece)
                waiting.appendleft(whole[PIECE_BYTES:])
                piece = whole[:PIECE_BYTES]
            self._waiting_bytes -= len(piece)
            transport.write(piece)
        if self._finishing and not waiting and not transport.is_closing():
            self._finishing = False
            if transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()

    def _settle(self) -> None:
        """Bring the account to what waits, and tell whether the client is behind."""
        unsent = self._waiting_bytes + self._transport.get_write_buffer_size()
        change = unsent - self._accounted
        if change > GRAIN_BYTES:
            self._memory.add(Account.ANSWERS, change)
            self._accounted = unsent
        elif change < -GRAIN_BYTES or (change and not unsent):
            self._memory.give_back(Account.ANSWERS, -change)
            self._accounted = unsent
        if self._behind:
            if unsent <= self._most // 2:
                self._behind = False
                self._tell_behind(False)
        elif unsent >= self._most:
            self._behind = True
            self._tell_behind(True)
