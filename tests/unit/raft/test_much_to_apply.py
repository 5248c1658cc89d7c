"""A replica that has much to apply yet leaves it to others to campaign first, and campaigns where none does."""

from __future__ import annotations

from random import Random

import pytest
from shoal_server.raft.config import RaftConfig, Timing
from shoal_server.raft.group import Group
from shoal_server.raft.liveness import Liveness
from shoal_server.raft.log import Log
from shoal_server.raft.messages import Entry, EntryKind, HardState, Membership, VoteRequest, sealed

MS = 1_000_000
LAST = 5_000
CONFIG = RaftConfig()


class Stored:
    """The log of an earlier life, none of which is a membership."""

    def term(self, index: int) -> int:
        assert index <= LAST
        return 1

    def entries(self, first: int, end: int, max_bytes: int) -> list[Entry]:
        return [sealed(1, 1, index, EntryKind.EMPTY, b"") for index in range(first, end)]


def restarted(to_apply: int) -> Group:
    """Return a replica whose process begins with so many entries between what is applied and its log's end."""
    timing = Timing()
    return Group(
        1,
        "n1",
        config=CONFIG,
        timing=timing,
        liveness=Liveness("n1", 1, timing, 0),
        log=Log(Stored(), truncated_index=0, truncated_term=0, last_index=LAST, applied_index=LAST - to_apply),
        hard_state=HardState(1, ""),
        membership=Membership(1, ("n1", "n2", "n3")),
        membership_index=0,
        random=Random(1),
        now=0,
        priority=0,
    )


def campaigns_at(group: Group) -> int:
    """Return when it asks for votes, hearing of nobody."""
    for now in range(0, 10_000 * MS, 10 * MS):
        group.tick(now)
        if group.has_ready and any(isinstance(message, VoteRequest) for _, message in group.ready(now).messages):
            return now
    raise AssertionError("it never campaigned")


@pytest.mark.parametrize("to_apply", [0, CONFIG.replay_lag_entries])
def test_a_replica_that_has_little_to_apply_waits_for_nobody(to_apply: int) -> None:
    assert campaigns_at(restarted(to_apply)) == campaigns_at(restarted(0))


@pytest.mark.parametrize("to_apply", [CONFIG.replay_lag_entries + 1, LAST])
def test_a_replica_that_has_much_to_apply_waits_one_support_time_longer_and_no_more(to_apply: int) -> None:
    assert campaigns_at(restarted(to_apply)) == campaigns_at(restarted(0)) + Timing().support_ns


def test_a_replica_that_has_caught_up_meanwhile_waits_no_longer() -> None:
    group, due = restarted(LAST), campaigns_at(restarted(0))
    group.tick(due)
    assert not group.has_ready
    group.log.commit_index = LAST
    group.applied(LAST)
    group.tick(due)
    assert group.has_ready
