"""Traces through real processes: from the application, by the client or by gRPC, to a node, and from there to a collector."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Condition
from typing import Any

import grpc
import pytest
import shoal
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from shoal_server.local.layout import free_ports, generated_config

PATIENCE_SECONDS = 30.0
SETTINGS = "storage: {block_cache: 1MiB, write_buffer: 4MiB}\nobserve: {tracing: true}\n"
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


def said_by(span: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans, as a collector of OpenTelemetry does. `resources` are what the senders say of themselves."""

    def __init__(self) -> None:
        self.resources: list[dict[str, str]] = []
        self._spans: list[Any] = []
        self._more = Condition()
        self._server = grpc.server(ThreadPoolExecutor(1))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.address = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's
        with self._more:
            for each in request.resource_spans:
                self.resources.append({pair.key: pair.value.string_value for pair in each.resource.attributes})
                self._spans += [span for scope in each.scope_spans for span in scope.spans]
            self._more.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def span(self, trace: str, name: str, **said: Any) -> Any:
        """Wait for a span of a trace that has a name and says certain things, and return it."""

        def found() -> list[Any]:
            named = [span for span in self._spans if (span.trace_id.hex(), span.name) == (trace, name)]
            return [span for span in named if said.items() <= said_by(span).items()]

        with self._more:
            assert self._more.wait_for(found, PATIENCE_SECONDS), f"no span {name} came of {len(self._spans)}"
            return found()[0]

    @property
    def traces(self) -> set[str]:
        """The ids of all traces that there are spans of so far."""
        return {span.trace_id.hex() for span in self._spans}

    def stop(self) -> None:
        self._server.stop(None).wait()


class TracingNode:
    """A node process that is a cluster by itself, and traces."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.port, self.admin_port = free_ports(2)
        config = folder / "cluster.yaml"
        config.write_text(generated_config(1, [self.port], admin_ports=[self.admin_port]) + SETTINGS)
        self._log = folder / "n1.log"
        others = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shoal.cli", "node", "--config", str(config), "--id", "n1"],
                stdout=log, stderr=log, cwd=folder, env=others | environment,
            )  # fmt: skip

    @property
    def url(self) -> str:
        return f"shoal://127.0.0.1:{self.port}/default?timeout={PATIENCE_SECONDS:g}s"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    started = Collector()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[TracingNode]:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    started = TracingNode(tmp_path_factory.mktemp("tracing-node"), **environment)
    yield started
    started.stop()


def test_a_put_is_a_span_of_the_client_and_below_it_one_of_the_node(node: TracingNode, collector: Collector):
    provider = TracerProvider(shutdown_on_exit=False)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with shoal.Client(node.url, tracing=provider) as db:
        written = db.put("a", "1")
    (call,) = exporter.get_finished_spans()
    assert call.context is not None
    assert call.attributes is not None
    # Of several attempts, which a busy machine may take, the one that was answered.
    answered = {"shoal.request": call.attributes["shoal.request"]}
    span = collector.span(f"{call.context.trace_id:032x}", "shoal.write", **answered)
    assert span.parent_span_id.hex() == f"{call.context.span_id:016x}"
    said = said_by(span)
    assert (said["shoal.node"], said["shoal.seq"]) == ("n1", written.seq)
    assert said["shoal.shard"] == call.attributes["shoal.shard"]
    assert said["shoal.index"] > 0
    parts = [said[f"shoal.{part}_ms"] for part in ("queue", "own_disk", "commit", "apply")]
    assert min(parts) >= 0
    whole = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
    assert parts[0] + parts[2] + parts[3] == pytest.approx(whole, abs=0.01)
    assert {event.name for event in span.events} == {"shoal.proposed", "shoal.on_own_disk", "shoal.committed"}
    assert {name: collector.resources[0][name] for name in ("service.name", "service.instance.id")} == {
        "service.name": "shoal",
        "service.instance.id": "n1",
    }


def test_a_grpc_call_that_comes_with_a_trace_goes_on_with_it(
    node: TracingNode, collector: Collector, reflected_api: Callable[[str], Any]
):
    api = reflected_api(f"127.0.0.1:{node.admin_port}")
    api.wait_until_serving()
    before = collector.traces
    api.call("Put", key=b"untraced", value=b"1")
    request = api.message("PutRequest", key=b"a", value=b"1")
    api.method("Put")(request, timeout=PATIENCE_SECONDS, metadata=(("traceparent", f"00-{TRACE}-{CALLER}-01"),))
    of_api, of_client, of_node = (
        collector.span(TRACE, name) for name in ("shoal.v1.Shoal/Put", "shoal.put", "shoal.write")
    )
    assert of_api.parent_span_id.hex() == CALLER
    assert of_client.parent_span_id == of_api.span_id
    assert of_node.parent_span_id == of_client.span_id
    assert said_by(of_api)["rpc.grpc.status_code"] == 0
    assert collector.traces - before == {TRACE}


def test_a_grpc_call_that_fails_says_with_what(
    node: TracingNode, collector: Collector, reflected_api: Callable[[str], Any]
):
    api = reflected_api(f"127.0.0.1:{node.admin_port}")
    api.wait_until_serving()
    trace = TRACE[::-1]
    request = api.message("PutRequest", key=b"", value=b"1")
    with pytest.raises(grpc.RpcError):
        api.method("Put")(request, timeout=PATIENCE_SECONDS, metadata=(("traceparent", f"00-{trace}-{CALLER}-01"),))
    for name in ("shoal.v1.Shoal/Put", "shoal.put"):
        assert said_by(collector.span(trace, name))["error.type"] == "invalid_argument"


def test_a_node_with_a_wrong_setting_does_not_start_and_says_which(tmp_path: Path):
    node = TracingNode(tmp_path, OTEL_TRACES_EXPORTER="jaeger")
    try:
        assert node.process.wait(PATIENCE_SECONDS) == 2
    finally:
        node.stop()
    assert "OTEL_TRACES_EXPORTER: spans go to otlp or console, not to 'jaeger'" in node.log
    assert "Traceback" not in node.log
