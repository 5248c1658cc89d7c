"""Which requests are noted as slow, and what is said of where their time went."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from shoal.protocol.messages import Failure, Freshness, Put, Rows, Written
from shoal_server.node.counters import Served, TimedRequest
from shoal_server.observe.slow_log import EVENTS_PER_WINDOW, SlowLog

MS = 1_000_000
SLOW_MS = 50


def watch(nodes: Any) -> list[TimedRequest]:
    """Have every slow request of any node noted from now on, in the list that is returned."""
    noted: list[TimedRequest] = []
    step = nodes.step

    def step_and_look() -> None:
        step()
        for node in nodes.nodes.values():
            noted.extend(node.counters.take_slow())

    for node in nodes.nodes.values():
        node.counters.slow_ns = SLOW_MS * MS
    nodes.step = step_and_look
    return noted


def test_a_write_that_waits_for_its_followers_says_that_the_commit_took_the_time(nodes: Any):
    noted = watch(nodes)
    first = nodes.write(Put(b"a", b"1"))
    assert isinstance(nodes.answer(first), Written)
    assert noted == []
    leader, others = nodes.leader, nodes.others
    nodes.cut |= {(leader, other) for other in others}
    request = nodes.write(Put(b"a", b"2"), Put(b"b", b"2"))
    nodes.pass_time(100)
    nodes.heal()
    assert isinstance(nodes.answer(request), Written)
    (slow,) = [each for each in noted if each.served is Served.WRITE_QUORUM]
    assert (slow.request, slow.shard, slow.requests, slow.outcome) == (request, 1, 1, "")
    assert slow.session
    assert slow.number == 2
    assert slow.index
    assert slow.proposed - slow.arrived < 10 * MS
    assert slow.synced - slow.proposed < 10 * MS
    assert slow.settled - slow.proposed >= 100 * MS


def test_a_write_whose_leader_is_deposed_is_noted_with_its_end(nodes: Any):
    assert isinstance(nodes.answer(nodes.write(Put(b"a", b"1"))), Written)
    noted = watch(nodes)
    leader = nodes.leader
    request = nodes.write(Put(b"a", b"2"))
    nodes.isolate(leader)
    nodes.until(lambda: request in nodes.answers, 10_000)
    assert isinstance(nodes.answer(request), Failure)
    assert [(each.request, each.outcome) for each in noted] == [(request, "not_leader")]


def test_requests_are_counted_by_kind_and_failures_by_code(nodes: Any):
    counters = nodes.nodes[nodes.leader].counters
    assert isinstance(nodes.answer(nodes.write(Put(b"a", b"1"))), Written)
    assert isinstance(nodes.answer(nodes.read(nodes.leader, b"a", freshness=Freshness())), Rows)
    assert isinstance(nodes.answer(nodes.write(Put(b"", b"1"))), Failure)
    assert {kind.__name__: count for kind, count in counters.requests.items()} == {
        "OpenSession": 1,
        "Write": 2,
        "Read": 1,
    }
    assert {code.value: count for code, count in counters.failures.items()} == {"invalid_argument": 1}
    assert counters.proposals == counters.proposed_commands == 2


def test_elections_and_changes_of_leaders_are_counted(nodes: Any):
    before = {name: (node.counters.elections_won, node.counters.leader_changes) for name, node in nodes.nodes.items()}
    deposed = nodes.leader
    nodes.isolate(deposed)
    nodes.until(lambda: any(nodes.replica(name).group.is_leader for name in nodes.nodes if name != deposed), 10_000)
    nodes.heal()
    nodes.until(lambda: nodes.replica(deposed).group.leader not in ("", deposed), 10_000)
    winner = nodes.replica(deposed).group.leader
    assert nodes.nodes[winner].counters.elections_won == before[winner][0] + 1
    assert nodes.nodes[deposed].counters.leader_changes == before[deposed][1] + 1


SLOW = TimedRequest(Served.WRITE_QUORUM, 7, 3, 1, 42, "000102030405", 5, 99, 2, 100 * MS, 120 * MS, 125 * MS, 600 * MS)


def test_the_log_says_where_the_time_went():
    with structlog.testing.capture_logs() as events:
        SlowLog("n1", lambda _client: "10.0.0.9:5000").take([SLOW], 610 * MS)
    assert events == [
        {
            "event": "slow_request",
            "log_level": "warning",
            "node": "n1",
            "shard": 7,
            "operation": "write",
            "consistency": "quorum",
            "client": 1,
            "address": "10.0.0.9:5000",
            "request": 42,
            "requests": 3,
            "total_ms": 510.0,
            "queue_ms": 20.0,
            "own_disk_ms": 5.0,
            "commit_ms": 480.0,
            "apply_ms": 10.0,
            "session": "000102030405",
            "number": 5,
            "index": 99,
            "term": 2,
        }
    ]


@pytest.mark.parametrize("times", [1, 3])
def test_the_log_is_bounded_and_says_how_many_it_left_out(times: int):
    slow_log = SlowLog("n1", lambda _client: "")
    with structlog.testing.capture_logs() as events:
        slow_log.take([SLOW] * EVENTS_PER_WINDOW * times, 10_000 * MS)
        slow_log.take([SLOW], 12_000 * MS)
    assert slow_log.seen == 3 * (EVENTS_PER_WINDOW * times + 1)
    left_out = [event["requests"] for event in events if event["event"] == "slow_requests_left_out"]
    assert left_out == ([3 * EVENTS_PER_WINDOW * (times - 1)] if times > 1 else [])
    assert sum(event["event"] == "slow_request" for event in events) == EVENTS_PER_WINDOW + 1
