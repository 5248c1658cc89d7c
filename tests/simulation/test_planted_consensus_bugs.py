"""Stalled links, short logs and lost power find what they are for: each of these bugs, planted, is found within some seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from shoal_chaos.simulation.faults.stalled_links import StalledLinks
from shoal_chaos.simulation.mixes import STALLED_LINKS
from shoal_server.node import core
from shoal_server.raft.follower import Follower
from shoal_server.raft.group import Group
from shoal_server.raft.membership import MembershipHistory
from shoal_server.raft.messages import SnapshotHeader

from .conftest import MustBeFound

SEEDS = 60


def acknowledge_snapshots_without_following(patch: pytest.MonkeyPatch) -> None:
    """A snapshot settles the term, but not whom its receiver follows; it is acknowledged under whatever promise there is."""

    def header_taken(self: Follower, sender: str, message: SnapshotHeader, now: int) -> None:
        if self._state.leadership is None and self._state.leader == "":
            self._follow(sender, message.epoch, now)

    patch.setattr(Follower, "on_snapshot_header", header_taken)
    patch.setattr(Group, "follows", lambda self, sender, term: self.term == term and self.leader == sender)
    patch.setattr(Group, "promise_to", lambda self, peer: self.liveness.promise_to(peer, self.leader_epoch))


def campaign_as_a_voter_only(patch: pytest.MonkeyPatch) -> None:
    """Whoever has its own demotion in its log does not campaign, committed or not."""
    patch.setattr(MembershipHistory, "is_electable", lambda self, node, commit_index: node in self.current.voters)


def wait_for_promises_by_todays_settings(patch: pytest.MonkeyPatch) -> None:
    """A restarted node votes when its present support has run out, whatever it promised before."""
    patch.setattr(core, "begin_promising", lambda engine, support_ns: support_ns)


class StallsAndSlowDisks(StalledLinks):
    """Links stall, and disks are slow."""

    intervals_ms = (200, 400)

    def _all_kinds(self) -> list[Callable[[], None]]:
        return [self._stall_around_leader, self._stall_some, self._slow_disk, self._lead_behind_a_stall]


class LostChanges(StalledLinks):
    """Changes of membership are sent by leaders that lose them, and nothing else happens."""

    def _all_kinds(self) -> list[Callable[[], None]]:
        return [self._change_and_lose_power]


class ShorterSupport(StalledLinks):
    """Nodes are restarted with shorter promises than they gave, and nothing else happens."""

    intervals_ms = (200,)

    def _all_kinds(self) -> list[Callable[[], None]]:
        return [self._restart_with_other_support]


BUGS: list[Callable[[pytest.MonkeyPatch], None]] = [
    acknowledge_snapshots_without_following,
    campaign_as_a_voter_only,
    wait_for_promises_by_todays_settings,
]

RARE = {wait_for_promises_by_todays_settings}
"""Shows in so few runs that it is looked for in `make soak` alone; tests/unit/node/test_shorter_support.py finds it at once."""
FAULT_SECONDS = {
    acknowledge_snapshots_without_following: 20,
    campaign_as_a_voter_only: 10,
    wait_for_promises_by_todays_settings: 20,
}
FIRST_SEED: dict[Callable[[pytest.MonkeyPatch], None], int] = {
    acknowledge_snapshots_without_following: 3,
    campaign_as_a_voter_only: 5,
    wait_for_promises_by_todays_settings: 1,
}
"""Where the search begins for a bug that was found late the last time."""


FAULTS: dict[Callable[[pytest.MonkeyPatch], None], type[StalledLinks]] = {
    acknowledge_snapshots_without_following: StallsAndSlowDisks,
    campaign_as_a_voter_only: LostChanges,
    wait_for_promises_by_todays_settings: ShorterSupport,
}
"""The faults that a bug needs, where those of any run of the mix seldom bring it out."""


@pytest.mark.parametrize(
    "bug",
    [pytest.param(bug, marks=pytest.mark.soak if bug in RARE else (), id=bug.__name__) for bug in BUGS],
)
def test_a_planted_bug_is_found(
    bug: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    must_be_found: MustBeFound,
) -> None:
    bug(monkeypatch)
    first = FIRST_SEED.get(bug, 0)
    must_be_found(
        replace(STALLED_LINKS, seconds=FAULT_SECONDS[bug], faults=FAULTS[bug]),
        (*range(first, SEEDS), *range(first)),
    )
