"""Connections whose frames are ours to make: what anybody can send who has read the protocol."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, TypeVar

import msgspec
from shoal.admin.survey import survey
from shoal.errors import ErrorCode
from shoal.options import parse_url, split_address
from shoal.protocol.frames import BadFrame, FrameReader, answer_decoder, encode_frame, greeting_decoder
from shoal.protocol.messages import Failure, Hello, Refused, Request, Welcome, Working
from shoal.protocol.version import NEWEST, OLDEST
from shoal.shardmap import Keyspace, Routes, Shard

from shoal_chaos.attackers.base import Assault

OPEN_SECONDS = 5.0
READ_BYTES = 256 * 1024
GREETING_MAX_BYTES = 64 * 1024 * 1024

FAILURE, REFUSED, WORKING = (
    kind.__struct_config__.tag for kind in (Failure, Refused, Working)
)  # looked at before a whole answer is decoded, which would cost the attacker more than the node

T = TypeVar("T")

_pieces: msgspec.msgpack.Decoder[list[msgspec.Raw]] = msgspec.msgpack.Decoder(list[msgspec.Raw])
_failure: msgspec.msgpack.Decoder[Failure | Refused] = msgspec.msgpack.Decoder(Failure | Refused)


@dataclass(frozen=True, slots=True)
class Target:
    """The node that leads most: where it is, and the shards of the keyspace that it leads."""

    address: str
    keyspace: Keyspace
    led: tuple[Shard, ...]
    routes: Routes

    def by_shard(self, keys: Iterable[bytes]) -> dict[int, list[bytes]]:
        """Return those of `keys` that the node leads the shards of, by shard; shards without one are left out."""
        found: dict[int, list[bytes]] = {}
        led = {shard.id for shard in self.led}
        for key in keys:
            shard = self.routes.shard_of(self.keyspace, key)
            if shard in led:
                found.setdefault(shard, []).append(key)
        return found


async def most_leading(assault: Assault) -> Target:
    """Ask all nodes who leads; return the one that leads most shards of the keyspace."""
    options = parse_url(assault.ground.url)
    found = await survey(assault.ground.addresses, tls=options.tls_context())
    keyspace = next(one for one in found.shard_map.keyspaces if one.name == options.keyspace)
    led: dict[str, list[Shard]] = {node.id: [] for node in found.shard_map.nodes}
    for shard in found.shard_map.shards:
        leader = found.leader(shard.id)
        if shard.keyspace == keyspace.id and shard.ranges and leader is not None:
            led[leader.node].append(shard)
    node = max(found.shard_map.nodes, key=lambda one: len(led[one.id]))
    return Target(node.address, keyspace, tuple(led[node.id]), Routes(found.shard_map))


class Wire:
    """One connection, opened, greeted or not. Close it with `close`, which is what `wire` does."""

    def __init__(self, assault: Assault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._assault = assault
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader(GREETING_MAX_BYTES)
        self._bodies: list[bytes] = []
        self.over = False
        """Whether the node has ended it."""

    @property
    def unsent_bytes(self) -> int:
        """What the node has not taken yet."""
        return self._writer.transport.get_write_buffer_size()

    async def send(self, data: bytes) -> None:
        """Send bytes; wait for as long as the node reads none."""
        self._assault.deeds.sent_bytes += len(data)
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            self._ended(str(error))

    async def ask(self, requests: Sequence[Request]) -> None:
        """Send requests in one frame."""
        self._assault.deeds.requests += len(requests)
        await self.send(encode_frame(list(requests)))

    async def greet(self) -> Welcome | None:
        """Say hello; return the node's welcome, None where it has none for us."""
        await self.send(encode_frame([Hello("client", OLDEST, NEWEST)]))
        while not self._bodies and not self.over:
            await self._read()
        if not self._bodies:
            return None
        (greeting,) = greeting_decoder.decode(self._bodies.pop(0))
        if isinstance(greeting, Welcome):
            return greeting
        if isinstance(greeting, Refused):
            self._ended(greeting.message, greeting.code)
        return None

    async def ask_for(self, request: Request, kind: type[T]) -> T | None:
        """Send a request, and return its answer; None where it is another, or the connection ends."""
        await self.ask([request])
        while not self._bodies and not self.over:
            await self._read()
        for body in self._bodies:
            self._count(body)
        answers = [answer for body in self._bodies for answer in answer_decoder.decode(body)]
        self._bodies.clear()
        return next((answer for answer in answers if isinstance(answer, kind)), None)

    async def read_answers(self) -> None:
        """Read and count answers until the node ends the connection."""
        while not self.over:
            for body in self._bodies:
                self._count(body)
            self._bodies.clear()
            await self._read()

    async def read_some(self, size: int) -> None:
        """Read at most so many bytes, and throw them away."""
        try:
            data = await self._reader.read(size)
        except OSError as error:
            self._ended(str(error))
            return
        self._assault.deeds.received_bytes += len(data)
        if not data:
            self._ended("the node has closed the connection")

    async def close(self) -> None:
        """End the connection at once, whatever is on its way."""
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _read(self) -> None:
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError as error:
            self._ended(str(error))
            return
        self._assault.deeds.received_bytes += len(data)
        if not data:
            self._ended("the node has closed the connection")
            return
        try:
            self._bodies += self._frames.feed(data)
        except BadFrame as error:
            self._ended(str(error), ErrorCode.PROTOCOL_MISMATCH)

    def _count(self, body: bytes) -> None:
        deeds = self._assault.deeds
        for answer in _pieces.decode(body):
            tag = memoryview(answer)[1]
            if tag in (FAILURE, REFUSED):
                refused = _failure.decode(answer)
                if isinstance(refused, Refused):
                    self._ended(refused.message, refused.code)
                else:
                    deeds.note(refused.code, refused.message)
            elif tag != WORKING:
                deeds.answered += 1

    def _ended(self, words: str, kind: str = "closed") -> None:
        if not self.over:
            self.over = True
            self._assault.deeds.refused_connections += 1
        self._assault.deeds.remember(kind, words)


@asynccontextmanager
async def wire(
    assault: Assault, address: str, *, receive_bytes: int | None = None, tls: SSLContext | None = None
) -> AsyncIterator[Wire]:
    """Open a connection for the length of an `async with` block.

    Args:
        receive_bytes: of answers that this machine takes while we read none; None: as much as it likes.

    Raises:
        OSError, TimeoutError: nobody answers, or it cannot be opened.
    """
    opened = await dial(assault, address, receive_bytes=receive_bytes, tls=tls)
    try:
        yield opened
    finally:
        await opened.close()


async def dial(
    assault: Assault, address: str, *, receive_bytes: int | None = None, tls: SSLContext | None = None
) -> Wire:
    """As `wire`, and the caller closes it."""
    host, port = split_address(address)
    connected = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    connected.setblocking(False)
    if receive_bytes is not None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    options: dict[str, Any] = {} if tls is None else {"ssl": tls, "server_hostname": host}
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            await asyncio.get_running_loop().sock_connect(connected, (host, port))
            limit = READ_BYTES if receive_bytes is None else receive_bytes
            reader, writer = await asyncio.open_connection(sock=connected, limit=limit, **options)
    except BaseException:
        connected.close()
        raise
    assault.deeds.connections += 1
    return Wire(assault, reader, writer)
