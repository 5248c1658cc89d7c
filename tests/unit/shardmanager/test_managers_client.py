"""The client of the managers, and who answers it that is none, or does not answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from shoal.cli.failures import CommandFailed, ExitCode
from shoal_shardmanager.rpc.client import ManagersClient


class Silent(grpc.GenericRpcHandler):
    """Takes every call, and answers none before it is told to."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def wait(request: bytes, context: Any) -> bytes:
            self.ended.wait()
            return b""

        return grpc.unary_unary_rpc_method_handler(wait)


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Return how to have a gRPC server with these handlers; it returns the address."""
    servers: list[grpc.Server] = []

    def begin(*handlers: grpc.GenericRpcHandler) -> str:
        server = grpc.server(ThreadPoolExecutor(1), handlers)
        servers.append(server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return f"127.0.0.1:{port}"

    yield begin
    for server in servers:
        server.stop(None)


def failure(address: str, timeout_seconds: float) -> CommandFailed:
    client = ManagersClient([address], timeout_seconds)
    try:
        with pytest.raises(CommandFailed) as failed:
            client.cluster()
    finally:
        client.close()
    return failed.value


def test_the_port_of_somebody_else_is_told_from_a_managers(serve: Callable[..., str]) -> None:
    address = serve()
    assert f"{address} does not know this call" in str(failure(address, 10.0))


def test_managers_that_do_not_answer_are_named(serve: Callable[..., str]) -> None:
    silent = Silent()
    address = serve(silent)
    try:
        failed = failure(address, 0.3)
    finally:
        silent.ended.set()
    assert failed.exit_code == ExitCode.DEADLINE
    assert f"no answer from {address} within 0.3 s" in str(failed)
