"""A fake cluster for the command line: real sockets, the real protocol, and leaders, lags and faults as tests like."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import pytest
import typer.testing
from shoal.cli.main import app
from shoal.errors import ErrorCode
from shoal.protocol.failures import ReplicaFailure
from shoal.protocol.frames import (
    FrameReader,
    encode_frame,
    greeting_decoder,
    operations_decoder,
    request_decoder,
)
from shoal.protocol.hot_keys import GetHotKeys, HotKeys
from shoal.protocol.messages import (
    MAX_BATCH_BYTES,
    MAX_FRAME_BYTES,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Answer,
    Applied,
    Atomic,
    ConditionNotMet,
    Delete,
    DeleteRange,
    Done,
    Failure,
    GetShardMap,
    GetStatus,
    Hello,
    Impossible,
    Increment,
    KeyAbsent,
    OpenSession,
    Operation,
    OperationResult,
    Page,
    PageResume,
    PeerProgress,
    Ping,
    Put,
    Read,
    ReadPage,
    ReplicaStatus,
    Request,
    Rows,
    Scan,
    ScanPage,
    SessionOpened,
    ShardMapReply,
    StatusReply,
    Touch,
    TransferLeader,
    Welcome,
    Write,
    Written,
)
from shoal.protocol.version import NEWEST
from shoal.shardmap import (
    Keyspace,
    MicroshardRange,
    NodeAddress,
    Ranges,
    Routes,
    Shard,
    ShardMap,
    count_in,
    microshards_in,
    ranges_of,
)

NODES = ("n1", "n2", "n3")
SHARDS = 4
MICROSHARDS = 16
LOG_INDEX = 100
NOW_MS = 1_700_000_000_000
"""The time on the nodes' clocks, which stand still."""

_T = TypeVar("_T")


@dataclass
class Script:
    """What the fake does out of the ordinary; tests change it as they go."""

    leaders: dict[int, str | None]
    lags: dict[tuple[int, str], int] = field(default_factory=dict)
    deaf: set[tuple[int, str]] = field(default_factory=set)
    not_writable: dict[str, str] = field(default_factory=dict)
    not_leading: dict[str, str] = field(default_factory=dict)
    failures: dict[type, Failure] = field(default_factory=dict)
    failed: dict[tuple[int, str], ReplicaFailure] = field(default_factory=dict)
    silent: set[type] = field(default_factory=set)
    old_maps: set[str] = field(default_factory=set)
    unserved: dict[int, set[int]] = field(default_factory=dict)
    """By shard, microshards that the map gives it and its log does not."""
    hot: dict[str, HotKeys] = field(default_factory=dict)
    page_rows: int = 3
    staleness_ms: int = 0
    on_page: Callable[[ReadPage], None] | None = None
    before_status: Callable[[], None] | None = None
    before_page: Callable[[ReadPage], None] | None = None
    """Called before it is looked at what the shard has."""


class FakeCluster:
    """Three nodes on loopback that share one store, on an event loop in a thread."""

    def __init__(self) -> None:
        self.script = Script({shard: NODES[shard % len(NODES)] for shard in range(1, SHARDS + 1)})
        self.rows: dict[int, dict[tuple[int, bytes], bytes]] = {shard: {} for shard in range(1, SHARDS + 1)}
        self.expiries: dict[bytes, int] = {}
        self.seq = 0
        self.version = 2
        self.requests: list[Request] = []
        self.priorities: list[str] = []
        """Of the connections there were."""
        self._loop = asyncio.new_event_loop()
        self._servers: dict[str, asyncio.Server] = {}
        self._writers: dict[str, set[asyncio.StreamWriter]] = {node: set() for node in NODES}
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        for node in NODES:
            self._servers[node] = self._call(self._listen(node, 0))
        ports = {node: server.sockets[0].getsockname()[1] for node, server in self._servers.items()}
        self.addresses = {node: f"127.0.0.1:{port}" for node, port in ports.items()}
        self.keyspace = Keyspace(1, "default", MICROSHARDS, b"/")
        step = MICROSHARDS // SHARDS
        self.shards = {
            shard: Shard(shard, 1, (MicroshardRange((shard - 1) * step, shard * step),), NODES)
            for shard in range(1, SHARDS + 1)
        }

    @property
    def url(self) -> str:
        return f"shoal://{','.join(self.addresses.values())}/default?timeout=2s"

    @property
    def routes(self) -> Routes:
        return Routes(self._map("n1"))

    def take_down(self, node: str) -> None:
        """Stop listening and drop every connection of a node."""

        async def close() -> None:
            self._servers[node].close()
            for writer in self._writers[node]:
                writer.transport.abort()

        self._call(close())

    def close(self) -> None:
        for node in NODES:
            self.take_down(node)

        async def settle() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._call(settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def put(self, key: bytes, value: bytes) -> None:
        self.rows[self.routes.shard_of(self.keyspace, key)][self.keyspace.microshard_of(key), key] = value

    def reshard(self, owners: Sequence[int]) -> None:
        """Give each microshard to a shard, with its rows."""
        rows = {position: value for shard in self.rows.values() for position, value in shard.items()}
        self.version += 1
        for shard, known in self.shards.items():
            mine = [microshard for microshard, owner in enumerate(owners) if owner == shard]
            self.shards[shard] = msgspec.structs.replace(known, ranges=ranges_of(mine))
            self.rows[shard] = {position: value for position, value in rows.items() if position[0] in mine}

    def value(self, key: bytes) -> bytes | None:
        return self.rows[self.routes.shard_of(self.keyspace, key)].get((self.keyspace.microshard_of(key), key))

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _call(self, work: Awaitable[_T]) -> _T:
        async def run() -> _T:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    async def _listen(self, node: str, port: int) -> asyncio.Server:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(node, reader, writer)

        return await asyncio.start_server(serve, "127.0.0.1", port)

    async def _serve(self, node: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers[node].add(writer)
        frames, greeted = FrameReader(), False
        try:
            while data := await reader.read(65536):
                for body in frames.feed(data):
                    if not greeted:
                        (hello,) = greeting_decoder.decode(body)
                        assert isinstance(hello, Hello)
                        self.priorities.append(hello.priority)
                        writer.write(encode_frame([self._welcome(node)]))
                        greeted = True
                        continue
                    answers = [self._answer(node, request) for request in request_decoder.decode(body)]
                    said = [answer for answer in answers if answer is not None]
                    if said:
                        writer.write(encode_frame(said))
        except ConnectionError:
            pass
        finally:
            self._writers[node].discard(writer)
            writer.close()

    def _map(self, node: str) -> ShardMap:
        addresses = tuple(NodeAddress(node, address, "eu", f"z{node[1]}") for node, address in self.addresses.items())
        shards = tuple(
            Shard(shard.id, shard.keyspace, shard.ranges, shard.voters, (), self.script.leaders[shard.id] or "")
            for shard in self.shards.values()
        )
        if node in self.script.old_maps:
            return ShardMap(1, "fake", addresses, (self.keyspace,), shards[:-1])
        return ShardMap(self.version, "fake", addresses, (self.keyspace,), shards)

    def _welcome(self, node: str) -> Welcome:
        return Welcome(
            NEWEST,
            "fake",
            node,
            "i1",
            MAX_FRAME_BYTES,
            MAX_KEY_BYTES,
            MAX_VALUE_BYTES,
            MAX_BATCH_BYTES,
            self._map(node),
            cluster_id="id of fake",
        )

    def _answer(self, node: str, request: Request) -> Answer | None:
        self.requests.append(request)
        number = request.request
        if type(request) in self.script.silent:
            return None
        failure = self.script.failures.get(type(request))
        if failure is not None:
            return Failure(number, failure.code, failure.message, failure.maybe_applied)
        if isinstance(request, GetShardMap):
            return ShardMapReply(number, self._map(node))
        if isinstance(request, GetHotKeys):
            known = self.script.hot.get(node, HotKeys(0, node, ()))
            return msgspec.structs.replace(known, request=number)
        if isinstance(request, GetStatus):
            if self.script.before_status is not None:
                self.script.before_status()
            return self._status(node, number)
        if isinstance(request, Ping):
            return Done(number)
        leader = self.script.leaders[request.shard]
        weak = isinstance(request, Read | Scan) and not request.freshness.strong
        if leader != node and not weak:
            route = next(shard for shard in self._map(node).shards if shard.id == request.shard)
            return Failure(
                number, ErrorCode.NOT_LEADER.value, f"{node} does not lead shard {request.shard}", route=route
            )
        if isinstance(request, TransferLeader):
            self.script.leaders[request.shard] = request.target
            return Done(number)
        return self._data(node, request)

    def _data(self, node: str, request: OpenSession | Write | Read | ReadPage | Scan) -> Answer:
        if isinstance(request, ReadPage) and self.script.before_page is not None:
            self.script.before_page(request)
        rows = self.rows[request.shard]
        if isinstance(request, OpenSession):
            return SessionOpened(request.request, bytes(16))
        if isinstance(request, Read):
            values = [rows.get((self.keyspace.microshard_of(key), key)) for key in request.keys]
            stale_ms = 0 if request.freshness.strong else self.script.staleness_ms
            seqs = [0 if value is None else 7 for value in values]
            expiries = [self.expiries.get(key, 0) for key in request.keys]
            return Rows(request.request, self.seq, node, values, seqs, stale_ms, expiries if any(expiries) else [])
        if isinstance(request, Scan | ReadPage) and not self._has(request.shard, request.ranges):
            return Failure(request.request, ErrorCode.WRONG_SHARD.value, f"shard {request.shard} has others")
        if isinstance(request, Scan):
            return self._scan(node, request)
        if isinstance(request, ReadPage):
            if self.script.on_page is not None:
                self.script.on_page(request)
            wanted, begun = set(microshards_in(request.ranges)), (request.ranges[0].first, request.after)
            after = sorted(position for position in rows if position[0] in wanted and position > begun)
            page = after[: self.script.page_rows]
            return Page(
                request.request,
                self.seq,
                len(page) == len(after),
                [microshard for microshard, _ in page],
                [key for _, key in page],
                [rows[position] for position in page],
                [self.expiries.get(key, 0) for _, key in page],
                None if len(page) == len(after) else PageResume(*(page[-1] if page else begun)),
            )
        self.seq += 1
        results = [self._do(rows, operation) for operation in operations_decoder.decode(request.operations)]
        return Written(request.request, self.seq, [result for result in results if result is not None])

    def _has(self, shard: int, ranges: Ranges) -> bool:
        return set(microshards_in(ranges)) <= self._held(shard)

    def _held(self, shard: int) -> set[int]:
        return set(microshards_in(self.shards[shard].ranges)) - self.script.unserved.get(shard, set())

    def _do(self, rows: dict[tuple[int, bytes], bytes], operation: Operation) -> OperationResult | None:
        """Apply an operation to a shard's rows; return its result, None for those without."""
        if isinstance(operation, Atomic):
            for at, condition in enumerate(operation.conditions):
                assert isinstance(condition, KeyAbsent), "the command line makes no others"
                found = rows.get((self.keyspace.microshard_of(condition.key), condition.key))
                if found is not None:
                    return ConditionNotMet(at, 7, found)
            for part in operation.operations:
                self._do(rows, part)
            return Applied([])
        if isinstance(operation, DeleteRange):
            gone = [at for at in rows if at[1] >= operation.start and (not operation.end or at[1] < operation.end)]
            for position in gone:
                del rows[position]
            return Applied([count_in(operation.ranges)])
        position = (self.keyspace.microshard_of(operation.key), operation.key)
        if isinstance(operation, Put):
            rows[position] = operation.value
            self._expire(operation.key, operation.ttl_ms)
        elif isinstance(operation, Delete):
            rows.pop(position, None)
        elif isinstance(operation, Touch):
            if position in rows:
                self._expire(operation.key, operation.ttl_ms)
            return Applied([int(position in rows)])
        else:
            return self._increment(rows, position, operation)
        return None

    def _increment(
        self, rows: dict[tuple[int, bytes], bytes], position: tuple[int, bytes], operation: Increment
    ) -> OperationResult:
        try:
            total = int(rows.get(position, b"0")) + operation.by
        except ValueError:
            return Impossible(0, "the value is no integer")
        rows[position] = b"%d" % total
        return Applied([total])

    def _expire(self, key: bytes, ttl_ms: int) -> None:
        self.expiries[key] = NOW_MS + ttl_ms if ttl_ms > 0 else 0

    def _scan(self, node: str, request: Scan) -> ScanPage:
        rows = {
            key: value
            for (microshard, key), value in self.rows[request.shard].items()
            if key >= request.start
            and (not request.end or key < request.end)
            and microshard in set(microshards_in(request.ranges))
        }
        keys = sorted(rows, reverse=request.reverse)
        resume = None
        page_rows = min(request.max_rows, self.script.page_rows)
        if len(keys) > page_rows:
            keys = keys[:page_rows]
            resume = keys[-1] if request.reverse else keys[-1] + b"\0"
        values = [] if request.keys_only else [rows[key] for key in keys]
        return ScanPage(request.request, self.seq, node, keys, values, [7] * len(keys), resume)

    def _status(self, node: str, number: int) -> StatusReply:
        return StatusReply(
            request=number,
            node=node,
            cluster="fake",
            incarnation="i1",
            software="0.1.0",
            uptime_ms=61_000,
            map_version=self.version,
            connected_peers=tuple(peer for peer in NODES if peer != node),
            not_writable=self.script.not_writable.get(node, ""),
            disk_free_bytes=5 * 1024**3,
            replicas=tuple(self._replica(node, shard) for shard in self.shards),
            not_leading=self.script.not_leading.get(node, ""),
        )

    def _replica(self, node: str, shard: int) -> ReplicaStatus:
        leader = self.script.leaders[shard]
        peers = tuple(
            PeerProgress(
                peer,
                "voter",
                LOG_INDEX - self.script.lags.get((shard, peer), 0),
                "replicate",
                (shard, peer) not in self.script.deaf,
            )
            for peer in NODES
            if peer != node
        )
        return ReplicaStatus(
            shard=shard,
            role="leader" if leader == node else "voter",
            leader=leader or "",
            term=3,
            seq=42,
            last_index=LOG_INDEX,
            commit_index=LOG_INDEX,
            applied_index=LOG_INDEX,
            first_index=1,
            lease_ms=900,
            voters=NODES,
            followers=(),
            peers=peers if leader == node else (),
            failure=self.script.failed.get((shard, node)),
            ranges=ranges_of(self._held(shard)),
        )


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    cluster = FakeCluster()
    yield cluster
    cluster.close()


class Shell:
    """Runs `shoal` commands in this process, with the URL of a cluster in the environment."""

    def __init__(self, url: str) -> None:
        self._runner = typer.testing.CliRunner()
        self._url = url

    def __call__(self, *arguments: str, stdin: bytes | None = None, code: int = 0) -> typer.testing.Result:
        result = self._runner.invoke(app, list(arguments), input=stdin, env={"SHOAL_URL": self._url})
        assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
        return result


@pytest.fixture
def shoal(fake: FakeCluster) -> Shell:
    return Shell(fake.url)
