"""Calls that never get on: streams that say nothing, requests that never come, answers that nobody reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from shoal_server import grpc_places, places
from shoal_server.api import scan_places
from shoal_server.api.generated import shoal_pb2 as pb
from shoal_server.api.generated import shoal_pb2_grpc
from shoal_server.api.server import ApiServer
from shoal_server.config import NodeConfig
from shoal_server.local.layout import free_ports
from shoal_server.node.settings import Limits

PATIENCE_SECONDS = 20.0


class Api:
    """A server of the API in this process, before a node, and one who calls it."""

    def __init__(self, server: ApiServer, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.channel = channel
        self.stub = shoal_pb2_grpc.ShoalStub(channel)

    async def is_served(self) -> bool:
        return not (await self.stub.Exists(pb.ExistsRequest(key=b"places/none"), timeout=PATIENCE_SECONDS)).exists

    async def silent_call(self, method: str) -> Any:
        """Begin a call with one request, and never send that."""

        async def requests() -> AsyncIterator[Any]:
            await asyncio.Event().wait()
            yield None

        kind = self.channel.stream_unary(method, request_serializer=None, response_deserializer=None)
        return kind(requests(), timeout=PATIENCE_SECONDS)

    def calls(self) -> list[Any]:
        """Return the tasks of the server's calls that are under way."""
        return [task for task in asyncio.all_tasks(self.server._loop) if task.get_name().startswith("HandleExceptions")]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():
                await asyncio.sleep(0.01)


@pytest.fixture
def running(one_node: Any, api: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return how to run one: `async with running() as api`. It looks at its calls far more often than usual."""
    monkeypatch.setattr(grpc_places, "LOOK_SECONDS", 0.05)

    @asynccontextmanager
    async def run() -> AsyncIterator[Api]:
        (port,) = free_ports(1)
        server = ApiServer(
            f"127.0.0.1:{port}", NodeConfig(id="n9", address=one_node.address, data=Path("unused")), Limits()
        )
        await server.start()
        server.serve()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Api(server, channel)
        finally:
            await server.stop(0.0)

    return run


async def ended(call: Any) -> tuple[grpc.StatusCode, str]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await call.code(), await call.details()


async def test_streams_that_say_nothing_give_way_to_streams_and_take_nothing_from_calls(running, monkeypatch):
    monkeypatch.setattr(places, "NEWCOMER_IDLE_SECONDS", 0.2)
    async with running() as api:
        monkeypatch.setattr(api.server._places.streams, "most", 8)
        idle = [api.stub.Batch() for _ in range(8)]
        await api.until(lambda: len(api.server._places.streams) == 8)
        assert await api.is_served()
        refused = api.stub.Batch()
        code, words = await ended(refused)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "8 streams are open, the most this node takes" in words
        await asyncio.sleep(0.5)
        newcomer = api.stub.Transact()
        await newcomer.write(pb.TransactRequest(begin={}))
        await newcomer.write(pb.TransactRequest(get=b"places/none"))
        await newcomer.read()
        await api.until(lambda: any(call.done() for call in idle))
        (gone,) = [call for call in idle if call.done()]
        code, words = await ended(gone)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "this one has been idle for longest" in words
        for call in (*idle, newcomer):
            call.cancel()


async def test_a_stream_that_says_nothing_for_long_ends_in_words(running, monkeypatch):
    monkeypatch.setattr(grpc_places, "IDLE_SECONDS", 0.4)
    async with running() as api:
        batch, transact = api.stub.Batch(), api.stub.Transact()
        info = reflection_pb2_grpc.ServerReflectionStub(api.channel).ServerReflectionInfo()
        for call in (batch, transact, info):
            code, words = await ended(call)
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "nothing has gone over this stream for 0.4 s" in words
        await api.until(lambda: not len(api.server._places.streams))
        assert api.server.counters.streams.open == 0


async def test_a_stream_that_is_in_use_stays(running, monkeypatch):
    monkeypatch.setattr(grpc_places, "IDLE_SECONDS", 0.6)
    async with running() as api:
        transact = api.stub.Transact()
        await transact.write(pb.TransactRequest(begin={}))
        for _ in range(12):
            await transact.write(pb.TransactRequest(get=b"places/none"))
            await transact.read()
            await asyncio.sleep(0.1)
        assert not transact.done()
        transact.cancel()


@pytest.mark.parametrize("method", ["/shoal.v1.Shoal/Exists", "/shoal.v1.Shoal/Scan", "/grpc.health.v1.Health/Check"])
async def test_a_request_that_never_comes_is_waited_for_only_so_long(running, monkeypatch, method):
    monkeypatch.setattr(grpc_places, "REQUEST_SECONDS", 0.3)
    async with running() as api:
        code, words = await ended(await api.silent_call(method))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "no request within 0.3 s" in words
        assert len(api.server._places.coming) == 0


async def test_requests_that_never_come_keep_nobody_out(running, monkeypatch):
    async with running() as api:
        monkeypatch.setattr(api.server._places.coming, "most", 16)
        silent = [await api.silent_call("/shoal.v1.Shoal/Exists") for _ in range(40)]
        assert await api.is_served()
        health = health_pb2_grpc.HealthStub(api.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        await api.until(lambda: sum(call.done() for call in silent) >= 32)
        code, words = await ended(next(call for call in silent if call.done()))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "on its way for longest" in words
        for call in silent:
            call.cancel()


async def test_a_call_that_ends_before_its_request_is_told_so(running):
    async with running() as api:
        kind = api.channel.stream_unary("/shoal.v1.Shoal/Exists", request_serializer=None, response_deserializer=None)
        code, words = await ended(kind(iter(()), timeout=PATIENCE_SECONDS))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "ends before its request" in words


async def test_pages_that_nobody_reads_are_held_no_longer_and_keep_nobody_from_scanning(running, monkeypatch):
    monkeypatch.setattr(scan_places, "SCANS_MAX", 3)
    monkeypatch.setattr(scan_places, "UNREAD_SECONDS", 0.3)
    async with running() as api:
        # More than all that stands between has room for, which learns how much may be on its way.
        for part in range(4):
            keys = [f"places/{part}{number:03}".encode() for number in range(80)]
            rows = [pb.Row(key=key, value=bytes(100_000)) for key in keys]
            await api.stub.PutMany(pb.PutManyRequest(rows=rows), timeout=PATIENCE_SECONDS)
        unread = [api.stub.Scan(pb.ScanRequest(prefix=b"places/")) for _ in range(3)]
        await api.until(lambda: len(api.server._places.streams) == 3)
        await asyncio.sleep(0.5)
        read = 0
        async for page in api.stub.Scan(pb.ScanRequest(prefix=b"places/"), timeout=PATIENCE_SECONDS):
            read += len(page.rows)
        assert read == 320
        # Whoever does not read is not told either, before it does; what the node did for it has ended all the same.
        assert api.server.counters.streams.open < 3
        ended_words = []
        for scan in unread:
            try:
                async for _ in scan:
                    pass
            except grpc.aio.AioRpcError as error:
                ended_words.append(error.details())
        assert ended_words
        assert "nobody has read this scan's page" in ended_words[0]
        await api.until(lambda: not api.calls())
        assert len(api.server._places.streams) == 0
