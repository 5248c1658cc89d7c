"""From what the probes saw and what the checkers found to figures, a verdict and a score. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

from shoal_chaos.probes.open_loop import TIMEOUT_SECONDS, Sample
from shoal_chaos.probes.quantiles import quantile
from shoal_chaos.report.records import (
    Bucket,
    FaultSpan,
    Phase,
    PhaseFigures,
    RunOutcome,
    ShardRecovery,
    Verdict,
)
from shoal_chaos.scenarios.model import Isolation, Scenario

BUCKET_SECONDS = 0.25

AVAILABILITY_POINTS = 50
RECOVERY_POINTS = 30
STEADINESS_POINTS = 20
"""What a run that breaks no promise can score: by the share of calls answered under faults, compared with the steady
state; by how soon all shards are back, compared with what the scenario allows; by the median latency afterwards, compared
with the steady one. They add up to 100. A run that breaks a promise scores 0."""


def figures(phase: Phase, samples: Iterable[Sample], began: float, ended: float) -> PhaseFigures:
    """Return what probes saw of calls due in [began, ended)."""
    within = [sample for sample in samples if began <= sample.due < ended]
    latencies = [sample.seconds * 1000 for sample in within if not sample.error]
    return PhaseFigures(
        phase, len(within), len(latencies),
        quantile(latencies, 0.5), quantile(latencies, 0.99), max(latencies, default=0.0),
    )  # fmt: skip


def timeline(samples: Iterable[Sample], began: float) -> tuple[Bucket, ...]:
    """Return the samples in steps of `BUCKET_SECONDS` from `began` on."""
    buckets: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        buckets[int((sample.due - began) / BUCKET_SECONDS)].append(sample)
    return tuple(_bucket(number * BUCKET_SECONDS, buckets[number]) for number in sorted(buckets))


def _bucket(at: float, samples: Sequence[Sample]) -> Bucket:
    latencies = [sample.seconds * 1000 for sample in samples if not sample.error]
    return Bucket(
        at, len(latencies), len(samples) - len(latencies),
        round(quantile(latencies, 0.5), 2), round(max(latencies, default=0.0), 2),
    )  # fmt: skip


def recoveries(
    samples: Iterable[Sample], began: float, steady_until: float, ended: float, heals: Sequence[float]
) -> tuple[ShardRecovery, ...]:
    """Return how each shard came through; all times on the samples' clock.

    Args:
        began, ended: of the load; steady_until: when the first fault began.
        heals: when faults were healed.
    """
    answered: defaultdict[int, list[float]] = defaultdict(list)
    for sample in samples:
        times = answered[sample.shard]
        if sample.write and not sample.error:
            times.append(sample.due + sample.seconds)
    return tuple(
        _recovery(shard, sorted(times), began, steady_until, ended, heals) for shard, times in sorted(answered.items())
    )


def _recovery(
    shard: int, times: Sequence[float], began: float, steady_until: float, ended: float, heals: Sequence[float]
) -> ShardRecovery:
    def longest(first: float, last: float) -> float:
        marks = [first, *(at for at in times if first < at < last), last]
        return max(two - one for one, two in pairwise(marks))

    waits = [next((at for at in times if at >= heal), ended) - heal for heal in heals]
    return ShardRecovery(
        shard,
        round(longest(began, steady_until), 3),
        round(longest(steady_until, ended), 3),
        round(max(waits, default=0.0), 3),
    )


def liveness(
    scenario: Scenario, phases: Sequence[PhaseFigures], shards: Sequence[ShardRecovery], faults: Sequence[FaultSpan]
) -> list[Verdict]:
    """Return the verdicts about availability and recovery."""
    under = next(one for one in phases if one.phase is Phase.FAULTS)
    slow = [
        f"shard {one.shard} took its first write {one.after_heal:.1f} s after a heal"
        for one in shards
        if one.after_heal > scenario.recovery_seconds
    ]
    slow += [f"not all shards took writes again after: {fault.words}" for fault in faults if fault.ready is None]
    short = under.availability < scenario.availability
    return [
        Verdict(
            "recovery", not slow, f"at most {scenario.recovery_seconds:g} s after a heal", tuple(slow), safety=False
        ),
        Verdict(
            "availability", not short, f"at least {scenario.availability:.0%} of calls answered under faults",
            (f"{under.availability:.1%} were answered",) if short else (), safety=False,
        ),
    ]  # fmt: skip


def isolation(
    limits: Isolation,
    faults: Sequence[FaultSpan],
    samples: Sequence[Sample],
    began: float,
    harmed: float,
    peak_mib: float,
) -> list[Verdict]:
    """Return the verdicts about what was felt of neighbours.

    Args:
        began: of the load, and `harmed`: of the first attack, on the samples' clock.
        peak_mib: the most that a node held.
    """
    quiet = figures(Phase.STEADY, samples, began, harmed)
    most_ms = limits.p99_most_ms(quiet.p99_ms)
    in_time = most_ms <= TIMEOUT_SECONDS * 1000
    felt: list[str] = []
    for fault in faults:
        first, last = began + fault.began, began + fault.healed
        seen = figures(Phase.FAULTS, samples, first, last)
        unanswered = [sample for sample in samples if sample.error and first <= sample.due < last]
        failed = sum(in_time or sample.seconds < TIMEOUT_SECONDS for sample in unanswered)
        if failed > limits.failed_share * seen.calls:
            felt.append(f"{failed} of {seen.calls} calls were not answered beside {fault.words}")
        if in_time and seen.p99_ms > most_ms:
            felt.append(f"p99 was {seen.p99_ms:.0f} ms beside {fault.words}")
    held = f"a node held {peak_mib:,.0f} MiB"
    latency = (
        f"p99 is at most {most_ms:.0f} ms"
        if in_time
        else f"latencies are not judged, since the machine had so much else to do that p99 was {quiet.p99_ms:.0f} ms before"
    )
    judged = f"beside each, at most {limits.failed_share:.0%} of calls fail, and {latency}"
    return [
        Verdict(
            "light load", not felt, judged, tuple(felt), safety=False,
        ),
        Verdict(
            "memory", peak_mib <= limits.memory_mib, f"at most {limits.memory_mib:,.0f} MiB; {held}",
            (held,) if peak_mib > limits.memory_mib else (), safety=False,
        ),
    ]  # fmt: skip


def outcome(scenario: Scenario, verdicts: Sequence[Verdict]) -> tuple[RunOutcome, str]:
    """Return what the verdicts say of the hypothesis, and why."""
    broken = [verdict.checker for verdict in verdicts if not verdict.passed]
    unsafe = [verdict.checker for verdict in verdicts if not verdict.passed and verdict.safety]
    if scenario.must_break:
        if unsafe:
            return RunOutcome.HELD, f"the loss was found by: {', '.join(unsafe)}"
        return RunOutcome.REFUTED, "nothing was found, though the faults are beyond what can be borne"
    if broken:
        return RunOutcome.REFUTED, f"broken: {', '.join(broken)}"
    return RunOutcome.HELD, "nothing was found"


def score(
    scenario: Scenario, verdicts: Sequence[Verdict], phases: Sequence[PhaseFigures], shards: Sequence[ShardRecovery]
) -> int:
    """Return the resilience of one run, from 0 to 100 (see `AVAILABILITY_POINTS`)."""
    found = outcome(scenario, verdicts)[0]
    if scenario.must_break:
        return 100 if found is RunOutcome.HELD else 0
    if any(verdict.safety and not verdict.passed for verdict in verdicts):
        return 0
    steady, under, after = (next(one for one in phases if one.phase is phase) for phase in Phase)
    available = min(1.0, under.availability / steady.availability) if steady.availability else 0.0
    worst = max((one.after_heal for one in shards), default=0.0)
    recovered = max(0.0, 1 - worst / scenario.recovery_seconds)
    quick = min(1.0, steady.p50_ms / after.p50_ms) if after.p50_ms else 0.0
    return round(AVAILABILITY_POINTS * available + RECOVERY_POINTS * recovered + STEADINESS_POINTS * quick)
