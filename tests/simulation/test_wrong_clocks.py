"""Rows live as long as they are to whatever one wall clock shows, and the simulation finds it where they do not."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import cast

import pytest
from shoal_chaos.simulation.faults.wrong_clocks import MostClocksWrong, WrongClocks
from shoal_chaos.simulation.invariants import Violation
from shoal_chaos.simulation.mixes import COLD_START, MIXES, WRONG_CLOCKS, Mix
from shoal_chaos.simulation.scene import NodesScene
from shoal_server.node import wall_clock
from shoal_server.node.core import Node, TurnEnd
from shoal_server.node.replica import Replica
from shoal_server.node.wall_clock import MILLISECOND, WallClock

from .conftest import MustBeFound

SEEDS = 30
MOST_CLOCKS_WRONG = Mix(MostClocksWrong)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_rows_live_as_long_as_they_are_to(seed: int) -> None:
    MIXES["wrong-clocks"](seed)


@pytest.mark.parametrize("seed", [1, 2])
def test_what_most_clocks_have_set_is_set_right_when_they_are(seed: int) -> None:
    MOST_CLOCKS_WRONG(seed)


def test_there_is_something_to_see() -> None:
    scenes: list[NodesScene] = []

    def wrong_clocks(scene: NodesScene, random: Random) -> WrongClocks:
        scenes.append(scene)
        return WrongClocks(scene, random)

    Mix(wrong_clocks, 8)(1)
    looks = scenes[0].clients.histories.looks
    assert {look.how for look in looks} == {"take", "touch", "strong", "eventual"}
    late = [look for look in looks if look.invoked > look.life.latest]
    assert min(len(late), len(looks) - len(late)) > 50


def believe_ones_own_clock(patch: pytest.MonkeyPatch) -> None:
    """A shard's clock is the newest of what leaders' wall clocks have shown."""

    def judge(self: WallClock, now: int, wall_ms: int, *, nodes: int) -> None:
        self.settled = True
        self._base = wall_ms * MILLISECOND - now

    patch.setattr(WallClock, "judge", judge)


class _OneTime:
    """A clock that shows one time."""

    def __init__(self, time_ms: int) -> None:
        self._time_ms = time_ms

    def now_ms(self, now: int) -> int:
        return self._time_ms


def look_by_ones_own_clock(patch: pytest.MonkeyPatch) -> None:
    """Stamps are right, and replicas hide rows by their own wall clocks."""
    original = Node.finish_turn

    def finish_turn(self: Node, now: int) -> TurnEnd:
        applying = self._applying
        clock, applying._clock = applying._clock, cast(WallClock, _OneTime(self._wall_ms))
        end = original(self, now)
        applying._clock = clock
        return end

    patch.setattr(Node, "finish_turn", finish_turn)


def follow_a_jump_that_nobody_confirms(patch: pytest.MonkeyPatch) -> None:
    """A node that is cut off goes by its wall clock again."""
    patch.setattr(wall_clock, "SLEW_PERMILLE", 1 << 60)


def never_set_a_clock_back(patch: pytest.MonkeyPatch) -> None:
    """A shard's clock only ever rises."""
    original = Replica.queue_upkeep

    def queue_upkeep(self: Replica, time_ms: int, beyond_ms: int) -> bool:
        return original(self, time_ms, 1 << 60)

    patch.setattr(Replica, "queue_upkeep", queue_upkeep)


def wait_until_a_clock_is_right(patch: pytest.MonkeyPatch) -> None:
    """A node that nobody has confirmed for ten seconds believes its own clock, and lets it be drawn from there."""
    original = WallClock.judge
    began: dict[int, int] = {}

    def judge(self: WallClock, now: int, wall_ms: int, *, nodes: int) -> None:
        original(self, now, wall_ms, nodes=nodes)
        if not self._known and now - began.setdefault(id(self), now) >= wall_clock.READING_NS:
            self._known = True
        self.settled |= self._known

    patch.setattr(WallClock, "judge", judge)


BUGS: dict[Callable[[pytest.MonkeyPatch], None], Mix] = {
    believe_ones_own_clock: WRONG_CLOCKS,
    look_by_ones_own_clock: WRONG_CLOCKS,
    follow_a_jump_that_nobody_confirms: WRONG_CLOCKS,
    never_set_a_clock_back: Mix(MostClocksWrong, 12),
    wait_until_a_clock_is_right: COLD_START,
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, must_be_found: MustBeFound
) -> None:
    bug(monkeypatch)
    must_be_found(BUGS[bug], range(SEEDS), sign=Violation)
