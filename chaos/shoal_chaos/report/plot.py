"""Plots as SVG text, to stand in a page: calls and faults over time, and scores over runs. Colours are the page's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby, pairwise
from math import ceil, log10
from typing import TypeAlias

from shoal_chaos.report.records import Bucket, FaultSpan, RunOutcome, RunRecord

WIDTH, LEFT, RIGHT = 900, 64, 24
LATENCY_TOP, LATENCY_BOTTOM = 26, 176
CALLS_TOP, CALLS_BOTTOM = 196, 256
HEIGHT = 280

LEAST_MS, MOST_MS = 1.0, 2000.0
DECADES_MS = (1, 10, 100, 1000)
MARKS = 10
"""How many marks the axis of time has, at most."""
STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 3600)
"""Seconds from one mark to the next, where the run is not longer than they reach."""

TREND_WIDTH, TREND_HEIGHT, TREND_MARGIN = 120, 26, 3

_Scale: TypeAlias = Callable[[float], float]
"""From seconds to a place on the axis."""


def timeline(buckets: Sequence[Bucket], faults: Sequence[FaultSpan]) -> str:
    """Return a plot: above, the median and the longest latency (logarithmic); below, calls answered and not; faults behind."""
    end = max([bucket.at + _step(buckets) for bucket in buckets] + [fault.healed for fault in faults] + [1.0])
    scale = (WIDTH - LEFT - RIGHT) / end

    def x(at: float) -> float:
        return LEFT + at * scale

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="latency and failed calls over time">']
    parts += _spans(faults, x)
    parts += _grid(end, x)
    parts += _latencies(buckets, "longest", lambda bucket: bucket.max_ms, x)
    parts += _latencies(buckets, "median", lambda bucket: bucket.p50_ms, x)
    parts += _bars(buckets, x)
    return "".join([*parts, "</svg>"])


def trend(runs: Sequence[RunRecord]) -> str:
    """Return a small plot of the runs' scores, from 0 to 100, the oldest first; what was refuted stands out."""
    step = (TREND_WIDTH - 2 * TREND_MARGIN) / max(1, len(runs) - 1)
    height = TREND_HEIGHT - 2 * TREND_MARGIN
    spots = [
        (TREND_MARGIN + step * number, TREND_MARGIN + height * (1 - run.score / 100)) for number, run in enumerate(runs)
    ]
    words = ", ".join(str(run.score) for run in runs)
    parts = [f'<svg class="trend" viewBox="0 0 {TREND_WIDTH} {TREND_HEIGHT}" role="img" aria-label="scores: {words}">']
    for rule in (TREND_MARGIN, TREND_HEIGHT - TREND_MARGIN):
        parts.append(f'<line class="grid" x1="0" x2="{TREND_WIDTH}" y1="{rule}" y2="{rule}"/>')
    parts.append('<polyline class="longest" points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in spots) + '"/>')
    for run, (x, y) in zip(runs, spots, strict=True):
        name = "dot bad" if run.outcome is RunOutcome.REFUTED else "dot"
        told = escape(f"{run.began}, seed {run.seed}: {run.outcome}, score {run.score}")
        parts.append(f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"><title>{told}</title></circle>')
    return "".join([*parts, "</svg>"])


def _step(buckets: Sequence[Bucket]) -> float:
    """Return how long one bucket is, in seconds."""
    return min((two.at - one.at for one, two in pairwise(buckets)), default=1.0)


def _latencies(buckets: Sequence[Bucket], name: str, value_ms: Callable[[Bucket], float], x: _Scale) -> list[str]:
    """Return a line, with gaps where nothing was answered."""
    parts: list[str] = []
    half = _step(buckets) / 2
    for answered, group in groupby(buckets, key=lambda bucket: bucket.answered > 0):
        if answered:
            some = list(group)
            points = " ".join(f"{x(one.at + half):.1f},{_latency_y(value_ms(one)):.1f}" for one in some)
            if len(some) == 1:
                points = f"{x(some[0].at):.1f},{_latency_y(value_ms(some[0])):.1f} {points}"
            parts.append(f'<polyline class="{name}" points="{points}"/>')
    return parts


def _latency_y(value_ms: float) -> float:
    clipped = min(max(value_ms, LEAST_MS), MOST_MS)
    share = log10(clipped / LEAST_MS) / log10(MOST_MS / LEAST_MS)
    return LATENCY_BOTTOM - share * (LATENCY_BOTTOM - LATENCY_TOP)


def _spans(faults: Sequence[FaultSpan], x: _Scale) -> list[str]:
    parts: list[str] = []
    for number, fault in enumerate(faults, start=1):
        ready = fault.healed if fault.ready is None else fault.ready
        for name, first, last in (("fault", fault.began, fault.healed), ("healing", fault.healed, ready)):
            parts.append(
                f'<rect class="{name}" x="{x(first):.1f}" y="{LATENCY_TOP}" width="{max(0.5, x(last) - x(first)):.1f}" '
                f'height="{CALLS_BOTTOM - LATENCY_TOP}"><title>{escape(fault.words)}</title></rect>'
            )
        parts.append(f'<text x="{x(fault.began) + 3:.1f}" y="{LATENCY_TOP - 8}">{number}</text>')
    return parts


def _grid(end: float, x: _Scale) -> list[str]:
    parts: list[str] = []
    for value in DECADES_MS:
        y = _latency_y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{value} ms</text>')
    parts.append(f'<text x="4" y="{LATENCY_TOP - 8}">latency</text>')
    parts.append(f'<text class="end" x="{LEFT - 6}" y="{CALLS_BOTTOM - 4}">calls</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{CALLS_BOTTOM}" y2="{CALLS_BOTTOM}"/>')
    step = next((step for step in STEPS if end / step <= MARKS), ceil(end / MARKS))
    for at in range(0, int(end) + 1, step):
        parts.append(f'<text class="middle" x="{x(at):.1f}" y="{CALLS_BOTTOM + 16}">{at} s</text>')
    return parts


def _bars(buckets: Sequence[Bucket], x: _Scale) -> list[str]:
    most = max((one.answered + one.failed for one in buckets), default=1)
    unit = (CALLS_BOTTOM - CALLS_TOP) / max(1, most)
    width = max(0.8, (x(_step(buckets)) - x(0)) * 0.8)
    parts: list[str] = []
    for one in buckets:
        answered, failed = one.answered * unit, one.failed * unit
        for name, top, height in (
            ("answered", CALLS_BOTTOM - answered, answered),
            ("failed", CALLS_BOTTOM - answered - failed, failed),
        ):
            if height:
                parts.append(
                    f'<rect class="{name}" x="{x(one.at):.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
                )
    return parts
