"""Whether a simulated cluster is quiet, so that nothing is lost where its time stands still (see standstill.py).

It is once nothing of it has changed for a while, no fault lasts, nobody waits for anything, every replica has applied all
there is, every shard's leader holds its lease, and the managers have nothing to do. It is no longer when a row expires.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from shoal_server.node.replica import Replica

from shoal_chaos.simulation.cluster.node import WALL_START_MS
from shoal_chaos.simulation.managers.scene import ManagedScene
from shoal_chaos.simulation.world.events import MILLISECOND

SETTLED = 300 * MILLISECOND
"""Two heartbeats: everybody has heard of the last change, and of everybody else since. By the cluster's time, as all here."""
LOOK_INTERVAL = 20 * MILLISECOND
"""Between looks at a cluster that was not quiet."""

Position: TypeAlias = tuple[int, str, int]
"""Of a shard: its term, its leader, and its last entry."""
Positions: TypeAlias = tuple[list[int], dict[int, Position]]
"""The life that each node is in, and where all replicas are, by shard."""


class Quiescence:
    """Watches one cluster.

    Args:
        under_fault: says whether one lasts.
    """

    def __init__(self, scene: ManagedScene, under_fault: Callable[[], bool]) -> None:
        self._scene = scene
        self._nodes = scene.cluster.nodes
        self._events = scene.world.events
        self._under_fault = under_fault
        self._known: Positions = [], {}
        self._since = 0
        self._look_at = 0
        self._found_quiet_at = -1
        self._expiry = 0

    def quiet_until(self, until: int) -> int:
        """Return until when nothing will happen, at the latest `until` (true time, ns); 0: something is under way."""
        now = self._events.now
        if now < self._look_at:
            return 0
        if now == self._found_quiet_at and not self._disturbed():
            return min(until, self._expiry)
        positions = self._positions()
        if positions is not None and positions != self._known:
            self._known, self._since = positions, now
        if positions is None or now - self._since < SETTLED or not self._managers_are_idle(now):
            self._look_at = now + LOOK_INTERVAL
            return 0
        self._found_quiet_at, self._expiry = now, self._next_expiry()
        return min(until, self._expiry)

    def _disturbed(self) -> bool:
        """Whether anything has reached the cluster since its time last went on."""
        return self._under_fault() or any(node.told for node in self._nodes.values())

    def _positions(self) -> Positions | None:
        """Return where everybody is; None while something is under way, or they do not agree."""
        if self._under_fault():
            return None
        lives: list[int] = []
        positions: dict[int, Position] = {}
        for node in self._nodes.values():
            if not node.idle:
                return None
            lives.append(node.epoch)
            now = node.local_now()
            for shard, replica in node.replicas.items():
                if not _is_idle(replica, now):
                    return None
                group = replica.group
                position = (group.term, group.leader, group.log.last_index)
                if positions.setdefault(shard, position) != position:
                    return None
        return lives, positions

    def _managers_are_idle(self, now: int) -> bool:
        managers = self._scene.managers.processes.values()
        held_up = any(not manager.running or manager.loop.paused_until > now for manager in managers)
        nobody_leads = bool(managers) and self._scene.managers.leading() is None
        return not (held_up or nobody_leads or self._scene.checks.running())

    def _next_expiry(self) -> int:
        """Return when the first row expires, by the clock of whoever leads its shard (true time, ns)."""
        due = [
            replica.machine.expiry.due_at - WALL_START_MS - node.wall_skew_ms
            for node in self._nodes.values()
            for replica in node.replicas.values()
            if replica.group.is_leader
        ]
        return min(due) * MILLISECOND


def _is_idle(replica: Replica, now: int) -> bool:
    """Say whether nothing is under way in a replica, and if it leads, it holds its lease."""
    group = replica.group
    return (
        group.leader != ""
        and not group.active
        and group.log.applied_index == group.log.last_index
        and replica.transfer is None
        and (not group.is_leader or group.read_index(now) is not None)
    )
