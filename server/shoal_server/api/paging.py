"""Scans: rows are read page by page, as the caller takes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

from shoal.errors import Overloaded
from shoal.priorities import OverloadReason

from shoal_server.api.calls import RETRY_SECONDS, Reply
from shoal_server.api.convert import consistency_of, max_staleness_of
from shoal_server.api.gateway import Gateway, token_of
from shoal_server.api.generated import shoal_pb2 as pb

SCANS_MAX = 32
"""The most at once. Each has up to two pages of every shard in memory, however slow its reader is: with 8 shards and rows of
300 bytes some 9 MB, and 16 MiB of keys and values at most."""
PLACE_SECONDS = 5.0
"""So long a further one waits for the end of another: most are short."""
PAGE_ROWS = 1000
PAGE_BYTES = 1 << 20
"""A page that has so much is sent, with however few rows: gRPC's callers take messages of 4 MiB, unless told otherwise."""
ROW_BYTES = 16
"""What a row takes besides its key and value."""

Rows: TypeAlias = AsyncIterator[tuple[bytes, bytes]] | AsyncIterator[bytes]


class ScanService:
    """Answers `Scan`."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._places = asyncio.Semaphore(SCANS_MAX)

    async def scan(self, request: pb.ScanRequest, reply: Reply, seconds: float | None) -> None:
        """Send the rows of a range, a page at a time. `seconds` is for each page: gRPC sees to the whole.

        Raises:
            Overloaded: others have taken all the places, and none of them has ended in time.
        """
        async with self._place(PLACE_SECONDS if seconds is None else min(seconds, PLACE_SECONDS)):
            await self._scan(request, reply, seconds)

    @asynccontextmanager
    async def _place(self, seconds: float) -> AsyncGenerator[None, None]:
        """Be one of the scans under way, as soon as there are few enough."""
        try:
            async with asyncio.timeout(seconds):
                await self._places.acquire()
        except TimeoutError as error:
            raise Overloaded(
                f"the node has {SCANS_MAX} scans under way, the most it takes, and none has ended within {seconds:.3g} s; "
                "nothing was read: try again later, or ask another node",
                retry_after=RETRY_SECONDS,
                reason=OverloadReason.CONNECTION.value,
            ) from error
        try:
            yield
        finally:
            self._places.release()

    async def _scan(self, request: pb.ScanRequest, reply: Reply, seconds: float | None) -> None:
        client = await self._gateway.client(request, seconds)
        page_rows = request.page_rows or PAGE_ROWS
        rows = client.scan(
            request.prefix,
            start=request.start,
            end=request.end,
            limit=request.limit if request.HasField("limit") else None,
            reverse=request.reverse,
            keys_only=request.keys_only,
            consistency=consistency_of(request),
            max_staleness=max_staleness_of(request),
            page_rows=page_rows,
            cursor=request.cursor or None,
            timeout=seconds,
        )
        sent = False
        async for page in pages(rows, page_rows):
            await reply(pb.ScanPage(rows=page, cursor=rows.cursor, session=token_of(request, client)))
            sent = True
        if not sent:
            await reply(pb.ScanPage(cursor=rows.cursor, session=token_of(request, client)))


async def pages(rows: Rows, page_rows: int) -> AsyncIterator[list[pb.Row]]:
    """Yield rows in pages of so many rows, and of about `PAGE_BYTES` at the most. A row may be a key alone."""
    page: list[pb.Row] = []
    size = 0
    async for row in rows:
        if isinstance(row, bytes):
            page.append(pb.Row(key=row))
            size += len(row) + ROW_BYTES
        else:
            page.append(pb.Row(key=row[0], value=row[1]))
            size += len(row[0]) + len(row[1]) + ROW_BYTES
        if size >= PAGE_BYTES or len(page) == page_rows:
            yield page
            page, size = [], 0
    if page:
        yield page
