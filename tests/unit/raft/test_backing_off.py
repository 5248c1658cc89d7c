"""A leader finds where a follower's log agrees with its own in a few round trips, however long the tails that differ."""

from __future__ import annotations

import pytest
from shoal_server.raft.messages import AppendEntries, AppendRejected, Entry, EntryKind, Resigned, sealed

from .harness import Harness, follow

AGREED = 20


def entries(first: int, terms: list[int]) -> list[Entry]:
    return [sealed(1, term, index, EntryKind.COMMAND, b"%d" % term) for index, term in enumerate(terms, first)]


def replica_with(node: str, terms: list[int]) -> Harness:
    """Return a replica whose log holds entries of these terms; n2 led all of them."""
    harness = Harness(node=node)
    for term in sorted(set(terms)):
        first = terms.index(term) + 1
        harness.sync(follow(harness, "n2", term, entries(first, [term] * terms.count(term))))
        harness.step("n2", Resigned(1, term))
    return harness


def round_trips(leader: Harness, follower: Harness) -> int:
    """Let `leader` feed `follower` until it accepts; return how often it did not."""
    group = follower.group
    follower.support("n1")
    sent = [message for peer, message in leader.lead().messages if peer == "n3"]
    for count in range(500):
        [append] = [message for message in sent if isinstance(message, AppendEntries)]
        [(_, answer)] = [
            (peer, message) for peer, message in follower.step("n1", append).durable_messages if peer == "n1"
        ]
        if not isinstance(answer, AppendRejected):
            assert group.log.matches(append.previous_index, append.previous_term)
            return count
        sent = [message for peer, message in leader.step("n3", answer).messages if peer == "n3"]
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize(
    ("ours", "theirs", "most"),
    [
        ([3] * 200, [5] * 200, 2),
        ([5] * 200, [3] * 200, 2),
        ([3] * 200, [3] * 50 + [5] * 150, 2),
        ([3] * 200, [3] * 50 + [4] * 50 + [5] * 100, 3),
        ([3] * 50 + [5] * 150, [3] * 200, 2),
        ([4] * 200, [3] * 100 + [5] * 100, 3),
        ([3] * 100 + [5] * 100, [4] * 200, 3),
        ([5] * 200, [], 1),
    ],
)
def test_it_takes_a_round_trip_for_each_term_that_differs_and_none_for_each_entry(
    ours: list[int], theirs: list[int], most: int
) -> None:
    leader = replica_with("n1", [2] * AGREED + ours)
    follower = replica_with("n3", [2] * AGREED + theirs)
    leader.group.step("n2", AppendEntries(1, 9, 0, 0, 0, [], 1), leader.now)
    leader.step("n2", Resigned(1, 9))
    assert round_trips(leader, follower) <= most
