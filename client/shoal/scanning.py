"""The rows of scans, in key order over microshards and shards: a page a shard, with at most one more on its way."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, TypeVar, cast

from msgspec import structs

from shoal import tokens
from shoal.errors import InvalidArgument
from shoal.key_sets import RANGE_BYTES, microshards_of_range, prefix_end
from shoal.protocol.bounds import MAX_ROWS
from shoal.protocol.messages import ScanPage
from shoal.routing.call_errors import ShardChanged
from shoal.routing.calls import ScanCall
from shoal.shardmap import Ranges
from shoal.tokens import Cursor
from shoal.transport.driver import Keyspace

if TYPE_CHECKING:
    from shoal.aio import AsyncClient

R = TypeVar("R")
ALL_ROWS = -1
"""In place of a limit."""
_SCAN_BYTES = 64


def plan(
    keyspace: str,
    prefix: bytes,
    start: bytes | None,
    end: bytes | None,
    limit: int | None,
    reverse: bool,
    keys_only: bool,
) -> Cursor:
    """Return the plan of a new scan: the cursor before its first row.

    Raises:
        InvalidArgument: the limit is negative, or the end is before the start.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit < 2**63):
        raise InvalidArgument(f"limit is a number of rows from 0, or None for all, not {limit!r}")
    last = prefix_end(prefix)
    first = max(prefix, start or b"")
    if end and last:
        last = min(end, last)
    elif end:
        last = end
    if start and end and end < start:
        raise InvalidArgument(f"a range runs from its start up to its end, not from {start!r} down to {end!r}")
    if last and last <= first:
        limit = 0
    return Cursor(keyspace, prefix, first, last, ALL_ROWS if limit is None else limit, reverse, keys_only)


def resumed(cursor: str, keyspace: str, keys_only: bool) -> Cursor:
    """Return the plan of a scan that goes on.

    Raises:
        InvalidArgument: the cursor is none, or of another keyspace or kind of scan.
    """
    found = tokens.decode("cursor of a scan", cursor, Cursor)
    if found.keyspace != keyspace:
        raise InvalidArgument(f"the cursor is of keyspace {found.keyspace!r}; this client is on {keyspace!r}")
    if found.keys_only != keys_only:
        raise InvalidArgument(f"the cursor is of a scan with keys_only={found.keys_only}; say the same here")
    return found


def check_page_rows(page_rows: int) -> None:
    """
    Raises:
        InvalidArgument: it is not a positive number, or no request can hold it.
    """
    if isinstance(page_rows, bool) or not isinstance(page_rows, int) or not 0 < page_rows < 2**31:
        raise InvalidArgument(f"page_rows is a number of rows from 1, not {page_rows!r}")


class _Source:
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
        self, client: AsyncClient, plan: Cursor, page_rows: int, max_staleness_ms: int, timeout: float | None
    ) -> None:
        """
        Args:
            max_staleness_ms: as in `Fetch`.
            timeout: seconds that a page may take.
        """
        self._client = client
        self._first = plan
        self._plan = plan
        self._page_rows = min(page_rows, MAX_ROWS)
        self._max_staleness_ms = max_staleness_ms
        self._timeout = timeout
        self._sources: list[_Source] | None = None

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
            self._plan = _behind(self._plan, rows[-1][0], len(rows))
            return [key for key, _ in rows] if self._plan.keys_only else rows
        self._abandon()
        return []

    def cursor(self, last: Any, returned: int, *, ended: bool) -> str:
        """Return the cursor behind row number `returned`, which is `last`; `ended`: there are no more."""
        if ended:
            return tokens.encode(structs.replace(self._first, limit=0))
        if last is None:
            return tokens.encode(self._first)
        return tokens.encode(_behind(self._first, last if self._first.keys_only else last[0], returned))

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

    async def _open(self) -> list[_Source]:
        client, at = self._client, self._plan
        space = await client._admit(client._deadline(self._timeout))
        ranges = microshards_of_range(space.keyspace, at.prefix, at.start, at.end)
        return [_Source(part.ranges, at.start, at.end) for part in client._driver.router.parts_of(space, ranges)]

    def _fetch(self, source: _Source) -> None:
        if source.page is None:
            source.page = asyncio.ensure_future(self._page(source))
            source.page.add_done_callback(_retrieved)

    def _page(self, source: _Source) -> Any:
        limit = self._plan.limit
        return read_page(
            self._client,
            source.ranges,
            structs.replace(self._plan, start=source.start, end=source.end),
            self._page_rows if limit == ALL_ROWS else min(limit, self._page_rows),
            self._max_staleness_ms,
            self._client._deadline(self._timeout),
        )

    def _abandon(self) -> None:
        """Forget what was fetched and not taken; the next chunk is fetched anew."""
        for source in self._sources or ():
            if source.page is not None:
                source.page.cancel()
        self._sources = None


async def read_page(
    client: AsyncClient,
    ranges: Ranges,
    part: Cursor,
    max_rows: int,
    max_staleness_ms: int,
    deadline: float,
) -> ScanPage | None:
    """Read the first rows of `part` in the microshards `ranges`; None: these are of several shards by now."""
    space: Keyspace = await client._admit(deadline)
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
        client._session_vector,
        client._bound(space, max_staleness_ms),
    )
    try:
        return cast(ScanPage, await client._run_page(space, call))
    except ShardChanged:
        return None


def _behind(at: Cursor, key: bytes, rows: int) -> Cursor:
    """Return the plan of what follows `key`, the last of so many rows of the plan `at`."""
    limit = at.limit if at.limit == ALL_ROWS else max(0, at.limit - rows)
    if at.reverse:
        return structs.replace(at, end=key, limit=limit)
    return structs.replace(at, start=key + b"\0", limit=limit)


def _retrieved(page: asyncio.Task[ScanPage | None]) -> None:
    """Look at the exception of a page that nobody may come for, or asyncio would report it."""
    if not page.cancelled():
        page.exception()
