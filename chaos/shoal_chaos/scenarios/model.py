"""What a scenario is: plain data, and nothing of how it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from shoal_chaos.clusters.faulty_cluster import ClusterShape
from shoal_chaos.clusters.networks import Medium
from shoal_chaos.nemeses.base import Nemesis

ESSENTIAL = ("registers", "counters", "bank", "append-lists", "sessions", "staleness")
"""Workloads that between them ask for every promise of consistency, and leave a small machine room for faults."""

SMALL = ClusterShape()


@dataclass(frozen=True, slots=True)
class TimedNemesis:
    """A nemesis at work: how long it is left to it, and how long the cluster is left alone after it, in seconds."""

    nemesis: Nemesis
    seconds: float
    rest_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Isolation:
    """What the probes may feel of neighbours, during each nemesis, and what a node may hold for these.

    Args:
        failed_share: of the probes' calls, at most, from 0 to 1. A call that was not answered in time counts where such
            latencies are judged: see `p99_times`.
        p99_ms: of those that were answered, at most, on a machine that has nothing else to do.
        p99_times: on one that has, at most so many times the p99 of the quiet time before the first attack, which others on
            the machine lengthen as well. Where that is more than a probe waits for, latencies say nothing of neighbours.
        memory_mib: of any node, at most.
    """

    failed_share: float
    p99_ms: float
    p99_times: float
    memory_mib: float

    def p99_most_ms(self, quiet_p99_ms: float) -> float:
        """Return what the p99 may be beside an attack, where it was that before."""
        return max(self.p99_ms, self.p99_times * quiet_p99_ms)


@dataclass(frozen=True, slots=True)
class Scenario:
    """An experiment.

    Args:
        hypothesis: a sentence that the run holds up or refutes.
        round: makes the faults of one round, which happen one after another; rounds follow until the time is up.
        workloads: by name (see `workloads.suite`).
        shape: of the cluster that is started for it.
        availability: the least share of probe calls that must be answered while faults are at work, from 0 to 1.
        recovery_seconds: how long after a heal a shard may take until it takes writes again.
        needs_system_faults: disks or clocks fail, so that the library for it is needed.
        medium: by what links fail.
        anywhere: its nemeses are `Disturbance`s, which need no cluster of our own.
        wall_clocks_wrong: some are, fewer than half at any time, and rows that expire are judged by what holds then.
        isolation: nothing is broken, and there are neighbours: what may be felt of these; None: that is not judged.
        other_clusters: at times another cluster answers at the addresses, and the clients have to say so.
        must_break: the faults are beyond what Shoal promises to bear, and the checkers are to say so: a test of them.
    """

    name: str
    hypothesis: str
    round: Callable[[Random], Sequence[TimedNemesis]]
    workloads: tuple[str, ...] = ESSENTIAL
    shape: ClusterShape = SMALL
    availability: float = 0.0
    recovery_seconds: float = 10.0
    needs_system_faults: bool = False
    medium: Medium = Medium.PROXIES
    anywhere: bool = False
    wall_clocks_wrong: bool = False
    isolation: Isolation | None = None
    other_clusters: bool = False
    must_break: bool = False

    @property
    def needs(self) -> str:
        """What the machine has to have for it, in words; "": nothing."""
        words = ["a C compiler"] if self.needs_system_faults else []
        return ", ".join(words + [self.medium.needs] * bool(self.medium.needs))
