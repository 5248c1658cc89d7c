"""A replica that a node gets anew may have forgotten what an earlier one promised: it is silent until it knows enough.

One that is the first on its node, and has nothing yet, has nothing to forget: it votes, and does no more.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from shoal_server.raft.config import RaftConfig, Timing
from shoal_server.raft.group import Group
from shoal_server.raft.liveness import Liveness
from shoal_server.raft.log import Log
from shoal_server.raft.membership import encode_membership
from shoal_server.raft.messages import (
    AppendEntries,
    AppendRejected,
    EntryKind,
    HardState,
    Membership,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
    sealed,
)

FOUNDERS = Membership(1, ("n1", "n2", "n3"))
LATER = 10_000_000_000


def replica(new_disk: Any, silent_until: int, *, awaits_snapshot: bool = False, lost_to: int = 0) -> Group:
    """Return the empty replica on n1, which was a founder once, long after its start."""
    timing = Timing()
    stored = new_disk(FOUNDERS)
    log = Log(stored, truncated_index=0, truncated_term=0, last_index=0, applied_index=0)
    return Group(
        1,
        "n1",
        config=RaftConfig(),
        timing=timing,
        liveness=Liveness("n1", 1, timing, 0),
        log=log,
        hard_state=HardState(0, ""),
        membership=FOUNDERS,
        membership_index=0,
        random=Random(1),
        now=0,
        priority=0,
        silent_until=silent_until,
        awaits_snapshot=awaits_snapshot,
        lost_to=lost_to,
    )


def votes(group: Group) -> list[bool]:
    """Return what the group answers to candidates that ask now."""
    found: list[bool] = []
    while group.has_ready:
        ready = group.ready(LATER)
        found += [
            message.granted
            for _, message in (*ready.messages, *ready.durable_messages)
            if isinstance(message, VoteResponse)
        ]
    return found


@pytest.mark.parametrize("pre", [True, False])
def test_it_helps_no_stale_candidate_to_a_majority_of_a_membership_of_the_past(new_disk: Any, pre: bool) -> None:
    request = VoteRequest(1, 5, 7, 4, pre, False)
    founder, newcomer = replica(new_disk, 0), replica(new_disk, 3)
    founder.step("n3", request, LATER)
    newcomer.step("n3", request, LATER)
    assert votes(founder) == [True]
    assert votes(newcomer) == [False]


def test_it_does_not_campaign(new_disk: Any) -> None:
    founder, newcomer = replica(new_disk, 0), replica(new_disk, 3)
    assert founder.may_campaign
    assert not newcomer.may_campaign


def test_it_votes_again_once_its_log_knows_the_membership_that_it_was_made_for(new_disk: Any) -> None:
    newcomer = replica(new_disk, 3)
    memberships = (Membership(2, ("n1", "n2", "n3"), ("n4",)), Membership(3, ("n1", "n2", "n3", "n4")))
    entries = [
        sealed(1, 4, index, EntryKind.MEMBERSHIP, encode_membership(membership))
        for index, membership in enumerate(memberships, 1)
    ]
    newcomer.step("n2", AppendEntries(1, 4, 0, 0, 2, entries, 1), LATER)
    votes(newcomer)
    newcomer.step("n3", VoteRequest(1, 5, 7, 4, False, False), LATER + LATER)
    assert votes(newcomer) == [True]


# -- while it awaits a snapshot


@pytest.mark.parametrize("pre", [True, False])
def test_one_that_has_nothing_to_forget_votes_before_it_has_its_snapshot(new_disk: Any, pre: bool) -> None:
    first = replica(new_disk, 0, awaits_snapshot=True)
    first.step("n3", VoteRequest(1, 5, 7, 4, pre, False), LATER)
    assert votes(first) == [True]


@pytest.mark.parametrize(("silent_until", "lost_to"), [(1, 0), (3, 0), (0, 1), (3, 9)])
@pytest.mark.parametrize("pre", [True, False])
def test_one_that_may_have_forgotten_something_does_not(
    new_disk: Any, silent_until: int, lost_to: int, pre: bool
) -> None:
    newcomer = replica(new_disk, silent_until, awaits_snapshot=True, lost_to=lost_to)
    newcomer.step("n3", VoteRequest(1, 5, 7, 4, pre, False), LATER)
    assert votes(newcomer) == [False]


def test_it_leads_nobody_and_takes_no_entry(new_disk: Any) -> None:
    first = replica(new_disk, 0, awaits_snapshot=True)
    assert not first.may_campaign
    first.step("n3", TimeoutNow(1, 0), LATER)
    assert first.term == 0
    first.step("n3", AppendEntries(1, 5, 0, 0, 1, [sealed(1, 5, 1, EntryKind.EMPTY, b"")], 1), LATER)
    said = [message for _, message in first.ready(LATER).durable_messages]
    assert [type(message) for message in said] == [AppendRejected]
    assert first.log.last_index == 0


def test_one_whose_log_is_lost_votes_no_more(new_disk: Any) -> None:
    """It had its snapshot, and what it has acknowledged since, it may have lost."""
    first = replica(new_disk, 0)
    first.step("n2", AppendEntries(1, 4, 0, 0, 1, [sealed(1, 4, 1, EntryKind.EMPTY, b"")], 1), LATER)
    votes(first)
    first.fail(LATER, lost_to=1)
    first.step("n3", VoteRequest(1, 5, 7, 4, False, False), LATER + LATER)
    assert votes(first) == [False]
