"""Who takes part: every step keeps majorities overlapping, and history follows the log back and forth."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal_server.invariants import InvariantViolated
from shoal_server.raft.membership import (
    ChangeKind,
    MembershipChange,
    MembershipHistory,
    MembershipRefused,
    changed,
    encode_membership,
)
from shoal_server.raft.messages import Entry, EntryKind, Membership, sealed
from shoal_server.raft.quorum import quorum_size

NODES = ("n1", "n2", "n3", "n4", "n5")
changes = st.builds(MembershipChange, st.sampled_from(list(ChangeKind)), st.sampled_from(NODES))


def entry(index: int, membership: Membership) -> Entry:
    return sealed(1, 1, index, EntryKind.MEMBERSHIP, encode_membership(membership))


@given(st.lists(changes, max_size=15))
def test_every_majority_before_a_change_overlaps_every_one_after_it(steps: list[MembershipChange]) -> None:
    membership = Membership(1, ("n1", "n2", "n3"))
    for change in steps:
        try:
            after = changed(membership, change)
        except MembershipRefused:
            continue
        assert after.voters
        assert after.version == membership.version + 1
        assert not set(after.voters) & set(after.learners)
        for old in combinations(membership.voters, quorum_size(len(membership.voters))):
            for new in combinations(after.voters, quorum_size(len(after.voters))):
                assert set(old) & set(new)
        membership = after


@pytest.mark.parametrize(
    ("kind", "node", "words"),
    [
        (ChangeKind.ADD_LEARNER, "n1", "already has a replica"),
        (ChangeKind.PROMOTE, "n9", "only a follower can become a voter"),
        (ChangeKind.DEMOTE, "n2", "no voter"),
        (ChangeKind.DEMOTE, "n1", "last voter: promote another first"),
        (ChangeKind.REMOVE, "n1", "demote a voter before removing it"),
        (9, "n1", "unknown kind"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_with_what_would_work(kind: int, node: str, words: str) -> None:
    with pytest.raises(MembershipRefused, match=words):
        changed(Membership(1, ("n1",), ("n2",)), MembershipChange(kind, node))


def test_a_membership_is_in_force_when_appended_and_rolled_back_with_its_entry() -> None:
    first = Membership(1, ("n1", "n2"))
    second = Membership(2, ("n1", "n2"), ("n3",))
    third = Membership(3, ("n1", "n2", "n3"))
    history = MembershipHistory(first, 0)
    assert history.append([entry(4, second), sealed(1, 1, 5, EntryKind.COMMAND, b""), entry(6, third)])
    assert (history.current, history.current_index) == (third, 6)
    assert history.truncate_from(5)
    assert (history.current, history.current_index) == (second, 4)
    assert history.truncate_from(4)
    assert (history.current, history.current_index) == (first, 0)
    assert not history.truncate_from(1)


def test_what_is_applied_is_not_rolled_back_to_before_it() -> None:
    second = Membership(2, ("n1", "n2"))
    history = MembershipHistory(Membership(1, ("n1",)), 0)
    history.append([entry(4, second)])
    history.applied(3)
    history.applied(4)
    history.truncate_from(5)
    assert (history.current, history.current_index) == (second, 4)


@pytest.mark.parametrize(
    ("index", "membership", "words"),
    [
        (5, Membership(3, ("n1", "n2")), "one change of membership at a time"),
        (5, Membership(2, ("n1", "n2", "n3")), "one voter changes at a time"),
        (2, Membership(2, ("n1", "n2")), "in the log's order"),
    ],
)
def test_a_log_that_skips_a_step_is_an_invariant_violated(index: int, membership: Membership, words: str) -> None:
    history = MembershipHistory(Membership(1, ("n1",)), 2)
    with pytest.raises(InvariantViolated, match=words):
        history.append([entry(index, membership)])
