"""A node's spans: of which requests, whose children, with what times; and how many are watched at most."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from shoal.errors import ErrorCode
from shoal.protocol.frames import HEADER_BYTES, encode_frame, encode_operations, request_decoder, traced_request_decoder
from shoal.protocol.messages import (
    MAX_TRACE_CONTEXTS,
    Failure,
    Ping,
    Put,
    Read,
    Request,
    Rows,
    TraceContext,
    TracedRequest,
    Traces,
    Write,
    Written,
)
from shoal_server.node.counters import Served, TimedRequest
from shoal_server.observe.tracing import WATCHED_MAX, NodeTracing

MS = 1_000_000
CLIENT = 4
CONTEXT = TraceContext(b"t" * 16, b"s" * 8)
WRITE = Write(42, 7, 1, bytes(range(16)), 5, 1000, encode_operations([Put(b"key", b"value")]))
TIMED = TimedRequest(Served.WRITE_QUORUM, 7, 3, CLIENT, 42, "", 0, 99, 2, 100 * MS, 120 * MS, 125 * MS, 600 * MS)


class Traced:
    """A node's tracing with a clock that stands still, and the spans that it has made."""

    def __init__(self) -> None:
        self.now = 100 * MS
        provider = TracerProvider(shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = NodeTracing("n1", provider, lambda: self.now)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def take(self, *requests: TracedRequest) -> list[Request]:
        return self.tracing.take(CLIENT, list(requests))


@pytest.fixture
def traced() -> Traced:
    return Traced()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_traced_write_is_a_span_below_the_clients_with_where_the_time_went(traced: Traced):
    assert traced.take(Traces(42, (CONTEXT,)), WRITE) == [WRITE]
    assert list(traced.tracing.watched) == [(CLIENT, 42)]
    traced.now = 610 * MS
    traced.tracing.answered({CLIENT: [Written(42, 1234)]}, [TIMED])
    (span,) = traced.spans
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    assert parent is not None
    assert (span.name, span.kind, span.status.status_code) == ("shoal.write", SpanKind.SERVER, StatusCode.UNSET)
    assert context.trace_id == int.from_bytes(CONTEXT.trace, "big")
    assert parent.span_id == int.from_bytes(CONTEXT.span, "big")
    assert attributes(span) == {
        "shoal.node": "n1",
        "shoal.client": CLIENT,
        "shoal.request": 42,
        "shoal.shard": 7,
        "shoal.session": "000102030405",
        "shoal.number": 5,
        "shoal.seq": 1234,
        "shoal.operation": "write",
        "shoal.consistency": "quorum",
        "shoal.requests": 3,
        "shoal.index": 99,
        "shoal.term": 2,
        "shoal.queue_ms": 20.0,
        "shoal.own_disk_ms": 5.0,
        "shoal.commit_ms": 480.0,
        "shoal.apply_ms": 10.0,
    }
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time == 510 * MS
    assert [(event.name, event.timestamp - span.start_time) for event in span.events] == [
        ("shoal.proposed", 20 * MS),
        ("shoal.on_own_disk", 25 * MS),
        ("shoal.committed", 500 * MS),
    ]
    assert not traced.tracing.watched


def test_a_traced_read_says_how_stale_it_was(traced: Traced):
    traced.take(Traces(1, (CONTEXT,)), Read(1, 7, 1, 1000, [b"a", b"b"]))
    timed = TimedRequest(Served.READ_EVENTUAL, 7, 1, CLIENT, 1, 0, 0, 0, 0, 100 * MS, 0, 0, 103 * MS)
    traced.now = 104 * MS
    traced.tracing.answered({CLIENT: [Rows(1, 50, "n1", [b"x", None], [9, 0], 250)]}, [timed])
    (span,) = traced.spans
    said = attributes(span)
    assert (span.name, said["shoal.keys"], said["shoal.staleness_ms"]) == ("shoal.read", 2, 250)
    assert (said["shoal.consistency"], said["shoal.wait_ms"], said["shoal.apply_ms"]) == ("eventual", 3.0, 1.0)
    assert [event.name for event in span.events] == ["shoal.readable"]


def test_a_refusal_is_an_error_by_its_code_without_its_words(traced: Traced):
    traced.take(Traces(42, (CONTEXT,)), WRITE)
    traced.tracing.answered({CLIENT: [Failure(42, ErrorCode.NOT_LEADER, "of the key 'secret'")]}, [])
    (span,) = traced.spans
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "not_leader")
    assert attributes(span)["error.type"] == "not_leader"
    assert "secret" not in span.to_json()


def test_a_request_for_several_spans_is_a_span_below_each(traced: Traced):
    contexts = tuple(TraceContext(b"t" * 16, bytes([number]) * 8, "vendor=1") for number in range(1, 4))
    traced.take(Traces(42, contexts), WRITE)
    traced.tracing.answered({CLIENT: [Written(42, 1)]}, [TIMED])
    parents = [span.parent for span in traced.spans]
    assert [parent.span_id.to_bytes(8, "big") for parent in parents if parent] == [each.span for each in contexts]
    assert {parent.trace_state.to_header() for parent in parents if parent} == {"vendor=1"}


def test_a_context_of_zeros_is_no_span(traced: Traced):
    traced.take(Traces(42, (TraceContext(bytes(16), bytes(8)),)), WRITE)
    traced.tracing.answered({CLIENT: [Written(42, 1)]}, [TIMED])
    assert traced.spans == []


def test_what_is_not_traced_is_no_span(traced: Traced):
    assert traced.take(WRITE, Traces(43, (CONTEXT,)), Ping(44)) == [WRITE, Ping(44)]
    traced.tracing.answered({CLIENT: [Written(42, 1)], CLIENT + 1: [Written(43, 1)]}, [])
    assert traced.spans == []


def test_what_a_client_did_not_wait_for_is_a_span_that_says_so(traced: Traced):
    traced.take(Traces(42, (CONTEXT,)), WRITE, Traces(43, (CONTEXT,)))
    traced.tracing.client_gone(CLIENT + 1)
    assert traced.spans == []
    traced.tracing.client_gone(CLIENT)
    (span,) = traced.spans
    assert attributes(span)["error.type"] == "client_gone"
    assert not traced.tracing.watched


def test_so_many_requests_are_watched_and_no_more(traced: Traced):
    for request in range(WATCHED_MAX + 5):
        traced.take(Traces(request, (CONTEXT,)))
    watched = list(traced.tracing.watched)
    assert len(watched) == WATCHED_MAX
    assert watched[-1] == (CLIENT, WATCHED_MAX + 4)


@pytest.mark.parametrize(
    "malformed",
    [
        Traces(1, (TraceContext(b"short", b"s" * 8),)),
        Traces(1, (TraceContext(b"t" * 16, b"s" * 9),)),
        Traces(1, (TraceContext(b"t" * 16, b"s" * 8, "x" * 513),)),
        Traces(1, (CONTEXT,) * (MAX_TRACE_CONTEXTS + 1)),
    ],
)
def test_malformed_traces_cannot_be_decoded(malformed: Traces):
    with pytest.raises(msgspec.ValidationError):
        traced_request_decoder.decode(encode_frame([malformed])[HEADER_BYTES:])


def test_a_node_without_tracing_does_not_know_traces():
    with pytest.raises(msgspec.ValidationError):
        request_decoder.decode(encode_frame([Traces(1, (CONTEXT,))])[HEADER_BYTES:])
