"""What neighbours hold open at a node of its own process, and that others are served beside it and memory comes back."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import shoal
from shoal.admin.connection import AdminConnection
from shoal.errors import ErrorCode
from shoal.priorities import OverloadReason
from shoal.protocol.frames import HEADER_BYTES, answer_decoder, encode_frame, greeting_decoder
from shoal.protocol.messages import Hello, Ping, Read, Refused, Welcome, Working
from shoal.protocol.version import NEWEST, OLDEST
from shoal.shardmap import Routes
from shoal_chaos.clusters.process_cluster import ProcessCluster
from shoal_server.api.generated import shoal_pb2 as pb
from shoal_server.api.generated import shoal_pb2_grpc
from shoal_server.grpc_places import STREAMS_MAX
from shoal_server.local.layout import free_ports, generated_config
from shoal_server.places import reserved_places

from .real import real_nodes

MIB = 1024 * 1024
PATIENCE_SECONDS = 30.0
LITTLE_MEMORY = "limits: {memory: 384MiB, client_stall: 2s}\nstorage: {block_cache: 8MiB, write_buffer: 8MiB}\n"
HALF_FRAMES = 24
NEVER_READ = 16
SLOW_HEADS = 100
STREAMS_OF_A_CHANNEL = 64
PLACES = 6


class Wire:
    """A bare connection that has greeted."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader

    @classmethod
    async def open(
        cls, port: int, receive_bytes: int | None = None, source: str = "127.0.0.1"
    ) -> tuple[Wire, Welcome | Refused]:
        connected = socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
        if receive_bytes is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        wire = cls(*await asyncio.open_connection(sock=connected, limit=receive_bytes or 1 << 16))
        wire.writer.write(encode_frame([Hello("client", OLDEST, NEWEST)]))
        (greeting,) = greeting_decoder.decode(await wire._body())
        assert isinstance(greeting, Welcome | Refused)
        return wire, greeting

    async def _body(self) -> bytes:
        async with asyncio.timeout(PATIENCE_SECONDS):
            header = await self._reader.readexactly(HEADER_BYTES)
            return await self._reader.readexactly(struct.unpack(">II", header)[0])

    async def is_served(self) -> bool:
        self.writer.write(encode_frame([Ping(1)]))
        return not isinstance((await self.last_words())[0], Refused)

    async def last_words(self) -> list[object]:
        """Return the next answers that are more than a sign of life."""
        while True:
            said = [answer for answer in answer_decoder.decode(await self._body()) if not isinstance(answer, Working)]
            if said:
                return list(said)


@asynccontextmanager
async def one_node(
    folder: Path, extra: str = "", *, admin: int | None = None, metrics: int | None = None
) -> AsyncIterator[ProcessCluster]:
    """Run a node of its own process."""

    def layout(ports: object) -> str:
        return generated_config(
            1,
            ports,  # type: ignore[arg-type]
            admin_ports=[] if admin is None else [admin],
            metrics_ports=[] if metrics is None else [metrics],
        )

    cluster = real_nodes(folder, extra, nodes=1, layout=layout)
    try:
        cluster.start_all()
        await cluster.ready()
        yield cluster
        assert not cluster.take_exits()
    finally:
        await cluster.kill_all()


@asynccontextmanager
async def opened(
    port: int, count: int, receive_bytes: int | None = None, source: str = "127.0.0.1"
) -> AsyncIterator[list[Wire]]:
    """Keep so many connections for the length of an `async with` block."""
    wires: list[Wire] = []
    try:
        for _ in range(count):
            wire, greeting = await Wire.open(port, receive_bytes, source)
            wires.append(wire)
            assert isinstance(greeting, Welcome), greeting
        yield wires
    finally:
        for wire in wires:
            wire.writer.transport.abort()


async def held(port: int, account: str) -> int:
    """Return what the node says that it holds for something (bytes)."""
    async with await AdminConnection.open(f"127.0.0.1:{port}", PATIENCE_SECONDS) as connection:
        uses = (await connection.status()).memory
    return next(use.used_bytes for use in uses if use.account == account)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_half_frames_of_many_are_ended_in_words_and_their_memory_is_given_back(tmp_path: Path) -> None:
    async with (
        one_node(tmp_path, LITTLE_MEMORY) as cluster,
        shoal.AsyncClient(cluster.url, timeout=PATIENCE_SECONDS) as db,
        opened(cluster.ports[0], HALF_FRAMES) as wires,
    ):
        (port,) = cluster.ports
        for wire in wires:
            wire.writer.write(struct.pack(">II", 8 * MIB, 0) + bytes(MIB))
        await until(lambda: _is_above(held(port, "frames"), 4 * MIB))
        await db.put("large", b"v" * (MIB // 2))
        assert await db.get("large") == b"v" * (MIB // 2)
        said = [(await wire.last_words())[0] for wire in wires]
        assert all(isinstance(words, Refused) for words in said)
        assert all("frame" in words.message for words in said if isinstance(words, Refused))
        await until(lambda: _is_above(held(port, "frames"), 0, negated=True))
        assert await db.get("large") == b"v" * (MIB // 2)


async def test_half_frames_of_one_address_leave_a_slower_client_of_another_its_own(tmp_path: Path) -> None:
    async with (
        one_node(tmp_path, LITTLE_MEMORY) as cluster,
        opened(cluster.ports[0], 2 * HALF_FRAMES, source="127.0.0.2") as crowd,
        opened(cluster.ports[0], 1) as (slow,),
    ):
        frame = encode_frame([Read(1, 1, 1, 20_000, [bytes(1000)] * 400)])
        sent = len(frame) // 4
        slow.writer.write(frame[:sent])
        await until(lambda: _is_above(held(cluster.ports[0], "frames"), 0))
        for wire in crowd:
            wire.writer.write(struct.pack(">II", 16 * MIB - 8, 0) + bytes(MIB))
        endings = {wire: asyncio.create_task(wire.last_words()) for wire in crowd}

        def has_most(ending: asyncio.Task[list[object]]) -> bool:
            return ending.done() and "of all that are slow most is of this address" in str(ending.result()[0])

        async with asyncio.timeout(PATIENCE_SECONDS):
            # All go on, the crowd a hundred times faster, until frames give way that have had their time.
            while not any(map(has_most, endings.values())):
                for wire, ending in endings.items():
                    if not ending.done():
                        wire.writer.write(bytes(50_000))
                slow.writer.write(frame[sent : sent + 500])
                sent += 500
                await asyncio.sleep(0.05)
        slow.writer.write(frame[sent:])
        assert not isinstance((await slow.last_words())[0], Refused)
        for ending in endings.values():
            ending.cancel()


async def _is_above(amount: Awaitable[int], bound: int, *, negated: bool = False) -> bool:
    return (await amount > bound) != negated


async def test_clients_that_never_read_go_and_what_was_made_for_them_is_given_back(tmp_path: Path) -> None:
    async with (
        one_node(tmp_path, LITTLE_MEMORY) as cluster,
        shoal.AsyncClient(cluster.url, timeout=PATIENCE_SECONDS) as db,
    ):
        (port,) = cluster.ports
        await db.put("large", b"v" * MIB)
        async with opened(port, NEVER_READ, receive_bytes=4096) as wires:
            (_, greeting) = await Wire.open(port)
            assert isinstance(greeting, Welcome)
            routes = Routes(greeting.shard_map)
            (keyspace,) = routes.map.keyspaces
            shard = routes.shard_of(keyspace, b"large")
            asked = [Read(number, shard, keyspace.id, 20_000, [b"large"] * 4) for number in range(8)]
            for wire in wires:
                wire.writer.write(encode_frame(asked))
            await until(lambda: _is_above(held(port, "answers"), 4 * MIB))

            async def all_ended() -> bool:
                await db.put("others", "are served")
                return cluster.log_of("n1").count("client_cut_off") >= NEVER_READ

            await until(all_ended)
            assert await db.get("others") == b"are served"
            await until(lambda: _is_above(held(port, "answers"), MIB, negated=True))


async def test_slow_heads_of_requests_do_not_shut_out_health_pages(tmp_path: Path) -> None:
    (metrics,) = free_ports(1)

    async def page(path: str) -> bytes:
        async with asyncio.timeout(PATIENCE_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", metrics)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: n1\r\n\r\n".encode())
            said = await reader.readline()
            writer.transport.abort()
            return said

    async def is_ready() -> bool:
        return b" 200 " in await page("/readyz")

    async with one_node(tmp_path, metrics=metrics):
        await until(is_ready)
        slow = []
        for number in range(SLOW_HEADS):
            _, writer = await asyncio.open_connection("127.0.0.1", metrics)
            writer.write(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
            slow.append(writer)
            if number % 10 == 0:
                assert b" 200 " in await page("/healthz")
        assert await is_ready()
        assert b" 200 " in await page("/metrics")
        for writer in slow:
            writer.transport.abort()


async def test_streams_that_say_nothing_give_way(tmp_path: Path) -> None:
    (admin,) = free_ports(1)
    async with one_node(tmp_path, admin=admin), AsyncExitStack() as stack:
        streams: list[grpc.aio.StreamStreamCall[pb.BatchRequest, pb.BatchResponse]] = []
        for _ in range(STREAMS_MAX // STREAMS_OF_A_CHANNEL + 1):
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{admin}", options=[("grpc.use_local_subchannel_pool", 1)])
            )
            stub = shoal_pb2_grpc.ShoalStub(channel)
            streams += [stub.Batch() for _ in range(STREAMS_OF_A_CHANNEL)]

        async def some_were_refused() -> bool:
            return any(stream.done() for stream in streams)

        await until(some_were_refused)
        full = next(stream for stream in streams if stream.done())
        assert await full.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "streams are open, the most that may" in await full.details()
        assert not (await stub.Exists(pb.ExistsRequest(key=b"none"), timeout=PATIENCE_SECONDS)).exists
        before = sum(stream.done() for stream in streams)

        async def newcomer_is_served() -> bool:
            try:
                async for _ in stub.Transact(
                    iter([pb.TransactRequest(begin={}), pb.TransactRequest(get=b"none")]), timeout=PATIENCE_SECONDS
                ):
                    return True
            except grpc.aio.AioRpcError:
                pass  # refused, or so soon that gRPC could not send all of it: no stream has been idle for long enough
            return False

        await until(newcomer_is_served)
        assert sum(stream.done() for stream in streams) > before


async def test_a_full_node_says_so_and_clients_come_in_when_there_is_a_place(tmp_path: Path) -> None:
    async with one_node(tmp_path, f"limits: {{max_clients: {PLACES}}}\n") as cluster:
        (port,) = cluster.ports
        # Of which some are for the machines of the cluster, as this one is.
        async with opened(port, PLACES + reserved_places(PLACES)) as wires:
            assert all([await wire.is_served() for wire in wires])
            _, refused = await Wire.open(port)
            assert isinstance(refused, Refused)
            assert refused.code == ErrorCode.OVERLOADED.value
            assert refused.reason == OverloadReason.CONNECTION.value
            assert f"{len(wires)} clients are connected" in refused.message
            assert "limits.max_clients" in refused.message

            async def call() -> bytes | None:
                async with shoal.AsyncClient(cluster.url, timeout=PATIENCE_SECONDS) as db:
                    await db.put("key", "value")
                    return await db.get("key")

            calling = asyncio.create_task(call())
            while "connection_refused" not in cluster.log_of("n1") and not calling.done():
                await asyncio.sleep(0.05)
            assert not calling.done()
            wires[0].writer.transport.abort()
            assert await calling == b"value"
