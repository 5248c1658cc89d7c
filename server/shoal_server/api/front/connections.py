"""A caller's connection, and the one to gRPC by which it goes on: bytes both ways, at the pace of whoever is slower."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Protocol, cast

from shoal_server.api.front.requests import Answers, Requests, Wait, farewell
from shoal_server.certificates import identity_of

UNSENT_BYTES = 256 * 1024
"""Of what the other side has not taken, nothing more is read than that."""
LINGER_SECONDS, LINGER_READS = 1.0, 32
"""A connection that ends is listened to for so long and so often, for it to read what it was told last."""
ENHANCE_YOUR_CALM = 11


class Host(Protocol):
    """What connections need of the door.

    Attributes:
        message_most: gRPC refuses a message that is longer (bytes).
    """

    message_most: int

    @property
    def path(self) -> str:
        """Where gRPC listens."""
        ...

    @property
    def now(self) -> float:
        """Seconds, monotonic."""
        ...

    def came(self, connection: CallerConnection) -> None:
        """One has connected."""
        ...

    def went(self, connection: CallerConnection, given_up: int) -> None:
        """One is gone, with so many calls under way."""
        ...

    def may_linger(self, connection: CallerConnection) -> bool:
        """Say whether a connection that is refused may stay to read why."""
        ...

    def wait(self, connection: CallerConnection) -> None:
        """Have a connection go on in its turn."""
        ...

    def may_reset(self, connection: CallerConnection) -> bool:
        """Say whether a connection may give up a call; if so, it has."""
        ...

    def take(self, size: int) -> bool:
        """Take room for a message, or say that there is none."""
        ...

    def give_back(self, size: int) -> None:
        """A message is gone."""
        ...


class CallerConnection(asyncio.Protocol):
    """A caller's. Implements `requests.Ledger`.

    Attributes:
        host_address: where it comes from; key: whom its certificate is of, or else that.
        lane: by which its calls go on into the cluster.
        idle_since: since when no call is under way; has_called: whether one ever was.
        in_line: it is among those who wait.
    """

    def __init__(self, front: Host, number: int) -> None:
        self.number = number
        self.host_address = ""
        self.key: bytes | str = ""
        self.lane = 0
        self.in_line = False
        self.has_called = False
        self.idle_since = 0.0
        self.transport: asyncio.Transport
        self.requests = Requests(number, front.message_most, self)
        self._front = front
        self._upstream: Upstream | None = None
        self._opening: asyncio.Task[None] | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._lingering_reads = 0
        self._full = False
        self._over = False

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=UNSENT_BYTES)
        self.transport.pause_reading()
        peer = transport.get_extra_info("peername")
        self.host_address = str(peer[0]) if peer else ""
        self.key = identity_of(transport.get_extra_info("peercert") or {}) or self.host_address
        self._front.came(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason changes nothing here
        self._over = True
        if self._opening is not None:
            self._opening.cancel()
        if self._lingering is not None:
            self._lingering.cancel()
        if self._upstream is not None:
            self._upstream.abort()
        self._front.went(self, self.requests.close())

    def data_received(self, data: bytes) -> None:
        if self._lingering is not None:
            self._lingering_reads += 1
            if self._lingering_reads > LINGER_READS:
                self.abort()
            return
        self.requests.feed(data)
        if self._upstream is None:
            # It was said before, but loops begin to read only then.
            self.transport.pause_reading()
        elif not self.in_line:
            self.go_on()

    def pause_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def resume_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    # -- what it may do

    @property
    def is_open(self) -> bool:
        """Whether it has been let on to gRPC."""
        return self._opening is not None

    def open(self) -> None:
        """Go on to gRPC."""
        self._opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        way = socket.socket(socket.AF_UNIX)
        try:
            way.setblocking(False)
            await loop.sock_connect(way, self._front.path)
            _, upstream = await loop.create_unix_connection(lambda: Upstream(self, way), sock=way)
        except OSError:  # gRPC listens no more: the node is stopping
            way.close()
            self.abort()
            return
        except asyncio.CancelledError:
            way.close()
            raise
        self._upstream = upstream
        self.go_on()

    def go_on(self) -> None:
        """Send on what may be sent."""
        upstream = self._upstream
        if self.transport.is_closing() or upstream is None or self._lingering is not None:
            return
        upstream.send(self.requests.go_on(self._front.now))
        if self.requests.waits_for is not Wait.NOTHING:
            self._front.wait(self)
        self._read_on()

    def _read_on(self) -> None:
        """Read where nothing speaks against it."""
        if self.transport.is_closing() or self._lingering is not None:
            return
        if self._full or self.requests.waits_for is not Wait.NOTHING:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def upstream_is_full(self, full: bool) -> None:
        """gRPC takes no more for now, or takes more again."""
        self._full = full
        self._read_on()

    def upstream_is_over(self, last: bytes) -> None:
        """gRPC has ended it, and that was the last it said."""
        if self._lingering is not None or self.transport.is_closing():
            return
        self.transport.write(last)
        self._linger()

    def node_ends(self) -> None:
        """Be over soon: gRPC has ended, or will not begin."""
        if self._upstream is None:
            self.refuse("the node is stopping")

    def may_reset(self) -> bool:
        return self._front.may_reset(self)

    def take(self, size: int) -> bool:
        return self._front.take(size)

    def give_back(self, size: int) -> None:
        self._front.give_back(size)

    def refuse(self, words: str) -> None:
        """End, and say why in the way of HTTP/2."""
        if self._lingering is not None or self.transport.is_closing():
            return
        if not self._front.may_linger(self):
            self.transport.abort()
            return
        self.transport.write(farewell(ENHANCE_YOUR_CALM, words))
        self._linger()
        if self._upstream is not None:
            self._upstream.abort()

    def _linger(self) -> None:
        """Say no more, and hear what there is, for the caller to read what it was told last.

        Closed with something unread, the connection would be reset, and that might be lost with it.
        """
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()
        self._linger_on(self.transport.get_write_buffer_size())

    def _linger_on(self, unsent: int) -> None:
        """End after a while in which nothing of what is unsent (bytes) went."""
        self._lingering = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._look_at_unsent, unsent)

    def _look_at_unsent(self, unsent: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left < unsent:
            self._linger_on(left)
        else:
            self.abort()

    def give_way(self, words: str) -> None:
        """End, since somebody else needs the place."""
        self.refuse(words)

    def abort(self) -> None:
        """End at once."""
        if not self._over:
            self.transport.abort()


class Upstream(asyncio.Protocol):
    """The way to gRPC of one caller."""

    def __init__(self, caller: CallerConnection, way: socket.socket) -> None:
        self._caller = caller
        self._socket = way
        self._answers = Answers(caller.requests)
        self._transport: asyncio.Transport
        self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._caller.upstream_is_over(b"" if exc is None else self._unread())

    def _unread(self) -> bytes:
        """Return what gRPC said before it ended: a loop that cannot write reads no more."""
        pieces: list[bytes] = []
        with suppress(OSError):
            while piece := self._socket.recv(UNSENT_BYTES):
                pieces.append(piece)
        return b"".join(pieces)

    def data_received(self, data: bytes) -> None:
        self._answers.feed(data)
        self._caller.transport.write(data)

    def pause_writing(self) -> None:
        self._caller.upstream_is_full(True)

    def resume_writing(self) -> None:
        self._caller.upstream_is_full(False)

    def send(self, pieces: list[bytes]) -> None:
        """Send on what the caller says."""
        if not self._over:
            self._transport.writelines([piece for piece in pieces if piece])

    def pause(self) -> None:
        """The caller does not read its answers."""
        if not self._over:
            self._transport.pause_reading()

    def resume(self) -> None:
        """It does again."""
        if not self._over:
            self._transport.resume_reading()

    def abort(self) -> None:
        """End at once."""
        if not self._over:
            self._transport.abort()
