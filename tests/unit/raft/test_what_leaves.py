"""What a replica says is of a term that is on its disk, and what it says under a promise binds it."""

from __future__ import annotations

import pytest
from shoal_server.invariants import InvariantViolated
from shoal_server.raft.messages import (
    AppendAccepted,
    AppendEntries,
    AppendRejected,
    EntryKind,
    HardState,
    LeaderQuestion,
    Membership,
    Resigned,
    SnapshotHeader,
    TermPassed,
    VoteRequest,
    VoteResponse,
    sealed,
)
from shoal_server.raft.state import Role

from .harness import SECOND, Harness, follow, kinds

MEMBERSHIP = Membership(1, ("n1", "n2", "n3"))


def take_snapshot(harness: Harness, sender: str, term: int, index: int, index_term: int) -> bool:
    """Let a snapshot's last piece arrive; return whether it was taken."""
    header = SnapshotHeader(1, term, index, index_term, 1)
    group = harness.group
    group.step(sender, header, harness.now)
    taken = group.follows(sender, term) and group.can_restore(index, index_term)
    if taken:
        group.restore(sender, header, MEMBERSHIP, 0, harness.now)
    return taken


def pre_candidate_whose_leader_is_back() -> Harness:
    """n1 followed n2 in term 3, under a promise that has run out, and has promised it support anew."""
    harness = Harness()
    follow(harness, "n2", 3, [sealed(1, 3, 1, EntryKind.EMPTY, b"")])
    harness.now += 2 * SECOND
    harness.tick()
    harness.tick(SECOND)
    assert (harness.group.role, harness.group.term) == (Role.PRE_CANDIDATE, 3)
    harness.support("n2")
    return harness


# -- snapshots


def test_a_pre_candidate_that_takes_its_leaders_snapshot_is_bound_by_the_promise_that_it_answers_under() -> None:
    harness = pre_candidate_whose_leader_is_back()
    assert take_snapshot(harness, "n2", 3, 9, 3)
    [(peer, accepted)] = harness.ready().durable_messages
    assert (peer, accepted) == ("n2", AppendAccepted(1, 3, 9, 9, harness.liveness.promise_to("n2", 1)))
    harness.step("n3", VoteResponse(1, 7, False, True))
    assert (harness.group.role, harness.group.term, harness.group.leader) == (Role.FOLLOWER, 3, "n2")
    assert harness.step("n3", VoteRequest(1, 8, 99, 7, False, False)).durable_messages == [
        ("n3", VoteResponse(1, 3, False, False))
    ]


def test_a_snapshot_brings_its_term_which_is_stored_with_it() -> None:
    harness = Harness()
    follow(harness, "n2", 3)
    assert take_snapshot(harness, "n3", 4, 9, 4)
    ready = harness.ready()
    assert ready.hard_state == HardState(4, "")
    [(peer, accepted)] = ready.durable_messages
    assert (peer, accepted.term, accepted.match_index) == ("n3", 4, 9)


def test_a_candidate_that_gets_a_snapshot_of_a_later_term_follows_and_campaigns_later_in_one_that_is_later_still() -> (
    None
):
    harness = Harness()
    harness.group.campaign(harness.now)
    harness.ready()
    harness.step("n2", VoteResponse(1, 1, True, True))
    assert (harness.group.role, harness.group.term) == (Role.CANDIDATE, 1)
    assert take_snapshot(harness, "n3", 5, 9, 4)
    harness.sync(harness.ready())
    harness.step("n3", Resigned(1, 5))
    harness.lead()
    assert harness.group.term == 6


def test_a_snapshot_of_an_old_leader_is_not_taken_and_the_leader_is_told() -> None:
    harness = Harness()
    follow(harness, "n2", 5)
    assert not take_snapshot(harness, "n3", 4, 9, 4)
    assert harness.ready().messages == [("n3", TermPassed(1, 5))]
    assert (harness.group.log.last_index, harness.group.leader) == (0, "n2")


def test_a_snapshot_is_not_taken_where_a_newer_term_has_come_between_its_arrival_and_its_adoption() -> None:
    harness = Harness()
    header = SnapshotHeader(1, 4, 9, 4, 1)
    harness.group.step("n3", header, harness.now)
    harness.step("n2", AppendEntries(1, 5, 0, 0, 0, [], 1))
    assert not harness.group.follows("n3", 4)
    with pytest.raises(InvariantViolated, match="snapshots of the leader that it follows"):
        harness.group.restore("n3", header, MEMBERSHIP, 0, harness.now)


# -- promises


def test_what_was_owed_to_a_leader_names_no_promise_once_it_is_not_followed_any_more() -> None:
    harness = Harness()
    harness.support("n2")
    harness.group.step("n2", AppendEntries(1, 3, 0, 0, 0, [sealed(1, 3, 1, EntryKind.EMPTY, b"")], 1), harness.now)
    ready = harness.step("n2", Resigned(1, 3))
    assert [(peer, message.promise) for peer, message in ready.durable_messages] == [
        ("n2", harness.liveness.no_promise)
    ]


def test_a_rejection_is_not_made_in_a_term_that_has_passed() -> None:
    harness = Harness()
    harness.group.step("n2", AppendEntries(1, 3, 7, 3, 0, [], 1), harness.now)
    ready = harness.step("n3", AppendEntries(1, 4, 8, 4, 0, [], 1))
    assert [(peer, type(message), message.term) for peer, message in ready.durable_messages] == [
        ("n3", AppendRejected, 4)
    ]


def test_a_promise_to_an_earlier_life_of_the_leaders_process_is_not_named_to_the_next() -> None:
    harness = Harness()
    harness.support("n2")
    ready = harness.step("n2", AppendEntries(1, 3, 0, 0, 0, [], 2))
    assert [message.promise for _, message in ready.durable_messages] == [harness.liveness.no_promise]


# -- terms


def test_that_it_has_given_up_a_term_is_said_when_the_term_is_on_disk() -> None:
    harness = Harness()
    harness.group.step("n3", VoteRequest(1, 7, 0, 0, False, False), harness.now)
    ready = harness.step("n2", LeaderQuestion(1, 6))
    assert ready.messages == []
    assert ("n2", Resigned(1, 7)) in ready.durable_messages
    harness.sync(ready)
    assert harness.step("n2", LeaderQuestion(1, 6)).messages == [("n2", Resigned(1, 7))]


def test_a_lone_voter_says_that_it_resigns_from_a_term_when_that_is_on_disk() -> None:
    harness = Harness(voters=("n1",), learners=("n2",))
    harness.group.campaign(harness.now)
    ready = harness.ready()
    assert harness.group.is_leader
    harness.group.step("n2", VoteRequest(1, 9, 9, 9, False, True), harness.now)
    harness.group.step("n2", AppendEntries(1, 9, 0, 0, 0, [], 1), harness.now)
    after = harness.ready()
    assert "Resigned" not in [kind for _, kind in kinds(ready.messages + after.messages)]
    assert ("n2", Resigned(1, 1)) in after.durable_messages


def test_a_question_of_a_term_that_is_not_on_disk_waits() -> None:
    harness = Harness()
    harness.support("n2")
    harness.group.step("n2", AppendEntries(1, 3, 0, 0, 0, [], 1), harness.now)
    ready = harness.step("n3", VoteRequest(1, 7, 9, 9, False, False))
    assert ready.messages == []
    assert ("n2", LeaderQuestion(1, 3)) in ready.durable_messages


def test_a_message_that_runs_ahead_of_its_term_is_an_invariant_violated() -> None:
    harness = Harness()
    harness.step("n2", AppendEntries(1, 3, 0, 0, 0, [], 1))
    harness.group.messages.append(("n2", Resigned(1, 3)))
    with pytest.raises(InvariantViolated, match="leaves when that term is on disk"):
        harness.group.ready(harness.now)


def test_a_promise_that_binds_nobody_is_an_invariant_violated() -> None:
    harness = pre_candidate_whose_leader_is_back()
    promise = harness.liveness.promise_to("n2", 1)
    harness.group.durable_messages.append(("n2", AppendAccepted(1, 3, 1, 0, promise)))
    with pytest.raises(InvariantViolated, match="a replica that it binds"):
        harness.group.ready(harness.now)
