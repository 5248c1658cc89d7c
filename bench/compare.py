"""Shoal beside etcd and Redis: three replicas each, one machine, one session, the same keys and values.

Each system runs alone, in turn, `--rounds` times; the table shows medians and Shoal's ratios to etcd. Results are kept in
bench/results/.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from records import Record, machine
from rich.console import Console
from rich.table import Table
from rivals import Etcd, Figures, Redis, processes
from shoal_server.local.layout import free_ports

CONCURRENCY = (1, 64, 256, 1000)
OPERATIONS = ("put", "get")
VALUE_BYTES = 100


class Shoal:
    """Three nodes, one keyspace of `shards` shards; driven by `shoal bench`."""

    unavailable = ""

    def __init__(self, folder: Path, ports: list[int], shards: int) -> None:
        self._folder = folder
        self._ports = ports[:3]
        self.name = f"Shoal, {shards} shard{'s' if shards > 1 else ''}"
        nodes = "\n".join(
            f"  - {{id: n{n}, zone: z{n}, address: 127.0.0.1:{port}, data: ./n{n}}}"
            for n, port in enumerate(self._ports, start=1)
        )
        (folder / "cluster.yaml").write_text(
            f"cluster: bench\nnodes:\n{nodes}\nkeyspaces:\n  default: {{shards: {shards}}}\n"
        )

    def commands(self) -> list[list[str]]:
        config = str(self._folder / "cluster.yaml")
        return [[sys.executable, "-m", "shoal.cli", "node", "--config", config, "--id", f"n{n}"] for n in (1, 2, 3)]

    def prepare(self) -> None:
        time.sleep(3)
        self.run("get", 64, 0.5)

    def run(self, operation: str, concurrency: int, seconds: float) -> Figures:
        url = "shoal://" + ",".join(f"127.0.0.1:{port}" for port in self._ports) + "/default?timeout=30s"
        output = subprocess.run(
            [
                sys.executable, "-m", "shoal.cli", "bench", "--url", url, "--workload", operation,
                "--concurrency", str(concurrency), "--seconds", str(seconds), "--value-bytes", str(VALUE_BYTES),
                "--warmup", "0.5", "--keys", "20000", "--json",
            ],
            capture_output=True, text=True, check=True, timeout=seconds + 60,
        ).stdout  # fmt: skip
        (found,) = json.loads(output)
        if found["errors"]:
            raise RuntimeError(f"{found['errors']} calls failed")
        return Figures(found["per_second"], found["p50_ms"])


def measure(system: Any, folder: Path, seconds: float) -> dict[str, dict[int, Figures]]:
    """Start a system, run every operation at every concurrency, and end it."""
    with ExitStack() as stack:
        stack.enter_context(processes(system.commands(), folder))
        system.prepare()
        return {
            operation: {concurrency: system.run(operation, concurrency, seconds) for concurrency in CONCURRENCY}
            for operation in OPERATIONS
        }


def systems(folder: Path) -> list[Any]:
    value = b"v" * VALUE_BYTES
    makers = [
        lambda path, ports: Etcd(path, ports, value),
        lambda path, ports: Shoal(path, ports, 1),
        lambda path, ports: Redis(path, ports, value),
        lambda path, ports: Shoal(path, ports, 8),
    ]
    made = []
    for number, maker in enumerate(makers):
        path = folder / str(number)
        path.mkdir()
        made.append(maker(path, free_ports(6)))
    return made


def table(medians: dict[str, dict[str, dict[int, Figures]]]) -> Table:
    shown = Table("operation", "system", *[f"{concurrency} callers" for concurrency in CONCURRENCY])
    for operation in OPERATIONS:
        rivals = medians.get("etcd", {}).get(operation)
        for name, found in medians.items():
            cells = []
            for concurrency, figures in found[operation].items():
                ratio = f" ({figures.per_second / rivals[concurrency].per_second:.1f}x etcd)" if rivals else ""
                cells.append(
                    f"{figures.per_second:,.0f}/s, {figures.latency_ms:.2f} ms{'' if name == 'etcd' else ratio}"
                )
            shown.add_row(operation, name, *cells)
        shown.add_section()
    return shown


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each system runs; medians are shown.")] = 3,
    seconds: Annotated[float, typer.Option(help="How long each figure is measured.")] = 3.0,
    quick: Annotated[bool, typer.Option("--quick", help="One round of one second.")] = False,
) -> None:
    """Measure, print the table, and keep it."""
    if quick:
        rounds, seconds = 1, 1.0
    progress = Console(stderr=True)
    runs: dict[str, list[dict[str, dict[int, Figures]]]] = {}
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
            for index, system in enumerate(systems(Path(name))):
                if system.unavailable:
                    progress.print(f"{system.name} is left out: {system.unavailable}")
                    continue
                progress.print(f"round {number + 1} of {rounds}: {system.name}")
                runs.setdefault(system.name, []).append(measure(system, Path(name) / str(index), seconds))
    medians = {
        name: {
            operation: {
                concurrency: Figures(
                    statistics.median(run[operation][concurrency].per_second for run in found),
                    statistics.median(run[operation][concurrency].latency_ms for run in found),
                )
                for concurrency in CONCURRENCY
            }
            for operation in OPERATIONS
        }
        for name, found in runs.items()
    }
    record = Record("compare", progress)
    record.print(f"{machine()}; {rounds} rounds of {seconds:g} s, medians; latency is the p50 (etcd: the mean)")
    record.print(table(medians))
    figures = {
        name: {
            operation: {str(c): [f.per_second, f.latency_ms] for c, f in by.items()} for operation, by in found.items()
        }
        for name, found in medians.items()
    }
    record.keep({"rounds": rounds, "seconds": seconds, "medians": figures})


if __name__ == "__main__":
    typer.run(main)
