"""Voters without a row of their shard: they elect whoever has all of it, and nobody where they may have forgotten something.

Each planted bug is what this is for; what is found of each is in docs/simulation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest
from shoal_chaos.simulation.faults.missed_splits import MissedSplits
from shoal_chaos.simulation.mixes import MISSED_SPLITS
from shoal_chaos.simulation.scene import NodesScene
from shoal_server.node import opening
from shoal_server.raft.group import Group
from shoal_server.storage.replica_rows import is_stored

SEEDS = range(3, 11)


def run(seed: int) -> MissedSplits:
    made: list[MissedSplits] = []

    def faults(scene: NodesScene, random: Random) -> MissedSplits:
        made.append(MissedSplits(scene, random))
        return made[0]

    replace(MISSED_SPLITS, faults=faults)(seed)
    return made[0]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [3, 4])
def test_where_most_voters_missed_a_split_its_child_is_led_and_nothing_is_lost(seed: int) -> None:
    faults = run(seed)
    assert faults.missed >= 1
    assert faults.lost >= 1


def be_silent_without_rows(patch: pytest.MonkeyPatch) -> None:
    """Who has missed a split gives no vote before it has its child's rows."""
    patch.setattr(opening, "has_never_had", lambda *_: False)


def take_a_lost_log_for_none(patch: pytest.MonkeyPatch) -> None:
    """A replica whose log is damaged votes like one that never had any."""
    patch.setattr(
        Group,
        "is_silent",
        property(
            lambda self: (
                self.silent_until > 0 and (self.awaits_snapshot or self.history.current.version < self.silent_until)
            )
        ),
    )


def forget_who_was_dropped(patch: pytest.MonkeyPatch) -> None:
    """A replica that comes in a dropped one's place votes like the first on its node."""
    patch.setattr(opening, "take_up_dropped", lambda *_: None)
    patch.setattr(opening, "has_never_had", lambda engine, shard: not is_stored(engine, shard))


BUGS = [be_silent_without_rows, take_a_lost_log_for_none, forget_who_was_dropped]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(
    bug: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    must_be_found: Callable[[Callable[[int], object], Sequence[int]], None],
) -> None:
    bug(monkeypatch)
    must_be_found(run, SEEDS)
