"""The API's server from its start to its end: who is turned away when, and what open calls come to."""

from __future__ import annotations

import asyncio
import queue
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from shoal_server.api import server as server_module
from shoal_server.api.calls import seconds_left
from shoal_server.api.server import ApiServer
from shoal_server.api.service import DataService
from shoal_server.config import NodeConfig
from shoal_server.local.layout import free_ports, generated_config
from shoal_server.node.settings import Limits
from shoal_server.process.server import EXIT_REFUSED

PATIENCE_SECONDS = 10.0


class Talk:
    """A transaction that stays open until it is told to end."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self._requests: queue.Queue[Any] = queue.Queue()
        self._answers = api.method("Transact")(iter(self._requests.get, None), timeout=30)

    def begin(self) -> None:
        """Return once the node is at work on it."""
        self._requests.put(self._api.message("TransactRequest", begin={}))
        self._requests.put(self._api.message("TransactRequest", get=b"life/none"))
        next(self._answers)

    def end(self) -> None:
        """Return once it is over."""
        self._requests.put(None)
        assert list(self._answers) == []


@pytest.fixture
def own_server(one_node: Any, api: Any, reflected_api: Callable[[str], Any]) -> Callable[[], Any]:
    """Return how to run a server of the API in this process, before the node: `async with own_server() as (server, api)`."""

    @asynccontextmanager
    async def run(address: str = one_node.address) -> AsyncIterator[tuple[ApiServer, Any]]:
        (port,) = free_ports(1)
        entry = NodeConfig(id="n9", address=address, data=Path("unused"))
        server = ApiServer(f"127.0.0.1:{port}", entry, Limits())
        await server.start()
        try:
            yield server, reflected_api(f"127.0.0.1:{port}")
        finally:
            if not server.stopping.is_set():
                await server.stop(0.0)

    return run


async def test_before_the_node_serves_calls_are_turned_away_and_health_says_so(own_server):
    async with own_server() as (server, api):
        assert await asyncio.to_thread(api.health) == "NOT_SERVING"
        for method, fields in (("Get", {"key": b"a"}), ("Scan", {})):
            code, error = await asyncio.to_thread(api.refusal, method, **fields)
            assert code is grpc.StatusCode.UNAVAILABLE
            assert error.retryable
            assert "node n9 is starting" in error.message
        server.serve()
        await asyncio.to_thread(api.wait_until_serving)
        assert await asyncio.to_thread(api.health, "") == "SERVING"
        assert not (await asyncio.to_thread(api.call, "Exists", key=b"life/none")).exists


async def test_a_call_that_nobody_serves_ends_at_its_deadline(own_server):
    (nobody,) = free_ports(1)
    async with own_server(f"127.0.0.1:{nobody}") as (server, api):
        server.serve()
        await asyncio.to_thread(api.wait_until_serving)
        request = api.message("GetRequest", key=b"a")
        with pytest.raises(grpc.RpcError) as late:
            await asyncio.to_thread(api.method("Get"), request, timeout=0.5)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(("left", "seconds"), [(None, None), (10.0, 9.95), (0.1, 0.095), (-1.0, 0.001)])
def test_a_node_gives_up_a_little_before_the_deadline(left, seconds):
    class Context:
        def time_remaining(self) -> float | None:
            return left

    assert seconds_left(Context()) == seconds


async def test_a_batch_that_is_open_at_the_end_is_answered_before_it_ends(own_server, api):
    requests: queue.Queue[Any] = queue.Queue()
    async with own_server() as (server, other):
        server.serve()
        await asyncio.to_thread(other.wait_until_serving)
        answers = other.method("Batch")(iter(requests.get, None), timeout=30)
        for number in range(50):
            operations = [{"id": number, "put": {"key": b"end/%d" % number, "value": b"1"}}]
            requests.put(other.message("BatchRequest", operations=operations))
        first = await asyncio.to_thread(next, answers)
        ended = asyncio.create_task(server.stop(PATIENCE_SECONDS))
        rest, error = await asyncio.to_thread(_drain, answers)
        await ended
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "node n9 is stopping" in error.details()
        done = {result.id for answer in [first, *rest] for result in answer.results if result.seq}
        requests.put(None)
    there = await asyncio.to_thread(api.call, "GetMany", keys=[b"end/%d" % number for number in range(50)])
    assert {number for number, value in enumerate(there.values) if value.HasField("value")} == done


async def test_a_transaction_that_is_open_at_the_end_has_done_nothing(own_server, api):
    requests: queue.Queue[Any] = queue.Queue()
    async with own_server() as (server, other):
        server.serve()
        await asyncio.to_thread(other.wait_until_serving)
        answers = other.method("Transact")(iter(requests.get, None), timeout=30)
        requests.put(other.message("TransactRequest", begin={}))
        requests.put(other.message("TransactRequest", put={"key": b"end-tx/a", "value": b"1"}))
        requests.put(other.message("TransactRequest", get=b"end-tx/a"))
        assert (await asyncio.to_thread(next, answers)).get.value == b"1"
        await server.stop(PATIENCE_SECONDS)
        _, error = await asyncio.to_thread(_drain, answers)
        requests.put(None)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert not (await asyncio.to_thread(api.call, "Exists", key=b"end-tx/a")).exists


async def test_those_who_watch_the_health_hear_of_the_end(own_server):
    async with own_server() as (server, other):
        server.serve()
        await asyncio.to_thread(other.wait_until_serving)
        request = health_pb2.HealthCheckRequest(service="shoal.v1.Shoal")
        watch = health_pb2_grpc.HealthStub(other.channel).Watch(request, timeout=30)
        assert (await asyncio.to_thread(next, watch)).status == health_pb2.HealthCheckResponse.SERVING
        ended = asyncio.create_task(server.stop(PATIENCE_SECONDS))
        assert (await asyncio.to_thread(next, watch)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await ended


async def test_health_and_reflection_answer_while_data_calls_are_turned_away(own_server, monkeypatch):
    monkeypatch.setattr(server_module, "CALLS_MAX", 2)
    held = asyncio.Event()
    exists = DataService.exists

    async def slow(self: DataService, request: Any, seconds: float | None) -> Any:
        while request.key == b"held" and not held.is_set():
            await asyncio.sleep(0.01)
        return await exists(self, request, seconds)

    monkeypatch.setattr(DataService, "exists", slow)
    async with own_server() as (server, api):
        server.serve()
        await asyncio.to_thread(api.wait_until_serving)
        calls = [asyncio.create_task(asyncio.to_thread(api.call, "Exists", key=b"held")) for _ in range(2)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while server.counters.unary.open < 2:
                await asyncio.sleep(0.01)
        code, error = await asyncio.to_thread(api.refusal, "Get", key=b"a")
        assert (code, error.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
        assert "the node has 2 calls under way" in error.message
        assert (error.retryable, error.maybe_applied, error.retry_after_ms) == (True, False, 1000)
        assert error.reason == "connection"
        assert await asyncio.to_thread(api.health) == "SERVING"
        assert "shoal.v1.Shoal" in await asyncio.to_thread(api.database.get_services)
        found = {family.name: family.samples[0].value for family in server.counters.families()}
        assert (found["shoal_api_calls_open"], found["shoal_api_calls_limit"]) == (2, 2)
        held.set()
        await asyncio.gather(*calls)
        assert not (await asyncio.to_thread(api.call, "Exists", key=b"life/none")).exists


async def test_those_who_watch_the_health_take_nobody_elses_place(own_server, monkeypatch):
    monkeypatch.setattr(server_module, "CALLS_MAX", 2)
    request = health_pb2.HealthCheckRequest()
    async with own_server() as (server, api), grpc.aio.insecure_channel(api.address) as channel:
        monkeypatch.setattr(server._places.watches, "most", 24)
        server.serve()
        stub = health_pb2_grpc.HealthStub(channel)
        watches = []
        for _ in range(13):
            watch = stub.Watch(request, timeout=30)
            while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
                continue
            watches.append(watch)
        assert await watches[0].code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "this one does for longest" in await watches[0].details()
        assert not any(watch.done() for watch in watches[1:])
        assert (await stub.Check(request, timeout=30)).status == health_pb2.HealthCheckResponse.SERVING
        assert not (await asyncio.to_thread(api.call, "Exists", key=b"life/none")).exists
        for watch in watches:
            watch.cancel()


async def test_a_caller_that_asks_for_signs_of_life_is_not_cut_off(own_server, monkeypatch):
    monkeypatch.setattr(server_module, "PINGS_APART_MS", 50)
    pinging = (
        ("grpc.keepalive_time_ms", 1000),  # gRPC's callers do it no more often
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    )
    async with own_server() as (_, api), grpc.aio.insecure_channel(api.address, options=pinging) as channel:
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=4.0)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            async for _ in watching:
                pass
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_port_that_is_taken_is_an_error_that_names_it(one_node, api):
    entry = NodeConfig(id="n9", address=one_node.address, data=Path("unused"))
    with pytest.raises(OSError, match=one_node.admin):
        await ApiServer(one_node.admin, entry, Limits()).start()


def test_a_node_whose_port_for_grpc_is_taken_is_refused(one_node, api, tmp_path):
    (port,) = free_ports(1)
    config = tmp_path / "cluster.yaml"
    config.write_text(generated_config(1, [port], admin_ports=[one_node.admin_port]))
    command = [sys.executable, "-m", "shoal.cli", "node", "--config", str(config), "--id", "n1"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert ended.returncode == EXIT_REFUSED
    assert f"cannot listen on {one_node.admin}" in ended.stderr.decode()


def test_a_node_without_tls_that_is_told_to_reload_says_that_there_is_nothing_and_goes_on(one_node, api):
    one_node.process.send_signal(signal.SIGHUP)
    while '"nothing_to_reload"' not in one_node.log:
        assert not api.call("Exists", key=b"life/none").exists


def _drain(answers: Any) -> tuple[list[Any], Any]:
    """Return what a stream still answers, and the error that it ends with."""
    found = []
    with pytest.raises(grpc.RpcError) as ended:
        for answer in answers:
            found.append(answer)
    return found, ended.value
