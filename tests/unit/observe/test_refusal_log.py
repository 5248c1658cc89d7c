"""The log of refused connections: with the address, and never more than somebody can read."""

from __future__ import annotations

import structlog.testing
from shoal_server.observe.refusal_log import EVENTS_PER_WINDOW, RefusalLog


def test_a_refusal_is_logged_with_who_and_why():
    refusals = RefusalLog("n1", clock=lambda: 10.0)
    with structlog.testing.capture_logs() as events:
        refusals.take("10.0.0.9:5000", "it does not speak TLS", peer="n2", client=7)
    (event,) = events
    assert event["event"] == "connection_refused"
    assert (event["node"], event["address"], event["peer"], event["client"]) == ("n1", "10.0.0.9:5000", "n2", 7)
    assert event["reason"] == "it does not speak TLS"


def test_a_flood_of_refusals_is_counted_and_the_log_goes_on_a_second_later():
    now = 10.0
    refusals = RefusalLog("n1", clock=lambda: now)
    with structlog.testing.capture_logs() as events:
        for _ in range(1000):
            refusals.take("10.0.0.9:5000", "no")
        assert len(events) == EVENTS_PER_WINDOW
        now += 1.0
        refusals.take("10.0.0.8:5000", "no")
    assert events[EVENTS_PER_WINDOW]["event"] == "connections_refused_left_out"
    assert events[EVENTS_PER_WINDOW]["connections"] == 1000 - EVENTS_PER_WINDOW
    assert events[-1]["address"] == "10.0.0.8:5000"
