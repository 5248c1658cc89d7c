"""Counting: what a majority of voters has, and how a vote stands. Nothing else in the protocol counts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum


class Election(Enum):
    """How a vote stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def quorum_size(voters: int) -> int:
    """Return how many of `voters` are a majority."""
    return voters // 2 + 1


def reached_by_quorum(values: Iterable[int]) -> int:
    """Return the largest value that a majority of the voters have reached, given one value for every voter."""
    ordered = sorted(values, reverse=True)
    return ordered[len(ordered) // 2]


def election(voters: Collection[str], granted: Collection[str], refused: Collection[str]) -> Election:
    """Return how a vote stands; answers of those who are not voters do not count."""
    needed = quorum_size(len(voters))
    yes = sum(1 for voter in voters if voter in granted)
    no = sum(1 for voter in voters if voter in refused)
    if yes >= needed:
        return Election.WON
    return Election.LOST if no > len(voters) - needed else Election.PENDING
