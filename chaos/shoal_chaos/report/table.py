"""The resilience table of the README: what all kept runs of each scenario came to, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from shoal_chaos.report.records import Phase, RunOutcome, RunRecord

HEADS = ("scenario", "hypothesis", "held", "calls answered under faults", "longest wait after a heal", "score")


def table(records: Sequence[RunRecord]) -> str:
    """Return the table: a line for each scenario, in the order of their names.

    Held: of how many runs that were not skipped. Calls answered, the wait of the shard that waited longest, and the score
    are medians over those runs; the wait has the worst of all beside it. Scenarios that must break have no figures.

    Args:
        records: in any order; of a scenario's hypotheses, the last counts.
    """
    runs: dict[str, list[RunRecord]] = {}
    for record in records:
        runs.setdefault(record.scenario, []).append(record)
    lines = [HEADS, ("---",) * len(HEADS), *(_line(name, runs[name]) for name in sorted(runs))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _line(name: str, runs: Sequence[RunRecord]) -> tuple[str, ...]:
    hypothesis = runs[-1].hypothesis.replace("|", "\\|")
    done = [run for run in runs if run.outcome is not RunOutcome.SKIPPED]
    if not done:
        return (f"`{name}`", hypothesis, "skipped", "", "", "")
    held = f"{sum(run.outcome is RunOutcome.HELD for run in done)} of {len(done)}"
    if runs[-1].must_break:
        return (f"`{name}`", hypothesis, held, "", "", "")
    answered = [one.availability for run in done for one in run.phases if one.phase is Phase.FAULTS]
    waits = [max(shard.after_heal for shard in run.shards) for run in done if run.shards]
    return (
        f"`{name}`",
        hypothesis,
        held,
        f"{median(answered):.1%}" if answered else "",
        f"{median(waits):.1f} s (worst {max(waits):.1f} s)" if waits else "",
        f"{median(run.score for run in done):.0f}",
    )
