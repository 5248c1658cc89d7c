"""What a steady mixed load feels of every operation: failed calls, and how much longer the slowest hundredth takes.

Three nodes and a shard manager at the default settings, eight shards; then two nodes join. The load is light, since the
generator, the managers and five nodes share this machine. Before each operation nothing happens for a while: its p99 is
compared with that of all these quiet times. Commands are run by a process that has been started before, at low priority,
since an operator's would run elsewhere; one of the rows is a command that changes nothing. Results are kept in bench/results/.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from records import Record, machine
from rich.console import Console
from rich.table import Table
from shoal_chaos.clusters.configuration import loopback
from shoal_chaos.clusters.process_cluster import ProcessCluster
from shoal_chaos.probes.quantiles import quantile
from shoal_chaos.workloads.operations import ALL, Operation
from shoal_chaos.workloads.terminal import Terminal
from steady_load import Call, Seen, steady_load

SHARDS = 8
TARGET_RATIO = 2.0
AFTER_SECONDS = 0.5
"""What an operation does to the load right after its end belongs to it."""

SETTLE_SECONDS = 1.0
"""The load goes on for so long before anything is measured."""

LOOKS = 8


async def look(cluster: ProcessCluster) -> None:
    """Run a command that changes nothing, as often as others are run that do."""
    for _ in range(LOOKS):
        await cluster.run("operations", "--json")


OPERATIONS: Sequence[Operation] = (Operation("a command that changes nothing", look), *ALL)


@dataclass(frozen=True, slots=True)
class Figures:
    """What the load saw of an operation; latencies in milliseconds."""

    operation: str
    seconds: float
    calls: int
    failed: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Span:
    """When an operation went on, on the monotonic clock."""

    operation: str
    began: float
    ended: float


async def measure(
    folder: Path, rate: float, quiet: float, rounds: int, wanted: Sequence[Operation], progress: Console
) -> list[Figures]:
    """Run all operations, so many times, on a new cluster under load; the first figures are those of the quiet times."""
    terminal = Terminal()
    cluster = ProcessCluster(
        folder, loopback(joiners=2, managers=1, keyspace=f"shards: {SHARDS}"), run_command=terminal.run
    )
    try:
        cluster.start_all()
        await cluster.ready()
        await cluster.linger_briefly()
        await cluster.run("operations", "--json")
        quiet_spans: list[Span] = []
        spans: list[Span] = []
        async with steady_load(cluster.url, rate) as seen:
            await asyncio.sleep(SETTLE_SECONDS)
            for operation in chain(wanted, *([each for each in wanted if not each.once] for _ in range(rounds - 1))):
                quiet_spans.append(await _timed(Operation("quiet", lambda _: asyncio.sleep(quiet)), cluster))
                spans.append(await _timed(operation, cluster))
                progress.print(f"{operation.name}: {spans[-1].ended - spans[-1].began:.1f} s")
                await asyncio.sleep(AFTER_SECONDS)
    finally:
        await terminal.close()
        await cluster.stop_all()
    for message, count in Counter(f"{call.kind}: {call.error}" for call in seen.failed).most_common(10):
        progress.print(f"{count} x {message}")
    of_operations = (
        _figures(operation.name, [span for span in spans if span.operation == operation.name], seen)
        for operation in wanted
    )
    return [_figures("quiet", quiet_spans, seen), *of_operations]


async def _timed(operation: Operation, cluster: ProcessCluster) -> Span:
    began = time.monotonic()
    await operation.run(cluster)
    return Span(operation.name, began, time.monotonic())


def _figures(name: str, spans: Sequence[Span], seen: Seen) -> Figures:
    def within(due: float) -> bool:
        return any(span.began <= due < span.ended + (0 if name == "quiet" else AFTER_SECONDS) for span in spans)

    calls: list[Call] = [call for call in seen.calls if within(call.due)]
    latencies = [call.seconds * 1000 for call in calls]
    return Figures(
        name,
        sum(span.ended - span.began for span in spans),
        len(calls),
        sum(within(due) for due in (call.due for call in seen.failed)),
        quantile(latencies, 0.5),
        quantile(latencies, 0.99),
        max(latencies),
    )


def table(figures: Sequence[Figures]) -> Table:
    """Return the figures, with how many times the quiet p99 each p99 is."""
    shown = Table("operation", "seconds", "calls", "failed", "p50 (ms)", "p99 (ms)", "max (ms)", "p99 / quiet p99")
    quiet = figures[0].p99_ms
    for one in figures:
        ratio = one.p99_ms / quiet
        mark = "" if ratio <= TARGET_RATIO else f" (target {TARGET_RATIO:g})"
        shown.add_row(
            one.operation, f"{one.seconds:.1f}", f"{one.calls:,}", str(one.failed),
            f"{one.p50_ms:.1f}", f"{one.p99_ms:.1f}", f"{one.max_ms:.0f}", f"{ratio:.2f}{mark}",
        )  # fmt: skip
    return shown


def main(
    rate: Annotated[float, typer.Option(help="Calls a second.")] = 300.0,
    quiet: Annotated[float, typer.Option(help="Seconds in which nothing happens, before each operation.")] = 2.0,
    rounds: Annotated[int, typer.Option(help="How often each operation is run.")] = 5,
    only: Annotated[str, typer.Option(help="Only operations whose name contains this.")] = "",
) -> None:
    """Measure, print the table, and keep it."""
    progress = Console(stderr=True)
    wanted = [operation for operation in OPERATIONS if only in operation.name]
    with tempfile.TemporaryDirectory(prefix="shoal-operations-") as name:
        figures = uvloop.run(measure(Path(name), rate, quiet, rounds, wanted, progress))
    record = Record("operations", progress)
    record.print(
        f"{machine()}; {rate:g} calls/s, {SHARDS} shards on 3 nodes and then 5, one manager, one client; "
        f"each operation {rounds} times"
    )
    record.print(table(figures))
    record.keep({"rate": rate, "rounds": rounds, "figures": [asdict(one) for one in figures]})


if __name__ == "__main__":
    typer.run(main)
