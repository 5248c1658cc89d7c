"""Reads of replicas that do not lead: answered exactly once, by those that know that they are fresh enough."""

from __future__ import annotations

from typing import Any

import pytest
from shoal.errors import ErrorCode
from shoal.protocol.messages import Failure, Freshness, Put, Rows, Scan, ScanPage, Written
from shoal.shardmap import MicroshardRange
from shoal_server.node.freshness import REFRESH_NS, FreshnessAnswer, ReplicaFreshness

MS = 1_000_000
ANY = Freshness(strong=False)


def within(milliseconds: int) -> Freshness:
    return Freshness(strong=False, max_staleness_ms=milliseconds)


def test_a_replica_asks_how_fresh_it_is_and_answers_with_a_bound_on_its_staleness(nodes: Any) -> None:
    written = nodes.answer(nodes.write(Put(b"k", b"v")))
    nodes.pass_time(20)
    for follower in nodes.others:
        rows = nodes.answer(nodes.read(follower, b"k", freshness=within(1000)))
        assert isinstance(rows, Rows)
        assert (rows.values, rows.served_by, rows.seq) == ([b"v"], follower, written.seq)
        assert 1 <= rows.staleness_ms <= 20


def test_a_replica_that_is_read_from_answers_at_once_and_a_quiet_one_asks_nothing(nodes: Any) -> None:
    [follower, quiet] = nodes.others
    nodes.answer(nodes.read(follower, b"k", freshness=ANY))
    nodes.pass_time(500)
    again = nodes.read(follower, b"k", freshness=within(200))
    nodes.step()
    [rows] = nodes.answers[again]
    assert isinstance(rows, Rows)
    assert rows.staleness_ms <= REFRESH_NS // MS + 20
    assert nodes.replica(quiet).reads._freshness.staleness_ms(nodes.now) is None


def test_the_leader_serves_weak_reads_at_staleness_zero(nodes: Any) -> None:
    nodes.answer(nodes.write(Put(b"k", b"v")))
    rows = nodes.answer(nodes.read(nodes.leader, b"k", freshness=within(1)))
    assert isinstance(rows, Rows)
    assert (rows.values, rows.staleness_ms, rows.served_by) == ([b"v"], 0, nodes.leader)


def test_a_strong_read_of_a_replica_that_does_not_lead_is_refused(nodes: Any) -> None:
    refused = nodes.answer(nodes.read(nodes.others[0], b"k", freshness=Freshness()))
    assert isinstance(refused, Failure)
    assert refused.code == ErrorCode.NOT_LEADER.value
    assert refused.route.leader == nodes.leader


def test_a_cut_off_replica_serves_until_its_bound_has_passed_and_then_declines(nodes: Any) -> None:
    nodes.answer(nodes.write(Put(b"k", b"old")))
    follower = nodes.others[0]
    nodes.answer(nodes.read(follower, b"k", freshness=ANY))
    nodes.pass_time(200)
    nodes.isolate(follower)
    nodes.answer(nodes.write(Put(b"k", b"new")))
    served = nodes.answer(nodes.read(follower, b"k", freshness=within(300)))
    assert isinstance(served, Rows)
    assert served.values == [b"old"]
    nodes.pass_time(300)
    declined = nodes.answer(nodes.read(follower, b"k", freshness=within(300)))
    assert isinstance(declined, Failure)
    assert declined.code == ErrorCode.TOO_STALE.value
    assert "asked for was at most 300 ms" in declined.message
    # However stale it is, it knows by how much at most, and says so.
    rows = nodes.answer(nodes.read(follower, b"k", freshness=ANY))
    assert isinstance(rows, Rows)
    assert rows.staleness_ms >= 300


def test_what_a_replica_lacks_was_written_within_the_staleness_it_tells(nodes: Any) -> None:
    """The follower is cut off at every moment round a write, and must never claim to be fresher than it is."""
    follower = nodes.others[0]
    nodes.answer(nodes.read(follower, b"k", freshness=ANY))
    for number in range(1, 40):
        request = nodes.write(Put(b"k", b"%d" % number))
        for _ in range(number % 8):
            nodes.step()
        nodes.isolate(follower)
        assert isinstance(nodes.answer(request), Written)
        acknowledged_at = nodes.now
        nodes.pass_time(5)
        asked_at = nodes.now
        rows = nodes.answer(nodes.read(follower, b"k", freshness=within(10_000)))
        assert isinstance(rows, Rows)
        if rows.values != [b"%d" % number]:
            assert rows.staleness_ms * MS > asked_at - acknowledged_at
        nodes.heal()
        nodes.pass_time(30)


def test_a_read_waits_for_the_seq_it_asks_for_and_is_declined_if_that_does_not_come(nodes: Any) -> None:
    follower = nodes.others[0]
    nodes.answer(nodes.read(follower, b"k", freshness=ANY))
    written = nodes.answer(nodes.write(Put(b"k", b"v")))
    rows = nodes.answer(nodes.read(follower, b"k", freshness=Freshness(False, written.seq)))
    assert isinstance(rows, Rows)
    assert (rows.values, rows.seq >= written.seq) == ([b"v"], True)

    asked_at = nodes.now
    request = nodes.read(follower, b"k", freshness=Freshness(False, written.seq + 1))
    declined = nodes.answer(request)
    assert isinstance(declined, Failure)
    assert declined.code == ErrorCode.TOO_STALE.value
    assert 20 * MS <= nodes.now - asked_at <= 40 * MS
    nodes.answer(nodes.write(Put(b"k", b"w")))
    nodes.pass_time(50)
    assert nodes.answers[request] == [declined], "it is answered once"


def test_a_replica_that_was_never_told_how_fresh_it_is_declines_in_time(nodes: Any) -> None:
    follower = nodes.others[0]
    nodes.isolate(follower)
    requests = [nodes.read(follower, b"k", freshness=freshness) for freshness in (ANY, within(5000))]
    for request in requests:
        declined = nodes.answer(request)
        assert isinstance(declined, Failure)
        assert (declined.code, "nobody could say" in declined.message) == (ErrorCode.TOO_STALE.value, True)
    nodes.pass_time(3000)
    assert all(len(nodes.answers[request]) == 1 for request in requests)


def test_weak_scans_are_served_and_declined_like_reads(nodes: Any) -> None:
    nodes.answer(nodes.write(Put(b"a", b"1"), Put(b"b", b"2")))
    nodes.pass_time(20)
    follower = nodes.others[0]

    def scan(request: int) -> Scan:
        return Scan(request, 1, 1, 1000, (MicroshardRange(0, 4),), b"", b"", True, False, 10, within(100))

    page = nodes.ask_and_wait(follower, scan)
    assert isinstance(page, ScanPage)
    assert (page.keys, page.values, page.served_by) == ([b"b", b"a"], [b"2", b"1"], follower)
    nodes.isolate(follower)
    nodes.pass_time(200)
    assert isinstance(nodes.ask_and_wait(follower, scan), Failure)


@pytest.mark.parametrize("steps", range(0, 24, 3))
def test_weak_reads_are_answered_once_whatever_becomes_of_the_leader(nodes: Any, steps: int) -> None:
    """The leader is cut off while replicas, it among them, have weak reads under way; then another leads."""
    old = nodes.leader
    nodes.isolate(old)
    nodes.pass_time(1000 + 20 * steps)
    requests = [
        nodes.read(name, b"k", freshness=freshness)
        for name in ("n1", "n2", "n3")
        for freshness in (ANY, within(1), Freshness(False, 1 << 40))
    ]
    nodes.pass_time(3000)
    nodes.heal()
    nodes.pass_time(3000)
    assert nodes.leader != old
    assert [len(nodes.answers.get(request, [])) for request in requests] == [1] * len(requests)


def test_only_the_newest_answer_that_is_applied_counts() -> None:
    freshness = ReplicaFreshness(drift_permille=0)
    assert freshness.staleness_ms(0) is None
    freshness.answered(FreshnessAnswer(1, 50 * MS, 8), applied_index=5)
    assert freshness.staleness_ms(60 * MS) is None, "position 8 is not applied yet"
    freshness.answered(FreshnessAnswer(1, 40 * MS, 5), applied_index=5)
    assert freshness.staleness_ms(60 * MS) == 20
    freshness.applied(7)
    assert freshness.staleness_ms(60 * MS) == 20
    freshness.applied(8)
    assert freshness.staleness_ms(60 * MS) == 10
    freshness.answered(FreshnessAnswer(1, 45 * MS, 6), applied_index=8)
    assert freshness.staleness_ms(60 * MS) == 10, "a late answer makes no replica older"


def test_staleness_is_rounded_up_and_widened_by_the_clocks_drift() -> None:
    freshness = ReplicaFreshness(drift_permille=100)
    freshness.answered(FreshnessAnswer(1, 0, 1), applied_index=1)
    assert [freshness.staleness_ms(now) for now in (0, 1, MS, 1000 * MS)] == [0, 1, 2, 1100]
