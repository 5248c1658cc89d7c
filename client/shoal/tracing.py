"""OpenTelemetry spans of a client's calls. Loaded only where tracing is asked for; needs `opentelemetry-api`.

A traced client is one whose methods `Tracing.follow` has replaced, on that one object: other clients have no step more.
Each call is a span of kind CLIENT, `shoal.put` and so on, and whatever it does on the way belongs to it: a context
variable says so where the waiters of its requests are made, and the router tells of each attempt by these waiters.
Spans say where and when; what is asked for, keys and values, is in none of them, nor are messages of errors, which name keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from importlib.metadata import version
from typing import Any, Protocol, TypeVar

from opentelemetry.trace import (
    INVALID_SPAN,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TracerProvider,
    get_tracer_provider,
)

from shoal.caller import Caller
from shoal.embedded_url import EMBEDDED_ADDRESS
from shoal.errors import ShoalError
from shoal.options import split_address
from shoal.pipelines import AsyncPipeline
from shoal.protocol.messages import MAX_TRACE_CONTEXTS, MAX_TRACE_STATE, TraceContext
from shoal.results import WriteResult
from shoal.routing.shard_queue import InFlightRequest, ReadBatch, ScanPageRead, WriteBatch
from shoal.steps import Fetch, Step

T = TypeVar("T")

SYSTEM = "shoal"
INSTRUMENTATION = "shoal"
CALLS = (
    "get",
    "get_entry",
    "exists",
    "ttl",
    "put",
    "delete",
    "touch",
    "increment",
    "put_if_absent",
    "compare_and_set",
    "write",
    "get_many",
    "put_many",
    "delete_many",
    "delete_prefix",
    "delete_range",
)
"""The methods that are one span each. Further ones are a pipeline's `execute`, the pages of scans, and what transactions do."""

PLACES_MAX = 32
"""The most shards, and nodes, that one span names."""


class CallSpan:
    """One call's span, while it is open. `recording`: somebody will see it.

    `context`: what nodes go on from; None where the span is not sampled.
    """

    __slots__ = ("_address", "_batch", "_nodes", "_request_id", "_shards", "_span", "context", "recording")

    def __init__(self, span: Span) -> None:
        self._span = span
        self.recording = span.is_recording()
        self.context = _handed_on(span.get_span_context()) if self.recording else None
        self._address = ""
        self._batch = 0
        self._nodes: dict[str, None] = {}
        self._request_id = 0
        self._shards: dict[int, None] = {}

    def gather(self, calls: int) -> None:
        """Note that the call makes so many calls at once."""
        self._batch += calls

    def sent(self, request: InFlightRequest[Any], address: str, *, again: bool) -> None:
        """Note a request that has something of the call in it; `again`: another attempt of what has failed."""
        shard = request.shard_queue.shard.id
        self._request_id, self._address = request.request_id, address
        if len(self._nodes) < PLACES_MAX:
            self._nodes[request.asked] = None
        if len(self._shards) < PLACES_MAX:
            self._shards[shard] = None
        self._span.add_event("shoal.retry" if again else "shoal.sent", _place(request))

    def failed(self, request: InFlightRequest[Any], reason: str) -> None:
        """Note that a request was refused, or its answer lost."""
        self._span.add_event("shoal.attempt_failed", _place(request) | {"error.type": reason})

    def succeed(self, result: object) -> None:
        """Note what the call ended with."""
        if isinstance(result, WriteResult):
            self._span.set_attribute("shoal.seq", result.seq)

    def fail(self, error: BaseException) -> None:
        """Note the error that the call ended with."""
        kind = error.code.value if isinstance(error, ShoalError) else type(error).__name__
        self._span.set_status(Status(StatusCode.ERROR, kind))
        self._span.set_attribute("error.type", kind)
        if isinstance(error, ShoalError):
            self._span.set_attribute("shoal.maybe_applied", error.maybe_applied)

    def end(self) -> None:
        """End the span: nothing is noted any more."""
        if self.recording:
            self.recording = False
            self._span.set_attributes(self._found())
        self._span.end()

    def _found(self) -> dict[str, str | int | list[int] | list[str]]:
        found: dict[str, str | int | list[int] | list[str]] = {}
        if self._batch > 1:
            found["db.operation.batch.size"] = self._batch
        if not self._request_id:
            return found
        found["shoal.request"] = self._request_id
        if self._address != EMBEDDED_ADDRESS:
            found["server.address"], found["server.port"] = split_address(self._address)
        if len(self._shards) == 1:
            # Of several attempts the last: that is the node whose answer it was.
            found["shoal.shard"], found["shoal.node"] = next(iter(self._shards)), list(self._nodes)[-1]
        else:
            found["shoal.shards"], found["shoal.nodes"] = list(self._shards), list(self._nodes)
        return found


_open_call: ContextVar[CallSpan | None] = ContextVar("shoal_open_call", default=None)
"""The call that is being made: what it does on the way is no call of its own."""


class TracedWaiter(asyncio.Future[Any]):
    """A waiter that knows its call's span. `again`: the last attempt to serve it has failed."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        call = _open_call.get()
        self.span = call if call is not None and call.recording else None
        self.again = False


class TracedClient(Protocol):
    """What is traced: an `AsyncClient`, of which this is what no name in `CALLS` says."""

    def pipeline(self) -> AsyncPipeline: ...


class Tracing:
    """The tracing of one client, with its sessions and other keyspaces. Is the driver's `CallTracer`."""

    def __init__(self, provider: TracerProvider | None) -> None:
        """
        Args:
            provider: makes the spans; None: the process's own, whichever that is by the time of the first call.
        """
        self._tracer = (provider or get_tracer_provider()).get_tracer(INSTRUMENTATION, version("shoal"))

    # -- calls

    def follow(self, client: TracedClient, caller: Caller) -> None:
        """Have the calls of `client`, which `caller` makes, make spans."""
        keyspace = caller.keyspace
        for name in CALLS:
            setattr(client, name, self._spanned(keyspace, name, getattr(client, name)))
        make, run_all, run_until = client.pipeline, caller.run_all, caller.run_until

        def pipeline() -> AsyncPipeline:
            made = make()
            setattr(made, "execute", self._spanned(keyspace, "pipeline", made.execute))  # noqa: B010 - as above
            return made

        def counted(steps: Sequence[Step], deadline: float) -> Awaitable[list[object]]:
            call = _open_call.get()
            if call is not None:
                call.gather(len(steps))
            return run_all(steps, deadline)

        def step_of_transaction(step: Step, deadline: float) -> Awaitable[object]:
            name = "get" if isinstance(step, Fetch) else "commit"
            return self._spanned(keyspace, name, run_until)(step, deadline)

        setattr(client, "pipeline", pipeline)  # noqa: B010 - a method cannot be assigned to
        replaced = {
            "run_all": counted,
            "run_until": step_of_transaction,
            "run_page": self._spanned(keyspace, "scan", caller.run_page),
        }
        for name, method in replaced.items():
            setattr(caller, name, method)

    def _spanned(self, keyspace: str, name: str, method: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        """Return `method` with a span around it, unless a call is being made already."""

        @wraps(method)
        async def spanned(*args: Any, **settings: Any) -> T:
            if _open_call.get() is not None:
                return await method(*args, **settings)
            attributes = {"db.system.name": SYSTEM, "db.operation.name": name, "db.namespace": keyspace}
            call = CallSpan(self._tracer.start_span(f"{SYSTEM}.{name}", kind=SpanKind.CLIENT, attributes=attributes))
            token = _open_call.set(call)
            try:
                result = await method(*args, **settings)
                call.succeed(result)
                return result
            except BaseException as error:
                call.fail(error)
                raise
            finally:
                _open_call.reset(token)
                call.end()

        return spanned

    def waiters(self, loop: asyncio.AbstractEventLoop) -> Callable[[], asyncio.Future[Any]]:
        """Return what makes the waiters of calls."""
        return partial(TracedWaiter, loop=loop)

    # -- attempts

    def sent(self, request: InFlightRequest[Any], address: str) -> tuple[TraceContext, ...]:
        """A request leaves: tell the spans, and return the contexts of the first of them that are sampled."""
        spans: dict[CallSpan, bool] = {}
        for waiter in _waiters(request):
            if waiter.span is not None:
                spans[waiter.span] = spans.get(waiter.span, False) or waiter.again
                waiter.again = False
        contexts: list[TraceContext] = []
        for span, again in spans.items():
            if span.recording:
                span.sent(request, address, again=again)
            if span.context is not None and len(contexts) < MAX_TRACE_CONTEXTS:
                contexts.append(span.context)
        return tuple(contexts)

    def failed(self, request: InFlightRequest[Any], reason: str) -> None:
        """An attempt came to nothing: tell the spans."""
        spans: dict[CallSpan, None] = {}
        for waiter in _waiters(request):
            waiter.again = True
            if waiter.span is not None:
                spans[waiter.span] = None
        for span in spans:
            if span.recording:
                span.failed(request, reason)


@contextmanager
def untraced() -> Iterator[None]:
    """Make no spans of the calls inside."""
    token = _open_call.set(CallSpan(INVALID_SPAN))
    try:
        yield
    finally:
        _open_call.reset(token)


def _waiters(request: InFlightRequest[Any]) -> Iterator[TracedWaiter]:
    if isinstance(request, WriteBatch | ReadBatch | ScanPageRead):
        for call in request.calls:
            if isinstance(call.waiter, TracedWaiter):
                yield call.waiter


def _place(request: InFlightRequest[Any]) -> dict[str, str | int]:
    return {
        "shoal.node": request.asked,
        "shoal.shard": request.shard_queue.shard.id,
        "shoal.request": request.request_id,
    }


def _handed_on(span: SpanContext) -> TraceContext | None:
    if not (span.is_valid and span.trace_flags.sampled):
        return None
    state = span.trace_state.to_header()
    return TraceContext(
        span.trace_id.to_bytes(16, "big"),
        span.span_id.to_bytes(8, "big"),
        state if len(state) <= MAX_TRACE_STATE else "",
    )
