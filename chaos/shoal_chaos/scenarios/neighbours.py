"""The scenarios of neighbours: whatever one client does, the others go on, hold their histories, and hardly notice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from shoal_chaos.attackers.base import Needs
from shoal_chaos.attackers.catalogue import of
from shoal_chaos.clusters.faulty_cluster import ClusterShape
from shoal_chaos.clusters.networks import Medium
from shoal_chaos.nemeses.neighbours import (
    ExpensiveRequests,
    GiantValues,
    GreedyClient,
    IdleConnections,
    Neighbour,
    SlowLink,
    SlowReader,
    TinyDeadlines,
)
from shoal_chaos.scenarios.model import Isolation, Scenario, TimedNemesis

ALL_PORTS = ClusterShape(shards=8, microshards=1024, all_ports=True)
SECONDS = (4.0, 8.0)

ISOLATION = Isolation(failed_share=0.01, p99_ms=500.0, p99_times=8.0, memory_mib=1024.0)
"""For two cores, which nodes, attacker, workloads and probes share. `bench/isolation.py` measures, with nothing else about."""
AVAILABILITY = 0.8
"""However much else the machine has to do."""

HYPOTHESES: Sequence[tuple[type[Neighbour], str]] = (
    (GreedyClient, "A client that asks for all it can, at once and without pause, takes nothing from the others."),
    (SlowReader, "Whoever asks for much and does not read it waits for it alone."),
    (SlowLink, "A client behind a narrow link gets what it asks for, late, and costs the others nothing."),
    (IdleConnections, "Connections that say nothing keep nobody out, at no port."),
    (GiantValues, "Whoever reads and writes values of 1 MiB is served, and so are the others, in time."),
    (TinyDeadlines, "Calls that nobody waits for any more are not done, and cost the others nothing."),
    (ExpensiveRequests, "What takes some kB to ask for takes no node from the others, however much work it is."),
)


def _each(neighbour: type[Neighbour]) -> Callable[[Random], Sequence[TimedNemesis]]:
    """Return a round in which each attack of a family that these clusters have the ports for has its turn."""
    names = [attack.name for attack in of(neighbour.family) if attack.needs in (Needs.NOTHING, Needs.PAGES, Needs.GRPC)]

    def make(random: Random) -> list[TimedNemesis]:
        shuffled = random.sample(names, len(names))
        return [TimedNemesis(neighbour(name), random.uniform(*SECONDS)) for name in shuffled]

    return make


NEIGHBOURS = tuple(
    Scenario(
        neighbour.name,
        hypothesis,
        _each(neighbour),
        shape=ALL_PORTS,
        medium=Medium.NOTHING,
        availability=AVAILABILITY,
        isolation=ISOLATION,
    )
    for neighbour, hypothesis in HYPOTHESES
)
