"""Transactions: one stream is one transaction of the client library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import shoal
from shoal.errors import DeadlineExceeded, InvalidArgument, TooLarge

from shoal_server.api.calls import Reply
from shoal_server.api.convert import ttl_of
from shoal_server.api.gateway import Gateway, token_of
from shoal_server.api.generated import shoal_pb2 as pb
from shoal_server.api.paging import PAGE_ROWS, pages

TRANSACTION_SECONDS = 60.0
"""How long a transaction may take whose call has no deadline."""


class _GivenUp(Exception):
    """The stream ended before the commit."""


class TransactService:
    """Answers `Transact`."""

    def __init__(self, gateway: Gateway, transaction_bytes_max: int) -> None:
        """
        Args:
            transaction_bytes_max: the most that a transaction may read, and the most that it may write: both are kept
                in memory until it ends.
        """
        self._gateway = gateway
        self._bytes_max = transaction_bytes_max

    async def transact(self, requests: AsyncIterator[pb.TransactRequest], reply: Reply, seconds: float | None) -> None:
        """Do what the stream says in a transaction, and commit it when it says so."""
        limit = TRANSACTION_SECONDS if seconds is None else seconds
        until = asyncio.get_running_loop().time() + limit

        async def in_time() -> AsyncIterator[pb.TransactRequest]:
            # Only the waiting is cut short: a commit that was sent has to say how it ended.
            while True:
                try:
                    async with asyncio.timeout_at(until):
                        request = await anext(requests, None)
                except TimeoutError as error:
                    raise DeadlineExceeded(
                        f"the transaction was not committed within {limit:g} s; nothing was written"
                    ) from error
                if request is None:
                    return
                yield request

        await self._transact(in_time(), reply, limit)

    async def _transact(self, requests: AsyncIterator[pb.TransactRequest], reply: Reply, seconds: float) -> None:
        first = await anext(requests, None)
        if first is None:
            return
        if first.WhichOneof("step") != "begin":
            raise InvalidArgument("a transaction's first message is `begin`")
        client = await self._gateway.client(first.begin, seconds)
        transaction = client.transaction(timeout=seconds)
        try:
            async with transaction as tx:
                await self._steps(tx, requests, reply)
        except _GivenUp:
            return
        result = transaction.result
        committed = pb.Committed(seq=0 if result is None else result.seq, session=token_of(first.begin, client))
        await reply(pb.TransactReply(committed=committed))

    async def _steps(
        self, tx: shoal.AsyncTransaction, requests: AsyncIterator[pb.TransactRequest], reply: Reply
    ) -> None:
        """Read and write until the commit."""
        size_read = size_written = 0
        async for request in requests:
            match request.WhichOneof("step"):
                case "get":
                    value = await tx.get(request.get)
                    size_read += len(value or b"")
                    await reply(pb.TransactReply(get=pb.TransactGet(value=value)))
                case "scan":
                    size_read += await self._scan(tx, request.scan, reply, size_read)
                case "put":
                    tx.put(request.put.key, request.put.value, ttl=ttl_of(request.put))
                    size_written += len(request.put.key) + len(request.put.value)
                case "delete":
                    tx.delete(request.delete)
                    size_written += len(request.delete)
                case "commit":
                    return
                case "begin":
                    raise InvalidArgument("a transaction begins once")
                case _:
                    raise InvalidArgument("a message of a transaction says nothing: none of its steps is set")
            self._check_size("read", size_read)
            self._check_size("written", size_written)
        raise _GivenUp

    async def _scan(self, tx: shoal.AsyncTransaction, scan: pb.TransactScan, reply: Reply, size_before: int) -> int:
        """Answer a scan; return the bytes that were read."""
        page_rows = scan.page_rows or PAGE_ROWS
        rows = tx.scan(
            scan.prefix,
            start=scan.start,
            end=scan.end,
            limit=scan.limit if scan.HasField("limit") else None,
            reverse=scan.reverse,
            page_rows=page_rows,
        )
        size = 0
        async for page in pages(rows, page_rows):
            size += sum(len(row.key) + len(row.value) for row in page)
            self._check_size("read", size_before + size)
            await reply(pb.TransactReply(scan=pb.TransactRows(rows=page)))
        await reply(pb.TransactReply(scan=pb.TransactRows(ended=True)))
        return size

    def _check_size(self, what: str, size: int) -> None:
        if size > self._bytes_max:
            raise TooLarge(
                f"the transaction has {what} {size} bytes, and may at most {self._bytes_max}; nothing was written: "
                "do less in one transaction"
            )
