"""How busy one replica and its microshards have been lately: rates that fade out over about ten seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.protocol.messages import MAX_HOT_MICROSHARDS, MicroshardLoad

from shoal_server.node.hot_keys import HotKeys
from shoal_server.node.row_counts import RowCounts
from shoal_server.shard.traffic import Traffic

WRITE_COST = 4.0
"""What a write costs a node, in reads: see the table of speeds in README.md."""
FADED = 0.5
"""A microshard with fewer reads and writes a second is forgotten."""


@dataclass(slots=True)
class ReplicaLoad:
    """One replica's load. `cpu`: its share of one core. `work`: in reads a second. `hot_keys`: what clients ask for."""

    cpu: float = 0.0
    work: float = 0.0
    hot_keys: HotKeys = field(default_factory=HotKeys)
    _reads: int = 0
    _writes: int = 0
    _rates: dict[int, list[float]] = field(default_factory=dict)

    def rests(self, traffic: Traffic) -> bool:
        """Say whether nothing was asked of the replica since the last roll, and nothing is left of what was before."""
        return not self.work and traffic.reads == self._reads and traffic.writes == self._writes

    def roll(self, traffic: Traffic, seconds: float, gain: float) -> None:
        """Take in what the replica has counted for the last `seconds`, with weight `gain` against what was before."""
        work = (traffic.reads - self._reads) + WRITE_COST * (traffic.writes - self._writes)
        self._reads, self._writes = traffic.reads, traffic.writes
        self.work += gain * (work / seconds - self.work)
        if self.work < FADED:
            self.work = self.cpu = 0.0
        rates = self._rates
        for pair in rates.values():
            pair[0] *= 1 - gain
            pair[1] *= 1 - gain
        for place, sampled in enumerate(traffic.take_sampled()):
            for microshard, count in sampled.items():
                rates.setdefault(microshard, [0.0, 0.0])[place] += gain * count / seconds
        for microshard in [microshard for microshard, pair in rates.items() if pair[0] + pair[1] < FADED]:
            del rates[microshard]

    def hot(self, present: Mapping[int, object], counts: RowCounts) -> tuple[MicroshardLoad, ...]:
        """Return the busiest of the microshards that the replica still has, the busiest first."""
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
                counts.bytes_of(microshard),
            )
            for microshard in chosen
        )
