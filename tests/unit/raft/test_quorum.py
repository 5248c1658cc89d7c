"""Counting, exhaustively: every small group and every way it can stand."""

from __future__ import annotations

from itertools import product

import pytest
from shoal_server.raft.quorum import Election, election, quorum_size, reached_by_quorum


@pytest.mark.parametrize(("voters", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_a_quorum_is_more_than_half(voters: int, needed: int) -> None:
    assert quorum_size(voters) == needed


@pytest.mark.parametrize("voters", range(1, 6))
def test_what_a_quorum_has_reached_is_the_largest_value_that_enough_voters_are_at_or_beyond(voters: int) -> None:
    for values in product(range(4), repeat=voters):
        reached = reached_by_quorum(values)
        assert sum(value >= reached for value in values) >= quorum_size(voters)
        assert sum(value > reached for value in values) < quorum_size(voters)


@pytest.mark.parametrize("voters", range(1, 6))
def test_an_election_is_won_by_a_majority_and_lost_when_none_is_possible(voters: int) -> None:
    names = [f"n{number}" for number in range(voters)]
    for answers in product(["yes", "no", ""], repeat=voters):
        granted = {name for name, answer in zip(names, answers, strict=True) if answer == "yes"}
        refused = {name for name, answer in zip(names, answers, strict=True) if answer == "no"}
        state = election(names, granted, refused)
        if len(granted) >= quorum_size(voters):
            assert state is Election.WON
        elif len(granted) + (voters - len(granted) - len(refused)) < quorum_size(voters):
            assert state is Election.LOST
        else:
            assert state is Election.PENDING


def test_votes_of_those_who_are_not_voters_do_not_count() -> None:
    assert election(["a", "b", "c"], {"a", "x", "y"}, set()) is Election.PENDING
