"""Callers that begin calls and give them up, send messages by the dozen or half of one: what others feel of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from shoal_server import grpc_places
from shoal_server.api.front import front, resets
from shoal_server.api.front.requests import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE_BYTES,
    RST_STREAM,
    SETTINGS,
    frame,
)
from shoal_server.api.generated import shoal_pb2 as pb
from shoal_server.api.generated import shoal_pb2_grpc
from shoal_server.api.server import ApiServer
from shoal_server.config import NodeConfig
from shoal_server.local.layout import free_ports
from shoal_server.node.memory import Account, MemoryBudget
from shoal_server.node.settings import Limits

PATIENCE_SECONDS = 20.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")
assert len(PREFACE) == PREFACE_BYTES + 9


def literal(name: bytes, value: bytes) -> bytes:
    """A header without any table."""
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


def head(method: str) -> bytes:
    return (
        b"\x83\x86"
        + literal(b":path", f"/shoal.v1.Shoal/{method}".encode())
        + literal(b":authority", b"x")
        + literal(b"content-type", b"application/grpc")
        + literal(b"te", b"trailers")
    )


class Wire:
    """A connection whose frames are made by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def frames(self) -> list[tuple[int, bytes]]:
        """Return the kinds and bodies of what comes until the other side ends it."""
        found: list[tuple[int, bytes]] = []
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    header = await self._reader.readexactly(9)
                    found.append((header[3], await self._reader.readexactly(int.from_bytes(header[:3]))))
        except (asyncio.IncompleteReadError, ConnectionError):
            return found


class Api:
    """A server of the API in this process, before a node."""

    def __init__(self, server: ApiServer, memory: MemoryBudget, port: int, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.memory = memory
        self.port = port
        self.stub = shoal_pb2_grpc.ShoalStub(channel)
        self.wires: list[Wire] = []

    async def dial(self, said: bytes = b"") -> Wire:
        wire = Wire(*await asyncio.open_connection("127.0.0.1", self.port))
        wire.writer.write(PREFACE + frame(SETTINGS, 1, 0, b"") + said)
        self.wires.append(wire)
        return wire

    async def is_served(self) -> bool:
        return not (await self.stub.Exists(pb.ExistsRequest(key=b"front/none"), timeout=PATIENCE_SECONDS)).exists

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():
                await asyncio.sleep(0.01)


@pytest.fixture
def running(one_node: Any, api: Any) -> Callable[[], Any]:
    """Return how to run one: `async with running() as api`."""

    @asynccontextmanager
    async def run(memory_bytes: int = 0, limits: Limits | None = None) -> AsyncIterator[Api]:
        (port,) = free_ports(1)
        memory = MemoryBudget(memory_bytes)
        entry = NodeConfig(id="n9", address=one_node.address, data=Path("unused"))
        server = ApiServer(f"127.0.0.1:{port}", entry, Limits() if limits is None else limits, memory=memory)
        await server.start()
        server.serve()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                found = Api(server, memory, port, channel)
                yield found
                for wire in found.wires:
                    wire.writer.transport.abort()
        finally:
            await server.stop(0.0)

    return run


async def test_calls_that_are_begun_and_given_up_are_few_and_whoever_makes_more_is_cut_off(running, monkeypatch):
    monkeypatch.setattr(resets, "RATE", 1.0)
    monkeypatch.setattr(resets, "BURST", 100.0)
    monkeypatch.setattr(front, "RESETTING_MAX", 4)
    flood = b"".join(
        frame(HEADERS, END_HEADERS, stream, head("Get")) + frame(RST_STREAM, 0, stream, (8).to_bytes(4, "big"))
        for stream in range(1, 4001, 2)
    )
    async with running() as api:
        assert await api.is_served()
        wires = [await api.dial(flood) for _ in range(10)]
        assert await api.is_served()
        await api.until(lambda: api.server._front.gave_way >= 6)
        # Of 20,000 calls gRPC has been given those that one may give up, and those that wait for it.
        begun = sum(wire.requests._last // 2 + 1 for wire in api.server._front.connections.values())
        assert begun < 1000
        assert await api.is_served()
        said = await wires[0].frames()
        kind, words = said[-1]
        assert kind == GOAWAY
        assert b"given up at once" in words


async def test_a_connection_of_whom_has_given_up_too_many_is_not_begun(running, monkeypatch):
    monkeypatch.setattr(resets, "RATE", 1.0)
    monkeypatch.setattr(resets, "BURST", 50.0)
    heads = b"".join(frame(HEADERS, END_HEADERS, stream, head("Get")) for stream in range(1, 201, 2))
    async with running() as api:
        assert await api.is_served()
        wire = await api.dial(heads)
        await api.until(lambda: max(len(each.requests.calls) for each in api.server._front.connections.values()) == 100)
        wire.writer.transport.abort()
        await api.until(lambda: len(api.server._front.connections) == 1)
        await api.dial(heads)
        await api.until(lambda: len(api.server._front.connections) == 2)
        newest = list(api.server._front.connections.values())[-1]
        await asyncio.sleep(0.1)
        assert not newest.is_open
        assert await api.is_served()


async def test_messages_that_come_at_once_take_turns_in_the_memory_there_is(running):
    async with running() as api:
        account, most = Account.CALLS, 0
        bound = api.memory.bound(account)

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, api.memory.used(account))
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        rows = [pb.Row(key=b"front/%d" % number, value=bytes(900_000)) for number in range(4)]
        request = pb.PutManyRequest(rows=rows)
        size = request.ByteSize()
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{api.port}", options=options) for _ in range(8)]
        stubs = [shoal_pb2_grpc.ShoalStub(channel) for channel in channels]
        await asyncio.gather(*(stub.PutMany(request, timeout=PATIENCE_SECONDS) for stub in stubs))
        watching.cancel()
        assert 8 * size > 2 * bound
        assert size <= most <= max(bound, size)
        await api.until(lambda: api.memory.used(account) == 0)
        for channel in channels:
            await channel.close()


async def test_a_stream_gives_back_what_is_answered(running):
    async with running() as api:
        stream = api.stub.Batch(timeout=PATIENCE_SECONDS)
        put = pb.Put(key=b"front/batch", value=bytes(900_000))
        for number in range(20):
            await stream.write(pb.BatchRequest(operations=[pb.BatchOperation(id=number, put=put)]))
            await stream.read()
        await api.until(lambda: api.memory.used(Account.CALLS) == 0)
        await stream.done_writing()


async def test_half_a_message_gives_way_to_whole_ones(running, monkeypatch):
    monkeypatch.setattr(front, "SLOW_SECONDS", 0.2)
    monkeypatch.setattr(front, "LOOK_SECONDS", 0.05)
    half = b"\x00" + (9_000_000).to_bytes(4, "big") + bytes(1000)
    begun = frame(HEADERS, END_HEADERS, 1, head("PutMany")) + frame(DATA, 0, 1, half)
    async with running() as api:
        slow = await api.dial(begun)
        await api.until(lambda: api.memory.used(Account.CALLS) >= 9_000_000)
        assert await api.is_served()
        value = bytes(900_000)
        await api.stub.Put(pb.PutRequest(key=b"front/whole", value=value), timeout=PATIENCE_SECONDS)
        kind, words = (await slow.frames())[-1]
        assert kind == GOAWAY
        assert b"comes slowest" in words


async def test_who_says_that_a_call_is_somebody_elses_is_not_believed(running):
    request = pb.ExistsRequest(key=b"front/none").SerializeToString()
    body = b"\x00" + len(request).to_bytes(4, "big") + request
    async with running() as api:
        assert await api.is_served()
        (other,) = api.server._front.connections
        seen: list[Any] = []
        caller = api.server._front.caller

        def noted(metadata: Any) -> Any:
            seen.append([value for key, value in metadata if key == "shoal-call"][-1])
            return caller(metadata)

        api.server._front.caller = noted
        false = literal(b"shoal-call", f"{other}.1".encode())
        wire = await api.dial(frame(HEADERS, END_HEADERS, 1, head("Exists") + false) + frame(DATA, END_STREAM, 1, body))
        await api.until(lambda: bool(seen))
        assert seen[0] == f"{max(api.server._front.connections)}.1"
        assert seen[0] != f"{other}.1"
        del wire


async def test_who_reads_no_answers_holds_no_room_that_others_wait_for(running, monkeypatch):
    monkeypatch.setattr(front, "SLOW_SECONDS", 0.2)
    monkeypatch.setattr(front, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(grpc_places, "UNREAD_SECONDS", 0.2)
    async with running() as api:
        value = bytes(900_000)
        await api.stub.Put(pb.PutRequest(key=b"front/large", value=value), timeout=PATIENCE_SECONDS)
        gets = [pb.BatchOperation(id=number, get=b"front/large") for number in range(20)]
        puts = [pb.BatchOperation(id=number, put=pb.Put(key=b"front/%d" % number, value=value)) for number in range(7)]
        stream = api.stub.Batch(timeout=PATIENCE_SECONDS)
        await stream.write(pb.BatchRequest(operations=[*gets, *puts]))
        rows = [pb.Row(key=b"front/%d" % number, value=value) for number in range(7)]
        await api.until(lambda: api.memory.used(Account.CALLS) > 6_000_000)
        await api.stub.PutMany(pb.PutManyRequest(rows=rows), timeout=PATIENCE_SECONDS)
        await api.until(lambda: api.memory.used(Account.CALLS) == 0)
        stream.cancel()


async def test_an_answer_that_nobody_reads_holds_no_room(running):
    window = frame(SETTINGS, 0, 0, (4).to_bytes(2) + (0).to_bytes(4))
    request = pb.PutManyRequest(rows=[pb.Row(key=b"front/unread", value=bytes(500_000))]).SerializeToString()
    body = b"\x00" + len(request).to_bytes(4, "big") + request
    pieces = [body[at : at + 16_000] for at in range(0, len(body), 16_000)]
    async with running() as api:
        wire = await api.dial(window + frame(HEADERS, END_HEADERS, 1, head("PutMany")))
        wire.writer.write(b"".join(frame(DATA, 0, 1, piece) for piece in pieces[:4]))
        await api.until(lambda: api.memory.used(Account.CALLS) > 500_000)
        # gRPC has asked for more by now, as it does for a message whose length it knows.
        wire.writer.write(b"".join(frame(DATA, 0, 1, piece) for piece in pieces[4:]) + frame(DATA, END_STREAM, 1, b""))
        await api.until(lambda: api.memory.used(Account.CALLS) == 0)
        assert any(each.requests.calls for each in api.server._front.connections.values())
