"""Links from this node to its peers: dialled, greeted, dialled again when they break.

A link carries this node's messages to one peer, in order; what the peer says comes by the link that it dials itself.
Messages that find no link, or a peer that does not read, are dropped: Raft sends again what matters, and a queue that
outlives its connection would only deliver the past. A link whose peer answers nothing for too long is dropped, too, and
dialled again (see silence.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from ssl import SSLContext, SSLError
from typing import Any, cast

import msgspec
import structlog
from shoal.protocol.frames import BadFrame, FrameReader, encode_frame, encode_frames, greeting_decoder
from shoal.protocol.messages import Hello, Refused, Welcome
from shoal.tls import explain

from shoal_server.node.memory import Account, MemoryBudget
from shoal_server.node.outbox import PeerMessage
from shoal_server.process.silence import LOOK_NS, SECOND, Signs, SilenceWatch

log = structlog.get_logger("shoal.node")

SOFT_FRAME_BYTES = 1024 * 1024
"""Messages are spread over frames of about this size: a peer answers none of a frame before all of it has arrived."""

DIAL_SECONDS = 2.0
GREETING_SECONDS = 10.0
"""A greeting of which bytes keep coming has so long: it has the shard map, which a slow link takes its time for."""
REDIAL_SECONDS = 0.1
REDIAL_SECONDS_MAX = 1.0
"""A peer that has connected here is dialled at once: it is there."""
REFUSED_SECONDS = 5.0


class _LinkProtocol(asyncio.Protocol):
    """The dialling side of one connection: one greeting comes back, then nothing but its end.

    `patience` is what waits for the greeting, longer while that is arriving.
    """

    def __init__(self, max_frame_bytes: int, patience: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._patience = patience
        self._latest = loop.time() + GREETING_SECONDS
        self._reader = FrameReader(max_frame_bytes)
        self.greeted: asyncio.Future[Welcome | Refused] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()

    def data_received(self, data: bytes) -> None:
        try:
            bodies = self._reader.feed(data)
            due = self._patience.when()
            if not (bodies or self.greeted.done()) and due is not None:
                self._patience.reschedule(max(due, min(self._loop.time() + DIAL_SECONDS, self._latest)))
            for body in bodies:
                for greeting in greeting_decoder.decode(body):
                    if isinstance(greeting, Refused) and self.greeted.done():
                        self.end(greeting.message)
                    elif isinstance(greeting, Welcome | Refused) and not self.greeted.done():
                        self.greeted.set_result(greeting)
        except (BadFrame, msgspec.MsgspecError) as error:
            self.end(f"what answers there is no Shoal node: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, SSLError):
            self.end(explain(exc).reason)
        else:
            self.end(str(exc) if exc is not None else "the peer closed the connection")

    def end(self, reason: str) -> None:
        """Let the connection count as ended, unless it does already."""
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError(reason))
        if not self.ended.done():
            self.ended.set_result(reason)


class PeerLink:
    """Keeps one peer connected. `run` lives as long as the node; `send` never waits."""

    def __init__(
        self,
        peer: str,
        address: str,
        hello: Callable[[], Hello],
        *,
        max_frame_bytes: int,
        check: Callable[[Welcome], str],
        connected: Callable[[str], None],
        lost: Callable[[str], None],
        signs_of: Callable[[str], Signs],
        clock: Callable[[], int],
        support_ns: int,
        memory: MemoryBudget,
        tls: SSLContext | None = None,
    ) -> None:
        """
        Args:
            address: `host:port`.
            check: says "" where the node that answered is the peer expected there, else why not.
            signs_of: says what has come of the peer so far; `clock`: the time, in ns.
            support_ns: for how long nodes support each other: the measure of what is long.
            memory: what the connection has not taken yet is counted there.
            tls: None: the link is plain.
            connected: called when messages have a way; `lost` when they have none any more.
        """
        self.peer = peer
        host, _, port = address.rpartition(":")
        self._host = host.strip("[]")
        self._port = int(port)
        self._hello = hello
        self._max_frame_bytes = max_frame_bytes
        self._check = check
        self._connected = connected
        self._lost = lost
        self._signs_of = signs_of
        self._clock = clock
        self._silence = SilenceWatch(support_ns)
        self._tls = tls
        self._memory = memory
        self._accounted = 0
        self._transport: asyncio.Transport | None = None
        self._protocol: _LinkProtocol | None = None
        self._last_problem = ""
        self._is_there = asyncio.Event()

    def is_there(self) -> None:
        """The peer has connected here: where it waits to be dialled again, now is the time."""
        self._is_there.set()

    def greet_again(self) -> None:
        """Part with a peer that is connected, and dial it again: it may have more to say of itself by now."""
        if self._protocol is not None:
            self._protocol.end("it is greeted once more")

    @property
    def unsent_bytes(self) -> int:
        """What the connection has not taken yet."""
        transport = self._transport
        return 0 if transport is None or transport.is_closing() else transport.get_write_buffer_size()

    def send(self, messages: list[PeerMessage]) -> None:
        """Send a turn's messages, or drop them where there is no link."""
        transport = self._transport
        # uvloop raises on a write to a connection that is over, and `run` hears of the end one turn later.
        if transport is None or transport.is_closing():
            return
        for frame in encode_frames(cast(list[Any], messages), self._max_frame_bytes, SOFT_FRAME_BYTES):
            transport.write(frame)
            self._silence.sent(len(frame))
        self.account()

    def account(self) -> None:
        """Book what the connection has not taken by now."""
        unsent = self.unsent_bytes
        self._memory.change(Account.PEERS, unsent - self._accounted)
        self._accounted = unsent

    def cut_off(self) -> None:
        """End the connection: its peer is stuck, and will have to catch up anyway."""
        if self._transport is not None:
            log.warning("peer_cut_off", peer=self.peer, unread_bytes=self._accounted)
            self._transport.abort()
            self.account()

    async def run(self) -> None:
        """Dial, greet and watch the link until cancelled."""
        wait = REDIAL_SECONDS
        while True:
            self._is_there.clear()
            problem, welcomed = await self._once()
            if problem != self._last_problem:
                self._last_problem = problem
                log.info("peer_not_connected", peer=self.peer, reason=problem)
            wait = REDIAL_SECONDS if welcomed else min(wait * 2, REDIAL_SECONDS_MAX)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._is_there.wait()

    async def _once(self) -> tuple[str, bool]:
        """One connection, from dialling to its end; return why it ended and whether it was ever of use."""
        loop = asyncio.get_running_loop()
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(DIAL_SECONDS) as patience:
                transport, protocol = await loop.create_connection(
                    lambda: _LinkProtocol(self._max_frame_bytes, patience), self._host, self._port, ssl=self._tls
                )
                transport.write(encode_frame([self._hello()]))
                greeting = await protocol.greeted
            if isinstance(greeting, Refused):
                await asyncio.sleep(REFUSED_SECONDS)
                return f"refused: {greeting.message}", False
            problem = self._check(greeting)
            if problem:
                log.error("peer_refused", peer=self.peer, reason=problem)
                await asyncio.sleep(REFUSED_SECONDS)
                return problem, False
            # Nothing here waits for it to have room: `PeerLinks` looks at how much all of them hold.
            transport.set_write_buffer_limits(high=self._memory.bound(Account.PEERS))
            self._transport, self._protocol = transport, protocol
            self._last_problem = ""
            log.info("peer_connected", peer=self.peer)
            self._silence.opened(self._clock())
            self._connected(self.peer)
            try:
                return await self._watch(transport, protocol), True
            finally:
                self._transport = self._protocol = None
                self.account()
                self._lost(self.peer)
        except SSLError as error:
            return explain(error).reason, False
        except (OSError, TimeoutError) as error:
            return str(error) or f"no answer within {DIAL_SECONDS:g} seconds", False
        finally:
            if transport is not None:
                transport.close()

    async def _watch(self, transport: asyncio.Transport, protocol: _LinkProtocol) -> str:
        """Wait for the link's end, or end it where the peer is silent; return why it ended."""
        while not protocol.ended.done():
            await asyncio.wait((protocol.ended,), timeout=LOOK_NS / SECOND)
            self.account()
            if not protocol.ended.done() and self._silence.look(self._signs_of(self.peer), self._clock()):
                seconds = self._silence.silent_seconds
                log.warning("peer_silent", peer=self.peer, seconds=round(seconds, 1))
                # What waits to be written is for nobody; closing would wait for it.
                transport.abort()
                return f"it has answered nothing for {seconds:.1f} seconds"
        return protocol.ended.result()
