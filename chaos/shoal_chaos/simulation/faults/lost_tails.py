"""Disks that lose what they had confirmed, one at a time: the promise is that the others' logs make up for it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import ClassVar

from shoal_chaos.simulation.faults.usual import UsualFaults
from shoal_chaos.simulation.scene import NodesScene
from shoal_chaos.simulation.world.events import SECOND

AWAY = 3 * SECOND
"""A node is away for at least so long, in which those who know all that was acknowledged elect whoever is to lead."""


class LostTails(UsualFaults):
    """A node's disk is, when its process starts again, as it was some time before that one was killed.

    Nothing else goes wrong: a replica that has forgotten what it acknowledged must not be needed by a majority before it
    has that again (see docs/decisions/0014).
    """

    intervals_ms: ClassVar[tuple[int, ...]] = (500,)

    def __init__(self, scene: NodesScene, random: Random) -> None:
        self.lost = 0
        self._losing = False
        super().__init__(scene, random)
        self._cluster.invariants.terms_may_fall = True

    def _all_kinds(self) -> list[Callable[[], None]]:
        return [self._lose_tail]

    def _lose_tail(self) -> None:
        if self._losing:
            return
        self._losing = True
        node = self._some_node()
        before = node.engine.after_crash(self._random)

        def lose() -> None:
            node.crash()
            node.engine = before
            self.lost += 1
            events.after(AWAY + self._random.randrange(AWAY), come_back)

        def come_back() -> None:
            node.start_again()
            # Time to be filled up, before the next one is.
            events.after(AWAY, rest)

        def rest() -> None:
            self._losing = False

        events = self._events
        events.after(self._random.randrange(1, 2 * SECOND), lose)
