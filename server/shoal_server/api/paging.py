"""Scans: rows are read page by page, as the caller takes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias

from google.protobuf.message import Message

from shoal_server.api.calls import Reply
from shoal_server.api.convert import consistency_of, max_staleness_of
from shoal_server.api.gateway import Gateway, token_of
from shoal_server.api.generated import shoal_pb2 as pb
from shoal_server.api.scan_places import ScanPlaces
from shoal_server.grpc_places import lane_of_call

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
        self._places = ScanPlaces()

    async def scan(self, request: pb.ScanRequest, reply: Reply, seconds: float | None) -> None:
        """Send the rows of a range, a page at a time. `seconds` is for each page: gRPC sees to the whole.

        Raises:
            Overloaded: others have taken all the places, and none of them has ended in time.
        """

        async def send(message: Message) -> None:
            await self._places.read(reply(message))

        async with self._places.place(lane_of_call(), seconds):
            await self._scan(request, send, seconds)

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
