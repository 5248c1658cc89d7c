"""What all calls of the API have in common: strict decoding, deadlines, and errors that turn into a status.

A method raises `ShoalError`s and knows nothing of gRPC; here it becomes a handler that gRPC can call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeAlias, TypeVar

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError, Message
from shoal.errors import Internal, InvalidArgument, Overloaded, ShoalError, TooLarge
from shoal.priorities import OverloadReason

from shoal_server.api.call_priority import PRIORITY, priority_of
from shoal_server.api.elements import ELEMENTS_MAX, has_too_many, shape_of
from shoal_server.api.errors import DETAILS_METADATA, shown_message, status_code, status_details
from shoal_server.grpc_places import CALL
from shoal_server.observe.api_counters import ApiCounters, OpenCalls

if TYPE_CHECKING:
    from shoal_server.api.tracing import ApiTracing

log = structlog.get_logger("shoal.api")

RETRY_SECONDS = 1.0
"""When who is turned away because others keep the node busy may ask again."""
MARGIN_SECONDS = 0.05
MARGIN_PART = 0.05
"""A call is given up so much before its deadline, of the two the less: for its answer to arrive in time."""

M = TypeVar("M", bound=Message)
R = TypeVar("R")

Unary: TypeAlias = Callable[[M, float | None], Awaitable[Message]]
"""A request, and the seconds it may take, to an answer."""
Feed: TypeAlias = Callable[[M, "Reply", float | None], Awaitable[None]]
"""A request to answers, which are given to `Reply`."""
Dialogue: TypeAlias = Callable[[AsyncIterator[M], "Reply", float | None], Awaitable[None]]
"""Requests to answers."""
Reply: TypeAlias = Callable[[Message], Awaitable[None]]
"""Sends an answer; returns when there is room for another, which is how a slow reader slows its sender down."""


class Context(Protocol):
    """What is used of gRPC's context."""

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline, or None where there is none."""
        ...

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """Return what came with the call."""
        ...

    async def write(self, message: Message) -> None:
        """Send one message of a stream."""
        ...

    async def abort(
        self, code: grpc.StatusCode, details: str, trailing_metadata: tuple[tuple[str, bytes], ...]
    ) -> NoReturn:
        """End the call with an error, by an exception."""
        ...


class Gate(Protocol):
    """Whether the node serves calls now. `stopping` is set when it ends to. `tracing`: None where nothing is traced."""

    stopping: asyncio.Event
    counters: ApiCounters
    tracing: ApiTracing | None

    def check(self) -> None:
        """
        Raises:
            Unavailable: it does not yet, or any more.
        """
        ...


def strict(kind: type[M]) -> Callable[[bytes], M | InvalidArgument]:
    """Return a decoder that leaves nothing out: fields that are not known are an error, and not ignored.

    The error is returned instead of raised: gRPC would make INTERNAL out of any exception.
    """
    name = kind.DESCRIPTOR.full_name
    shape = shape_of(kind.DESCRIPTOR)

    def decode(data: bytes) -> M | InvalidArgument:
        if has_too_many(data, shape):
            return TooLarge(
                f"the {name} has more than {ELEMENTS_MAX} operations, rows, keys or conditions, which is the most that a "
                "message may have; nothing of it was done: send several messages"
            )
        try:
            message: M = kind.FromString(data)
        except DecodeError as error:
            return InvalidArgument(f"{len(data)} bytes are no {name}: {error}")
        size = message.ByteSize()
        message.DiscardUnknownFields()
        if message.ByteSize() != size:
            return InvalidArgument(
                f"the {name} has fields that this node does not know, and nothing was done: reflection shows those it does"
            )
        return message

    return decode


def unary(gate: Gate, kind: type[M], method: Unary[M]) -> grpc.RpcMethodHandler:
    """Return the handler of a call with one request and one answer."""

    async def handle(request: M | InvalidArgument, context: Context) -> Message:
        async def answer() -> Message:
            return await method(_decoded(request), seconds_left(context))

        return await _guarded(gate, kind, context, answer, gate.counters.unary)

    return grpc.unary_unary_rpc_method_handler(handle, strict(kind), _encode)


def feed(gate: Gate, kind: type[M], method: Feed[M]) -> grpc.RpcMethodHandler:
    """Return the handler of a call with one request and a stream of answers."""

    async def handle(request: M | InvalidArgument, context: Context) -> None:
        async def reply(message: Message) -> None:
            gate.check()
            await _send(context, message)

        async def answer() -> None:
            await method(_decoded(request), reply, seconds_left(context))

        await _guarded(gate, kind, context, answer, gate.counters.streams)

    return grpc.unary_stream_rpc_method_handler(handle, strict(kind), _encode)


def dialogue(gate: Gate, kind: type[M], method: Dialogue[M]) -> grpc.RpcMethodHandler:
    """Return the handler of a call with a stream of requests and a stream of answers."""

    async def handle(requests: AsyncIterator[M | InvalidArgument], context: Context) -> None:
        async def reply(message: Message) -> None:
            await _send(context, message)

        async def answer() -> None:
            coming: AsyncGenerator[M, None] = _until_stopping(gate, requests)
            async with aclosing(coming):
                await method(coming, reply, seconds_left(context))

        await _guarded(gate, kind, context, answer, gate.counters.streams)

    return grpc.stream_stream_rpc_method_handler(handle, strict(kind), _encode)


async def _send(context: Context, message: Message) -> None:
    """Send an answer of a stream.

    Raises:
        asyncio.CancelledError: the call is over: its deadline has passed, or the caller has gone. gRPC cancels the task of such
            a call, but an answer that waits for room may fail before that.
    """
    call = CALL.get()
    if call is not None:
        call.unread_since = asyncio.get_running_loop().time()
    try:
        await context.write(message)
    except grpc.aio.InternalError as error:
        raise asyncio.CancelledError("the call is over") from error
    finally:
        if call is not None:
            call.unread_since = None
    if call is not None:
        call.moved += 1


async def _until_stopping(gate: Gate, requests: AsyncIterator[M | InvalidArgument]) -> AsyncGenerator[M, None]:
    """Yield requests.

    Raises:
        InvalidArgument: one cannot be decoded.
        Unavailable: the node is stopping, so there will be no further ones.
        ShoalError: the stream has to give way, or has been idle for too long.
    """
    stopping = asyncio.ensure_future(gate.stopping.wait())
    call, ending = CALL.get(), asyncio.get_running_loop().create_future()
    if call is not None:
        call.waits_with(ending)
    coming: asyncio.Future[M | InvalidArgument | None] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(_next(requests))
            await asyncio.wait((coming, stopping, ending), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                if call is not None and call.ended is not None:
                    raise call.ended
                gate.check()
            request = await coming
            if request is None:
                return
            yield _decoded(request)
    finally:
        if call is not None:
            call.waits_with(None)
        stopping.cancel()
        if coming is not None:
            coming.cancel()


async def _next(requests: AsyncIterator[M]) -> M | None:
    return await anext(requests, None)


def seconds_left(context: Context) -> float | None:
    """Return the seconds that a call may take; None: it has no deadline."""
    left = context.time_remaining()
    return None if left is None else max(0.001, left - min(MARGIN_SECONDS, left * MARGIN_PART))


async def _guarded(
    gate: Gate, kind: type[Message], context: Context, answer: Callable[[], Awaitable[R]], calls: OpenCalls
) -> R:
    """Return the answer, or end the call with the error that there was instead.

    Args:
        calls: that it is one of.
    """
    calls.open += 1
    code = grpc.StatusCode.CANCELLED
    try:
        gate.check()
        if calls.open > calls.limit:
            raise Overloaded(
                f"the node has {calls.limit} {calls.words} under way, and takes no more; nothing was done: try again later, or "
                "ask another node",
                retry_after=RETRY_SECONDS,
                reason=OverloadReason.CONNECTION.value,
            )
        metadata = context.invocation_metadata()
        PRIORITY.set(priority_of(metadata))
        if gate.tracing is None:
            answered = await answer()
        else:
            method = kind.DESCRIPTOR.name.removesuffix("Request")
            answered = await gate.tracing.follow(method, metadata, answer)
        code = grpc.StatusCode.OK
        return answered
    except ShoalError as error:
        failure, code = error, status_code(error)
    except Exception as error:  # the root of the call's task
        log.error("api_call_failed", exc_info=error)
        failure = Internal(f"the node found a fault of its own ({type(error).__name__}), and its log has more")
        code = status_code(failure)
    finally:
        calls.open -= 1
        gate.counters.ended(code.name)
    return await tell(context, failure)


async def tell(context: Context, failure: ShoalError) -> NoReturn:
    """End a call with the status of an error."""
    details = ((DETAILS_METADATA, status_details(failure)),)
    await context.abort(status_code(failure), shown_message(failure), details)


def _decoded(request: M | InvalidArgument) -> M:
    if isinstance(request, InvalidArgument):
        raise request
    return request


def _encode(message: Message) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded
