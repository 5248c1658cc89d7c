"""Scans: iterators over rows in key order, over microshards and shards: a page a shard, with at most one more on its way."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, Protocol, TypeVar, cast

from msgspec import structs

from shoal import tokens
from shoal.bounds import MAX_ROWS
from shoal.caller import Caller
from shoal.key_sets import RANGE_BYTES, microshards_of_range
from shoal.protocol.messages import ScanPage
from shoal.routing.call_errors import ShardChanged
from shoal.routing.calls import ScanCall, Turns
from shoal.scan_plans import ALL_ROWS, Cursor, behind
from shoal.shardmap import Ranges
from shoal.transport.driver import ClientKeyspace
from shoal.transport.portal import Portal

R = TypeVar("R")

_SCAN_BYTES = 64


class RowSource(Protocol[R]):
    """Where the rows of a scan come from."""

    async def chunk(self) -> list[R]:
        """Return the next rows, at least one; none at the end."""
        ...

    def cursor(self, last: R | None, returned: int, *, ended: bool) -> str:
        """Return the cursor behind row number `returned`, which is `last`; `ended`: there are no more."""
        ...


class AsyncScan(Generic[R]):
    """The rows of a scan, to be taken with `async for`. One task at a time may take them.

    A row is `(key, value)`, or the key alone. Errors are those of `AsyncClient.scan`; a scan that raised goes on when it
    is asked again.
    """

    def __init__(self, source: RowSource[R]) -> None:
        self._source = source
        self._rows: list[R] = []
        self._at = 0
        self._returned = 0
        self._last: R | None = None
        self._ended = False

    def __repr__(self) -> str:
        return f"<shoal.AsyncScan, {self}>"

    def __str__(self) -> str:
        return f"{self._returned} rows returned{', ended' if self._ended else ''}"

    def __aiter__(self) -> AsyncIterator[R]:
        return self

    async def __anext__(self) -> R:
        if self._at == len(self._rows):
            await self._fetch()
        return self._take(StopAsyncIteration)

    @property
    def cursor(self) -> str:
        """Where the scan is: `scan(cursor=...)`, in this process or another, goes on with the next row."""
        return self._source.cursor(self._last, self._returned, ended=self._ended)

    async def _fetch(self) -> None:
        self._rows, self._at = await self._source.chunk(), 0

    def _take(self, end: type[Exception]) -> R:
        if self._at == len(self._rows):
            self._ended = True
            raise end
        row = self._last = self._rows[self._at]
        self._at += 1
        self._returned += 1
        return row


class Scan(Generic[R]):
    """The rows of a scan, to be taken with `for`. One thread at a time may take them.

    A row is `(key, value)`, or the key alone. Errors are those of `Client.scan`; a scan that raised goes on when it is
    asked again.
    """

    def __init__(self, inner: AsyncScan[R], portal: Portal) -> None:
        self._inner = inner
        self._portal = portal

    def __repr__(self) -> str:
        return f"<shoal.Scan, {self._inner}>"

    def __iter__(self) -> Iterator[R]:
        return self

    def __next__(self) -> R:
        inner = self._inner
        if inner._at == len(inner._rows):
            self._portal.call(inner._fetch)
        return inner._take(StopIteration)

    @property
    def cursor(self) -> str:
        """Where the scan is: `scan(cursor=...)`, in this process or another, goes on with the next row."""
        return self._inner.cursor


class _ShardSource:
    """One shard's part of a scan: rows that were fetched and not yet taken, and the range [start, end) of the rest."""

    def __init__(self, ranges: Ranges, start: bytes, end: bytes) -> None:
        self.ranges = ranges
        self.start = start
        self.end = end
        self.keys: list[bytes] = []
        self.values: list[bytes] = []
        self.done = False
        self.page: asyncio.Task[ScanPage | None] | None = None

    def receive(self, page: ScanPage, reverse: bool) -> None:
        self.page = None
        self.keys += page.keys
        self.values += page.values or page.keys
        if page.resume is None:
            self.done = True
        elif reverse:
            self.end = page.resume
        else:
            self.start = page.resume

    def take(self, bound: bytes | None, reverse: bool) -> list[tuple[bytes, bytes]]:
        """Take out the rows up to `bound`, in the order of the scan; None: all."""
        keys = self.keys
        if bound is None:
            count = len(keys)
        elif reverse:
            count = next((at for at, key in enumerate(keys) if key < bound), len(keys))
        else:
            count = bisect_right(keys, bound)
        rows = list(zip(keys[:count], self.values, strict=False))
        del keys[:count], self.values[:count]
        return rows


class MergedRows:
    """The rows of a plan, merged from all the shards that may have some.

    A shard's next page is fetched while the rows of the last one are taken. When the shard map changes, the scan is
    planned anew behind the last row returned.
    """

    def __init__(
        self, caller: Caller, plan: Cursor, page_rows: int, max_staleness_ms: int, timeout: float | None
    ) -> None:
        """
        Args:
            max_staleness_ms: as in `Fetch`.
            timeout: seconds that a page may take.
        """
        self._caller = caller
        self._first = plan
        self._plan = plan
        self._page_rows = min(page_rows, MAX_ROWS)
        self._max_staleness_ms = max_staleness_ms
        self._timeout = timeout
        self._turns = Turns()
        self._sources: list[_ShardSource] | None = None

    async def chunk(self) -> list[Any]:
        """Return the next rows, at least one; none at the end."""
        while self._plan.limit:
            try:
                rows = await self._merge()
            except BaseException:
                self._abandon()
                raise
            if rows is None:
                self._abandon()
                continue
            if self._plan.limit != ALL_ROWS:
                rows = rows[: self._plan.limit]
            if not rows:
                break
            self._plan = behind(self._plan, rows[-1][0], len(rows))
            return [key for key, _ in rows] if self._plan.keys_only else rows
        self._abandon()
        return []

    def cursor(self, last: Any, returned: int, *, ended: bool) -> str:
        """Return the cursor behind row number `returned`, which is `last`; `ended`: there are no more."""
        if ended:
            return tokens.encode(structs.replace(self._first, limit=0))
        if last is None:
            return tokens.encode(self._first)
        return tokens.encode(behind(self._first, last if self._first.keys_only else last[0], returned))

    async def _merge(self) -> list[tuple[bytes, bytes]] | None:
        """Return the rows that no row still to be fetched comes before; none at the end. None: shards have changed."""
        reverse = self._plan.reverse
        if self._sources is None:
            self._sources = await self._open()
        while True:
            hungry = [source for source in self._sources if not source.keys and not source.done]
            for source in hungry:
                self._fetch(source)
            for source in hungry:
                if source.page is not None:
                    page = await source.page
                    if page is None:
                        return None
                    source.receive(page, reverse)
            self._sources = [source for source in self._sources if source.keys or not source.done]
            if all(source.keys for source in self._sources):
                break
        unfinished = [source.keys[-1] for source in self._sources if not source.done]
        bound = None if not unfinished else max(unfinished) if reverse else min(unfinished)
        rows = [row for source in self._sources for row in source.take(bound, reverse)]
        if len(self._sources) > 1:
            # Each source's rows are in order already, which is what this sort is fast at.
            rows.sort(reverse=reverse)
        if self._plan.limit == ALL_ROWS:
            for source in self._sources:
                if not source.done:
                    self._fetch(source)
        return rows

    async def _open(self) -> list[_ShardSource]:
        caller, at = self._caller, self._plan
        routed = await caller.admit(caller.deadline(self._timeout))
        ranges = microshards_of_range(routed.keyspace, at.prefix, at.start, at.end)
        return [_ShardSource(part.ranges, at.start, at.end) for part in caller.parts_of(routed, ranges)]

    def _fetch(self, source: _ShardSource) -> None:
        if source.page is None:
            source.page = asyncio.ensure_future(self._page(source))
            source.page.add_done_callback(_retrieved)

    def _page(self, source: _ShardSource) -> Any:
        limit = self._plan.limit
        return read_page(
            self._caller,
            source.ranges,
            structs.replace(self._plan, start=source.start, end=source.end),
            self._page_rows if limit == ALL_ROWS else min(limit, self._page_rows),
            self._max_staleness_ms,
            self._caller.deadline(self._timeout),
            self._turns,
        )

    def _abandon(self) -> None:
        """Forget what was fetched and not taken; the next chunk is fetched anew."""
        for source in self._sources or ():
            if source.page is not None:
                source.page.cancel()
        self._sources = None


async def read_page(
    caller: Caller,
    ranges: Ranges,
    part: Cursor,
    max_rows: int,
    max_staleness_ms: int,
    deadline: float,
    turns: Turns,
) -> ScanPage | None:
    """Read the first rows of `part` in the microshards `ranges`; None: these are of several shards by now.

    Args:
        turns: of the scan that the page is of.
    """
    routed: ClientKeyspace = await caller.admit(deadline)
    call: ScanCall[Any] = ScanCall(
        None,
        deadline,
        _SCAN_BYTES + len(part.start) + len(part.end) + RANGE_BYTES * len(ranges),
        ranges,
        part.start,
        part.end,
        part.reverse,
        part.keys_only,
        max_rows,
        caller.session_vector,
        caller.bound(routed, max_staleness_ms),
        turns,
    )
    try:
        return cast(ScanPage, await caller.run_page(routed, call))
    except ShardChanged:
        return None


def _retrieved(page: asyncio.Task[ScanPage | None]) -> None:
    """Look at the exception of a page that nobody may come for, or asyncio would report it."""
    if not page.cancelled():
        page.exception()
