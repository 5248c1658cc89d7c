"""Spans of a client's calls: which there are, what they say and what not, and what nodes are told of them."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import shoal
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from shoal.errors import ErrorCode
from shoal.protocol.frames import encode_frame, encode_operations
from shoal.protocol.messages import (
    MAX_TRACE_CONTEXTS,
    TRACES_FEATURE,
    Failure,
    OpenSession,
    Put,
    Read,
    TraceContext,
    Write,
)
from shoal.tracing import CALLS, untraced

SECRET_KEY = "the-key-that-nobody-may-see"
SECRET_VALUE = "the-value-that-nobody-may-see"


class Spans:
    """A provider of spans, and those that have ended. `traced` are the arguments that a client is made with."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self.provider = provider or TracerProvider(shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def ended(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.ended]

    @property
    def only(self) -> ReadableSpan:
        (span,) = self.ended
        return span

    def forget(self) -> None:
        self._exporter.clear()


@pytest.fixture
def spans() -> Spans:
    return Spans()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def events(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


def context_of(span: ReadableSpan) -> TraceContext:
    named = span.get_span_context()
    assert named is not None
    return TraceContext(named.trace_id.to_bytes(16, "big"), named.span_id.to_bytes(8, "big"))


# -- what a span says --------------------------------------------------------------------------------------------------


async def test_a_call_is_one_span_that_says_what_and_where(cluster: Any, spans: Spans):
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        written = await db.put("a", "1")
    (write,) = cluster.of_kind(Write)
    span = spans.only
    assert (span.name, span.kind, span.status.status_code) == ("shoal.put", SpanKind.CLIENT, StatusCode.UNSET)
    assert attributes(span) == {
        "db.system.name": "shoal",
        "db.operation.name": "put",
        "db.namespace": "default",
        "server.address": "127.0.0.1",
        "server.port": cluster.nodes["n1"].port,
        "shoal.node": "n1",
        "shoal.shard": 1,
        "shoal.request": write.request,
        "shoal.seq": written.seq,
    }
    assert events(span) == ["shoal.sent"]


async def test_every_method_is_one_span_of_its_name(cluster: Any, spans: Spans):
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        await db.put("a", "1")
        await db.put("a", "1", durability="fast")
        await db.get("a")
        await db.get_entry("a")
        await db.exists("a")
        await db.ttl("a")
        await db.touch("a", 100)
        await db.increment("n")
        await db.put_if_absent("b", "1")
        await db.compare_and_set("b", "1", "2")
        await db.write([shoal.put("a", "2")])
        await db.put_many({"c": "1", "d": "1"})
        await db.get_many(["c", "d"])
        await db.delete_many(["c", "d"])
        await db.delete("b")
        await db.delete_prefix("zz")
        await db.delete_range("y", "z")
    once = [*CALLS]
    once.remove("put")
    assert sorted(spans.names) == sorted(f"shoal.{name}" for name in ("put", "put", *once))


def test_no_method_that_makes_calls_is_left_out():
    methods = {name for name, method in inspect.getmembers(shoal.AsyncClient) if inspect.iscoroutinefunction(method)}
    public = {name for name in methods if not name.startswith("_")}
    assert public - {"aclose", "close", "run"} == set(CALLS)


async def test_many_keys_are_one_span_that_says_how_many_and_all_the_places(start_cluster: Any, spans: Spans):
    cluster = await start_cluster(nodes=2, shards=2)
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        await db.put_many({f"key-{number}": "1" for number in range(50)})
    said = attributes(spans.only)
    assert said["db.operation.batch.size"] == 50
    assert sorted(said["shoal.shards"]) == [1, 2]
    assert sorted(said["shoal.nodes"]) == ["n1", "n2"]
    assert events(spans.only) == ["shoal.sent"] * 2


async def test_a_pipeline_is_one_span(cluster: Any, spans: Spans):
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        await db.pipeline().put("a", "1").get("a").execute()
    assert spans.names == ["shoal.pipeline"]
    assert attributes(spans.only)["db.operation.batch.size"] == 2


async def test_the_pages_of_a_scan_are_spans(cluster: Any, spans: Spans):
    cluster.rows = {b"a/%d" % number: (b"1", 1) for number in range(5)}
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        assert len([row async for row in db.scan("a/", page_rows=2)]) == 5
    assert spans.names == ["shoal.scan"] * 3


async def test_what_a_transaction_does_are_spans(cluster: Any, spans: Spans):
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db, db.transaction() as tx:
        await tx.get("a")
        tx.put("a", "1")
    assert spans.names == ["shoal.get", "shoal.commit"]


async def test_sessions_and_other_keyspaces_are_traced_as_well(cluster: Any, spans: Spans):
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        await db.session().get("a")
        with pytest.raises(shoal.KeyspaceNotFound):
            await db.keyspace("other").get("a")
    assert [attributes(span)["db.namespace"] for span in spans.ended] == ["default", "other"]


async def test_a_span_belongs_to_the_callers(cluster: Any, spans: Spans):
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        with spans.provider.get_tracer("test").start_as_current_span("caller"):
            await asyncio.gather(db.put("a", "1"), db.get("a"))
    *calls, caller = spans.ended
    assert [call.parent for call in calls] == [caller.get_span_context()] * 2


def test_a_blocking_clients_span_belongs_to_the_callers_too(threaded_cluster: Any, spans: Spans):
    with (
        shoal.Client(threaded_cluster.url(), tracing=spans.provider) as db,
        spans.provider.get_tracer("test").start_as_current_span("caller"),
    ):
        db.put("a", "1")
    put, caller = spans.ended
    assert (put.name, put.parent) == ("shoal.put", caller.get_span_context())


def test_the_calls_of_an_embedded_database_are_spans_without_an_address(spans: Spans):
    with shoal.Client("embedded://", tracing=spans.provider) as db:
        db.put("a", "1")
    said = attributes(spans.only)
    assert (said["shoal.shard"], "server.address" in said) == (1, False)


# -- what went wrong ---------------------------------------------------------------------------------------------------


async def test_a_redirect_is_a_refused_attempt_and_a_retry(start_cluster: Any, spans: Spans):
    cluster = await start_cluster(nodes=3)
    async with shoal.AsyncClient(cluster.url("n1"), tracing=spans.provider) as db:
        await db.get("a")
        spans.forget()
        cluster.leaders[1] = "n3"
        await db.get("a")
    sent, failed, retry = spans.only.events
    assert [event.name for event in (sent, failed, retry)] == ["shoal.sent", "shoal.attempt_failed", "shoal.retry"]
    assert failed.attributes is not None
    assert retry.attributes is not None
    assert (failed.attributes["shoal.node"], failed.attributes["error.type"]) == ("n1", "not_leader")
    assert retry.attributes["shoal.node"] == "n3"
    assert attributes(spans.only)["shoal.node"] == "n3"
    assert spans.only.status.status_code is StatusCode.UNSET


async def test_a_lost_answer_is_a_failed_attempt_and_a_retry(cluster: Any, spans: Spans):
    lost: list[Write] = []

    def lose_the_first(node: Any, request: Any) -> Any:
        if isinstance(request, Write) and not lost:
            lost.append(request)
            node.drop_connections()
            return None
        return cluster.serve(node, request)

    cluster.script = lose_the_first
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        await db.put("a", "1")
    assert events(spans.only) == ["shoal.sent", "shoal.attempt_failed", "shoal.retry"]
    said = spans.only.events[1].attributes
    assert said is not None
    assert said["error.type"] == "connection_lost"


async def test_many_calls_that_fail_together_are_one_event(cluster: Any, spans: Spans):
    refused: list[Write] = []

    def refuse_the_first(node: Any, request: Any) -> Any:
        if isinstance(request, Write) and not refused:
            refused.append(request)
            return Failure(request.request, ErrorCode.UNAVAILABLE, "not now")
        return cluster.serve(node, request)

    cluster.script = refuse_the_first
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        await db.put_many({f"key-{number}": "1" for number in range(50)})
    assert events(spans.only) == ["shoal.sent", "shoal.attempt_failed", "shoal.retry"]


async def test_an_error_is_the_spans_status_by_its_code(cluster: Any, spans: Spans):
    cluster.script = lambda node, request: (
        Failure(request.request, ErrorCode.INTERNAL, "a fault")
        if isinstance(request, Read)
        else cluster.serve(node, request)
    )
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        with pytest.raises(shoal.Internal):
            await db.get("a")
    assert (spans.only.status.status_code, spans.only.status.description) == (StatusCode.ERROR, "internal")
    assert attributes(spans.only)["error.type"] == "internal"


async def test_a_condition_that_does_not_hold_is_no_error_where_the_call_says_so(cluster: Any, spans: Spans):
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        await db.put("a", "1")
        spans.forget()
        assert not await db.put_if_absent("a", "2")
    assert spans.only.status.status_code is StatusCode.UNSET


async def test_a_cancelled_call_ends_its_span(cluster: Any, spans: Spans):
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        await db.get("a")
        spans.forget()
        cluster.nodes["n1"].hold = True
        call = asyncio.create_task(db.get("a"))
        while not cluster.nodes["n1"].held:
            await asyncio.sleep(0.001)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert attributes(spans.only)["error.type"] == "CancelledError"
        cluster.nodes["n1"].drop_connections()
        cluster.nodes["n1"].hold = False
        await db.get("a")
    assert events(spans.ended[0]) == ["shoal.sent"]


async def test_no_span_has_a_key_or_a_value(cluster: Any, spans: Spans):
    def refuse(node: Any, request: Any) -> Any:
        if isinstance(request, Write):
            return Failure(request.request, ErrorCode.INVALID_ARGUMENT, f"no {SECRET_KEY}: {SECRET_VALUE}")
        return cluster.serve(node, request)

    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        await db.put(SECRET_KEY, SECRET_VALUE)
        await db.get(SECRET_KEY)
        with pytest.raises(shoal.ConditionFailed):
            await db.write([shoal.put(SECRET_KEY, "x")], when=[shoal.value_equals(SECRET_KEY, "y")])
        with pytest.raises(shoal.TooLarge):
            await db.put(SECRET_KEY * 1000, "")
        cluster.script = refuse
        with pytest.raises(shoal.InvalidArgument):
            await db.put(SECRET_KEY, SECRET_VALUE)
    assert len(spans.ended) == 5
    for span in spans.ended:
        assert SECRET_KEY not in span.to_json()
        assert SECRET_VALUE not in span.to_json()


# -- what nodes are told -----------------------------------------------------------------------------------------------


async def test_a_node_that_traces_is_told_of_the_span_before_the_request(cluster: Any, spans: Spans):
    cluster.features = (TRACES_FEATURE,)
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        await db.put("a", "1")
    (told,) = cluster.traces
    (write,) = cluster.of_kind(Write)
    assert (told.request, told.contexts) == (write.request, (context_of(spans.only),))


async def test_a_node_that_does_not_trace_is_told_nothing(cluster: Any, spans: Spans):
    # This node ends a connection on which it gets what it does not know.
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        await db.put("a", "1")
    assert spans.names == ["shoal.put"]
    assert cluster.nodes["n1"].connections == 1


async def test_one_request_names_so_many_spans_and_no_more(cluster: Any, spans: Spans):
    cluster.features = (TRACES_FEATURE,)
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        await db.get("a")
        cluster.traces.clear()
        spans.forget()
        await asyncio.gather(*(db.get(f"key-{number}") for number in range(2 * MAX_TRACE_CONTEXTS)))
    (told,) = cluster.traces
    assert len(spans.ended) == 2 * MAX_TRACE_CONTEXTS
    assert len(set(told.contexts)) == MAX_TRACE_CONTEXTS
    assert set(told.contexts) <= {context_of(span) for span in spans.ended}


async def test_what_is_not_sampled_is_not_told(cluster: Any):
    cluster.features = (TRACES_FEATURE,)
    spans = Spans(TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False))
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        await db.put("a", "1")
        assert await db.ttl("b") is None
    assert (spans.ended, cluster.traces) == ([], [])


async def test_calls_that_are_not_to_be_traced_are_not(cluster: Any, spans: Spans):
    cluster.features = (TRACES_FEATURE,)
    async with shoal.AsyncClient(cluster.url(), tracing=spans.provider) as db:
        with untraced():
            await db.put("a", "1")
            await db.pipeline().get("a").execute()
    assert (spans.ended, cluster.traces) == ([], [])


# -- without tracing ---------------------------------------------------------------------------------------------------


async def test_without_tracing_a_node_that_traces_gets_the_same_bytes_as_ever(cluster: Any):
    cluster.features = (TRACES_FEATURE,)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        await db.get("a")
    assert cluster.traces == []
    operations = encode_operations([Put(b"a", b"1")])
    requests = [OpenSession(1, 7), Write(2, 7, 1, bytes(16), 1, 5000, operations), Read(3, 7, 1, 5000, [b"a"])]
    assert encode_frame(requests).hex(" ") == (
        "00 00 00 3d ae 72 cd b0 93 "
        "93 0a 01 07 "
        "99 0b 02 07 01 c4 10 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01 cd 13 88 "
        "c4 0a 91 94 01 c4 01 61 c4 01 31 ff c2 "
        "97 0c 03 07 01 cd 13 88 91 c4 01 61 93 c3 00 00"
    )


def test_without_tracing_opentelemetry_is_not_loaded():
    script = (
        "import sys, shoal, shoal_server.process.server, shoal_server.api.server\n"
        "shoal.Client('shoal://127.0.0.1:1/default').close()\n"
        "loaded = [name for name in sys.modules if name.startswith('opentelemetry')]\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_opentelemetry_tracing_is_refused_in_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "shoal.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(shoal.InvalidArgument, match=r"pip install 'shoal\[tracing\]'"):
        shoal.AsyncClient("shoal://127.0.0.1:1/default", tracing=True)


@pytest.mark.parametrize("make", [shoal.AsyncClient, shoal.Client])
def test_tracing_by_something_else_is_refused(make: Callable[..., Any]):
    with pytest.raises(shoal.InvalidArgument, match="TracerProvider"):
        make("shoal://127.0.0.1:1/default", tracing="yes")
