"""An answer to a call that is over is nobody's fault: nothing is logged, and it counts as cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog.testing
from shoal_server.api.batch import BatchService
from shoal_server.api.calls import Reply, dialogue, feed
from shoal_server.api.gateway import Gateway
from shoal_server.api.generated import shoal_pb2 as pb
from shoal_server.node.settings import Limits
from shoal_server.observe.api_counters import ApiCounters


class OpenGate:
    """A node that serves."""

    tracing = None

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.counters = ApiCounters(1, 1)

    def check(self) -> None:
        return


class EndedCall:
    """The context of a call whose answers find no way any more, though nobody has cancelled its task yet."""

    def time_remaining(self) -> None:
        return None

    def invocation_metadata(self) -> tuple[()]:
        return ()

    async def write(self, message: Any) -> None:
        raise grpc.aio.InternalError("Failed to send a message")

    async def abort(self, *_: object) -> None:
        pytest.fail("there is nobody to be told")


async def one_page(request: Any, reply: Reply, seconds: float | None) -> None:
    await reply(pb.ScanPage())


async def one_answer(requests: AsyncIterator[Any], reply: Reply, seconds: float | None) -> None:
    async for _ in requests:
        await reply(pb.BatchReply())


@pytest.mark.parametrize("kind", ["feed", "dialogue"])
async def test_an_answer_to_a_call_that_is_over_ends_the_call_as_cancelled(kind: str) -> None:
    gate = OpenGate()
    call: Callable[[Any, Any], Awaitable[None]]
    if kind == "feed":
        call, asked = feed(gate, pb.ScanRequest, one_page).unary_stream, pb.ScanRequest()
    else:
        call, asked = dialogue(gate, pb.BatchRequest, one_answer).stream_stream, requests(pb.BatchRequest())
    with structlog.testing.capture_logs() as events, pytest.raises(asyncio.CancelledError):
        await call(asked, EndedCall())
    assert events == []
    ended = next(family for family in gate.counters.families() if family.name == "shoal_api_calls")
    assert [(sample.labels["code"], sample.value) for sample in ended.samples] == [("CANCELLED", 1)]


async def test_a_batch_whose_answers_find_no_way_any_more_is_no_fault_of_the_node() -> None:
    """It goes on to the end of its requests, or until gRPC cancels it."""
    gate = OpenGate()
    service = BatchService(Gateway("127.0.0.1:1", ""), Limits())
    refused = pb.BatchRequest(timeout_ms=-1, operations=[pb.BatchOperation(id=1, get=b"a")])
    with structlog.testing.capture_logs() as events:
        await dialogue(gate, pb.BatchRequest, service.batch).stream_stream(requests(refused), EndedCall())
    assert events == []


async def requests(*messages: Any) -> AsyncIterator[Any]:
    for message in messages:
        yield message
