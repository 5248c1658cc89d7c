"""Stalled links, short logs and lost power find what they are for: each of these bugs, planted, is found within some seeds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from shoal_chaos.simulation.run import simulate
from shoal_chaos.simulation.stalled_links import StalledLinks, short_logs
from shoal_server.raft.membership import MembershipHistory

SEEDS = 60


def campaign_as_a_voter_only(patch: pytest.MonkeyPatch) -> None:
    """Whoever has its own demotion in its log does not campaign, committed or not."""
    patch.setattr(MembershipHistory, "is_electable", lambda self, node, commit_index: node in self.current.voters)


class LostChanges(StalledLinks):
    """Changes of membership are sent by leaders that lose them, and nothing else happens."""

    def _all_kinds(self) -> list[Callable[[], None]]:
        return [self._change_and_lose_power]


BUGS: list[Callable[[pytest.MonkeyPatch], None]] = [
    campaign_as_a_voter_only,
]

FIRST_SEED: dict[Callable[[pytest.MonkeyPatch], None], int] = {campaign_as_a_voter_only: 4}
"""Where the search begins for a bug that was found late the last time."""


FAULTS: dict[Callable[[pytest.MonkeyPatch], None], type[StalledLinks]] = {
    campaign_as_a_voter_only: LostChanges,
}
"""The faults that a bug needs, where those of any run of the mix seldom bring it out."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    first = FIRST_SEED.get(bug, 0)
    for seed in (*range(first, SEEDS), *range(first)):
        try:
            simulate(seed, fault_seconds=10, make_faults=FAULTS.get(bug, StalledLinks), make_settings=short_logs)
        except (TypeError, AttributeError, NameError) as error:
            pytest.fail(f"the bug is not planted any more: {error!r}")
        except Exception:
            return
    pytest.fail(f"{SEEDS} seeds did not find it")
