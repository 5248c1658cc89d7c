"""One connection to a node, as an asyncio protocol: greeting, frames in, frames out, and nothing that decides.

It tells its host what happens, and always ends with exactly one `connection_down`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from ssl import SSLContext, SSLError
from typing import Protocol, cast

import msgspec

from shoal.errors import ErrorCode
from shoal.options import split_address
from shoal.priorities import Priority
from shoal.protocol.frames import (
    BadLength,
    FrameDamaged,
    FrameReader,
    answer_decoder,
    encode_frame,
    encode_frames,
    greeting_decoder,
)
from shoal.protocol.messages import (
    MAX_FRAME_ELEMENTS,
    MAX_FRAME_REQUESTS,
    Answer,
    Hello,
    Read,
    Refused,
    TracedRequest,
    Welcome,
)
from shoal.protocol.version import NEWEST, OLDEST, agree
from shoal.routing.overload import NO_OVERLOAD, Overload, overload_of
from shoal.routing.shard_queue import BATCH_CALLS
from shoal.tls import explain

CONNECT_SECONDS = 1.0
"""An address that has not welcomed us by then, from the first packet on, counts as failing, unless its welcome is arriving."""

GREETING_SECONDS = 10.0
"""A welcome that is still arriving by then counts as failing, too: it has the shard map, which a slow link takes long for."""

SOFT_FRAME_BYTES = 2 * 1024 * 1024
"""Requests are spread over frames of about this size: a node answers none of a frame before all of it has arrived."""

FRAME_REQUESTS = 4096
"""And no frame has more: a node has them all at hand before it answers the first, and refuses frames that have too many."""

if FRAME_REQUESTS > MAX_FRAME_REQUESTS:
    raise ValueError("nodes refuse frames with so many requests")

FRAME_KEYS = 32_768
"""And no frame has more keys to be read, but for a single request's: a node decodes a frame at once."""

if FRAME_KEYS > MAX_FRAME_ELEMENTS:
    raise ValueError("nodes refuse frames with so many keys")

FEW_REQUESTS = FRAME_KEYS // BATCH_CALLS
"""So many always go into one frame, whatever they are."""

WRITE_BUFFER_BYTES = 1024 * 1024
"""Beyond so many unsent bytes requests wait in the router, which sends none that has expired meanwhile."""


def _in_frames(requests: list[TracedRequest]) -> Iterator[list[TracedRequest]]:
    """Divide requests into as many as go into one frame."""
    first = keys = 0
    for at, request in enumerate(requests):
        more = len(request.keys) if type(request) is Read else 0
        if at - first == FRAME_REQUESTS or (keys + more > FRAME_KEYS and at > first):
            yield requests[first:at]
            first, keys = at, 0
        keys += more
    if first < len(requests):
        yield requests[first:] if first else requests


class ConnectionHost(Protocol):
    """What a connection tells whom it belongs to."""

    def connection_up(self, connection: Connection, welcome: Welcome) -> None: ...
    def connection_down(
        self, connection: Connection, reason: str, refusal: ErrorCode | None, overload: Overload
    ) -> None: ...
    def connection_alive(self, connection: Connection) -> None:
        """Bytes arrived, of a frame that is not complete yet."""
        ...

    def connection_paused(self, connection: Connection) -> None: ...
    def connection_resumed(self, connection: Connection) -> None: ...
    def answered(self, connection: Connection, answers: list[Answer]) -> None: ...


class Connection(asyncio.Protocol):
    """See the module's first lines. `connect` begins it; `end` ends it and names the reason that the host is told."""

    def __init__(self, host: ConnectionHost, address: str, priority: Priority) -> None:
        self.address = address
        self._priority = priority
        self._host = host
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._greeting: asyncio.TimerHandle | None = None
        self._handed_over = 0
        self._sent = 0
        self._greeted_until = 0.0
        self._arriving = False
        self._welcomed = False
        self._over = False

    async def connect(self, tls: SSLContext | None) -> None:
        """Connect and greet; a failure is told to the host, not raised."""
        loop = asyncio.get_running_loop()
        host, port = split_address(self.address)
        self._greeted_until = loop.time() + GREETING_SECONDS
        self._greeting = loop.call_later(CONNECT_SECONDS, self._not_welcomed, loop)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.create_connection(lambda: self, host, port, ssl=tls)
        except TimeoutError:
            self.end(f"no connection within {CONNECT_SECONDS:g} s")
        except SSLError as error:
            self.end(*explain(error))
        except OSError as error:
            self.end(f"cannot connect: {error.strerror or error}")
        except UnicodeError:
            self.end(f"{host!r} cannot be a host name")

    def send(self, requests: list[TracedRequest], max_frame_bytes: int) -> None:
        """Send requests: one frame, or several where there is much to send."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        for some in (requests,) if len(requests) <= FEW_REQUESTS else _in_frames(requests):
            for frame in encode_frames(some, max_frame_bytes, SOFT_FRAME_BYTES):
                self._handed_over += len(frame)
                transport.write(frame)

    def progressed(self) -> bool:
        """Say whether more left for the network since the last time this was asked, with some still to go.

        A node on a slow line is not heard while it receives a long frame, but it is there.
        """
        if self._transport is None:
            return False
        unsent = self._transport.get_write_buffer_size()
        sent, self._sent = self._sent, self._handed_over - unsent
        return unsent > 0 and self._sent > sent

    def end(self, reason: str, refusal: ErrorCode | None = None, overload: Overload = NO_OVERLOAD) -> None:
        """Close without waiting for anything, and tell the host why; later calls do nothing.

        Args:
            overload: what the node said of that, where it has too much.
        """
        if self._over:
            return
        self._over = True
        if self._greeting is not None:
            self._greeting.cancel()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._host.connection_down(self, reason, refusal, overload)

    def forked(self) -> None:
        """In a child: let go of the parent's socket, without a word to the node."""
        self._over = True
        transport = self._transport
        if transport is not None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, transport.get_extra_info("socket").fileno(), inheritable=False)
            os.close(null)

    # -- asyncio's side -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._over:
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._transport.write(encode_frame([Hello("client", OLDEST, NEWEST, priority=self._priority)]))

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, SSLError):
            self.end(*explain(exc))
        else:
            self.end(f"connection lost: {exc}" if exc is not None else "the node closed the connection")

    def pause_writing(self) -> None:
        self._host.connection_paused(self)

    def resume_writing(self) -> None:
        self._host.connection_resumed(self)

    def data_received(self, data: bytes) -> None:
        try:
            bodies = self._reader.feed(data)
            if not bodies:
                # A long frame takes its time on a slow link: whoever sends it is there.
                self._arriving = True
                if self._welcomed:
                    self._host.connection_alive(self)
            for body in bodies:
                if self._over:
                    return
                if self._welcomed:
                    self._host.answered(self, answer_decoder.decode(body))
                else:
                    self._greeted(body)
        except FrameDamaged as error:
            self.end(str(error))
        except BadLength as error:
            self.end(f"{error}: is this a Shoal node?", ErrorCode.PROTOCOL_MISMATCH)
        except msgspec.MsgspecError as error:
            self.end(f"it sent what cannot be decoded ({error}): is this a Shoal node?", ErrorCode.PROTOCOL_MISMATCH)

    # -- the greeting -------------------------------------------------------------------------------------------------

    def _greeted(self, body: bytes) -> None:
        greeting = greeting_decoder.decode(body)
        first = greeting[0] if len(greeting) == 1 else None
        if isinstance(first, Refused):
            self.end(f"it refused: {first.message}", _known_code(first.code), overload_of(first))
        elif not isinstance(first, Welcome):
            self.end("its first frame is no greeting", ErrorCode.PROTOCOL_MISMATCH)
        elif agree(first.version, first.version) is None:
            self.end(
                f"it chose protocol version {first.version}; this client speaks {OLDEST} to {NEWEST}",
                ErrorCode.PROTOCOL_MISMATCH,
            )
        else:
            self._welcomed = True
            if self._greeting is not None:
                self._greeting.cancel()
            self._host.connection_up(self, first)

    def _not_welcomed(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give up an address that has not greeted, unless more of its greeting has come since this was asked last."""
        if self._arriving and loop.time() < self._greeted_until:
            self._arriving = False
            self._greeting = loop.call_later(CONNECT_SECONDS, self._not_welcomed, loop)
            return
        late = " of which it has been sending all the while" if self._arriving else ""
        self.end(f"no greeting within {GREETING_SECONDS if late else CONNECT_SECONDS:g} s{late}")


def _known_code(code: str) -> ErrorCode:
    try:
        return ErrorCode(code)
    except ValueError:
        return ErrorCode.INTERNAL
