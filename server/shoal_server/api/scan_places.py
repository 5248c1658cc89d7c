"""Who may scan: so many at once, of each caller in its turn, and who is slow gives way to those who wait."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager

from shoal.errors import Overloaded
from shoal.priorities import OverloadReason

from shoal_server.grpc_places import CALL, Call
from shoal_server.places import ADDRESS_PART, SHARED_FROM

SCANS_MAX = 32
"""The most at once. Each has up to two pages of every shard in memory, however slow its reader is: with 8 shards and rows of
300 bytes some 9 MB, and 16 MiB of keys and values at most."""
PLACE_SECONDS = 5.0
"""So long a further one waits for the end of another: most are short."""
UNREAD_SECONDS = 1.0
"""While others wait, a scan gives way whose reader has had it wait for so long in all, and for most of the time."""
LOOK_SECONDS = 0.25
RETRY_SECONDS = 1.0


class _Scan:
    """One that has a place: since when, how long its reader has had it wait, and since when it waits now."""

    __slots__ = ("began", "lane", "unread", "unread_since")

    def __init__(self, lane: int, now: float) -> None:
        self.lane = lane
        self.began = now
        self.unread = 0.0
        self.unread_since: float | None = None

    def unread_at(self, now: float) -> float:
        """Return for how long in all its reader has taken nothing."""
        return self.unread + (0.0 if self.unread_since is None else now - self.unread_since)


class ScanPlaces:
    """See the module's first line. For one event loop."""

    def __init__(self) -> None:
        self._most = SCANS_MAX
        self._share = self._most if self._most < SHARED_FROM else int(self._most * ADDRESS_PART)
        self._of_lane: Counter[int] = Counter()
        self._scans: dict[Call, _Scan] = {}
        self._waiting: dict[int, deque[asyncio.Future[None]]] = {}
        self._looking: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def place(self, lane: int, seconds: float | None) -> AsyncGenerator[None, None]:
        """Be one of the scans under way, as soon as there are few enough.

        Args:
            lane: of whose connection it is.
            seconds: that this may take.

        Raises:
            Overloaded: none has ended in time.
        """
        if self._may(lane):
            # Who waits may not, or would have been given this place.
            self._of_lane[lane] += 1
        else:
            await self._wait(lane, PLACE_SECONDS if seconds is None else min(seconds, PLACE_SECONDS))
        call = CALL.get()
        if call is not None:
            self._scans[call] = _Scan(lane, asyncio.get_running_loop().time())
        try:
            yield
        finally:
            if call is not None:
                del self._scans[call]
            self._release(lane)

    async def read(self, sending: Awaitable[None]) -> None:
        """Send a page, and note for how long the reader does not take it."""
        call = CALL.get()
        scan = None if call is None else self._scans.get(call)
        if scan is None:
            await sending
            return
        clock = asyncio.get_running_loop().time
        scan.unread_since = clock()
        try:
            await sending
        finally:
            scan.unread, scan.unread_since = scan.unread_at(clock()), None

    def _may(self, lane: int) -> bool:
        return self._of_lane.total() < self._most and self._of_lane[lane] < self._share

    async def _wait(self, lane: int, seconds: float) -> None:
        ready = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(lane, deque()).append(ready)
        if self._looking is None:
            self._looking = asyncio.create_task(self._end_slow_ones())
        try:
            async with asyncio.timeout(seconds):
                await ready
        except BaseException as error:
            if ready.done() and not ready.cancelled():
                self._release(lane)
            if not isinstance(error, TimeoutError):
                raise
            raise Overloaded(
                f"the node has {self._of_lane.total()} scans under way, {self._of_lane[lane]} of this caller, where "
                f"{self._most} may be and {self._share} of one, and none has ended within {seconds:.3g} s; nothing was read: "
                "try again later, or ask another node",
                retry_after=RETRY_SECONDS,
                reason=OverloadReason.CONNECTION.value,
            ) from error
        finally:
            self._forget(lane, ready)

    def _forget(self, lane: int, ready: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(lane)
        if waiting is not None and ready in waiting:
            waiting.remove(ready)
            if not waiting:
                del self._waiting[lane]
        if not self._waiting and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _release(self, lane: int) -> None:
        self._of_lane[lane] -= 1
        if not self._of_lane[lane]:
            del self._of_lane[lane]
        self._grant()

    def _grant(self) -> None:
        """Give the places that are free to those who wait, first to those who have fewest."""
        while True:
            able = [lane for lane in self._waiting if self._may(lane)]
            if not able:
                return
            lane = min(able, key=lambda each: self._of_lane[each])
            waiting = self._waiting[lane]
            ready = waiting.popleft()
            if not waiting:
                del self._waiting[lane]
            if not ready.done():
                self._of_lane[lane] += 1
                ready.set_result(None)

    async def _end_slow_ones(self) -> None:
        """Have some give way, again and again, for as long as somebody waits."""
        while True:
            await asyncio.sleep(min(LOOK_SECONDS, UNREAD_SECONDS))
            self._end_slow()

    def _end_slow(self) -> None:
        """Have as many scans give way as others wait: those whose readers had them wait longest, of callers that have most."""
        now = asyncio.get_running_loop().time()
        slow = [
            (self._of_lane[scan.lane], scan.unread_at(now), call)
            for call, scan in self._scans.items()
            if scan.unread_at(now) >= UNREAD_SECONDS and scan.unread_at(now) * 2 >= now - scan.began
        ]
        slow.sort(key=lambda each: each[:2], reverse=True)
        for _, unread, call in slow[: sum(map(len, self._waiting.values()))]:
            words = f"nobody has read this scan's page for {unread:.0f} s in all, and others wait: go on behind its last page"
            call.end(Overloaded(words, retry_after=RETRY_SECONDS, reason=OverloadReason.CONNECTION.value))
