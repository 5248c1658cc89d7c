"""Keeps the loads of a node's replicas up to date."""

from __future__ import annotations

import math
from collections.abc import Collection

from shoal_server.node.replica import Replica

ROLL_NS = 1_000_000_000
FADE_SECONDS = 10.0


class LoadClock:
    """Has every replica's load rolled about once a second."""

    __slots__ = ("_due_at", "_rolled_at")

    def __init__(self, now: int) -> None:
        self._rolled_at = now
        self._due_at = now + ROLL_NS

    def tick(self, replicas: Collection[Replica], cpu: float, now: int) -> None:
        """Roll the loads, where it is time to; divide `cpu`, the process's share of a core, by the work done."""
        if now < self._due_at:
            return
        seconds = (now - self._rolled_at) / 1e9
        gain = 1 - math.exp(-seconds / FADE_SECONDS)
        self._rolled_at, self._due_at = now, now + ROLL_NS
        total = 0.0
        busy = [replica for replica in replicas if not replica.load.rests(replica.machine.traffic)]
        for replica in busy:
            replica.load.roll(replica.machine.traffic, seconds, gain)
            total += replica.load.work
        for replica in busy:
            replica.load.cpu = cpu * replica.load.work / total if total else 0.0
