"""Scans: rows are read page by page, as the caller takes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias

from google.protobuf.message import Message
from shoal.errors import Overloaded
from shoal.priorities import OverloadReason

from shoal_server.api.calls import RETRY_SECONDS, Reply
from shoal_server.api.convert import consistency_of, max_staleness_of
from shoal_server.api.gateway import Gateway, token_of
from shoal_server.api.generated import shoal_pb2 as pb
from shoal_server.grpc_places import CALL, Call

SCANS_MAX = 32
"""The most at once. Each has up to two pages of every shard in memory, however slow its reader is: with 8 shards and rows of
300 bytes some 9 MB, and 16 MiB of keys and values at most."""
PLACE_SECONDS = 5.0
"""So long a further one waits for the end of another: most are short."""
UNREAD_SECONDS = 2.0
"""After so long of that, a scan whose reader has not taken a page for as long gives way."""
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
        self._unread: dict[Call, float] = {}

    async def scan(self, request: pb.ScanRequest, reply: Reply, seconds: float | None) -> None:
        """Send the rows of a range, a page at a time. `seconds` is for each page: gRPC sees to the whole.

        Raises:
            Overloaded: others have taken all the places, and none of them has ended in time.
        """
        async with self._place(PLACE_SECONDS if seconds is None else min(seconds, PLACE_SECONDS)):
            await self._scan(request, partial(self._reply, reply), seconds)

    async def _reply(self, reply: Reply, message: Message) -> None:
        """Send a page, and note whose reader does not take it."""
        call = CALL.get()
        if call is None:
            await reply(message)
            return
        self._unread[call] = asyncio.get_running_loop().time()
        try:
            await reply(message)
        finally:
            del self._unread[call]

    async def _end_those_unread(self) -> None:
        """Have one after the other give way, for somebody who waits."""
        while True:
            await asyncio.sleep(UNREAD_SECONDS)
            self._end_unread()

    def _end_unread(self) -> None:
        """Have the scan give way whose reader has taken nothing for longest, if that is long."""
        now = asyncio.get_running_loop().time()
        for call, since in self._unread.items():
            if now - since < UNREAD_SECONDS:
                return
            if call.ended is None:
                words = f"nobody has read this scan's page for {now - since:.0f} s, and others wait: go on behind its last page"
                call.end(Overloaded(words, retry_after=RETRY_SECONDS, reason=OverloadReason.CONNECTION.value))
                return

    @asynccontextmanager
    async def _place(self, seconds: float) -> AsyncGenerator[None, None]:
        """Be one of the scans under way, as soon as there are few enough."""
        if not self._places.locked():
            await self._places.acquire()
        else:
            await self._wait(seconds)
        try:
            yield
        finally:
            self._places.release()

    async def _wait(self, seconds: float) -> None:
        looking = asyncio.create_task(self._end_those_unread())
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
        finally:
            looking.cancel()

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
