"""Connections that others open to this node: the greeting, then frames in and frames out, as asyncio protocols.

Each connection begins with one frame that holds a `Hello`; by its role the rest is a client's requests or a peer's
messages. Whatever cannot be understood is answered with one `Refused` that says why, and the connection is closed;
the node goes on serving the others.

Nothing here waits without a bound: a client of which the node has enough is not read from until it says so, what a client does
not read waits in outgoing.py, and who makes no progress is found by connection_watch.py.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import cast

import msgspec
from shoal.errors import ErrorCode
from shoal.priorities import OverloadReason
from shoal.protocol.frames import (
    BadLength,
    FrameDamaged,
    FrameReader,
    encode_frame,
    greeting_decoder,
)
from shoal.protocol.messages import (
    Answer,
    Greeting,
    Hello,
    Refused,
    Request,
    TracedRequest,
    Working,
)
from shoal.protocol.version import NEWEST, OLDEST, agree
from shoal.tls import CLIENT_HELLO

from shoal_server.certificates import Certificate, identity_of
from shoal_server.node.answer_frames import answer_frames
from shoal_server.node.memory import Account
from shoal_server.node.outbox import PeerMessage, peer_decoder
from shoal_server.node.request_frames import (
    OF_MANAGERS,
    SPARSE_BYTES,
    TAGS_OF_MANAGERS,
    Received,
    TooManyRequests,
    asks_for,
    decode_requests,
    decoding_ns,
    frame_in_words,
)
from shoal_server.process.connection_host import ConnectionHost
from shoal_server.process.giving_way import RETRY_MS, Held
from shoal_server.process.long_frames import LongFrames
from shoal_server.process.outgoing import GRAIN_BYTES, Outgoing

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
LINGER_SECONDS = 1.0
"""How long a connection that was refused may take to read why."""
GIVE_WAY_SECONDS = 0.05
"""Likewise, where its place is needed."""

WORKING_SECONDS = 0.25
"""So often a client hears that what it sends is arriving, as long as no frame of it is complete: on a slow link a long one
takes its time, of which the client sees no more than that it has left."""

SLOW_SECONDS = 1.0
"""A frame that is complete within this time gives way to no other."""

FEW_BYTES = 2048
"""A frame of no more bytes is no work to decode, whatever it is."""
AT_ONCE_BYTES = 16 * 1024
"""Frames of about so many bytes, or some dozens of short ones, are taken one after the other: then it is others' turn."""
FEW_FRAMES = 4
"""So many short ones are no work, either."""
FRAME_NS = 8_000
"""Of a frame, whatever is in it."""

_UNPROVEN = (
    "that is for managers and operators, who come with a certificate (commands: --certfile and --keyfile, or SHOAL_CERTFILE "
    "and SHOAL_KEYFILE)"
)


class Inbound(asyncio.Protocol):
    """One accepted connection: unknown until it has said hello, then a client's or a peer's.

    Attributes:
        heard, sent: how often something came in, and went out.
        asked: whether it has ever asked anything.
        place_bytes: what was taken for it of the account of connections.
        outgoing: what it has still to be sent; None before it is there.
        over: it was refused, and has little time left to read why; or it is ended.
    """

    def __init__(
        self,
        host: ConnectionHost[Inbound],
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
        self._unproven = False
        self._said_working = 0.0
        self._paused = False
        self._resting = False
        self._held = 0
        self._frame_since = 0.0
        self.heard = self.sent = 0
        self.asked = False
        self.over = False
        self.place_bytes = 0
        self.outgoing: Outgoing | None = None

    @property
    def host_address(self) -> str:
        """The address that it comes from, without the port; "" where it is over."""
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    @property
    def address(self) -> str:
        """Where it comes from; "" where it is over."""
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        return f"{peer[0]}:{peer[1]}" if peer else ""

    @property
    def _certificate(self) -> Certificate:
        """The one that it came with. Of one that TLS does not trust there is no connection; empty: there is none."""
        presented: Certificate | None = None if self._transport is None else self._transport.get_extra_info("peercert")
        return presented or {}

    @property
    def holder(self) -> bytes | str:
        """Whose it is: who has its certificate, or else the address that it comes from."""
        return identity_of(self._certificate) or self.host_address

    @property
    def peer(self) -> str:
        """The node that it is of; "": of none, or not said yet."""
        return self._peer

    @property
    def client(self) -> int | None:
        """Its number, where it is a client's."""
        return self._client

    @property
    def paused(self) -> bool:
        """Whether nothing is read of it, since the node has enough, or others have their turn."""
        return self._paused or self._resting

    @property
    def held(self) -> int:
        """Bytes of a frame of which the rest has not come, or that wait for their turn."""
        return self._reader.held

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.outgoing = Outgoing(
            self._transport,
            self._host.memory,
            self._host.client_output_bytes,
            self._is_behind,
            tls=self._host.secure,
        )
        self._ending = self._loop.call_later(GREETING_SECONDS, self._no_greeting)
        accepted = transport.get_extra_info("socket")
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            accepted.setsockopt(socket.IPPROTO_TCP, option, value)
        self._host.inbound_opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason changes nothing here
        self._ending.cancel()
        self._transport = None
        self._forget_frame()
        if self.outgoing is not None:
            self.outgoing.end()
        self._host.inbound_closed(self)
        if self._client is not None:
            self._host.client_closed(self._client)
            self._client = None

    def pause_writing(self) -> None:
        if self.outgoing is not None:
            self.outgoing.pause()

    def resume_writing(self) -> None:
        if self.outgoing is not None:
            self.outgoing.resume()

    def data_received(self, data: bytes) -> None:
        self.heard += 1
        if self.over:
            return
        if self._peer:
            self._host.peer_sends(self._peer, len(data))
        self._receive(data)

    def _receive(self, data: bytes) -> None:
        """Take frames, until others are to have their turn, or the node has enough of them."""
        body = b""
        try:
            bodies = self._reader.feed(data, AT_ONCE_BYTES)
            if not bodies and self._client is not None:
                self._is_arriving()
            while bodies:
                work = len(bodies) * FRAME_NS if len(bodies) > FEW_FRAMES or self._reader.more else 0
                for body in bodies:
                    if self.over or self._transport is None:
                        return
                    if self._client is not None:
                        work += self._take_requests(self._client, body)
                    elif self._peer:
                        work += self._take_messages(self._peer, body)
                    else:
                        self._greet(body)
                if work and not (self.over or self._resting):
                    self._turns.received(self, work)
                if not self._reader.more or self._resting or self._paused:
                    break
                bodies = self._reader.feed(b"", AT_ONCE_BYTES)
            if self._reader.held != self._held:
                self._hold_frame()
        except FrameDamaged as error:
            self._host.frame_damaged()
            self.refuse(ErrorCode.UNAVAILABLE, str(error))
        except BadLength as error:
            tls = data.startswith(CLIENT_HELLO) and not self._host.secure
            words = "it speaks TLS, which is not switched on here" if tls else f"{error}: is this a Shoal client?"
            self.refuse(ErrorCode.PROTOCOL_MISMATCH, words)
        except TooManyRequests as error:
            self.refuse(ErrorCode.TOO_LARGE, str(error))
        except msgspec.ValidationError as error:
            words = frame_in_words(error, body, PeerMessage if self._peer else Greeting)
            self.refuse(ErrorCode.PROTOCOL_MISMATCH, f"a frame could not be decoded: {words}")
        except msgspec.MsgspecError as error:
            self.refuse(ErrorCode.PROTOCOL_MISMATCH, f"a frame could not be decoded: {error}")
        except MemoryError:
            words = f"there was no memory for a frame of {len(body) or self._reader.held} bytes: send less at once, or later"
            self.refuse(ErrorCode.OVERLOADED, words, reason=OverloadReason.MEMORY, retry_after_ms=RETRY_MS)

    # -- what comes in

    @property
    def _turns(self) -> LongFrames:
        """Those of peers wait for no clients."""
        return self._host.peer_frames if self._peer else self._host.long_frames

    def _take_messages(self, peer: str, body: bytes) -> int:
        """Take a peer's frame; return about what that was to decode (ns)."""
        messages = peer_decoder.decode(body)
        if not messages:
            self.refuse(ErrorCode.PROTOCOL_MISMATCH, "a frame without a message in it")
            return 0
        self._host.from_peer(peer, messages)
        return len(body) if len(body) > FEW_BYTES else 0

    def _take_requests(self, client: int, body: bytes) -> int:
        """Take a client's frame; return about what that was to decode (ns)."""
        if self._unproven and len(body) > SPARSE_BYTES and asks_for(body, TAGS_OF_MANAGERS):
            self._refuse_unproven()
            return 0
        sent, refused = decode_requests(body, traced=self._traces is not None)
        # Without traces there are none among them.
        requests = cast(list[Request], sent) if self._traces is None else self._traces(client, sent)
        # What is refused waits for its answer like the rest, and counts as that does.
        received: Sequence[Received] = requests
        if refused:
            self._host.failed(refused)
            received = [*requests, *refused]
        if self._unproven and not OF_MANAGERS.isdisjoint(map(type, sent)):
            self._refuse_unproven()
            return 0
        if not (sent or refused):
            self.refuse(ErrorCode.PROTOCOL_MISMATCH, "a frame without a request in it")
            return 0
        self.asked = True
        if not self._host.from_client(client, received, len(body)) and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        return decoding_ns(body) if len(body) > FEW_BYTES else 0

    def _refuse_unproven(self) -> None:
        self.refuse(ErrorCode.UNAUTHENTICATED, _UNPROVEN)

    def resume_reading(self) -> None:
        """Receive more again."""
        if self._paused:
            self._paused = False
            if self._reader.more and not self._resting:
                self._turns.wait(self)
            self._receive_again()

    def rest(self) -> None:
        """See `Receiving`."""
        if self._transport is not None:
            self._resting = True
            self._transport.pause_reading()

    def go_on(self) -> None:
        """See `Receiving`."""
        self._resting = False
        if self._reader.more and not self._paused:
            self._receive(b"")
        self._receive_again()

    def _receive_again(self) -> None:
        transport = self._transport
        if not self._paused and not self._resting and transport is not None and not transport.is_closing():
            transport.resume_reading()

    def _hold_frame(self) -> None:
        """Bring the account to what is there of an incomplete frame."""
        memory = self._host.memory
        held = self._reader.held
        change = held - self._held
        if held and -GRAIN_BYTES < change < GRAIN_BYTES:
            return
        if change < 0:
            memory.give_back(Account.FRAMES, -change)
        elif self._peer:
            memory.add(Account.FRAMES, change)
        elif not self._host.take_frame(self, change):
            return
        if not self._held or change < 0:
            self._frame_since = self._loop.time()
        self._held = held
        if change > 0 and not (self._peer or self._resting):
            self._host.long_frames.received(self, change)

    def half_frame(self, now: float) -> Held[Inbound] | None:
        """Return what has come of an incomplete frame by `now` (the loop's); None: there is none, or it came just now."""
        seconds = now - self._frame_since
        if not self._held or self._peer or self._paused or self._reader.more or seconds < SLOW_SECONDS:
            return None
        return Held(self, self.holder, self._held, seconds / self._held)

    def _forget_frame(self) -> None:
        self._reader = FrameReader(self._host.max_frame_bytes)
        self._host.memory.give_back(Account.FRAMES, self._held)
        self._held = 0

    # -- the greeting

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
        certificate = self._certificate
        refusal = None
        if hello.role == "peer":
            problem = self._host.check_peer(hello, certificate)
        elif hello.role == "client":
            problem = ""
            refusal = self._host.check_client(self, hello)
        else:
            problem = f"unknown role {hello.role!r}: a connection is a 'client' or a 'peer'"
        if problem:
            refusal = Refused(ErrorCode.PROTOCOL_MISMATCH.value, problem)
        if refusal is not None:
            reason = OverloadReason(refusal.reason) if refusal.reason else None
            self.refuse(ErrorCode(refusal.code), refusal.message, reason=reason, retry_after_ms=refusal.retry_after_ms)
            return
        self._ending.cancel()
        self._write(encode_frame([self._host.welcome(version)]))
        if hello.role == "peer":
            self._peer = hello.node
            self._host.peer_opened(hello.node, self)
        else:
            self._unproven = self._host.secure and not certificate
            self._client = self._host.client_opened(self, certificate, hello.priority)

    def _no_greeting(self) -> None:
        self.refuse(ErrorCode.PROTOCOL_MISMATCH, f"no Hello within {GREETING_SECONDS:g} seconds")

    def _is_arriving(self) -> None:
        """Let a client know that its frame is on its way, unless it has heard that a moment ago."""
        now = self._loop.time()
        if now >= self._said_working + WORKING_SECONDS:
            self._said_working = now
            self._write(encode_frame([Working()]))

    # -- what goes out, and the end

    def send(self, answers: list[Answer]) -> None:
        """Send a turn's answers. One that fits no frame is answered by a failure, and costs the others nothing."""
        transport, outgoing = self._transport, self.outgoing
        if self.over or transport is None or outgoing is None or transport.is_closing():
            return
        self.sent += 1
        frames, too_long = answer_frames(answers, self._host.max_frame_bytes)
        for frame in frames:
            outgoing.write(frame)
        if too_long:
            self._host.failed(too_long)

    def _is_behind(self, behind: bool) -> None:
        if self._client is not None:
            self._host.client_is_behind(self._client, behind)

    def refuse(
        self,
        code: ErrorCode,
        message: str,
        linger_seconds: float = LINGER_SECONDS,
        *,
        reason: OverloadReason | None = None,
        retry_after_ms: int = 0,
    ) -> None:
        """Say why (see `Refused`) and close; with what the other side does not read meanwhile, it is closed all the same."""
        if self.over:
            return
        self.over = True
        self._host.refused(self, message, self._peer, self._client)
        self._ending.cancel()
        self._forget_frame()
        words = "" if reason is None else reason.value
        self._write(encode_frame([Refused(code.value, message, words, retry_after_ms)]))
        self._ending = self._loop.call_later(linger_seconds, self.abort)
        if self._transport is None or self._transport.is_closing():
            return
        # What is still to be read is thrown away: closed with it, the connection would be reset, and the words with it.
        self.resume_reading()
        if self.outgoing is not None:
            self.outgoing.finish()

    def give_way(self, message: str) -> None:
        """End, since somebody else needs the place."""
        if self.over:
            self.abort()
        else:
            self.refuse(ErrorCode.OVERLOADED, message, GIVE_WAY_SECONDS, reason=OverloadReason.CONNECTION)

    def close(self) -> None:
        """End in good order."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End at once: what has not left is lost."""
        self.over = True
        if self.outgoing is not None:
            self.outgoing.end()
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing() and self.outgoing is not None:
            self.outgoing.write(data)
