"""A cluster of fake nodes: real asyncio servers that speak the protocol, keep a dict, and follow a test's script."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, cast

import pytest
from shoal.errors import ErrorCode
from shoal.protocol.frames import (
    FrameReader,
    encode_frame,
    greeting_decoder,
    operations_decoder,
    request_decoder,
)
from shoal.protocol.messages import (
    Done,
    Failure,
    GetShardMap,
    Hello,
    OpenSession,
    Ping,
    Put,
    Read,
    Request,
    Rows,
    SessionOpened,
    ShardMapReply,
    Welcome,
    Write,
    Written,
)
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap

Reply = Any
"""An answer, a list of answers, or None for silence."""

Script = Callable[["FakeNode", Request], Reply]


class FakeCluster:
    """State that the fake nodes share, as if replication were instant: rows, sessions, leaders.

    `writes` records every write that was applied, `asked` every request that reached a node (pings left out).
    """

    def __init__(self, nodes: int = 1, shards: int = 1, microshards: int = 16) -> None:
        self.names = [f"n{i + 1}" for i in range(nodes)]
        self.shard_count = shards
        self.microshards = microshards
        self.nodes: dict[str, FakeNode] = {}
        self.leaders: dict[int, str] = {}
        self.version = 1
        self.rows: dict[bytes, tuple[bytes, int]] = {}
        self.seq = 0
        self.sessions: dict[int, dict[int, int]] = {}
        self.sessions_opened = 0
        self.asked: list[tuple[str, Request]] = []
        self.frames: list[list[Request]] = []
        self.applied: list[Write] = []
        self.script: Script | None = None
        self.limits = {"max_frame_bytes": 1 << 24, "max_key_bytes": 4096, "max_value_bytes": 1 << 20}
        self.max_batch_bytes = 8 << 20

    async def start(self) -> None:
        for name in self.names:
            self.nodes[name] = FakeNode(self, name)
            await self.nodes[name].start()
        for shard in range(1, self.shard_count + 1):
            self.leaders[shard] = self.names[(shard - 1) % len(self.names)]

    async def stop(self) -> None:
        for node in self.nodes.values():
            await node.stop()

    def url(self, *names: str, query: str = "") -> str:
        addresses = ",".join(self.nodes[name].address for name in names or self.names)
        return f"shoal://{addresses}/default{query}"

    def shard(self, shard: int) -> Shard:
        per = self.microshards // self.shard_count
        span = MicroshardRange((shard - 1) * per, shard * per)
        return Shard(shard, 1, (span,), tuple(self.names), leader=self.leaders[shard])

    def map(self) -> ShardMap:
        return ShardMap(
            self.version,
            "fake",
            tuple(NodeAddress(name, node.address) for name, node in self.nodes.items()),
            (Keyspace(1, "default", self.microshards, b"/"),),
            tuple(self.shard(shard) for shard in range(1, self.shard_count + 1)),
        )

    def of_kind(self, kind: type[Any]) -> list[Any]:
        """The requests of one kind that reached any node."""
        return [request for _, request in self.asked if isinstance(request, kind)]

    def apply(self, write: Write) -> Reply:
        """Apply a write once, as a leader would; answers a repetition with the first result."""
        session = self.sessions.get(write.session)
        if session is None:
            return Failure(write.request, ErrorCode.SESSION_EXPIRED, "unknown session")
        if write.number not in session:
            self.seq += 1
            session[write.number] = self.seq
            self.applied.append(write)
            for operation in operations_decoder.decode(write.operations):
                if isinstance(operation, Put):
                    self.rows[operation.key] = (operation.value, self.seq)
                else:
                    self.rows.pop(operation.key, None)
        return Written(write.request, session[write.number])

    def serve(self, node: FakeNode, request: Request) -> Reply:
        """Answer as a healthy node does."""
        if isinstance(request, Ping):
            return Done(request.request)
        if isinstance(request, GetShardMap):
            return ShardMapReply(request.request, self.map())
        assert isinstance(request, Write | Read | OpenSession)
        if self.leaders[request.shard] != node.name:
            return self.not_leader(request)
        if isinstance(request, OpenSession):
            self.sessions_opened += 1
            session = (request.shard << 40) + self.sessions_opened
            self.sessions[session] = {}
            return SessionOpened(request.request, session)
        if isinstance(request, Write):
            return self.apply(request)
        found = [self.rows.get(key) for key in request.keys]
        values = [row[0] if row is not None else None for row in found]
        return Rows(request.request, self.seq, node.name, values, [row[1] if row is not None else 0 for row in found])

    def not_leader(self, request: Any, *, maybe_applied: bool = False, hint: bool = True) -> Failure:
        route = self.shard(request.shard)
        if not hint:
            route = Shard(route.id, route.keyspace, route.ranges, route.voters)
        return Failure(
            request.request, ErrorCode.NOT_LEADER, "not the leader", maybe_applied=maybe_applied, route=route,
            map_version=self.version,
        )  # fmt: skip


class FakeNode:
    """One listening address. `stop` closes it and its connections; `start` listens on the same port again.

    `greeting`: what to answer a Hello with instead of a Welcome (a message, raw bytes, or b"" for silence).
    `connections` counts all that were ever accepted; `hold` leaves requests unanswered in `held`.
    """

    def __init__(self, cluster: FakeCluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.port = 0
        self.greeting: Any = None
        self.hold = False
        self.held: list[Request] = []
        self.connections = 0
        self.open: set[_Served] = set()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Served(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.drop_connections()

    def drop_connections(self) -> None:
        for served in list(self.open):
            served.transport.abort()

    def send(self, *answers: Any) -> None:
        """Send answers on every open connection, unasked."""
        for served in self.open:
            served.transport.write(encode_frame(list(answers)))

    def send_raw(self, data: bytes) -> None:
        for served in self.open:
            served.transport.write(data)

    def welcome(self) -> Any:
        if self.greeting is not None:
            return self.greeting
        cluster = self.cluster
        limits = cluster.limits
        return Welcome(
            1, "fake", self.name, "i1", limits["max_frame_bytes"], limits["max_key_bytes"], limits["max_value_bytes"],
            cluster.max_batch_bytes, cluster.map(),
        )  # fmt: skip


class _Served(asyncio.Protocol):
    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.reader = FrameReader()
        self.greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.node.connections += 1
        self.node.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.node.open.discard(self)

    def data_received(self, data: bytes) -> None:
        for body in self.reader.feed(data):
            if not self.greeted:
                self.greeted = True
                assert isinstance(greeting_decoder.decode(body)[0], Hello)
                welcome = self.node.welcome()
                self.transport.write(welcome if isinstance(welcome, bytes) else encode_frame([welcome]))
            elif self.node.hold:
                self.node.held += request_decoder.decode(body)
            else:
                self._serve(request_decoder.decode(body))

    def _serve(self, requests: list[Request]) -> None:
        node, cluster = self.node, self.node.cluster
        cluster.frames.append(requests)
        answers: list[Any] = []
        for request in requests:
            if not isinstance(request, Ping):
                cluster.asked.append((node.name, request))
            script = cluster.script
            reply = script(node, request) if script is not None else cluster.serve(node, request)
            if reply is not None:
                answers += reply if isinstance(reply, list) else [reply]
        if answers and not self.transport.is_closing():
            self.transport.write(encode_frame(answers))


@pytest.fixture
async def start_cluster() -> AsyncIterator[Callable[..., Awaitable[FakeCluster]]]:
    """Start fake clusters that end with the test: `await start_cluster(nodes=3, shards=2)`."""
    started: list[FakeCluster] = []

    async def start(**settings: int) -> FakeCluster:
        cluster = FakeCluster(**settings)
        started.append(cluster)
        await cluster.start()
        return cluster

    yield start
    for cluster in started:
        await cluster.stop()


@pytest.fixture
async def cluster(start_cluster: Callable[..., Awaitable[FakeCluster]]) -> FakeCluster:
    """One fake node with one shard."""
    return await start_cluster()


@pytest.fixture
def threaded_cluster() -> Iterator[FakeCluster]:
    """Two fake nodes with two shards, on an event loop in a thread of its own: for tests without asyncio."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    cluster = FakeCluster(nodes=2, shards=2)
    asyncio.run_coroutine_threadsafe(cluster.start(), loop).result()
    yield cluster
    asyncio.run_coroutine_threadsafe(cluster.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
