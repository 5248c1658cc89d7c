"""From samples and verdicts to figures, outcome and score."""

from __future__ import annotations

import pytest
from shoal_chaos.probes.open_loop import Sample
from shoal_chaos.report.records import FaultSpan, Phase, PhaseFigures, RunOutcome, ShardRecovery, Verdict
from shoal_chaos.scenarios.comparison import figures, liveness, outcome, recoveries, score, timeline
from shoal_chaos.scenarios.model import Scenario

PLAIN = Scenario("plain", "All is well.", lambda _: [], availability=0.5, recovery_seconds=10.0)
HOPELESS = Scenario("hopeless", "It is found.", lambda _: [], must_break=True)
GOOD = Verdict("registers", True)
STALE = Verdict("registers", False, found=("a stale read",))
SLOW = Verdict("recovery", False, found=("late",), safety=False)


def write(due: float, seconds: float = 0.01, error: str = "", shard: int = 1) -> Sample:
    return Sample(shard, True, due, seconds, error)


def phase(name: Phase, calls: int = 100, answered: int = 100, p50_ms: float = 2.0) -> PhaseFigures:
    return PhaseFigures(name, calls, answered, p50_ms, p50_ms, p50_ms)


def phases(answered: int = 100, after_ms: float = 2.0) -> list[PhaseFigures]:
    return [phase(Phase.STEADY), phase(Phase.FAULTS, answered=answered), phase(Phase.AFTER, p50_ms=after_ms)]


def test_figures_count_the_calls_that_were_due_in_a_part_of_the_run() -> None:
    samples = [write(0.5, 0.010), write(1.0, 0.030), write(1.5, 1.0, "DeadlineExceeded"), write(2.0)]
    found = figures(Phase.FAULTS, samples, 1.0, 2.0)
    assert (found.calls, found.answered) == (2, 1)
    assert found.max_ms == pytest.approx(30)
    assert found.availability == 0.5


def test_a_part_without_calls_has_figures_too() -> None:
    assert figures(Phase.AFTER, [], 0.0, 1.0).availability == 0.0


def test_the_time_line_shows_failed_calls_when_they_were_due() -> None:
    buckets = timeline([write(10.0), write(10.3, 1.0, "Unavailable"), write(10.3, 0.02)], 10.0)
    assert [(one.at, one.answered, one.failed) for one in buckets] == [(0.0, 1, 0), (0.25, 1, 1)]


def test_recovery_is_the_longest_wait_from_a_heal_to_a_write_that_is_acknowledged() -> None:
    samples = [write(at, 0.0) for at in (0.5, 1.0, 1.5)]
    samples += [write(3.0, 1.0, "Unavailable"), Sample(1, False, 3.5, 0.0), write(6.0, 0.5), write(7.0, 0.0)]
    (found,) = recoveries(samples, 0.0, 2.0, 8.0, [4.0, 6.8])
    assert found.steady_gap == 0.5
    assert found.longest_gap == 4.5
    assert found.after_heal == 2.5


def test_a_shard_that_never_comes_back_has_waited_until_the_end() -> None:
    (found,) = recoveries([write(3.0, 1.0, "Unavailable")], 0.0, 2.0, 8.0, [4.0])
    assert found.after_heal == 4.0


@pytest.mark.parametrize(
    ("answered", "after_heal", "ready", "broken"),
    [
        (50, 10.0, 6.0, []),
        (49, 10.0, 6.0, ["availability"]),
        (50, 10.1, 6.0, ["recovery"]),
        (50, 1.0, None, ["recovery"]),
    ],
)
def test_liveness_is_measured_by_what_the_scenario_allows(
    answered: int, after_heal: float, ready: float | None, broken: list[str]
) -> None:
    faults = [FaultSpan("kill", "killed n1", 1.0, 5.0, ready)]
    verdicts = liveness(PLAIN, phases(answered), [ShardRecovery(1, 0.1, 1.0, after_heal)], faults)
    assert [one.checker for one in verdicts if not one.passed] == broken
    assert not any(one.safety for one in verdicts)


@pytest.mark.parametrize(
    ("scenario", "verdicts", "expected"),
    [
        (PLAIN, [GOOD], RunOutcome.HELD),
        (PLAIN, [GOOD, STALE], RunOutcome.REFUTED),
        (PLAIN, [GOOD, SLOW], RunOutcome.REFUTED),
        (HOPELESS, [GOOD, STALE], RunOutcome.HELD),
        (HOPELESS, [GOOD, SLOW], RunOutcome.REFUTED),
        (HOPELESS, [GOOD], RunOutcome.REFUTED),
    ],
)
def test_a_hypothesis_holds_when_nothing_is_found_unless_something_has_to_be(
    scenario: Scenario, verdicts: list[Verdict], expected: RunOutcome
) -> None:
    assert outcome(scenario, verdicts)[0] is expected


def test_the_score_is_full_where_nobody_noticed_and_nothing_where_a_promise_was_broken() -> None:
    unharmed = [ShardRecovery(1, 0.1, 0.1, 0.0)]
    assert score(PLAIN, [GOOD], phases(), unharmed) == 100
    assert score(PLAIN, [STALE], phases(), unharmed) == 0
    assert score(HOPELESS, [STALE], phases(0), unharmed) == 100
    assert score(HOPELESS, [GOOD], phases(), unharmed) == 0


@pytest.mark.parametrize(
    ("answered", "after_heal", "after_ms", "expected"),
    [(50, 0.0, 2.0, 75), (100, 5.0, 2.0, 85), (100, 20.0, 2.0, 70), (100, 0.0, 4.0, 90), (0, 20.0, 200.0, 0)],
)
def test_the_score_falls_with_what_was_noticed(
    answered: int, after_heal: float, after_ms: float, expected: int
) -> None:
    assert score(PLAIN, [GOOD], phases(answered, after_ms), [ShardRecovery(1, 0.1, 0.1, after_heal)]) == expected
