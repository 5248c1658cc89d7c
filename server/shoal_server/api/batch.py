"""The batch stream: many operations in flight, each with an id, answered as they end.

Cost per operation is what counts here, so operations of one message are done together, in rounds, by a pipeline of the
client library. Rounds bound the memory: values may be large, and nobody knows before they are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

import shoal
from shoal.arguments import MAX_SECONDS
from shoal.errors import InvalidArgument, OutcomeUnknown, ShoalError
from shoal.options import DEFAULT_TIMEOUT_SECONDS
from shoal.pipelines import Result
from shoal.protocol.messages import Condition

from shoal_server.api.batch_operations import ERROR_BYTES, Options, queue, result_message, size_of
from shoal_server.api.calls import Reply
from shoal_server.api.convert import consistency_of, durability_of, max_staleness_of
from shoal_server.api.errors import error_message
from shoal_server.api.gateway import Gateway, token_of
from shoal_server.api.generated import shoal_pb2 as pb
from shoal_server.grpc_places import CALL
from shoal_server.node.settings import Limits

MESSAGES_IN_FLIGHT = 8
"""So many messages of a stream are worked on at once; the next is taken when one of them is answered."""
FIRST_ROUND = 16
ROUND_MIN = 4
ROUND_MAX = 2048
ROUND_BYTES = 2 << 20
"""The values that one round is to read, about: by what those of the last round were like."""
LEAST_SECONDS = 0.001
"""What is late already fails by the client library, as what is late later does."""
REPLY_BYTES = 1 << 20
"""An answer that has so much is sent: gRPC's callers take messages of 4 MiB, unless told otherwise."""


class BatchService:
    """Answers `Batch`."""

    def __init__(self, gateway: Gateway, limits: Limits) -> None:
        """
        Args:
            limits: of sizes, that the cluster has.
        """
        self._gateway = gateway
        self._limits = limits

    async def batch(self, requests: AsyncIterator[pb.BatchRequest], reply: Reply, seconds: float | None) -> None:
        """Do what comes, and answer it; what was begun is answered, whatever the stream ends with."""
        stream = _Stream(self._gateway, self._limits, reply, seconds)
        call = CALL.get()
        if call is not None:
            call.answers_itself = True
        failure: ShoalError | None = None
        async with asyncio.TaskGroup() as group:
            try:
                async for request in requests:
                    await stream.places.acquire()
                    group.create_task(stream.answer(request))
            except ShoalError as error:
                failure = error
        if failure is not None:
            raise failure


class _Stream:
    """One stream, and how much of it is under way."""

    def __init__(self, gateway: Gateway, limits: Limits, reply: Reply, seconds: float | None) -> None:
        self.places = asyncio.Semaphore(MESSAGES_IN_FLIGHT)
        self._gateway = gateway
        self._limits = limits
        self._reply = reply
        self._seconds = seconds
        self._writing = asyncio.Lock()
        self._round = FIRST_ROUND

    async def answer(self, request: pb.BatchRequest) -> None:
        """Do the operations of a message, and free its place."""
        operations = request.operations
        began = asyncio.get_running_loop().time()
        try:
            try:
                options = _options_of(request)
                client = await self._gateway.client(request, self._seconds)
            except ShoalError as error:
                await self._refuse(operations, error)
                return
            first = 0
            while first < len(operations):
                part = operations[first : first + self._round]
                first += len(part)
                await self._do(client, options, part, began + options.timeout)
            if request.HasField("session"):
                await self._send(pb.BatchReply(session=token_of(request, client)))
        finally:
            self.places.release()
            call = CALL.get()
            if call is not None:
                call.answered()

    async def _refuse(self, operations: Sequence[pb.BatchOperation], error: ShoalError) -> None:
        """Send an error as the result of each operation, in rounds: a message may have millions of empty ones."""
        refusal = error_message(error)
        for first in range(0, len(operations), ROUND_MAX):
            refusals = [pb.BatchResult(id=each.id, error=refusal) for each in operations[first : first + ROUND_MAX]]
            await self._send_all(refusals, [ERROR_BYTES] * len(refusals))

    async def _do(
        self, client: shoal.AsyncClient, options: Options, operations: Sequence[pb.BatchOperation], until: float
    ) -> None:
        """Do operations together, and send their results.

        Args:
            until: when they have to be done, on the event loop's clock.
        """
        pipeline = client.pipeline()
        queued: list[tuple[int, Sequence[Condition] | None]] = []
        messages: list[pb.BatchResult] = []
        for operation in operations:
            try:
                queued.append((operation.id, queue(pipeline, operation, options, self._limits)))
            except ShoalError as error:
                messages.append(pb.BatchResult(id=operation.id, error=error_message(error)))
        sizes = [ERROR_BYTES] * len(messages)
        results = await _execute(pipeline, until - asyncio.get_running_loop().time())
        sizes += map(size_of, results)
        messages += [
            result_message(number, result, conditions)
            for (number, conditions), result in zip(queued, results, strict=True)
        ]
        self._learn(len(operations), sum(sizes))
        await self._send_all(messages, sizes)

    def _learn(self, operations: int, size: int) -> None:
        """Let the next round be as large as values like these allow, but not much larger than it ever was."""
        fitting = ROUND_BYTES * operations // max(1, size)
        self._round = max(ROUND_MIN, min(fitting, 2 * self._round, ROUND_MAX))

    async def _send_all(self, results: Sequence[pb.BatchResult], sizes: Iterable[int]) -> None:
        """Send results, of sizes in bytes, in messages of bounded size."""
        first = size = 0
        for end, result_bytes in enumerate(sizes, 1):
            size += result_bytes
            if size >= REPLY_BYTES:
                await self._send(pb.BatchReply(results=results[first:end]))
                first, size = end, 0
        if first < len(results):
            await self._send(pb.BatchReply(results=results[first:]))

    async def _send(self, message: pb.BatchReply) -> None:
        async with self._writing:
            await self._reply(message)


def _options_of(request: pb.BatchRequest) -> Options:
    if not 0 <= request.timeout_ms <= MAX_SECONDS * 1000:
        raise InvalidArgument(
            f"timeout_ms is from 0, for {DEFAULT_TIMEOUT_SECONDS:g} s, to {MAX_SECONDS * 1000}, not {request.timeout_ms}"
        )
    timeout = request.timeout_ms / 1000 if request.timeout_ms else DEFAULT_TIMEOUT_SECONDS
    durability = durability_of(request.durability)
    return Options(consistency_of(request), max_staleness_of(request), durability, timeout)


async def _execute(pipeline: shoal.AsyncPipeline, seconds: float) -> list[Result | ShoalError]:
    """Return the results of what is queued, in its order."""
    count = len(pipeline)
    try:
        return await pipeline.execute(timeout=max(LEAST_SECONDS, seconds), raise_on_error=False)
    except ShoalError as error:
        # Everything was checked before. So the node and the cluster are not at one about the limits, and the first stages
        # may have been done by then.
        return [OutcomeUnknown(f"the batch was broken off: {error}") for _ in range(count)]
