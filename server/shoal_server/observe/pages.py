"""The pages `/metrics`, `/healthz` and `/readyz` of a process, over HTTP, on a thread and an event loop of their own.

They answer from before the data folder is opened until after it is closed, and also while the process's own event loop
does not run: that is what `/healthz` is for. Health is read from what the process has said last (`Pages.beat`); samples
are gathered in the process's loop and made text here. Whatever is sent to the port, it costs a bounded amount: of
connections, of bytes, of time, and of scrapes a second.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from shoal.metrics import Family
from shoal.options import split_address

from shoal_server.observe.readiness import STARTING, Readiness

HEAD_BYTES_MAX = 8 * 1024
CONNECTIONS_MAX = 32
HEAD_SECONDS = 5.0
WRITE_SECONDS = 10.0
LINGER_SECONDS = 1.0
LINGER_READS = 32
"""After the answer the caller is listened to for so long and so often, for it to close first."""
GATHER_SECONDS = 5.0
"""What a scrape waits for the process's event loop."""
FRESH_SECONDS = 0.2
"""A scrape that comes sooner after another gets the same samples."""
HUNG_SECONDS = 10.0
"""A process that has said nothing for so long hangs."""

_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Page:
    """An answer."""

    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT


class _Gathered:
    """A registry's collector that has the families already."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


class Pages:
    """The pages of one process. `start` and `stop` are for its event loop, as is everything else that is not private."""

    def __init__(self, address: str | None) -> None:
        """
        Args:
            address: `host:port` to listen at; None: there are no pages, and nothing listens.
        """
        self._address = address
        self._readiness: Readiness = STARTING
        self._beat_at: float | None = None
        self._gather: Callable[[], list[Family]] | None = None
        self._process_loop: asyncio.AbstractEventLoop | None = None
        self._connections = 0
        self._scraping = asyncio.Lock()
        self._gathered: list[Family] = []
        self._gathered_at = -FRESH_SECONDS
        self._process = CollectorRegistry()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="shoal-pages", daemon=True)

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: nothing can listen at the address.
        """
        if self._address is None:
            return
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        self._process_loop = asyncio.get_running_loop()
        self._thread.start()
        try:
            await self._there(self._listen(self._address))
        except OSError:
            await self._end_thread()
            raise

    async def stop(self) -> None:
        """End, with the process."""
        if self._server is not None:
            await self._there(self._close(self._server))
            self._server = None
            await self._end_thread()

    @property
    def readiness(self) -> Readiness:
        """What was said last."""
        return self._readiness

    def beat(self, readiness: Readiness) -> None:
        """Say that the process's event loop runs, and whether the process is ready. To be said at least every second."""
        self._readiness = readiness
        self._beat_at = time.monotonic()

    def serve_metrics(self, gather: Callable[[], list[Family]] | None) -> None:
        """Have scrapes call `gather`, in the process's event loop; None: its metrics are gone."""
        self._gather = gather

    # -- on the pages' own thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _listen(self, address: str) -> None:
        host, port = split_address(address)
        self._server = await asyncio.start_server(self._accepted, host, port, limit=HEAD_BYTES_MAX)

    async def _close(self, server: asyncio.Server) -> None:
        server.close()
        # Whoever is still connected is slow, or says nothing: the process does not wait for them.
        # One that is being accepted just now becomes another task.
        while connected := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in connected:
                task.cancel()
            await asyncio.gather(*connected, return_exceptions=True)

    async def _there(self, work: Coroutine[Any, Any, None]) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: asyncio reports one that it has made itself, and that is cancelled, as an error.
        task = self._loop.create_task(self._connected(reader, writer))
        self._answering.add(task)

        def answered(task: asyncio.Task[None]) -> None:
            self._answering.discard(task)
            writer.transport.abort()

        task.add_done_callback(answered)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            # A caller that goes away, or is too slow, needs no answer.
            with suppress(OSError, TimeoutError):
                page, with_body = await self._answer(reader)
                async with asyncio.timeout(WRITE_SECONDS):
                    writer.write(_encoded(page, with_body=with_body))
                    await writer.drain()
                    writer.write_eof()
                async with asyncio.timeout(LINGER_SECONDS):
                    # Closed with something unread, the connection would be reset, and the answer might be lost with it.
                    for _ in range(LINGER_READS):
                        if not await reader.read(HEAD_BYTES_MAX):
                            break
        finally:
            self._connections -= 1

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[_Page, bool]:
        """Read a request and return its answer, and whether its body is wanted."""
        if self._connections > CONNECTIONS_MAX:
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, f"more than {CONNECTIONS_MAX} connections"), True
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {HEAD_BYTES_MAX} bytes"), True
        except asyncio.IncompleteReadError:
            return _problem(HTTPStatus.BAD_REQUEST, "the request ends before its empty line"), True
        except TimeoutError:
            return _problem(HTTPStatus.REQUEST_TIMEOUT, f"no whole request within {HEAD_SECONDS:g} s"), True
        lines = head.decode("latin-1").split("\r\n")
        parts = lines[0].split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            return _problem(HTTPStatus.BAD_REQUEST, "this is no HTTP/1 request"), True
        method, path = parts[0], parts[1].partition("?")[0]
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        if method not in ("GET", "HEAD"):
            return _problem(HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD are all there is"), True
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            return _problem(HTTPStatus.BAD_REQUEST, "a request here has no body"), True
        return await self._page(path, headers.get("accept", "")), method == "GET"

    async def _page(self, path: str, accept: str) -> _Page:
        if path == "/healthz":
            return self._healthz()
        if path == "/readyz":
            readiness = self._readiness
            return _Page(HTTPStatus.OK, b"ready\n") if readiness.ready else _not_well(readiness.reason)
        if path == "/metrics":
            return await self._metrics(accept)
        return _problem(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz")

    def _healthz(self) -> _Page:
        readiness, beat_at = self._readiness, self._beat_at
        if readiness.failed:
            return _not_well(readiness.reason)
        if beat_at is not None and time.monotonic() - beat_at > HUNG_SECONDS:
            return _not_well(f"hangs: its event loop has not run for {time.monotonic() - beat_at:.0f} s")
        return _Page(HTTPStatus.OK, b"alive\n")

    async def _metrics(self, accept: str) -> _Page:
        async with self._scraping:
            if time.monotonic() - self._gathered_at >= FRESH_SECONDS:
                try:
                    async with asyncio.timeout(GATHER_SECONDS):
                        self._gathered = await self._gathered_there()
                except TimeoutError:
                    return _not_well(f"the process's event loop has not run for {GATHER_SECONDS:g} s: no samples")
                self._gathered_at = time.monotonic()
        encode, content_type = choose_encoder(accept)
        registry = CollectorRegistry()
        registry.register(self._process)
        registry.register(cast(Collector, _Gathered(self._gathered)))
        return _Page(HTTPStatus.OK, encode(registry), content_type)

    async def _gathered_there(self) -> list[Family]:
        loop = self._process_loop
        if self._gather is None or loop is None:
            return []

        async def gather() -> list[Family]:
            # Looked at anew: by the time that this runs, the process may have closed what there was to gather from.
            return [] if self._gather is None else self._gather()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(gather(), loop))


@asynccontextmanager
async def serving(address: str | None) -> AsyncIterator[Pages]:
    """Serve pages at `address`, if there is one, for as long as the context is open.

    Raises:
        OSError: nothing can listen at the address.
    """
    pages = Pages(address)
    await pages.start()
    try:
        yield pages
    finally:
        await pages.stop()


def _not_well(reason: str) -> _Page:
    return _Page(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n".encode())


def _problem(status: HTTPStatus, reason: str) -> _Page:
    return _Page(status, f"{status.phrase}: {reason}\n".encode())


def _encoded(page: _Page, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\n"
        f"Content-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (page.body if with_body else b"")
