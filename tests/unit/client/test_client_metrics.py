"""A client's own metrics: what it counts, and that Prometheus' library takes the client for a collector."""

from __future__ import annotations

import shoal
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families


def samples(client: shoal.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Register the client as an application does, and scrape it."""
    registry = CollectorRegistry()
    registry.register(client)  # type: ignore[arg-type]  # it has what is asked of a collector
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_calls_requests_and_errors_are_counted():
    with shoal.Client("embedded://") as db:
        db.put_many({f"key-{number}": "v" for number in range(10)})
        assert db.get("key-1") == b"v"
        assert db.get("nothing") is None
        assert len(list(db.scan("key-"))) == 10
        assert not db.exists("nothing")
        found = samples(db)
        assert found["shoal_client_operations_total", (("operation", "write"),)] >= 10
        assert found["shoal_client_operations_total", (("operation", "read"),)] == 3
        assert found["shoal_client_operations_total", (("operation", "scan"),)] >= 1
        reads = (("consistency", "strong"), ("operation", "read"))
        assert found["shoal_client_request_duration_seconds_count", reads] == 3
        assert found["shoal_client_connections_made_total", ()] == 1
        assert found["shoal_client_calls_open", ()] == 0
        assert found["shoal_client_map_version", ()] >= 1


def test_a_call_that_fails_is_counted_by_its_error():
    with shoal.Client("embedded://") as db:
        db.put("text", "no number")
        for _ in range(3):
            try:
                db.increment("text")
            except shoal.InvalidArgument:
                continue
        assert samples(db)["shoal_client_errors_total", (("code", "invalid_argument"),)] == 3


def test_sessions_and_keyspaces_are_counted_with_their_client():
    with shoal.Client("embedded://") as db:
        session = db.session()
        session.put("a", "1")
        session.get("a", consistency="eventual")
        weak = (("consistency", "weak"), ("operation", "read"))
        assert samples(db)["shoal_client_request_duration_seconds_count", weak] == 1
