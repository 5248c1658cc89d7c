"""The light load beside attackers and spikes: what it calls, and what it saw of each part of a run."""

from __future__ import annotations

from dataclasses import dataclass

from shoal_chaos.probes.quantiles import quantile
from steady_load import Call, Seen

GETS, PUTS = 50.0, 20.0
"""A second."""
MIX = {"get": GETS, "put": PUTS}
KEYS = 2_000


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """What the light load saw in one part of a row; latencies in milliseconds, of the calls that were answered.

    `gets_p99_ms`, `puts_p99_ms`: a put goes through three nodes, and a get through one.
    """

    calls: int
    failed: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    gets_p99_ms: float = 0.0
    puts_p99_ms: float = 0.0


def figures(seen: Seen, began: float, ended: float) -> LoadFigures:
    """Return what the load saw of calls due in [began, ended), on the monotonic clock."""
    calls: list[Call] = [call for call in seen.calls if began <= call.due < ended]
    latencies = [call.seconds * 1000 for call in calls]
    return LoadFigures(
        len(calls),
        sum(began <= call.due < ended for call in seen.failed),
        round(quantile(latencies, 0.5), 2),
        round(quantile(latencies, 0.99), 2),
        round(max(latencies, default=0.0), 1),
        *(round(quantile([call.seconds * 1000 for call in calls if call.kind == kind], 0.99), 2) for kind in MIX),
    )
