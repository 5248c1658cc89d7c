"""A node with one shard on a real port, without a disk or a process of its own; and bare connections to it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from msgspec.structs import replace
from shoal.protocol.frames import HEADER_BYTES, answer_decoder, encode_frame, greeting_decoder
from shoal.protocol.messages import Hello, Ping, Refused, Request, Welcome, Working
from shoal.protocol.version import NEWEST, OLDEST
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.certificates import Certificates
from shoal_server.node.core import Node
from shoal_server.node.settings import Limits, NodeIdentity, NodeSettings
from shoal_server.observe.refusal_log import RefusalLog
from shoal_server.process.driver import NodeDriver, monotonic_ns
from shoal_server.process.identities import PeerIdentities
from shoal_server.process.reception import Reception
from shoal_server.secure_listener import SecureListener
from shoal_server.storage.watched import WatchedEngine

PATIENCE_SECONDS = 20.0
SHARD_MAP = ShardMap(
    1,
    "demo",
    (NodeAddress("n1", "127.0.0.1:7400"),),
    (Keyspace(1, "default", 4, b"/"),),
    (Shard(1, 1, (MicroshardRange(0, 4),), ("n1",)),),
)


class Client:
    """A bare connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def body(self) -> bytes:
        async with asyncio.timeout(PATIENCE_SECONDS):
            header = await self.reader.readexactly(HEADER_BYTES)
            return await self.reader.readexactly(struct.unpack(">II", header)[0])

    async def greet(self, **fields: Any) -> Welcome | Refused:
        hello = replace(Hello("client", OLDEST, NEWEST), **fields)
        self.writer.write(encode_frame([hello]))
        (greeting,) = greeting_decoder.decode(await self.body())
        assert isinstance(greeting, Welcome | Refused)
        return greeting

    async def refusal(self) -> Refused:
        """Return the refusal that comes, which must be the last thing that does."""
        (refused,) = await self.answers()
        assert isinstance(refused, Refused)
        await self.end()
        return refused

    async def end(self) -> None:
        """Wait until the node ends the connection."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await self.reader.read() == b""

    def ask(self, *requests: Request) -> None:
        self.writer.write(encode_frame(list(requests)))

    async def answers(self) -> list[Any]:
        """Return the next answers that are more than a sign of life."""
        while True:
            answers = [answer for answer in answer_decoder.decode(await self.body()) if not isinstance(answer, Working)]
            if answers:
                return answers

    async def is_served(self) -> bool:
        self.ask(Ping(1))
        return bool(await self.answers())


class Server:
    """See the module's first line."""

    def __init__(self, limits: Limits, memory_bytes: int, secure: bool) -> None:
        loop = asyncio.get_running_loop()
        engine = WatchedEngine()
        settings = NodeSettings(limits=limits, memory_bytes=memory_bytes)
        identity = NodeIdentity("demo", "n1", "incarnation", 1)
        self.failures: list[str] = []
        self.refusals: list[str] = []
        self.node = Node(identity, SHARD_MAP, engine, settings, Random(1), monotonic_ns())
        self.driver = NodeDriver(
            self.node,
            engine,
            loop,
            to_peers=lambda _: None,
            to_clients=lambda answers: self.reception.send(answers),
            failed=lambda reason, error: self.failures.append(f"{reason}: {error!r}"),
            map_changed=lambda: None,
            resumed=lambda clients: self.reception.resume(clients),
        )
        self.reception = Reception(
            self.node,
            PeerIdentities(self.node, engine),
            RefusalLog("n1"),
            None,
            loop,
            secure=secure,
            schedule_turn=self.driver.schedule_turn,
            peer_is_there=lambda _: None,
            peer_sends=lambda _peer, _size: None,
        )
        self.port = 0

    async def connect(self, **options: Any) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, **options))

    async def client(self, **options: Any) -> Client:
        """Return a connection that is welcome."""
        client = await self.connect(**options)
        assert isinstance(await client.greet(), Welcome)
        return client

    async def turned_away(self, client: Client, **fields: Any) -> Refused:
        """Greet, and return why that is refused."""
        refused = await client.greet(**fields)
        assert isinstance(refused, Refused)
        await client.end()
        return refused


@asynccontextmanager
async def serving(
    limits: Limits | None = None, memory_bytes: int = 1 << 30, certificates: Certificates | None = None
) -> AsyncIterator[Server]:
    """Run a node for the length of an `async with` block: it must not have failed at its end.

    Args:
        certificates: it listens over TLS.
    """
    server = Server(limits or Limits(), memory_bytes, secure=certificates is not None)
    reception = server.reception
    listening: asyncio.Server | SecureListener
    if certificates is None:
        listening = await asyncio.get_running_loop().create_server(reception.made, "127.0.0.1", 0)
        server.port = listening.sockets[0].getsockname()[1]
    else:
        listening = SecureListener(
            certificates,
            reception.made,
            lambda _address, reason: server.refusals.append(reason),
            lambda task: server.failures.append(f"{task} has ended"),
            began=reception.arrived,
            ended=reception.unfinished.leave,
        )
        server.port = await listening.start("127.0.0.1", 0)
    server.driver.turn()
    try:
        yield server
        assert not server.failures
    finally:
        ending = listening.close()
        if ending is not None:
            await ending
        server.reception.close()
        await asyncio.sleep(0.01)
        server.driver.stop()
        server.driver.close()
