"""The pages `/metrics`, `/healthz` and `/readyz` of a process, over HTTP, on a thread and an event loop of their own.

They answer from before the data folder is opened until after it is closed, and also while the process's own event loop
does not run: that is what `/healthz` is for. Health is read from what the process has said last (`Pages.beat`); samples
are gathered in the process's loop and made text here. Whatever is sent to the port, it costs a bounded amount: of
connections, of bytes and of time (page_connections.py), and of scrapes a second; and probes are answered all the same.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, cast

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from shoal.metrics import Family
from shoal.options import split_address

from shoal_server.listener import Listener
from shoal_server.observe.page_connections import Page, PagePlaces, problem
from shoal_server.observe.readiness import STARTING, Readiness
from shoal_server.observe.refusal_log import RefusalLog

SCRAPES_MAX = 16
"""Scrapes that wait for their samples at once."""
GATHER_SECONDS = 5.0
"""What a scrape waits for the process's event loop."""
FRESH_SECONDS = 0.2
"""A scrape that comes sooner after another gets the same samples, as the same text."""
HUNG_SECONDS = 10.0
"""A process that has said nothing for so long hangs."""


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
        self._waiting_scrapes = 0
        self._encoded: dict[str, Page] = {}
        self._scraping = asyncio.Lock()
        self._gathered: list[Family] = []
        self._gathered_at = -FRESH_SECONDS
        self._process = CollectorRegistry()
        self._loop = asyncio.new_event_loop()
        self._places = PagePlaces(self._page, self._loop)
        self._listener: Listener | None = None
        self._refusals = RefusalLog(f"pages at {address}")
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
        if self._listener is not None:
            await self._there(self._close(self._listener))
            self._listener = None
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
        listener = Listener(self._places.made, self._refusals.take, self._not_listening, self._places.has_room)
        await listener.start(host, port)
        self._listener = listener

    def _not_listening(self, task: asyncio.Task[None]) -> None:
        self._refusals.take("", f"{task.get_coro()} ended")

    async def _close(self, listener: Listener) -> None:
        await listener.close()
        self._places.close()
        # One that is being accepted just now becomes another task.
        while working := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
        self._places.close()

    async def _there(self, work: Coroutine[Any, Any, None]) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)

    async def _page(self, path: str, accept: str) -> Page:
        if path == "/healthz":
            return self._healthz()
        if path == "/readyz":
            readiness = self._readiness
            return Page(HTTPStatus.OK, b"ready\n") if readiness.ready else _not_well(readiness.reason)
        if path == "/metrics":
            return await self._metrics(accept)
        return problem(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz")

    def _healthz(self) -> Page:
        readiness, beat_at = self._readiness, self._beat_at
        if readiness.failed:
            return _not_well(readiness.reason)
        if beat_at is not None and time.monotonic() - beat_at > HUNG_SECONDS:
            return _not_well(f"hangs: its event loop has not run for {time.monotonic() - beat_at:.0f} s")
        return Page(HTTPStatus.OK, b"alive\n")

    async def _metrics(self, accept: str) -> Page:
        if self._waiting_scrapes >= SCRAPES_MAX:
            return problem(
                HTTPStatus.SERVICE_UNAVAILABLE, f"{SCRAPES_MAX} scrapes wait for their samples: try again later"
            )
        self._waiting_scrapes += 1
        try:
            async with self._scraping:
                return await self._scraped(accept)
        finally:
            self._waiting_scrapes -= 1

    async def _scraped(self, accept: str) -> Page:
        if time.monotonic() - self._gathered_at >= FRESH_SECONDS:
            try:
                async with asyncio.timeout(GATHER_SECONDS):
                    self._gathered = await self._gathered_there()
            except TimeoutError:
                return _not_well(f"the process's event loop has not run for {GATHER_SECONDS:g} s: no samples")
            self._gathered_at = time.monotonic()
            self._encoded.clear()
        encode, content_type = choose_encoder(accept)
        page = self._encoded.get(content_type)
        if page is None:
            registry = CollectorRegistry()
            registry.register(self._process)
            registry.register(cast(Collector, _Gathered(self._gathered)))
            page = self._encoded[content_type] = Page(HTTPStatus.OK, encode(registry), content_type)
        return page

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


def _not_well(reason: str) -> Page:
    return Page(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n".encode())
