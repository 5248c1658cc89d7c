"""What a client counts while it works, and the families of samples that come of it.

Nothing costs a step for every call: a batch, which carries all calls for a shard of one turn of the event loop, adds to a
few numbers when its answer comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shoal.errors import ErrorCode
from shoal.metrics import Family, Histogram, counter, labelled
from shoal.routing.shard_queue import InFlightRequest, Query, ReadBatch, SessionOpen, WriteBatch

_LABELS = {
    "session open": ("open_session", "quorum"),
    "write": ("write", "quorum"),
    "fast": ("write", "fast"),
    "read": ("read", "strong"),
    "weak read": ("read", "weak"),
    "scan": ("scan", "strong"),
    "weak scan": ("scan", "weak"),
}


class ClientCounters:
    """The counters of one client object, with all its sessions and keyspaces."""

    __slots__ = (
        "calls_failed",
        "calls_read",
        "calls_scanned",
        "calls_written",
        "connections_lost",
        "connections_made",
        "latencies",
        "overloads",
        "redirects",
        "refusals",
        "retries",
        "throttled",
    )

    def __init__(self) -> None:
        self.calls_written = 0
        self.calls_read = 0
        self.calls_scanned = 0
        self.calls_failed: dict[ErrorCode, int] = {}
        self.latencies = {name: Histogram() for name in _LABELS}
        self.refusals: dict[str, int] = {}
        self.overloads: dict[str, int] = {}
        self.throttled: dict[str, int] = {}
        self.retries = 0
        self.redirects = 0
        self.connections_made = 0
        self.connections_lost = 0

    def answered(self, request: InFlightRequest[Any], now: float) -> None:
        """A request was answered with what it asked for."""
        self.latencies[_kind(request)].record(now - request.sent)

    def refused(self, code: str) -> None:
        """A request was refused."""
        self.refusals[code] = self.refusals.get(code, 0) + 1

    def failed(self, code: ErrorCode, calls: int = 1) -> None:
        """Calls ended with an error."""
        self.calls_failed[code] = self.calls_failed.get(code, 0) + calls

    def families(self) -> Iterator[Family]:
        """Yield what was counted."""
        calls = Family(
            "shoal_client_operations", "counter", "Calls that were done: keys read, operations written, pages scanned"
        )
        calls.add(self.calls_read, operation="read").add(self.calls_written, operation="write")
        yield calls.add(self.calls_scanned, operation="scan")
        errors = [(code.value, self.calls_failed.get(code, 0)) for code in ErrorCode]
        yield labelled("counter", "shoal_client_errors", "Calls that ended with an error", "code", errors)
        refusals = list(self.refusals.items())
        yield labelled(
            "counter", "shoal_client_refusals", "Requests that a node refused, retried or not", "code", refusals
        )
        yield labelled(
            "counter",
            "shoal_client_overloads",
            "Requests that a node refused as overloaded, by what there was too much of",
            "reason",
            list(self.overloads.items()),
        )
        yield labelled(
            "counter",
            "shoal_client_throttled_calls",
            "Calls that the client turned away itself, since a node refuses much",
            "reason",
            list(self.throttled.items()),
        )
        latency = Family(
            "shoal_client_request_duration_seconds",
            "histogram",
            "Requests from sending to answer, none left out, each counted once whatever it carries, each attempt for itself",
        )
        for name, histogram in self.latencies.items():
            operation, consistency = _LABELS[name]
            latency.add_histogram(histogram, operation=operation, consistency=consistency)
        yield latency
        yield counter(
            "shoal_client_retries", "Times that a shard's traffic was held back to be sent again", self.retries
        )
        yield counter("shoal_client_redirects", "Times that it was sent elsewhere at once", self.redirects)
        yield counter("shoal_client_connections_made", "Connections that were greeted", self.connections_made)
        yield counter(
            "shoal_client_connections_lost", "Connections that ended, or did not come about", self.connections_lost
        )


def _kind(request: InFlightRequest[Any]) -> str:
    if isinstance(request, WriteBatch):
        return "fast" if request.fast else "write"
    if isinstance(request, SessionOpen):
        return "session open"
    assert isinstance(request, Query), "a request is a write, a session open or a query"
    name = "read" if isinstance(request, ReadBatch) else "scan"
    return name if request.freshness.strong else f"weak {name}"
