"""Plots as SVG text, to stand in a page: calls and faults over time, and scores over runs. Colours are the page's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from math import log10
from typing import TypeAlias

from shoal_chaos.report.records import Bucket, FaultSpan

WIDTH, LEFT, RIGHT = 900, 56, 12
LATENCY_TOP, LATENCY_BOTTOM = 26, 176
CALLS_TOP, CALLS_BOTTOM = 196, 256
HEIGHT = 280

LEAST_MS, MOST_MS = 1.0, 2000.0
DECADES_MS = (1, 10, 100, 1000)
MARKS = 10
"""How many marks the axis of time has, at most."""

TREND_WIDTH, TREND_HEIGHT, TREND_MARGIN = 120, 26, 3

_Scale: TypeAlias = Callable[[float], float]
"""From seconds to a place on the axis."""


def timeline(buckets: Sequence[Bucket], faults: Sequence[FaultSpan]) -> str:
    """Return a plot: above, the median and the longest latency (logarithmic); below, calls answered and not; faults behind."""
    end = max([bucket.at for bucket in buckets] + [fault.healed for fault in faults] + [1.0])
    scale = (WIDTH - LEFT - RIGHT) / end

    def x(at: float) -> float:
        return LEFT + at * scale

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="latency and failed calls over time">']
    parts += _spans(faults, x)
    parts += _grid(end, x)
    for name, values in (("longest", [one.max_ms for one in buckets]), ("median", [one.p50_ms for one in buckets])):
        points = " ".join(
            f"{x(one.at):.1f},{_latency_y(value):.1f}"
            for one, value in zip(buckets, values, strict=True)
            if one.answered
        )
        parts.append(f'<polyline class="{name}" points="{points}"/>')
    parts += _bars(buckets, x)
    return "".join([*parts, "</svg>"])


def trend(scores: Sequence[int]) -> str:
    """Return a small plot of scores, from 0 to 100, the oldest first."""
    step = (TREND_WIDTH - 2 * TREND_MARGIN) / max(1, len(scores) - 1)
    spots = [
        (TREND_MARGIN + step * number, TREND_HEIGHT - TREND_MARGIN - score / 100 * (TREND_HEIGHT - 2 * TREND_MARGIN))
        for number, score in enumerate(scores)
    ]
    points = " ".join(f"{left:.1f},{top:.1f}" for left, top in spots)
    left, top = spots[-1]
    words = escape(", ".join(map(str, scores)))
    return (
        f'<svg class="trend" viewBox="0 0 {TREND_WIDTH} {TREND_HEIGHT}" role="img" aria-label="scores: {words}">'
        f'<polyline class="median" points="{points}"/><circle class="dot" cx="{left:.1f}" cy="{top:.1f}" r="2.5"/></svg>'
    )


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
    parts.append(f'<text class="end" x="{LEFT - 6}" y="{CALLS_BOTTOM}">calls</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{CALLS_BOTTOM}" y2="{CALLS_BOTTOM}"/>')
    step = next(step for step in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 3600) if end / step <= MARKS or step == 3600)
    for at in range(0, int(end) + 1, step):
        parts.append(f'<text class="middle" x="{x(at):.1f}" y="{CALLS_BOTTOM + 16}">{at} s</text>')
    return parts


def _bars(buckets: Sequence[Bucket], x: _Scale) -> list[str]:
    most = max((one.answered + one.failed for one in buckets), default=1)
    unit = (CALLS_BOTTOM - CALLS_TOP) / max(1, most)
    width = max(0.8, (x(buckets[1].at) - x(buckets[0].at)) * 0.8) if len(buckets) > 1 else 4.0
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
