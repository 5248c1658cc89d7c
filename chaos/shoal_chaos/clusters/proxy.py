"""A TCP proxy that a node stands behind: it learns who calls from the greeting, and does to the bytes what the rules say.

All of a node's callers come through it, clients as well as peers, since it listens at the address that the shard map
names. A peer's messages come by the connection that the peer dials, so each direction of each pair has its own rule.
"""

from __future__ import annotations

import asyncio
from collections import deque
from random import Random
from typing import cast

import msgspec
from shoal.protocol.frames import BadFrame, FrameReader, greeting_decoder
from shoal.protocol.messages import Hello

from shoal_chaos.clusters.links import CLEAR, CLIENTS, Links

HELD_BYTES = 4 * 1024 * 1024
"""More than this on its way in one direction, and the sender has to wait: the window of the network."""

DIAL_SECONDS = 5.0

TRICKLE_SECONDS = 0.05
"""What a narrow link carries in so long arrives together: bytes come all the time, as on a real one."""


class _Direction:
    """The way from one end of a connection to the other."""

    def __init__(self, links: Links, random: Random) -> None:
        self.source = self.target = ""
        self.abandoned = False
        self.sender: _End | None = None
        self.receiver: _End | None = None
        self._links = links
        self._random = random
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[tuple[float, bytes | None]] = deque()
        self._bytes = 0
        self._free_at = self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def named(self) -> bool:
        """Whether it is known who sends, and both ends are there."""
        return self.receiver is not None and self.source != ""

    def carry(self, piece: bytes | None) -> None:
        """Take what the sender has said; None: that it has ended."""
        rule = self._links.rule(self.source, self.target)
        if rule is CLEAR and self.named and not self._pieces and not self.abandoned:
            self._deliver(piece)
            return
        if piece is not None:
            piece = rule.harmed(piece, self._random)
        now = self._loop.time()
        self._due = max(now + rule.lateness(self._random), self._due)
        rate = rule.bytes_per_second
        if rate is None or piece is None:
            self._pieces.append((self._due, piece))
        else:
            together = max(1, int(rate * TRICKLE_SECONDS))
            for at in range(0, len(piece), together):
                part = piece[at : at + together]
                self._free_at = max(now, self._free_at) + len(part) / rate
                self._due = max(self._due, self._free_at)
                self._pieces.append((self._due, part))
        self._bytes += len(piece or b"")
        if self._bytes > HELD_BYTES and self.sender is not None:
            self.sender.pause("window")
        self.flush()

    def flush(self) -> None:
        """Deliver all that is due and may pass."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.abandoned or not self.named or self._links.rule(self.source, self.target).held:
            return
        now = self._loop.time()
        while self._pieces:
            due, piece = self._pieces[0]
            if due > now:
                self._timer = self._loop.call_at(due, self.flush)
                break
            self._pieces.popleft()
            self._bytes -= len(piece or b"")
            self._deliver(piece)
        if self._bytes <= HELD_BYTES and self.sender is not None:
            self.sender.resume("window")

    def forget(self) -> None:
        """Drop what is on its way."""
        self._pieces.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _deliver(self, piece: bytes | None) -> None:
        receiver = self.receiver
        if receiver is None:
            raise RuntimeError("pieces are delivered once both ends are there")
        if piece is None:
            receiver.close()
        else:
            receiver.write(piece)


class _End(asyncio.Protocol):
    """One end of a connection: what arrives there goes into `outward`."""

    def __init__(self, outward: _Direction, inward: _Direction) -> None:
        self.over = asyncio.get_running_loop().create_future()
        self._outward = outward
        self._inward = inward
        self._transport: asyncio.Transport | None = None
        self._paused_for: set[str] = set()
        outward.sender = self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._inward.receiver = self

    def data_received(self, data: bytes) -> None:
        self._outward.carry(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - its end is all that is passed on
        self._transport = None
        if not self.over.done():
            self.over.set_result(None)
        self._outward.carry(None)

    def pause_writing(self) -> None:
        if self._inward.sender is not None:
            self._inward.sender.pause("buffer")

    def resume_writing(self) -> None:
        if self._inward.sender is not None:
            self._inward.sender.resume("buffer")

    def write(self, piece: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(piece)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause(self, reason: str) -> None:
        if not self._paused_for and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._paused_for.add(reason)

    def resume(self, reason: str) -> None:
        if reason in self._paused_for:
            self._paused_for.remove(reason)
            if not self._paused_for and self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()


class _Caller(_End):
    """The end that dialled: its first frame says who it is."""

    def __init__(self, connection: _Connection, outward: _Direction, inward: _Direction) -> None:
        super().__init__(outward, inward)
        self._connection = connection
        self._frames: FrameReader | None = FrameReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connection.opened()

    def data_received(self, data: bytes) -> None:
        if self._frames is not None:
            self._identify(data)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._frames is not None:
            self._frames = None
            self._connection.called_by(CLIENTS)
        super().connection_lost(exc)

    def _identify(self, data: bytes) -> None:
        if self._frames is None:
            raise RuntimeError("a caller is identified once")
        name = CLIENTS
        try:
            bodies = self._frames.feed(data)
            if not bodies:
                return
            greeting = greeting_decoder.decode(bodies[0])[0]
            if isinstance(greeting, Hello) and greeting.role == "peer":
                name = greeting.node
        except (BadFrame, msgspec.MsgspecError, IndexError):
            name = CLIENTS  # Not our language: the node itself is to say so.
        self._frames = None
        self._connection.called_by(name)


class _Connection:
    """One connection through the proxy, from its first byte to its end."""

    def __init__(self, proxy: NodeProxy, links: Links, random: Random) -> None:
        self._proxy = proxy
        self._links = links
        self._there = _Direction(links, random)
        self._back = _Direction(links, random)
        self.caller = _Caller(self, self._there, self._back)
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def source(self) -> str:
        """Who has dialled; "": not known yet."""
        return self._there.source

    def opened(self) -> None:
        self._proxy.connections.add(self)

    def called_by(self, name: str) -> None:
        self._there.source = self._back.target = name
        self._there.target = self._back.source = self._proxy.node
        self._task = asyncio.create_task(self._run())

    def review(self) -> None:
        """Do what the rules say now."""
        self._changed.set()
        if self._resets():
            self.caller.abort()
            if self._back.sender is not None:
                self._back.sender.abort()
            return
        self._there.flush()
        self._back.flush()

    def abandon(self) -> None:
        """Deliver nothing any more, and let neither end know."""
        self._there.abandoned = self._back.abandoned = True

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.caller.abort()

    def _resets(self) -> bool:
        rules = self._links.rule(self.source, self._proxy.node), self._links.rule(self._proxy.node, self.source)
        return any(rule.reset for rule in rules)

    async def _run(self) -> None:
        try:
            self.caller.over.add_done_callback(lambda _: self._changed.set())
            while self._links.rule(self.source, self._proxy.node).held and not self.caller.over.done():
                self._changed.clear()
                await self._changed.wait()
            if self._resets():
                return
            await self._join()
        except OSError:
            return  # Nobody listens behind the proxy: the caller finds its connection broken.
        finally:
            self._there.forget()
            self._back.forget()
            self.caller.abort()
            self._proxy.connections.discard(self)

    async def _join(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DIAL_SECONDS):
            _, node = await loop.create_connection(
                lambda: _End(self._back, self._there), self._proxy.host, self._proxy.port
            )
        try:
            self._there.flush()
            await asyncio.gather(self.caller.over, node.over)
        finally:
            node.abort()


class NodeProxy:
    """Listens at one port for one node, which listens at another. Both on loopback."""

    def __init__(self, node: str, host: str, front: int, port: int, links: Links, random: Random) -> None:
        """
        Args:
            front: where others find the node; port: where it is.
        """
        self.node = node
        self.host = host
        self.port = port
        self.connections: set[_Connection] = set()
        self._front = front
        self._links = links
        self._random = random
        self._server: asyncio.Server | None = None
        links.watch(self._review)

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self, self._links, self._random).caller, self.host, self._front
        )

    async def stop(self) -> None:
        """Close the port and all connections."""
        if self._server is not None:
            self._server.close()
        await asyncio.gather(*(connection.close() for connection in list(self.connections)))

    def abandon(self, *sources: str) -> int:
        """Leave all connections that these have open now half open; return how many."""
        mine = [connection for connection in self.connections if connection.source in sources]
        for connection in mine:
            connection.abandon()
        return len(mine)

    def _review(self) -> None:
        for connection in list(self.connections):
            connection.review()
