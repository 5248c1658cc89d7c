"""One page, that needs nothing beside itself, about all runs that are kept: a table of scenarios, and each one's newest run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from shoal_chaos.report import plot
from shoal_chaos.report.records import FaultSpan, RunOutcome, RunRecord, Verdict

RUNS_SHOWN = 30
"""How many runs of a scenario its trend shows, at most: the newest."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --dim: #6a737d; --line: #d8dee4; --page: #fff; --card: #f6f8fa;
  --good: #1a7f37; --bad: #cf222e; --mark: #0969da; --soft: #9cc3f0; --fault: #cf222e22; --healing: #bf870022; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #8b949e; --line: #30363d; --page: #0d1117;
  --card: #161b22; --good: #3fb950; --bad: #f85149; --mark: #58a6ff; --soft: #33608f; --fault: #f8514933;
  --healing: #d2992233; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 0.3rem; } p { margin: 0.3rem 0; }
table { border-collapse: collapse; width: 100%; margin: 0.6rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.25rem 0.6rem 0.25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--dim); font-weight: 500; } td.number, th.number { text-align: right; }
.held, .passed { color: var(--good); } .refuted, .broken { color: var(--bad); } .skipped, .dim { color: var(--dim); }
pre { background: var(--card); padding: 0.5rem; overflow-x: auto; white-space: pre-wrap; font-size: 0.85rem; }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--dim); } svg.trend { width: 120px; }
text.end { text-anchor: end; } text.middle { text-anchor: middle; }
.grid { stroke: var(--line); } .axis { stroke: var(--dim); } polyline { fill: none; stroke-width: 1.6; }
.median { stroke: var(--mark); } .longest { stroke: var(--soft); } .dot { fill: var(--mark); }
.dot.bad { fill: var(--bad); } a { color: var(--mark); } summary { cursor: pointer; padding: 0.3rem 0; }
rect.fault { fill: var(--fault); } rect.healing { fill: var(--healing); }
rect.answered { fill: var(--soft); } rect.failed { fill: var(--bad); }
"""

LEGEND = (
    "Above: the median (dark) and the longest (light) latency of the probes' calls, by when they were due. Below: how many "
    "were answered, and in red how many were not within a second. Shaded: a fault at work (its number above), and from its "
    "heal until every shard took writes."
)
SCORE = (
    "The score is 0 where a promise was broken; else up to 50 points for calls answered under faults, 30 for how soon every "
    "shard took writes after a heal, and 20 for the median latency afterwards, each compared with the steady state or with "
    "what the scenario allows."
)


def page(records: Sequence[RunRecord]) -> str:
    """Return the page, as HTML.

    Args:
        records: the oldest first.
    """
    runs: dict[str, list[RunRecord]] = {}
    for record in records:
        runs.setdefault(record.scenario, []).append(record)
    body = [
        "<h1>Shoal under faults</h1>",
        f"<p>{_summary(records, runs)}</p>",
        f'<p class="dim">{SCORE}</p>',
        _table(
            ("scenario", "runs", "held", "refuted", "newest", "score", "trend", "longest wait after a heal"),
            (_row(name, of_it) for name, of_it in sorted(runs.items())),
        ),
        *(_newest(of_it[-1]) for _, of_it in sorted(runs.items())),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Shoal under faults</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _summary(records: Sequence[RunRecord], runs: Mapping[str, Sequence[RunRecord]]) -> str:
    newest = [of_it[-1] for of_it in runs.values()]
    numbers = {outcome: sum(run.outcome is outcome for run in newest) for outcome in RunOutcome}
    counts = ", ".join(
        f'<span class="{outcome}">{number} {outcome}</span>' for outcome, number in numbers.items() if number
    )
    return f"{len(records)} runs of {len(runs)} scenarios. By the newest run of each: {counts}."


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(name: str, runs: Sequence[RunRecord]) -> Sequence[str]:
    newest = runs[-1]
    done = [run for run in runs if run.outcome is not RunOutcome.SKIPPED]
    waits = [shard.after_heal for run in done for shard in run.shards]
    return (
        f'<a href="#{escape(name)}">{escape(name)}</a>',
        str(len(runs)),
        str(sum(run.outcome is RunOutcome.HELD for run in runs)),
        str(sum(run.outcome is RunOutcome.REFUTED for run in runs)),
        _outcome(newest),
        str(newest.score) if newest.outcome is not RunOutcome.SKIPPED else "",
        plot.trend(done[-RUNS_SHOWN:]) if done else "",
        f"{max(waits):.1f} s" if waits else "",
    )


def _outcome(run: RunRecord) -> str:
    return f'<span class="{run.outcome}">{run.outcome}</span>'


def _newest(run: RunRecord) -> str:
    parts = [
        f'<h2 id="{escape(run.scenario)}">{escape(run.scenario)}: {_outcome(run)}</h2>',
        f"<p>{escape(run.hypothesis)}</p>",
        f'<p class="dim">{escape(run.cluster)}; seed {run.seed}, {run.seconds:g} s, began {escape(run.began)}. '
        f"{escape(run.reason[:1].upper() + run.reason[1:])}.</p>",
    ]
    if run.outcome is RunOutcome.SKIPPED:
        return "".join(parts)
    parts += [plot.timeline(run.timeline, run.faults), f'<p class="dim">{LEGEND}</p>', _faults(run), _verdicts(run)]
    parts += [_phases(run), _shards(run)]
    if run.remarks:
        parts.append("<p>Remarks:</p><pre>" + escape("\n".join(run.remarks)) + "</pre>")
    return "".join(parts)


def _faults(run: RunRecord) -> str:
    return _table(
        ("", "fault", "from", "to", "every shard took writes after"),
        (
            (
                str(number), _words(one), f"{one.began:.1f} s", f"{one.healed:.1f} s",
                '<span class="broken">never</span>' if one.ready is None else f"{one.ready - one.healed:.1f} s",
            )
            for number, one in enumerate(run.faults, start=1)
        ),
    )  # fmt: skip


def _words(fault: FaultSpan) -> str:
    outcome = f'<div class="dim">{escape(fault.outcome)}</div>' if fault.outcome else ""
    return escape(fault.words) + outcome


def _verdicts(run: RunRecord) -> str:
    """Return what was found, for all to see, and what was not, folded up."""
    broken = [one for one in run.verdicts if not one.passed]
    passed = [one for one in run.verdicts if one.passed]
    text = _verdict_table(broken) if broken else ""
    if passed:
        words = f"{len(passed)} of {len(run.verdicts)} checkers found nothing"
        text += f"<details><summary>{words}</summary>{_verdict_table(passed)}</details>"
    return text


def _verdict_table(verdicts: Sequence[Verdict]) -> str:
    rows: list[tuple[str, str, str]] = []
    for one in verdicts:
        said = "passed" if one.passed else "broken"
        found = f"<pre>{escape(chr(10).join(one.found))}</pre>" if one.found else ""
        rows.append((escape(one.checker), f'<span class="{said}">{said}</span>', escape(one.judged) + found))
    return _table(("checker", "verdict", "of what"), rows)


def _phases(run: RunRecord) -> str:
    return _table(
        ("part of the run", "calls", "answered", "median", "p99", "longest"),
        (
            (
                str(one.phase), f"{one.calls:,}", f"{one.availability:.1%}",
                f"{one.p50_ms:.1f} ms", f"{one.p99_ms:.0f} ms", f"{one.max_ms:.0f} ms",
            )
            for one in run.phases
        ),
    )  # fmt: skip


def _shards(run: RunRecord) -> str:
    return _table(
        ("shard", "longest without a write, steady", "since the first fault", "longest wait after a heal"),
        (
            (str(one.shard), f"{one.steady_gap:.2f} s", f"{one.longest_gap:.2f} s", f"{one.after_heal:.2f} s")
            for one in run.shards
        ),
    )
