"""A replica that has failed and leads all the same does so for as long as that helps another voter, and no longer."""

from __future__ import annotations

from shoal_server.raft.config import Timing
from shoal_server.raft.group import FEEDING_SUPPORTS
from shoal_server.raft.messages import NEEDS_SNAPSHOT, AppendRejected, Resigned, VoteResponse
from shoal_server.raft.state import Role

from .harness import MS, SECOND, Harness

PATIENCE = FEEDING_SUPPORTS * Timing().support_ns
ENTRIES = 3


def elect(harness: Harness) -> None:
    """Have n2 vote for it as soon as it campaigns."""
    group = harness.group
    while group.role is not Role.PRE_CANDIDATE:
        harness.supported_by("n2")
        harness.tick(after=10 * MS)
    harness.sync(harness.step("n2", VoteResponse(1, group.term + 1, True, True)))
    harness.sync(harness.step("n2", VoteResponse(1, group.term, True, False)))
    assert group.role is Role.LEADER
    assert not group.is_leader


def feeding() -> Harness:
    """One that has failed, with a log of entries that n2 lacks, and leads by the vote of n2, which alone supports it."""
    harness = Harness()
    harness.lead()
    for _ in range(ENTRIES):
        harness.group.propose([b"an entry"])
    harness.sync(harness.ready())
    harness.group.fail(harness.now)
    elect(harness)
    return harness


def needs_snapshot(harness: Harness) -> None:
    harness.step("n2", AppendRejected(1, harness.group.term, 1, NEEDS_SNAPSHOT, 0, 1))


def led_for(harness: Harness) -> int:
    """Let time go by, n2 supporting it, until it leads no more; return how long that took."""
    began = harness.now
    while harness.group.role is Role.LEADER:
        assert harness.now - began <= 2 * PATIENCE
        assert harness.group.active, "who is not ticked would lead on"
        harness.supported_by("n2")
        ready = harness.tick(after=10 * MS)
    assert ("n2", Resigned(1, harness.group.term)) in ready.messages
    return harness.now - began


def test_it_resigns_where_entries_help_nobody() -> None:
    harness = feeding()
    needs_snapshot(harness)
    assert led_for(harness) == PATIENCE


def test_it_resigns_where_nobody_takes_what_it_sends() -> None:
    assert led_for(feeding()) == PATIENCE


def test_it_resigns_where_it_has_no_way_to_who_supports_it() -> None:
    harness = feeding()
    harness.group.peer_unreachable("n2", harness.now)
    assert led_for(harness) == PATIENCE


def test_it_goes_on_for_as_long_as_somebody_takes_entries() -> None:
    harness = feeding()
    for match in range(1, ENTRIES + 1):
        for _ in range(PATIENCE // SECOND - 1):
            harness.supported_by("n2")
            harness.tick(after=SECOND)
        harness.accept("n2", match)
    assert harness.group.role is Role.LEADER
    assert led_for(harness) == PATIENCE


def test_each_time_it_waits_longer_before_it_leads_again() -> None:
    harness = feeding()
    waits = []
    for _ in range(3):
        led_for(harness)
        resigned = harness.now
        elect(harness)
        waits.append(harness.now - resigned)
    first, second, third = waits
    assert first >= 2 * Timing().support_ns
    assert second >= first + Timing().support_ns
    assert third >= second + 2 * Timing().support_ns
