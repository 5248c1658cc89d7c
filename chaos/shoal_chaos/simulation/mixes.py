"""The mixes of faults that a simulated cluster can be put under, by name."""

from __future__ import annotations

from collections.abc import Callable

from shoal_chaos.simulation.faults import stalled_links
from shoal_chaos.simulation.faults.crowds import simulate_crowds
from shoal_chaos.simulation.faults.damaged_rows import simulate_damaged_meta, simulate_damaged_rows, simulate_lost_logs
from shoal_chaos.simulation.faults.flipped_bits import simulate_flipped_bits
from shoal_chaos.simulation.faults.missed_splits import simulate_missed_splits
from shoal_chaos.simulation.faults.silent_changes import simulate_silent_changes
from shoal_chaos.simulation.faults.wrong_clocks import simulate_wrong_clocks
from shoal_chaos.simulation.run import Report, simulate

MIXES: dict[str, Callable[[int], Report]] = {
    "any": simulate,
    "stalled-links": stalled_links.simulate,
    "silent-changes": simulate_silent_changes,
    "wrong-clocks": simulate_wrong_clocks,
    "crowds": simulate_crowds,
    "flipped-bits": simulate_flipped_bits,
    "damaged-rows": simulate_damaged_rows,
    "damaged-meta": simulate_damaged_meta,
    "lost-logs": simulate_lost_logs,
    "missed-splits": simulate_missed_splits,
}
"""The first is what is run where none is named."""
