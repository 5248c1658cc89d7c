"""Iterators over the rows of a scan, for asyncio and for threads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Generic, Protocol, TypeVar

from shoal.transport.portal import Portal

R = TypeVar("R")


class Rows(Protocol[R]):
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

    def __init__(self, source: Rows[R]) -> None:
        self._source = source
        self._rows: list[R] = []
        self._at = 0
        self._returned = 0
        self._last: R | None = None
        self._ended = False

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
