"""Wall clocks that are wrong by hours or a year, one at a time: rows live as long as they are to, whoever leads.

Also from the first moment of a cluster that starts cold.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import ClassVar

from shoal_chaos.simulation.clients.lives import Lives
from shoal_chaos.simulation.cluster.node import SimulatedNode
from shoal_chaos.simulation.faults.usual import UsualFaults
from shoal_chaos.simulation.scene import NodesScene
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND

HOUR_MS = 3_600_000
YEAR_MS = 365 * 24 * HOUR_MS
RIGHT_WITHIN_MS = 200
"""Clocks that are not wrong differ by so much from true time."""
ALLOWANCE_NS = 2_500 * MILLISECOND
"""Twice the tolerance (stamp and look may each be off by it), and what monotonic clocks drift in a few seconds alone."""
DOWN_MOST = 18 * SECOND
"""A cluster that starts cold has a majority of its nodes again within this."""
COLD_START_SECONDS = 2 + 18 + 10
DRIFT_STEP = 50 * MILLISECOND


class WrongClocks(UsualFaults):
    """One wall clock at a time jumps, or runs away, for a while; one node at a time is killed, stopped or cut off beside it.

    Of two nodes that are left, nobody can say by their clocks which is wrong, but they have known the time before. One that
    comes back hears both of the others: no other is missing meanwhile.
    """

    intervals_ms: ClassVar[tuple[int, ...]] = (200, 500)

    def __init__(self, scene: NodesScene, random: Random) -> None:
        self.wrong: SimulatedNode | None = None
        self._quiet_until = 0
        self._histories = scene.clients.histories
        self._histories.expiry_allowance_ns = ALLOWANCE_NS
        for node in scene.cluster.nodes.values():
            node.wall_skew_ms = random.randint(-RIGHT_WITHIN_MS, RIGHT_WITHIN_MS)
        for client in scene.clients.of_keys:
            client.lives = Lives(client.name, self._histories)
        super().__init__(scene, random)
        self.kinds = [*self.kinds, self._jump, self._jump, self._run_away]

    def _all_kinds(self) -> list[Callable[[], None]]:
        return [self._transfer, self._kill, self._stop, self._cut_off, self._slow_disk]

    def stop(self) -> None:
        self._set_right()
        super().stop()

    # -- clocks

    def _choose_wrong(self) -> SimulatedNode | None:
        if self.wrong is not None:
            return None
        leaders = [node for node in self._cluster.nodes.values() if any(group.is_leader for group in node.groups())]
        self.wrong = self._random.choice(leaders) if leaders and self._random.random() < 0.7 else self._some_node()
        self._events.after(self._random.randrange(SECOND // 5, 4 * SECOND), self._set_right)
        return self.wrong

    def _set_right(self) -> None:
        if self.wrong is not None:
            self.wrong.wall_skew_ms = self._random.randint(-RIGHT_WITHIN_MS, RIGHT_WITHIN_MS)
            self.wrong = None

    def _jump(self) -> None:
        node = self._choose_wrong()
        if node is not None:
            off = self._random.choice([YEAR_MS, 8 * HOUR_MS, 60_000, 3_000])
            node.wall_skew_ms = self._random.choice((-1, 1)) * self._random.randint(off // 2, off)

    def _run_away(self) -> None:
        node = self._choose_wrong()
        if node is not None:
            self._drift(node, self._random.choice((-1, 1)) * self._random.choice([20, 200, HOUR_MS]))

    def _drift(self, node: SimulatedNode, step_ms: int) -> None:
        if self.wrong is node:
            node.wall_skew_ms += step_ms
            self._events.after(DRIFT_STEP, lambda: self._drift(node, step_ms))

    # -- and the rest

    def _victim(self) -> SimulatedNode | None:
        """Return a node that something may happen to, whichever clock is wrong; None while that has not passed."""
        now = self._events.now
        if now < self._quiet_until:
            return None
        # It comes back after four seconds at the most (`_cut`), and has heard the others after another one.
        self._quiet_until = now + 5 * SECOND
        return self._some_node()

    def _kill(self) -> None:
        node = self._victim()
        if node is not None:
            self._crash_one(node)

    def _stop(self) -> None:
        node = self._victim()
        if node is not None:
            node.paused_until = self._events.now + self._random.randrange(3 * SECOND)

    def _cut_off(self) -> None:
        node = self._victim()
        if node is not None:
            others = [name for name in self._cluster.nodes if name != node.name]
            self._cut({pair for name in others for pair in ((name, node.name), (node.name, name))})


class ColdStart(WrongClocks):
    """All nodes fail at once; the first to come back has a wrong wall clock, and others join it after a while, one by one.

    It leads with what joins it first, if it will, while nothing but another clock contradicts its own.
    """

    def __init__(self, scene: NodesScene, random: Random) -> None:
        super().__init__(scene, random)
        self.kinds = [self._transfer]
        self._events.after(2 * SECOND, self._fail)

    def _fail(self) -> None:
        cluster, random = self._cluster, self._random
        nodes = list(cluster.nodes.values())
        random.shuffle(nodes)
        for node in nodes:
            if node.node is not None:
                node.crash()
        wrong = nodes[0]
        off = random.choice([YEAR_MS, 8 * HOUR_MS])
        ahead = random.random() < 0.5
        wrong.wall_skew_ms = off if ahead else -off
        if not ahead:
            # With one other, it may hold the newest stamp there was for the time: as far back as they were down.
            self._histories.expiry_allowance_ns = DOWN_MOST
        self.wrong = wrong
        joins = 0
        for place, node in enumerate(nodes):
            # A majority is there with the second of three, the third of four or five.
            joins += (
                0 if not place else random.randrange(DOWN_MOST // 2, DOWN_MOST - 2 * SECOND) if place == 1 else SECOND
            )
            if place == len(nodes) // 2 + 1:
                joins += 4 * SECOND
            self._events.after(joins, node.start_again)
        self._events.after(joins + 4 * SECOND, self._set_right)


class MostClocksWrong(UsualFaults):
    """All wall clocks are ahead for a while: nobody can know, and rows expire by it; after it the shards' clocks are right."""

    intervals_ms: ClassVar[tuple[int, ...]] = (1_000,)

    def _all_kinds(self) -> list[Callable[[], None]]:
        return [self._transfer, self._crash, self._partition]

    def __init__(self, scene: NodesScene, random: Random) -> None:
        super().__init__(scene, random)
        self._events.after(SECOND, self._ahead)

    def _ahead(self) -> None:
        for node in self._cluster.nodes.values():
            node.wall_skew_ms = YEAR_MS
        self._events.after(2 * SECOND, self._right)

    def _right(self) -> None:
        for node in self._cluster.nodes.values():
            node.wall_skew_ms = 0
