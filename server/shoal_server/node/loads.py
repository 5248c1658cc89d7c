"""How busy a node's replicas and their microshards have been lately: rates that fade out over about ten seconds."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shoal.protocol.messages import MAX_HOT_MICROSHARDS, MicroshardLoad

if TYPE_CHECKING:
    from shoal_server.node.replica import Replica

ROLL_NS = 1_000_000_000
FADE_SECONDS = 10.0
WRITE_COST = 4.0
"""What a write costs a node, in reads: see the table of speeds in README.md."""
FADED = 0.5
"""A microshard with fewer reads and writes a second is forgotten."""


@dataclass(slots=True)
class ReplicaLoad:
    """One replica's load. `cpu`: its share of one core. `work`: in reads a second."""

    cpu: float = 0.0
    work: float = 0.0
    _reads: int = 0
    _writes: int = 0
    _rates: dict[int, list[float]] = field(default_factory=dict)

    def roll(self, replica: Replica, seconds: float, gain: float) -> None:
        """Take in what the replica has counted for the last `seconds`, with weight `gain` against what was before."""
        traffic = replica.machine.traffic
        work = (traffic.reads - self._reads) + WRITE_COST * (traffic.writes - self._writes)
        self._reads, self._writes = traffic.reads, traffic.writes
        self.work += gain * (work / seconds - self.work)
        rates = self._rates
        for pair in rates.values():
            pair[0] *= 1 - gain
            pair[1] *= 1 - gain
        for place, sampled in enumerate(traffic.take_sampled()):
            for microshard, count in sampled.items():
                rates.setdefault(microshard, [0.0, 0.0])[place] += gain * count / seconds
        for microshard in [microshard for microshard, pair in rates.items() if pair[0] + pair[1] < FADED]:
            del rates[microshard]

    def hot(self, replica: Replica) -> tuple[MicroshardLoad, ...]:
        """Return the busiest microshards that the replica still has, the busiest first."""
        present = replica.machine.prefixes
        busiest = sorted(
            ((WRITE_COST * writes + reads, microshard) for microshard, (reads, writes) in self._rates.items()),
            reverse=True,
        )
        chosen = [microshard for _, microshard in busiest if microshard in present][:MAX_HOT_MICROSHARDS]
        return tuple(
            MicroshardLoad(
                microshard,
                round(self._rates[microshard][0]),
                round(self._rates[microshard][1]),
                replica.counts.bytes_of(microshard),
            )
            for microshard in chosen
        )


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
        for replica in replicas:
            replica.load.roll(replica, seconds, gain)
            total += replica.load.work
        for replica in replicas:
            replica.load.cpu = cpu * replica.load.work / total if total else 0.0
