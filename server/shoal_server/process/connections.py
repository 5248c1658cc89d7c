"""Connections that others open to this node: the greeting, then frames in and frames out, as asyncio protocols.

Each connection begins with one frame that holds a `Hello`; by its role the rest is a client's requests or a peer's
messages. Whatever cannot be understood is answered with one `Refused` that says why, and the connection is closed;
the node goes on serving the others.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

import msgspec
import structlog
from shoal.errors import ErrorCode
from shoal.protocol.frames import (
    BadLength,
    FrameDamaged,
    FrameReader,
    encode_frame,
    encode_frames,
    greeting_decoder,
)
from shoal.protocol.messages import (
    Answer,
    ChangeMembership,
    DropReplica,
    Failure,
    Greeting,
    Hello,
    InstallShardMap,
    Refused,
    Request,
    SkipEntry,
    SplitShard,
    TracedRequest,
    Welcome,
    Working,
)
from shoal.protocol.migration import MigrationStep
from shoal.protocol.version import NEWEST, OLDEST, agree
from shoal.tls import CLIENT_HELLO

from shoal_server.certificates import Certificate
from shoal_server.node.outbox import PeerMessage, peer_decoder
from shoal_server.node.request_frames import decode_requests, frame_in_words

log = structlog.get_logger("shoal.node")

KEEPALIVE = tuple(
    (getattr(socket, option), value)
    for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
    if hasattr(socket, option)
)
"""A connection whose other end is gone without a word is closed after about a minute: it holds a place, too. Systems that
lack one of these options have a time of their own."""

GREETING_SECONDS = 5.0
"""A connection that has not said hello by then is closed: it holds a place that somebody else may need."""
GREETING_BYTES = 64 * 1024
"""Of the first frame: far more than a Hello has, and what anybody may make the node hold for those seconds."""

WORKING_SECONDS = 0.25
"""So often a client hears that what it sends is arriving, as long as no frame of it is complete: on a slow link a long one
takes its time, of which the client sees no more than that it has left."""

_OF_MANAGERS = SkipEntry | InstallShardMap | ChangeMembership | SplitShard | DropReplica | MigrationStep
"""Requests that no client but a manager has."""


class ConnectionHost(Protocol):
    """What a connection needs of the node process."""

    max_frame_bytes: int
    client_output_bytes: int
    secure: bool
    """Whether connections are TLS."""

    def welcome(self, version: int) -> Welcome: ...
    def check_peer(self, hello: Hello, certificate: Certificate) -> str:
        """Return "" where the peer is one of ours, else why it is not."""
        ...

    def check_client(self, hello: Hello) -> str: ...
    def refused(self, connection: Inbound, reason: str, peer: str, client: int | None) -> None:
        """Note that a connection is turned away."""
        ...

    def malformed(self, failures: list[Failure]) -> None:
        """Note that requests of a client make no sense."""
        ...

    def frame_damaged(self) -> None:
        """Note that a frame did not arrive as it was sent."""
        ...

    def client_opened(self, connection: Inbound, certificate: Certificate) -> int: ...
    def client_closed(self, client: int) -> None: ...
    def peer_opened(self, peer: str, connection: Inbound) -> None: ...
    def inbound_opened(self, connection: Inbound) -> None: ...
    def inbound_closed(self, connection: Inbound) -> None: ...
    def from_client(self, client: int, requests: list[Request]) -> None: ...
    def peer_sends(self, peer: str, size: int) -> None:
        """Note that so many bytes of a peer have come, be it of a frame that is not complete yet."""
        ...

    def from_peer(self, peer: str, messages: list[PeerMessage]) -> None: ...


class Inbound(asyncio.Protocol):
    """One accepted connection: unknown until it has said hello, then a client's or a peer's."""

    def __init__(
        self,
        host: ConnectionHost,
        loop: asyncio.AbstractEventLoop,
        traces: Callable[[int, list[TracedRequest]], list[Request]] | None = None,
    ) -> None:
        """
        Args:
            traces: takes the traces out of what a client has sent; None: the node makes none, and refuses them.
        """
        self._host = host
        self._traces = traces
        self._loop = loop
        self._reader = FrameReader(host.max_frame_bytes, GREETING_BYTES)
        self._transport: asyncio.Transport | None = None
        self._client: int | None = None
        self._peer = ""
        self._refused = False
        self._unproven = False
        self._said_working = 0.0

    @property
    def address(self) -> str:
        """Where it comes from; "" where it is over."""
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        return f"{peer[0]}:{peer[1]}" if peer else ""

    @property
    def peer(self) -> str:
        """The node that it is of; "": of none, or not said yet."""
        return self._peer

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._greeting = self._loop.call_later(GREETING_SECONDS, self._no_greeting)
        accepted = transport.get_extra_info("socket")
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            accepted.setsockopt(socket.IPPROTO_TCP, option, value)
        self._host.inbound_opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason changes nothing here
        self._greeting.cancel()
        self._transport = None
        self._host.inbound_closed(self)
        if self._client is not None:
            self._host.client_closed(self._client)
            self._client = None

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        body = b""
        try:
            bodies = self._reader.feed(data)
            if self._peer:
                self._host.peer_sends(self._peer, len(data))
            elif not bodies and self._client is not None:
                self._is_arriving()
            for body in bodies:
                if self._refused or self._transport is None:
                    return
                if self._client is not None:
                    sent, refused = decode_requests(body, traced=self._traces is not None)
                    # Without traces there are none among them.
                    requests = cast(list[Request], sent) if self._traces is None else self._traces(self._client, sent)
                    if refused:
                        self._host.malformed(refused)
                        self.send(cast(list[Answer], refused))
                    if self._unproven and any(isinstance(request, _OF_MANAGERS) for request in requests):
                        self.refuse(ErrorCode.UNAUTHENTICATED, "only a manager may ask that: it has a certificate")
                        return
                    self._host.from_client(self._client, requests)
                elif self._peer:
                    self._host.from_peer(self._peer, peer_decoder.decode(body))
                else:
                    self._greet(body)
        except FrameDamaged as error:
            self._host.frame_damaged()
            self.refuse(ErrorCode.UNAVAILABLE, str(error))
        except BadLength as error:
            tls = data.startswith(CLIENT_HELLO) and not self._host.secure
            words = "it speaks TLS, which is not switched on here" if tls else f"{error}: is this a Shoal client?"
            self.refuse(ErrorCode.PROTOCOL_MISMATCH, words)
        except msgspec.ValidationError as error:
            words = frame_in_words(error, body, PeerMessage if self._peer else Greeting)
            self.refuse(ErrorCode.PROTOCOL_MISMATCH, f"a frame could not be decoded: {words}")
        except msgspec.MsgspecError as error:
            self.refuse(ErrorCode.PROTOCOL_MISMATCH, f"a frame could not be decoded: {error}")

    # -- ours

    def _greet(self, body: bytes) -> None:
        greeting = greeting_decoder.decode(body)
        if len(greeting) != 1 or not isinstance(greeting[0], Hello):
            self.refuse(ErrorCode.PROTOCOL_MISMATCH, "the first frame must hold one Hello")
            return
        hello = greeting[0]
        version = agree(hello.oldest, hello.newest)
        if version is None:
            self.refuse(
                ErrorCode.PROTOCOL_MISMATCH,
                f"you speak protocol versions {hello.oldest} to {hello.newest}, this node {OLDEST} to {NEWEST}",
            )
            return
        # Empty where there is none; of a certificate that TLS does not trust there is no connection.
        presented = None if self._transport is None else self._transport.get_extra_info("peercert")
        certificate: Certificate = presented or {}
        if hello.role == "peer":
            problem = self._host.check_peer(hello, certificate)
        elif hello.role == "client":
            problem = self._host.check_client(hello)
        else:
            problem = f"unknown role {hello.role!r}: a connection is a 'client' or a 'peer'"
        if problem:
            self.refuse(ErrorCode.PROTOCOL_MISMATCH, problem)
            return
        self._greeting.cancel()
        self._write(encode_frame([self._host.welcome(version)]))
        if hello.role == "peer":
            self._peer = hello.node
            self._host.peer_opened(hello.node, self)
        else:
            self._unproven = self._host.secure and not certificate
            self._client = self._host.client_opened(self, certificate)

    def _no_greeting(self) -> None:
        self.refuse(ErrorCode.PROTOCOL_MISMATCH, f"no Hello within {GREETING_SECONDS:g} seconds")

    def _is_arriving(self) -> None:
        """Let a client know that its frame is on its way, unless it has heard that a moment ago."""
        now = self._loop.time()
        if now >= self._said_working + WORKING_SECONDS:
            self._said_working = now
            self._write(encode_frame([Working()]))

    def send(self, answers: list[Answer]) -> None:
        """Send a turn's answers; a client that does not read them is cut off at the bound, not buffered for ever."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        for frame in encode_frames(cast(list[Any], answers), self._host.max_frame_bytes):
            transport.write(frame)
        if transport.get_write_buffer_size() > self._host.client_output_bytes:
            log.warning(
                "client_cut_off",
                client=self._client,
                reason="it does not read its answers",
                unread_bytes=transport.get_write_buffer_size(),
            )
            transport.abort()

    def refuse(self, code: ErrorCode, message: str) -> None:
        """Say why and close."""
        self._refused = True
        self._host.refused(self, message, self._peer, self._client)
        self._write(encode_frame([Refused(code.value, message)]))
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
