"""The Markdown table of what scenarios came to."""

from __future__ import annotations

from shoal_chaos.report.records import Phase, PhaseFigures, RunOutcome, RunRecord, ShardRecovery
from shoal_chaos.report.table import HEADS, table


def record(
    scenario: str, outcome: RunOutcome, score: int, answered: int, *waits: float, must_break: bool = False
) -> RunRecord:
    return RunRecord(
        scenario=scenario,
        hypothesis="It holds | it does not.",
        outcome=outcome,
        reason="",
        seed=score,
        began="",
        seconds=10.0,
        cluster="",
        score=score,
        phases=(PhaseFigures(Phase.FAULTS, 100, answered, 1.0, 2.0, 3.0),),
        shards=tuple(ShardRecovery(number, 0.1, 0.2, wait) for number, wait in enumerate(waits)),
        must_break=must_break,
    )


def lines(*records: RunRecord) -> list[str]:
    return table(records).splitlines()


def test_each_scenario_has_a_line_with_the_medians_of_its_runs_and_the_worst_wait() -> None:
    head, rule, ring, split = lines(
        record("split", RunOutcome.HELD, 90, 80, 1.0),
        record("ring", RunOutcome.HELD, 90, 80, 1.0, 0.5),
        record("ring", RunOutcome.REFUTED, 0, 50, 7.0),
        record("ring", RunOutcome.HELD, 96, 90, 0.2, 2.0),
    )
    assert head == f"| {' | '.join(HEADS)} |"
    assert rule == "| --- | --- | --- | --- | --- | --- |"
    assert ring == r"| `ring` | It holds \| it does not. | 2 of 3 | 80.0% | 2.0 s (worst 7.0 s) | 90 |"
    assert split.startswith("| `split` |")


def test_skipped_runs_count_for_nothing() -> None:
    skipped = record("disks", RunOutcome.SKIPPED, 0, 0)
    assert "| skipped |" in lines(skipped)[-1]
    assert "| 1 of 1 | 90.0% |" in lines(skipped, record("disks", RunOutcome.HELD, 95, 90, 1.0))[-1]


def test_a_scenario_that_must_break_has_no_figures() -> None:
    assert lines(record("lies", RunOutcome.HELD, 100, 10, 9.0, must_break=True))[-1].endswith("| 1 of 1 |  |  |  |")
