"""A node's spans: the requests that clients trace, as spans of kind SERVER, with where the time went.

They are made when a request is answered, from the times that the turn has measured: the core knows of no spans, and only
keeps the times of the requests that are watched (see `NodeCounters`). Needs `opentelemetry-api`; who exports spans is not its
concern.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TracerProvider,
    TraceState,
    set_span_in_context,
)
from shoal.protocol.messages import (
    Answer,
    Failure,
    Read,
    Refused,
    Request,
    Rows,
    Scan,
    ScanPage,
    TraceContext,
    TracedRequest,
    Traces,
    Working,
    Write,
    Written,
)

from shoal_server.node.counters import LABELS, NS_PER_MS, TimedRequest, parts_of
from shoal_server.shard.sessions import session_name

INSTRUMENTATION = "shoal.node"
WATCHED_MAX = 1024
"""The most requests that are watched at once; for a further one the oldest is forgotten, and has no span."""

Attributes = dict[str, str | int | float]
Named = tuple[int, int]
"""A request: the client's number here, and its own number for the request."""


@dataclass(slots=True)
class _Watched:
    """A request that is to be a span for each of `contexts`. `arrived`: when, by the node's clock (ns)."""

    contexts: tuple[TraceContext, ...]
    arrived: int
    request: Request | None = None


class NodeTracing:
    """Belongs to the thread of the node's event loop."""

    def __init__(self, node: str, provider: TracerProvider, clock: Callable[[], int]) -> None:
        """
        Args:
            clock: the node's own, in nanoseconds.
        """
        self._node = node
        self._tracer = provider.get_tracer(INSTRUMENTATION, version("shoal"))
        self._clock = clock
        self._watched: dict[Named, _Watched] = {}

    @property
    def watched(self) -> Collection[Named]:
        """The requests whose times are wanted, at every moment."""
        return self._watched

    def take(self, client: int, requests: list[TracedRequest]) -> list[Request]:
        """Return what a client has sent without the traces, which are for the requests that follow them."""
        taken: list[Request] = []
        for request in requests:
            if isinstance(request, Traces):
                self._watch((client, request.request), request.contexts)
                continue
            taken.append(request)
            watched = self._watched.get((client, request.request))
            if watched is not None:
                watched.request = request
        return taken

    def _watch(self, named: Named, contexts: tuple[TraceContext, ...]) -> None:
        if contexts:
            if len(self._watched) >= WATCHED_MAX:
                del self._watched[next(iter(self._watched))]
            self._watched[named] = _Watched(contexts, self._clock())

    def answered(self, to_clients: Mapping[int, Iterable[Answer]], timed: Sequence[TimedRequest]) -> None:
        """Make the spans of what a turn has answered just now.

        Args:
            timed: where the time of those requests went for which that is known.
        """
        if not self._watched:
            return
        times = {(each.client, each.request): each for each in timed}
        ended = self._clock()
        for client, answers in to_clients.items():
            for answer in answers:
                if isinstance(answer, Refused | Working):
                    continue
                named = (client, answer.request)
                watched = self._watched.pop(named, None)
                if watched is not None:
                    self._make_spans(named, watched, answer, times.get(named), ended)

    def client_gone(self, client: int) -> None:
        """Make spans of what a client has not waited for."""
        ended = self._clock()
        for named in [named for named in self._watched if named[0] == client]:
            self._make_spans(named, self._watched.pop(named), None, None, ended)

    # -- spans

    def _make_spans(
        self, named: Named, watched: _Watched, answer: Answer | None, timed: TimedRequest | None, ended: int
    ) -> None:
        """Make the span of a request, once for each call that it was sent for."""
        request = watched.request
        if request is None:
            return
        attributes: Attributes = {"shoal.node": self._node, "shoal.client": named[0], "shoal.request": named[1]}
        attributes |= _of_request(request) | _of_answer(answer)
        if timed is not None:
            attributes |= _of_times(timed, watched.arrived, ended)
        error = _error_of(answer)
        to_wall = time.time_ns() - self._clock()
        for context in watched.contexts:
            parent = _span_context(context)
            if not parent.is_valid:
                continue
            span = self._tracer.start_span(
                f"shoal.{type(request).__name__.lower()}",
                set_span_in_context(NonRecordingSpan(parent)),
                SpanKind.SERVER,
                attributes,
                start_time=watched.arrived + to_wall,
            )
            if timed is not None:
                _add_events(span, timed, to_wall)
            if error:
                span.set_attribute("error.type", error)
                span.set_status(Status(StatusCode.ERROR, error))
            span.end(ended + to_wall)


def _of_request(request: Request) -> Attributes:
    found: Attributes = {}
    if isinstance(request, Write | Read | Scan):
        found["shoal.shard"] = request.shard
    if isinstance(request, Write):
        found |= {"shoal.session": session_name(request.session), "shoal.number": request.number}
    elif isinstance(request, Read):
        found["shoal.keys"] = len(request.keys)
    return found


def _of_answer(answer: Answer | None) -> Attributes:
    if isinstance(answer, Written):
        return {"shoal.seq": answer.seq}
    if isinstance(answer, Rows | ScanPage):
        return {"shoal.seq": answer.seq, "shoal.staleness_ms": answer.staleness_ms}
    return {}


def _of_times(timed: TimedRequest, arrived: int, ended: int) -> Attributes:
    operation, consistency = LABELS[timed.served]
    found: Attributes = {
        "shoal.operation": operation,
        "shoal.consistency": consistency,
        "shoal.requests": timed.requests,
    }
    if timed.index:
        found |= {"shoal.index": timed.index, "shoal.term": timed.term}
    return found | {f"shoal.{name}": ns / NS_PER_MS for name, ns in parts_of(timed, arrived, ended).items()}


def _add_events(span: Span, timed: TimedRequest, to_wall: int) -> None:
    instants = {
        "shoal.proposed": timed.proposed,
        "shoal.on_own_disk": timed.synced,
        "shoal.committed" if timed.proposed else "shoal.readable": timed.settled,
    }
    for name, instant in instants.items():
        if instant:
            span.add_event(name, timestamp=instant + to_wall)


def _error_of(answer: Answer | None) -> str:
    if answer is None:
        return "client_gone"
    return answer.code if isinstance(answer, Failure) else ""


def _span_context(context: TraceContext) -> SpanContext:
    return SpanContext(
        int.from_bytes(context.trace, "big"),
        int.from_bytes(context.span, "big"),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=TraceState.from_header([context.state]) if context.state else None,
    )
