"""Sends a process's spans to a collector, by OpenTelemetry's SDK and as its own variables (`OTEL_...`) say.

The SDK's queue is bounded (`OTEL_BSP_MAX_QUEUE_SIZE`) and emptied by a thread of its own: a collector that is slow or away
costs spans, and nothing else. What the SDK merely warns of when it is set up is an error here, at the start.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

log = structlog.get_logger("shoal.node")

FLUSH_SECONDS = 2.0
"""How long a process that stops waits for its last spans to be taken."""
COMPLAINT_SECONDS = 60.0
"""At most one event in this time says that spans were lost."""

SAMPLERS_WITH_RATIO = ("traceidratio", "parentbased_traceidratio")
DEFAULT_ENDPOINT = "http://localhost:4317"


class TracingRefused(Exception):
    """Spans cannot be exported as it is asked for; the message says what to do."""


@contextmanager
def exporting(cluster: str, node: str) -> Iterator[TracerProvider]:
    """Give what makes spans that are exported, for as long as the process lives.

    Raises:
        TracingRefused: OpenTelemetry is not installed, or one of its variables is wrong.
    """
    complaints = _Complaints(node)
    sdk = logging.getLogger("opentelemetry")
    sdk.addHandler(complaints)
    propagated, sdk.propagate = sdk.propagate, False
    try:
        provider, exporter = _set_up(cluster, node)
        if complaints.at_start:
            provider.shutdown()
            raise TracingRefused("; ".join(complaints.at_start))
        complaints.started = True
        try:
            yield provider
        finally:
            _shut_down(provider, exporter, node)
    finally:
        sdk.removeHandler(complaints)
        sdk.propagate = propagated


def _set_up(cluster: str, node: str) -> tuple[TracerProvider, SpanExporter]:
    try:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise _not_installed(error) from error
    named = {"service.name": "shoal", "service.namespace": cluster, "service.instance.id": node}
    try:
        _check_sampler()
        exporter = _exporter()
        # What the variables say of the process comes before what it says of itself.
        resource = Resource.create({**named, **OTELResourceDetector().detect().attributes})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    except (ValueError, KeyError, RuntimeError) as error:
        raise TracingRefused(f"a variable of OpenTelemetry (OTEL_...) is wrong: {error}") from error
    return provider, exporter


def _check_sampler() -> None:
    """
    Raises:
        TracingRefused: the sampler's ratio is none, which the SDK would say without naming the variable.
    """
    sampler, ratio = os.environ.get("OTEL_TRACES_SAMPLER", ""), os.environ.get("OTEL_TRACES_SAMPLER_ARG", "")
    if sampler.lower() in SAMPLERS_WITH_RATIO:
        try:
            sensible = 0 <= float(ratio) <= 1
        except ValueError:
            sensible = False
        if not sensible:
            raise TracingRefused(f"OTEL_TRACES_SAMPLER_ARG: {sampler} needs a number from 0 to 1, not {ratio!r}")


def _exporter() -> SpanExporter:
    kind = os.environ.get("OTEL_TRACES_EXPORTER", "") or "otlp"
    if kind == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if kind != "otlp":
        raise TracingRefused(f"OTEL_TRACES_EXPORTER: spans go to otlp or console, not to {kind!r}")
    protocol = _of_traces("PROTOCOL") or "grpc"
    if protocol != "grpc":
        raise TracingRefused(f"OTEL_EXPORTER_OTLP_PROTOCOL: spans are sent by grpc, not by {protocol!r}")
    _check_endpoint(_of_traces("ENDPOINT") or DEFAULT_ENDPOINT)
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise _not_installed(error) from error
    return OTLPSpanExporter()


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise TracingRefused(
            f"OTEL_EXPORTER_OTLP_ENDPOINT: {endpoint!r} is no address of a collector: write {DEFAULT_ENDPOINT}, or https://"
        )


def _of_traces(name: str) -> str:
    return os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}", "")


def _not_installed(error: ImportError) -> TracingRefused:
    return TracingRefused(f"observe.tracing needs OpenTelemetry ({error}): pip install 'shoal[tracing-export]'")


def _shut_down(provider: TracerProvider, exporter: SpanExporter, node: str) -> None:
    """Send what there still is, and wait for that no longer than `FLUSH_SECONDS`."""
    last = Thread(target=provider.shutdown, name="shoal-last-spans", daemon=True)
    last.start()
    last.join(FLUSH_SECONDS)
    if last.is_alive():
        exporter.shutdown()
        log.warning(
            "spans_lost", node=node, reason=f"the collector did not take the last ones within {FLUSH_SECONDS:g} s"
        )


class _Complaints(logging.Handler):
    """What the SDK complains of: gathered until it has `started`, logged from then on."""

    def __init__(self, node: str) -> None:
        super().__init__(logging.WARNING)
        self.at_start: list[str] = []
        self.started = False
        self._node = node
        self._silent_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if not self.started:
            self.at_start.append(record.getMessage())
        elif record.created >= self._silent_until:
            self._silent_until = time.time() + COMPLAINT_SECONDS
            log.warning("spans_lost", node=self._node, reason=record.getMessage())
