"""`shoal bench`: how fast a cluster is, as one Python client sees it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import shoal
import typer
import uvloop
from rich.console import Console
from rich.table import Table
from shoal.cli.options import UrlOption
from shoal.results import Consistency

from shoal_chaos.bench.load import Measurement, fill, measure
from shoal_chaos.bench.workloads import Shape, Workload, operation_of

COLUMNS = (
    "workload",
    "concurrency",
    "per second",
    "rows per second",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "max ms",
    "errors",
)


async def _run(
    url: str,
    workload: Workload,
    shape: Shape,
    consistency: Consistency,
    concurrency: list[int],
    warmup: float,
    seconds: float,
) -> list[Measurement]:
    async with shoal.AsyncClient(url) as db:
        if workload is not Workload.PUT:
            await fill(db, shape)
        operation = operation_of(db, workload, shape, None if consistency == "strong" else consistency)
        return [
            await measure(operation, workload, concurrency=callers, warmup=warmup, seconds=seconds)
            for callers in concurrency
        ]


def _table(measurements: list[Measurement]) -> Table:
    table = Table(*COLUMNS)
    for found in measurements:
        table.add_row(
            found.workload,
            str(found.concurrency),
            f"{found.per_second:,.0f}",
            f"{found.rows_per_second:,.0f}",
            f"{found.p50_ms:.2f}",
            f"{found.p99_ms:.2f}",
            f"{found.p999_ms:.2f}",
            f"{found.max_ms:.2f}",
            str(found.errors),
        )
    return table


def register(app: typer.Typer) -> None:
    """Add `bench` to the `shoal` command."""

    @app.command()
    def bench(
        url: UrlOption,
        workload: Annotated[Workload, typer.Option(help="What the callers do.")] = Workload.PUT,
        concurrency: Annotated[list[int] | None, typer.Option(help="Callers at once; may be given often.")] = None,
        seconds: Annotated[float, typer.Option(help="How long each run is counted.")] = 5.0,
        warmup: Annotated[float, typer.Option(help="Seconds before counting.")] = 1.0,
        keys: Annotated[int, typer.Option(min=1, help="How many keys of 16 bytes.")] = 100_000,
        consistency: Annotated[Consistency, typer.Option(help="Level of the reads.")] = "strong",
        value_bytes: Annotated[int, typer.Option(min=0, help="Bytes of each value.")] = 100,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Measure calls a second and their latencies, with one client and a closed loop of callers."""
        shape = Shape(keys, value_bytes)
        if any(callers < 1 for callers in concurrency or []):
            raise typer.BadParameter("callers must be 1 or more")
        found = uvloop.run(_run(url, workload, shape, consistency, concurrency or [1, 64, 256, 1000], warmup, seconds))
        if as_json:
            print(json.dumps([asdict(measurement) for measurement in found]))
        else:
            Console().print(_table(found))
