"""A cluster of fake nodes: real asyncio servers that speak the protocol, keep a dict, and follow a test's script."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from ssl import SSLContext
from typing import Any, cast

import pytest
from shoal.errors import ErrorCode
from shoal.protocol.digest import RangeDigest
from shoal.protocol.frames import (
    FrameReader,
    encode_frame,
    greeting_decoder,
    operations_decoder,
    request_decoder,
    traced_request_decoder,
)
from shoal.protocol.messages import (
    DEFAULT_TTL,
    Applied,
    Atomic,
    ConditionNotMet,
    Delete,
    DeleteRange,
    Done,
    Failure,
    Freshness,
    GetShardMap,
    Hello,
    Impossible,
    Increment,
    KeyAbsent,
    KeyPresent,
    OpenSession,
    Ping,
    Put,
    RangeUnchanged,
    Read,
    Request,
    Rows,
    Scan,
    ScanPage,
    SeqEquals,
    SessionOpened,
    ShardMapReply,
    Touch,
    Traces,
    ValueEquals,
    Welcome,
    Write,
    Written,
)
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap, microshards_in

Reply = Any
"""An answer, a list of answers, or None for silence."""

Script = Callable[["FakeNode", Request], Reply]


class FakeCluster:
    """State that the fake nodes share, as if replication were instant: rows, sessions, leaders.

    `applied` records every write that was applied, `asked` every request that reached a node (pings left out).
    `expiries` are those of keys, in milliseconds on a clock that stands at `now_ms`. `lag` is what a node's replicas
    lack: how many seqs, and for how many milliseconds. `regions` are those of nodes. `features`: what nodes say that they
    have; where traces are among it, `traces` are those that reached a node.
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
        self.expiries: dict[bytes, int] = {}
        self.now_ms = 1_000_000
        self.lag: dict[str, tuple[int, int]] = {}
        self.regions: dict[str, str] = {}
        self.features: tuple[str, ...] = ()
        self.cluster_id = "first"
        self.traces: list[Traces] = []
        self.default_ttl_ms = 0
        self.max_staleness_ms = 5_000
        self.ranges: dict[int, tuple[MicroshardRange, ...]] = {}
        self.sessions: dict[bytes, dict[int, Written]] = {}
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
        return Shard(shard, 1, self.ranges_of(shard), tuple(self.names), leader=self.leaders[shard])

    def ranges_of(self, shard: int) -> tuple[MicroshardRange, ...]:
        per = self.microshards // self.shard_count
        return self.ranges.get(shard, (MicroshardRange((shard - 1) * per, shard * per),))

    @property
    def keyspace(self) -> Keyspace:
        return Keyspace(1, "default", self.microshards, b"/", self.max_staleness_ms, self.default_ttl_ms)

    def map(self) -> ShardMap:
        return ShardMap(
            self.version,
            "fake",
            tuple(NodeAddress(name, node.address, self.regions.get(name, "")) for name, node in self.nodes.items()),
            (self.keyspace,),
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
        operations = operations_decoder.decode(write.operations)
        if not all(self.has(write.shard, operation) for operation in operations):
            return self.wrong_shard(write)
        if write.number not in session:
            self.seq += 1
            self.applied.append(write)
            results = [self.do(write.shard, operation) for operation in operations]
            session[write.number] = Written(write.request, self.seq, [each for each in results if each is not None])
        known = session[write.number]
        return Written(write.request, known.seq, known.results)

    def has(self, shard: int, operation: Any) -> bool:
        """Whether all that an operation names is of the shard."""
        if isinstance(operation, Atomic):
            return all(self.has(shard, part) for part in (*operation.conditions, *operation.operations))
        if isinstance(operation, DeleteRange | RangeUnchanged):
            return all(self.holds(shard, microshard) for microshard in microshards_in(operation.ranges))
        return self.holds(shard, self.keyspace.microshard_of(operation.key))

    def holds(self, shard: int, microshard: int) -> bool:
        return any(span.first <= microshard < span.end for span in self.ranges_of(shard))

    def do(self, shard: int, operation: Any) -> Any:
        """Apply one operation; returns its result, None for those without."""
        if isinstance(operation, Atomic):
            for at, condition in enumerate(operation.conditions):
                if not self.met(shard, condition):
                    if isinstance(condition, RangeUnchanged):
                        return ConditionNotMet(at, 0, None)
                    found = self.rows.get(condition.key)
                    return ConditionNotMet(at, found[1] if found else 0, found[0] if found else None)
            before = dict(self.rows), dict(self.expiries)
            values: list[int] = []
            for at, part in enumerate(operation.operations):
                result = self.do(shard, part)
                if isinstance(result, Impossible):
                    self.rows, self.expiries = before
                    return Impossible(at, result.reason)
                values += result.values if result is not None else []
            return Applied(values)
        if isinstance(operation, Put):
            self.rows[operation.key] = (operation.value, self.seq)
            self.expire(operation.key, operation.ttl_ms)
        elif isinstance(operation, Delete):
            self.rows.pop(operation.key, None)
        elif isinstance(operation, Touch):
            if operation.key in self.rows:
                self.expire(operation.key, operation.ttl_ms)
            return Applied([int(operation.key in self.rows)])
        elif isinstance(operation, Increment):
            stored = self.rows.get(operation.key, (b"0", 0))[0]
            if not stored.lstrip(b"-").isdigit():
                return Impossible(0, f"the value {stored!r} is no integer")
            total = int(stored) + operation.by
            if operation.key not in self.rows:
                self.expire(operation.key, operation.ttl_ms)
            self.rows[operation.key] = (b"%d" % total, self.seq)
            return Applied([total])
        else:
            for key in self.keys_in(operation.ranges, operation.start, operation.end):
                del self.rows[key]
            return Applied([len(list(microshards_in(operation.ranges)))])
        return None

    def met(self, shard: int, condition: Any) -> bool:
        if isinstance(condition, RangeUnchanged):
            keys = self.keys_in(condition.ranges, condition.start, condition.end)
            digest = RangeDigest()
            digest.add(keys, [self.rows[key][1] for key in keys])
            return digest.value() == condition.digest
        row = self.rows.get(condition.key)
        if isinstance(condition, KeyPresent | KeyAbsent):
            return (row is None) is isinstance(condition, KeyAbsent)
        if isinstance(condition, SeqEquals):
            return (row[1] if row else 0) == condition.seq
        if row is None:
            return not isinstance(condition, ValueEquals)
        return row[0] == condition.value

    def expire(self, key: bytes, ttl_ms: int) -> None:
        ttl_ms = self.default_ttl_ms if ttl_ms == DEFAULT_TTL else ttl_ms
        self.expiries[key] = self.now_ms + ttl_ms if ttl_ms else 0

    def keys_in(self, ranges: tuple[MicroshardRange, ...], start: bytes, end: bytes) -> list[bytes]:
        wanted = set(microshards_in(ranges))
        return sorted(
            key
            for key in self.rows
            if key >= start and (not end or key < end) and self.keyspace.microshard_of(key) in wanted
        )

    def declines(self, node: FakeNode, request: Read | Scan) -> Failure | None:
        """What a replica answers that may not serve a read."""
        wanted: Freshness = request.freshness
        if wanted.strong:
            return None if self.leaders[request.shard] == node.name else self.not_leader(request)
        behind, stale_ms = self.lag.get(node.name, (0, 0))
        if wanted.min_seq > self.seq - behind:
            return Failure(request.request, ErrorCode.TOO_STALE, f"at {self.seq - behind}, not {wanted.min_seq}")
        if 0 < wanted.max_staleness_ms <= stale_ms:
            return Failure(request.request, ErrorCode.TOO_STALE, f"stale for {stale_ms} ms")
        return None

    def wrong_shard(self, request: Any) -> Failure:
        route = self.shard(request.shard) if request.shard <= self.shard_count else None
        return Failure(request.request, ErrorCode.WRONG_SHARD, "elsewhere", route=route, map_version=self.version)

    def scan(self, node: FakeNode, request: Scan) -> Reply:
        if request.shard > self.shard_count or not all(
            self.holds(request.shard, microshard) for microshard in microshards_in(request.ranges)
        ):
            return self.wrong_shard(request)
        keys = self.keys_in(request.ranges, request.start, request.end)
        if request.reverse:
            keys.reverse()
        resume = None
        if len(keys) > request.max_rows:
            keys = keys[: request.max_rows]
            resume = keys[-1] if request.reverse else keys[-1] + b"\0"
        behind, stale_ms = (0, 0) if request.freshness.strong else self.lag.get(node.name, (0, 0))
        values = [] if request.keys_only else [self.rows[key][0] for key in keys]
        return ScanPage(
            request.request, self.seq - behind, node.name, keys, values, [self.rows[key][1] for key in keys], resume,
            stale_ms,
        )  # fmt: skip

    def serve(self, node: FakeNode, request: Request) -> Reply:
        """Answer as a healthy node does."""
        if isinstance(request, Ping):
            return Done(request.request)
        if isinstance(request, GetShardMap):
            return ShardMapReply(request.request, self.map())
        assert isinstance(request, Write | Read | OpenSession | Scan)
        if isinstance(request, Read | Scan):
            declined = self.declines(node, request)
            if declined is not None:
                return declined
            if isinstance(request, Scan):
                return self.scan(node, request)
            return self.read(node, request)
        if self.leaders[request.shard] != node.name:
            return self.not_leader(request)
        if isinstance(request, OpenSession):
            self.sessions_opened += 1
            session = ((request.shard << 40) + self.sessions_opened).to_bytes(16, "big")
            self.sessions[session] = {}
            return SessionOpened(request.request, session)
        return self.apply(request)

    def read(self, node: FakeNode, request: Read) -> Rows:
        found = [self.rows.get(key) for key in request.keys]
        values = [row[0] if row is not None else None for row in found]
        seqs = [row[1] if row is not None else 0 for row in found]
        behind, stale_ms = (0, 0) if request.freshness.strong else self.lag.get(node.name, (0, 0))
        expiries = [self.expiries.get(key, 0) for key in request.keys]
        return Rows(
            request.request, self.seq - behind, node.name, values, seqs, stale_ms, expiries if any(expiries) else []
        )

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
    `connections` counts all that were ever accepted, and `hellos` are what they said; `hold` leaves requests unanswered in
    `held`. `tls` is what it listens with; None: connections are plain.
    """

    def __init__(self, cluster: FakeCluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.port = 0
        self.greeting: Any = None
        self.hold = False
        self.held: list[Request] = []
        self.connections = 0
        self.hellos: list[Hello] = []
        self.tls: SSLContext | None = None
        self.open: set[_Served] = set()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Served(self), "127.0.0.1", self.port, ssl=self.tls)
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
            cluster.max_batch_bytes, cluster.map(), cluster.features, cluster.cluster_id,
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
                hello = greeting_decoder.decode(body)[0]
                assert isinstance(hello, Hello)
                self.node.hellos.append(hello)
                welcome = self.node.welcome()
                self.transport.write(welcome if isinstance(welcome, bytes) else encode_frame([welcome]))
            elif self.node.hold:
                self.node.held += self._requests(body)
            else:
                self._serve(self._requests(body))

    def _requests(self, body: bytes) -> list[Request]:
        cluster = self.node.cluster
        if not cluster.features:
            return request_decoder.decode(body)
        decoded = traced_request_decoder.decode(body)
        cluster.traces += [each for each in decoded if isinstance(each, Traces)]
        return [each for each in decoded if not isinstance(each, Traces)]

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
