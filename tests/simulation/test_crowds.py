"""Fast writes, full tables of sessions and forged ids in simulated clusters, and the bugs that they are there for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from shoal_chaos.simulation.mixes import CROWDS
from shoal_server.node import fast_writes
from shoal_server.node.fast_writes import FastWrites
from shoal_server.node.founding import Founding
from shoal_server.node.waiting import QueuedCommand
from shoal_server.shard.commands import OpenSessionCommand
from shoal_server.shard.sessions import Judgement, SessionTable

from .conftest import MustBeFound

SEEDS = 30
SHORT_CROWDS = replace(CROWDS, seconds=5)


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_acknowledged_fast_is_done_and_sessions_are_their_owners(seed: int) -> None:
    SHORT_CROWDS(seed)


def acknowledge_beside_openings(patch: pytest.MonkeyPatch) -> None:
    """An opening that is not applied yet counts as harmless."""
    patch.setattr(fast_writes, "_NO_DOUBT_BEHIND", fast_writes._NO_DOUBT_BEHIND | {OpenSessionCommand})


def forget_what_was_proposed(patch: pytest.MonkeyPatch) -> None:
    """Only what is applied is looked at."""
    original = FastWrites.proposed

    def proposed(self: FastWrites, term: int, index: int, items: Sequence[QueuedCommand]) -> None:
        self._newest, self._older = {}, {}
        original(self, term, index, items)

    patch.setattr(FastWrites, "proposed", proposed)


def forget_smaller_numbers(patch: pytest.MonkeyPatch) -> None:
    """A write that is proposed behind one with a larger number is not noted."""
    original = FastWrites.proposed

    def proposed(self: FastWrites, term: int, index: int, items: Sequence[QueuedCommand]) -> None:
        known = {**self._older, **self._newest}
        original(self, term, index, items)
        for item in items:
            session = getattr(item.command, "session", b"")
            if known.get(session, 0) >= self._newest.get(session, 0):
                self._newest.pop(session, None)

    patch.setattr(FastWrites, "proposed", proposed)


def let_anybody_write_in_a_session(patch: pytest.MonkeyPatch) -> None:
    """Whoever knows an id may write under it."""
    original = SessionTable.judge

    def judge(self: SessionTable, session: bytes, number: int, identity: bytes) -> Judgement:
        known = self._sessions.get(session)
        return original(self, session, number, identity if known is None or known.identity is None else known.identity)

    patch.setattr(SessionTable, "judge", judge)


def found_each_node_by_itself(patch: pytest.MonkeyPatch) -> None:
    """A node that knows no id of its cluster makes one up."""
    patch.setattr(Founding, "step", lambda self, _: self.learn(self._random.randbytes(16).hex()))


BUGS: list[Callable[[pytest.MonkeyPatch], None]] = [
    acknowledge_beside_openings,
    forget_what_was_proposed,
    forget_smaller_numbers,
    let_anybody_write_in_a_session,
    found_each_node_by_itself,
]

FIRST_SEED: dict[Callable[[pytest.MonkeyPatch], None], int] = {acknowledge_beside_openings: 3}
"""Where the search begins for a bug that was found late the last time."""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(
    bug: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    must_be_found: MustBeFound,
) -> None:
    bug(monkeypatch)
    first = FIRST_SEED.get(bug, 0)
    must_be_found(SHORT_CROWDS, (*range(first, SEEDS), *range(first)))
