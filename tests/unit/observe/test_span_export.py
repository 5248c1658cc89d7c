"""Exporting spans: settings that are wrong are refused at the start, and a collector that is away costs nothing but spans."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from threading import Event

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from shoal_server.observe import span_export
from shoal_server.observe.span_export import TracingRefused, exporting

NOBODY = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave nothing of the surroundings' OpenTelemetry."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", NOBODY)
    monkeypatch.setattr(span_export, "FLUSH_SECONDS", 0.05)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OTEL_TRACES_EXPORTER", "jaeger", "OTEL_TRACES_EXPORTER: spans go to otlp or console, not to 'jaeger'"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "OTEL_EXPORTER_OTLP_PROTOCOL: spans are sent by grpc"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "collector:4317",
            "'collector:4317' is no address of a collector: write http://",
        ),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:port", "is no address of a collector"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "'soon'"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "sampler sometimes"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many", "OTEL_BSP_MAX_QUEUE_SIZE"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "max_queue_size"),
        ("OTEL_RESOURCE_ATTRIBUTES", "nothing", "nothing"),
    ],
)
def test_a_wrong_setting_is_refused_at_the_start_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
):
    monkeypatch.setenv(name, value)
    with pytest.raises(TracingRefused) as refused, exporting("demo", "n1"):
        pass
    assert words in str(refused.value)


@pytest.mark.parametrize("ratio", ["", "half", "2"])
def test_a_ratio_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, ratio: str):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    with pytest.raises(TracingRefused, match="OTEL_TRACES_SAMPLER_ARG"), exporting("demo", "n1"):
        pass


def test_without_the_sdk_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(TracingRefused, match=r"pip install 'shoal\[tracing-export\]'"), exporting("demo", "n1"):
        pass


def resource_of(provider: TracerProvider) -> dict[str, object]:
    return dict(provider.resource.attributes)


def test_spans_say_whose_they_are_and_the_surroundings_know_better(monkeypatch: pytest.MonkeyPatch):
    with exporting("demo", "n1") as provider:
        said = resource_of(provider)
    assert (said["service.name"], said["service.namespace"], said["service.instance.id"]) == ("shoal", "demo", "n1")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "storage")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=blue,team=data")
    with exporting("demo", "n1") as provider:
        said = resource_of(provider)
    assert (said["service.name"], said["service.instance.id"], said["team"]) == ("storage", "blue", "data")


class Hanging(SpanExporter):
    """Takes no span until it is shut down."""

    def __init__(self) -> None:
        self.taking = Event()
        self._shut_down = Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taking.set()
        self._shut_down.wait()
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._shut_down.set()


def test_spans_that_nobody_takes_are_bounded_and_nobody_waits_for_them(monkeypatch: pytest.MonkeyPatch):
    hanging = Hanging()
    monkeypatch.setattr(span_export, "_exporter", lambda: hanging)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "64")
    with structlog.testing.capture_logs() as events:
        with exporting("demo", "n1") as provider:
            tracer = provider.get_tracer("test")
            for _ in range(64):
                tracer.start_span("one").end()
            hanging.taking.wait()
            for _ in range(2000):
                tracer.start_span("one").end()
            (processor,) = provider._active_span_processor._span_processors
            assert len(processor._batch_processor._queue) == 64
        assert [event["event"] for event in events] == ["spans_lost"] * 2
    assert [event["reason"].partition(",")[0] for event in events] == [
        "Queue full",
        "the collector did not take the last ones within 0.05 s",
    ]


def test_what_the_sdk_complains_of_is_logged_once_in_a_while_and_nowhere_else(capsys: pytest.CaptureFixture[str]):
    with structlog.testing.capture_logs() as events, exporting("demo", "n1"):
        for number in range(3):
            logging.getLogger("opentelemetry.sdk").error("trouble %d", number)
    assert [(event["event"], event["node"], event["reason"]) for event in events] == [("spans_lost", "n1", "trouble 0")]
    assert capsys.readouterr().err == ""
