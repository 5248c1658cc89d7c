"""The API's spans: a call that comes with a trace (`traceparent`, W3C Trace Context) goes on with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import TypeVar

import grpc
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from shoal.errors import ShoalError
from shoal.tracing import untraced

from shoal_server.api.errors import status_code

INSTRUMENTATION = "shoal.api"

R = TypeVar("R")


class ApiTracing:
    """Makes a span of kind SERVER of each call that is traced. Others are none, nor is what they do."""

    def __init__(self, provider: TracerProvider, service: str) -> None:
        self.provider = provider
        self._service = service
        self._tracer = provider.get_tracer(INSTRUMENTATION, version("shoal"))
        self._propagator = TraceContextTextMapPropagator()

    async def follow(
        self, method: str, metadata: Sequence[tuple[str, str | bytes]], answer: Callable[[], Awaitable[R]]
    ) -> R:
        """Answer a call that came with `metadata`."""
        carried = {name: value for name, value in metadata if isinstance(value, str)}
        parent = self._propagator.extract(carried)
        if not get_current_span(parent).get_span_context().trace_flags.sampled:
            with untraced():
                return await answer()
        attributes = {"rpc.system": "grpc", "rpc.service": self._service, "rpc.method": method}
        with self._tracer.start_as_current_span(
            f"{self._service}/{method}",
            parent,
            SpanKind.SERVER,
            attributes,
            record_exception=False,  # its message may name keys
            set_status_on_exception=False,
        ) as span:
            code = grpc.StatusCode.CANCELLED
            try:
                answered = await answer()
                code = grpc.StatusCode.OK
                return answered
            except ShoalError as error:
                code = status_code(error)
                span.set_attribute("error.type", error.code.value)
                raise
            finally:
                span.set_attribute("rpc.grpc.status_code", code.value[0])
                if code is not grpc.StatusCode.OK:
                    span.set_status(Status(StatusCode.ERROR, code.name))
