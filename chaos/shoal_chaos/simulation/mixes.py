"""The mixes of faults that a simulated cluster can be put under, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from shoal_server.node.settings import NodeSettings

from shoal_chaos.simulation.faults.base import Faults
from shoal_chaos.simulation.faults.crowds import Crowds
from shoal_chaos.simulation.faults.damaged_rows import DamagedMeta, DamagedRows, LostLogs
from shoal_chaos.simulation.faults.flipped_bits import FlippedBits
from shoal_chaos.simulation.faults.floods import Floods, FloodsAlone, few_requests
from shoal_chaos.simulation.faults.missed_splits import MissedSplits
from shoal_chaos.simulation.faults.silent_changes import SilentChanges
from shoal_chaos.simulation.faults.stalled_links import StalledLinks
from shoal_chaos.simulation.faults.usual import UsualFaults
from shoal_chaos.simulation.faults.wrong_clocks import COLD_START_SECONDS, ColdStart, WrongClocks
from shoal_chaos.simulation.run import NodesReport, simulate
from shoal_chaos.simulation.scene import NodesScene
from shoal_chaos.simulation.settings import random_settings, short_logs, short_logs_and_other_support


@dataclass(frozen=True, slots=True)
class Mix:
    """Faults, for how long there are some, and what nodes they befall."""

    faults: Callable[[NodesScene, Random], Faults]
    seconds: int = 10
    settings: Callable[[Random], NodeSettings] = random_settings

    def __call__(self, seed: int) -> NodesReport:
        """Run one seed; see `simulate`."""
        return simulate(seed, fault_seconds=self.seconds, make_faults=self.faults, make_settings=self.settings)


def cold_starts_among_wrong_clocks(seed: int) -> NodesReport:
    """Run one seed of wrong clocks; every fourth is a cold start, which takes its own time."""
    return (COLD_START if seed % 4 == 0 else WRONG_CLOCKS)(seed)


def floods(seed: int) -> NodesReport:
    """Run one seed of floods; every second has nothing else that goes wrong."""
    return (FLOODS if seed % 2 == 0 else FLOODS_ALONE)(seed)


CROWDS = Mix(Crowds, 8)
FLOODS = Mix(Floods, 6, few_requests)
FLOODS_ALONE = Mix(FloodsAlone, 6, few_requests)
STALLED_LINKS = Mix(StalledLinks, 15, short_logs_and_other_support)
WRONG_CLOCKS = Mix(WrongClocks, 12)
COLD_START = Mix(ColdStart, COLD_START_SECONDS)
LOST_LOGS = Mix(LostLogs, 30)
MISSED_SPLITS = Mix(MissedSplits, 40, short_logs)

MIXES: dict[str, Callable[[int], NodesReport]] = {
    "any": Mix(UsualFaults),
    "stalled-links": STALLED_LINKS,
    "silent-changes": Mix(SilentChanges),
    "wrong-clocks": cold_starts_among_wrong_clocks,
    "crowds": CROWDS,
    "floods": floods,
    "flipped-bits": Mix(FlippedBits),
    "damaged-rows": Mix(DamagedRows),
    "damaged-meta": Mix(DamagedMeta),
    "lost-logs": LOST_LOGS,
    "missed-splits": MISSED_SPLITS,
}
"""The first is what is run where none is named."""
