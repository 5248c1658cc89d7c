"""Looks at all connections of a node once a second: who makes no progress is cut off, and who asks nothing may give way.

What is looked at is what moves: bytes that leave, bytes of a frame that come. So a slow link is none to be cut off; one that is
dead is, and one whose other end neither reads nor writes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import structlog
from shoal.errors import ErrorCode

from shoal_server.node.memory import TIGHT, Account, MemoryBudget
from shoal_server.places import IdleGoes
from shoal_server.process.connections import Inbound
from shoal_server.process.giving_way import Held, giving_way, much

log = structlog.get_logger("shoal.node")

LOOK_SECONDS = 1.0


class _Seen:
    """What was seen of a connection when it was last looked at."""

    __slots__ = ("active", "active_at", "heard", "heard_at")

    def __init__(self, connection: Inbound, now: float) -> None:
        self.active = connection.heard + connection.sent
        self.heard = connection.heard
        self.active_at = self.heard_at = now


class ConnectionWatch:
    """See the module's first lines.

    Attributes:
        cut_off: how many clients were, since they did not read.
    """

    def __init__(
        self,
        connections: Collection[Inbound],
        places: IdleGoes[Inbound],
        memory: MemoryBudget,
        clock: Callable[[], float],
        stall_seconds: float,
        max_frame_bytes: int,
    ) -> None:
        """
        Args:
            connections: all that are open now, whenever it is looked at.
            clock: seconds, monotonic: the event loop's.
            stall_seconds: a connection on which something waits, and not one byte of it has moved for so long, is ended.
            max_frame_bytes: how long one answer may be.
        """
        self.cut_off = 0
        self._connections = connections
        self._places = places
        self._memory = memory
        self._clock = clock
        self._stall_seconds = stall_seconds
        self._max_frame_bytes = max_frame_bytes
        self._seen: dict[Inbound, _Seen] = {}

    def look(self) -> None:
        """Look at all of them. To be called every `LOOK_SECONDS`."""
        now = self._clock()
        before, self._seen = self._seen, {}
        idle: list[tuple[Inbound, float, bool]] = []
        for connection in list(self._connections):
            seen = before.get(connection)
            self._seen[connection] = seen = _Seen(connection, now) if seen is None else seen
            self._look_at(connection, seen, now)
            if connection.client is not None and not connection.over:
                idle.append((connection, now - seen.active_at, connection.asked))
        self._places.set_idle(idle)
        if self._memory.is_tight(Account.ANSWERS):
            self._make_room(now)

    def is_idle(self, connection: Inbound) -> bool:
        """Say whether nothing has passed since it was looked at last."""
        seen = self._seen.get(connection)
        return seen is not None and seen.active == connection.heard + connection.sent and not connection.over

    def _look_at(self, connection: Inbound, seen: _Seen, now: float) -> None:
        active = connection.heard + connection.sent
        if active != seen.active:
            seen.active, seen.active_at = active, now
        if connection.heard != seen.heard or not connection.held or connection.paused:
            seen.heard, seen.heard_at = connection.heard, now
        outgoing = connection.outgoing
        if outgoing is None or connection.over:
            return
        if outgoing.look(now) >= self._stall_seconds:
            self._cut_off(connection, f"it has taken none of its answers for {self._stall_seconds:g} s")
        elif connection.held and now - seen.heard_at >= self._stall_seconds:
            connection.refuse(
                ErrorCode.UNAVAILABLE,
                f"nothing more of a frame has come for {self._stall_seconds:g} s, of which {connection.held} bytes are there",
            )

    def _make_room(self, now: float) -> None:
        """End those whose answers would take longest to leave, first of who has most of them, until there is room again."""
        memory = self._memory
        slow = [
            Held(connection, connection.holder, outgoing.unsent, seconds)
            for connection in self._connections
            if (outgoing := connection.outgoing) is not None
            and not connection.over
            and outgoing.unsent
            and (seconds := outgoing.seconds_left(now))
        ]
        for connection, besides in giving_way(slow, much(memory.bound(Account.ANSWERS), self._max_frame_bytes)):
            if memory.pressure(Account.ANSWERS) <= TIGHT:
                return
            self._cut_off(connection, f"it reads too slowly{besides}: {memory.refusal(Account.ANSWERS)}")

    def _cut_off(self, connection: Inbound, reason: str) -> None:
        outgoing = connection.outgoing
        unread = 0 if outgoing is None else outgoing.unsent
        self.cut_off += 1
        log.warning(
            "client_cut_off",
            client=connection.client,
            address=connection.address,
            reason=reason,
            unread_bytes=unread,
        )
        connection.abort()
