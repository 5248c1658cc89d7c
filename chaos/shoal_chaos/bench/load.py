"""A closed loop of concurrent callers on one asyncio client, and what they saw."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import shoal
from hdrh.histogram import HdrHistogram

from shoal_chaos.bench.workloads import Operation, Shape, Workload

LATENCY_NS_MAX = 60 * 1_000_000_000
SIGNIFICANT_DIGITS = 3
LOAD_BATCH = 2_000


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one run came to; latencies in milliseconds."""

    workload: str
    concurrency: int
    seconds: float
    operations: int
    rows: int
    errors: int
    per_second: float
    rows_per_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


async def fill(db: shoal.AsyncClient, shape: Shape) -> None:
    """Write every key once, so that reads find something."""
    value = shape.value()
    for first in range(0, shape.keys, LOAD_BATCH):
        await db.put_many({shape.key(number): value for number in range(first, min(first + LOAD_BATCH, shape.keys))})


async def measure(
    operation: Operation, workload: Workload, *, concurrency: int, warmup: float, seconds: float
) -> Measurement:
    """Run `concurrency` callers, each of which makes its next call when the last one is answered.

    Args:
        warmup: seconds before anything is counted.
    """
    histogram: Any = HdrHistogram(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS)
    latencies: list[int] = []
    stopping = False
    rows = 0
    errors = 0

    async def call(number: int) -> None:
        nonlocal errors, rows
        while not stopping:
            number += concurrency
            began = perf_counter_ns()
            try:
                found = await operation(number)
            except shoal.ShoalError:
                errors += 1
                continue
            latencies.append(perf_counter_ns() - began)
            rows += found

    # The generator shares the machine with what it measures: no pauses of its own in the figures.
    gc.collect()
    gc.freeze()
    callers = [asyncio.create_task(call(number)) for number in range(concurrency)]
    await asyncio.sleep(warmup)
    latencies.clear()
    rows = errors = 0
    began = perf_counter_ns()
    await asyncio.sleep(seconds)
    elapsed = (perf_counter_ns() - began) / 1e9
    counted = list(latencies)
    counted_rows, failed = rows, errors
    stopping = True
    await asyncio.gather(*callers)
    gc.unfreeze()
    for latency in counted:
        histogram.record_value(latency)
    return Measurement(
        workload=workload.value,
        concurrency=concurrency,
        seconds=elapsed,
        operations=len(counted),
        rows=counted_rows,
        errors=failed,
        per_second=len(counted) / elapsed,
        rows_per_second=counted_rows / elapsed,
        p50_ms=histogram.get_value_at_percentile(50) / 1e6,
        p99_ms=histogram.get_value_at_percentile(99) / 1e6,
        p999_ms=histogram.get_value_at_percentile(99.9) / 1e6,
        max_ms=histogram.get_max_value() / 1e6,
    )
