"""Connections of those who ask for pages, over HTTP: heads in, answers out, bounded in bytes, in time and in number.

Who asks at once is always answered: a connection has a place among those whose heads are not complete, in which the oldest
gives way, and then one among those that have their answer and read it, in which the oldest gives way, too. In between nobody
waits, but for samples that are being gathered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

from shoal_server.places import OldestGoes

HEAD_BYTES_MAX = 8 * 1024
HEADS_MAX = 32
"""Connections whose heads are not complete; half of them of one address."""
ANSWERED_MAX = 32
"""Connections that have their answer, and are still there; likewise."""
OPEN_MAX = 96
"""All of them, with those that wait for samples, and those that are just being ended."""
HEAD_SECONDS = 2.0
WRITE_SECONDS = 10.0
LINGER_SECONDS = 1.0
LINGER_READS = 32
"""After the answer the caller is listened to for so long and so often, for it to close first."""

_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Page:
    """An answer."""

    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT


def problem(status: HTTPStatus, reason: str) -> Page:
    """Return the answer to a request that is refused."""
    return Page(status, f"{status.phrase}: {reason}\n".encode())


Answering = Callable[[str, str], Awaitable[Page]]
"""Answers who asks for a path, and accepts certain kinds of content."""


class PagePlaces:
    """The connections that are open. For one event loop."""

    def __init__(self, answer: Answering, loop: asyncio.AbstractEventLoop) -> None:
        self.answer = answer
        self.loop = loop
        self.heads: OldestGoes[PageConnection] = OldestGoes(HEADS_MAX)
        self.answered: OldestGoes[PageConnection] = OldestGoes(ANSWERED_MAX)
        self._open: set[PageConnection] = set()

    def made(self) -> PageConnection:
        """Return the protocol of a connection that is being accepted."""
        return PageConnection(self)

    def has_room(self, beginning: int) -> bool:
        """Say whether one more may be accepted besides so many that are just beginning."""
        return len(self._open) + beginning < OPEN_MAX

    def came(self, connection: PageConnection) -> None:
        """A connection has come."""
        self._open.add(connection)
        victim = self.heads.arrive(connection, connection.host_address)
        if victim is not None:
            victim.refuse(
                HTTPStatus.SERVICE_UNAVAILABLE, "others have come, and this request has been on its way for longest"
            )

    def went(self, connection: PageConnection) -> None:
        """A connection is over."""
        self._open.discard(connection)
        self.heads.leave(connection)
        self.answered.leave(connection)

    def has_answer(self, connection: PageConnection) -> None:
        """A connection has its answer, and reads it."""
        self.heads.leave(connection)
        victim = self.answered.arrive(connection, connection.host_address)
        if victim is not None:
            victim.abort()

    def close(self) -> None:
        """End all connections: whoever is still connected is slow, or says nothing."""
        for connection in list(self._open):
            connection.abort()


class PageConnection(asyncio.Protocol):
    """One connection: one request, one answer."""

    def __init__(self, places: PagePlaces) -> None:
        self._places = places
        self._head = b""
        self._asked = False
        self._reads = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def host_address(self) -> str:
        """The address that it comes from, without the port."""
        peer = self._transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(0)
        self._ending = self._places.loop.call_later(HEAD_SECONDS, self._too_slow)
        self._places.came(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason changes nothing here
        self._ending.cancel()
        if self._task is not None:
            self._task.cancel()
        self._places.went(self)

    def data_received(self, data: bytes) -> None:
        if self._asked:
            # Closed with something unread, the connection would be reset, and the answer might be lost with it.
            self._reads += 1
            if self._reads > LINGER_READS:
                self.abort()
            return
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if 0 <= end <= HEAD_BYTES_MAX:
            self._ask(self._head[:end].decode("latin-1"))
        elif len(self._head) > HEAD_BYTES_MAX:
            self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {HEAD_BYTES_MAX} bytes")

    def eof_received(self) -> bool:
        if not self._asked:
            self.refuse(HTTPStatus.BAD_REQUEST, "the request ends before its empty line")
        # It may still read.
        return not self._transport.is_closing()

    def resume_writing(self) -> None:
        self._linger()

    def refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answer that it is not answered, and why."""
        self._send(problem(status, reason), with_body=True)

    def abort(self) -> None:
        """End at once."""
        self._transport.abort()

    def _too_slow(self) -> None:
        self.refuse(HTTPStatus.REQUEST_TIMEOUT, f"no whole request within {HEAD_SECONDS:g} s")

    def _ask(self, head: str) -> None:
        lines = head.split("\r\n")
        parts = lines[0].split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            self.refuse(HTTPStatus.BAD_REQUEST, "this is no HTTP/1 request")
            return
        method, path = parts[0], parts[1].partition("?")[0]
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        if method not in ("GET", "HEAD"):
            self.refuse(HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD are all there is")
        elif headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            self.refuse(HTTPStatus.BAD_REQUEST, "a request here has no body")
        else:
            self._asked = True
            self._ending.cancel()
            self._places.heads.leave(self)
            answering = self._answer(path, headers.get("accept", ""), with_body=method == "GET")
            self._task = self._places.loop.create_task(answering)

    async def _answer(self, path: str, accept: str, *, with_body: bool) -> None:
        try:
            page = await self._places.answer(path, accept)
        except BaseException:
            self.abort()
            raise
        self._send(page, with_body=with_body)

    def _send(self, page: Page, *, with_body: bool) -> None:
        self._asked = True
        self._ending.cancel()
        if self._transport.is_closing():
            return
        self._places.has_answer(self)
        self._ending = self._places.loop.call_later(WRITE_SECONDS, self.abort)
        self._transport.write(_encoded(page, with_body=with_body))
        try:
            self._transport.write_eof()
        except OSError:  # it has gone, and the loop has not seen that yet
            self.abort()
            return
        if not self._transport.get_write_buffer_size():
            self._linger()

    def _linger(self) -> None:
        self._ending.cancel()
        self._ending = self._places.loop.call_later(LINGER_SECONDS, self.abort)


def _encoded(page: Page, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\n"
        f"Content-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (page.body if with_body else b"")
