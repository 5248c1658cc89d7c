"""How long a shard cannot be written to when its leader's node dies, hangs, or hands its leaderships over.

Three nodes and one shard manager at the default settings, eight shards, a writer and a reader on each. Every event happens
`--runs` times; a run counts with its slowest shard. Results are kept in bench/results/.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from records import Record, machine
from rich.console import Console
from rich.table import Table
from shoal import AsyncClient
from shoal.admin.connection import AdminConnection
from shoal.admin.survey import Survey
from shoal.shardmap import Routes
from shoal_chaos.clusters.configuration import loopback
from shoal_chaos.clusters.process_cluster import ProcessCluster, until
from shoal_chaos.probes.closed_loop import ClosedLoopProbes
from shoal_chaos.probes.quantiles import quantile

SHARDS = 8
QUIET_SECONDS = 0.25
"""Between two runs, and after an event until its calls are judged."""

PAUSE_SECONDS = 0.003
"""Between two calls of one probe: what a probe can miss of an outage."""

TARGET_BACK_SECONDS = 1.5
TARGET_BLOCKED_SECONDS = 0.05


@dataclass(slots=True)
class Figures:
    """What the runs of one event came to, in seconds: a value a run, and what each may be at the most (None: no target)."""

    event: str
    what: str
    target: float | None
    runs: list[float] = field(default_factory=list)


class Bench:
    """A running cluster, its probes, and the events."""

    def __init__(self, cluster: ProcessCluster, probes: ClosedLoopProbes) -> None:
        self._cluster = cluster
        self._probes = probes
        self._turn = 0

    async def leaders(self) -> dict[int, str]:
        """Return who leads each shard, once all have a leader."""
        leaders: dict[int, str] = {}

        async def all_led() -> bool:
            leaders.update(_leaders(await self._cluster.survey()))
            return len(leaders) == SHARDS

        await until("every shard has a leader", all_led)
        return leaders

    async def quiet(self) -> dict[str, float]:
        """Nothing happens: what the machine itself does to the longest call of as short a time."""
        began = time.monotonic()
        await asyncio.sleep(4 * QUIET_SECONDS)
        return {"longest write": self._longest([probe.shard for probe in self._probes.all], began)}

    async def kill(self) -> dict[str, float]:
        """SIGKILL the node that leads most shards; start it again."""
        victim, led = _busiest(await self.leaders())
        began = time.monotonic()
        await self._cluster.end(victim, signal.SIGKILL)
        found = await self._outage(began, led)
        self._cluster.start(victim)
        await self._cluster.well()
        return found

    async def stop(self) -> dict[str, float]:
        """SIGSTOP the node that leads most shards, until the others have taken over."""
        victim, led = _busiest(await self.leaders())
        began = time.monotonic()
        self._cluster.send_signal(victim, signal.SIGSTOP)
        try:
            found = await self._outage(began, led)
        finally:
            self._cluster.send_signal(victim, signal.SIGCONT)
        await self._cluster.well()
        return found

    async def transfer(self) -> dict[str, float]:
        """Hand one shard, the next in turn, to another of its voters."""
        found = await self._cluster.survey()
        leaders = _leaders(found)
        shard = found.shard_map.shards[self._turn % SHARDS]
        self._turn += 1
        others = sorted(set(shard.voters) - {leaders[shard.id]})
        target = others[self._turn % len(others)]
        addresses = {node.id: node.address for node in found.shard_map.nodes}
        async with await AdminConnection.open(addresses[leaders[shard.id]]) as connection:
            began = time.monotonic()
            await connection.transfer_leader(shard.id, target)
        return await self._blocked(began, [shard.id])

    async def failover(self) -> dict[str, float]:
        """Take all leaderships from the node that leads most shards, by the shard manager."""
        victim, led = _busiest(await self.leaders())
        done = await self._cluster.request("failover", victim)
        # From when the manager took the request: what starting the command's process costs a small machine is another matter.
        return await self._blocked(time.monotonic() - (time.time() - done.created_ms / 1000), led)

    async def _outage(self, began: float, led: Sequence[int]) -> dict[str, float]:
        """Wait until all shards are served again; return the slowest shard's times."""

        async def back() -> bool:
            return self._probes.back_after(began)

        await until("every shard is written to and read from again", back)
        found: dict[str, float] = {}
        for name, shards in (("", True), (", shards led by others", False)):
            probes = [probe for probe in self._probes.all if (probe.shard in led) is shards]
            writes = [probe.writes.back_after(began) for probe in probes]
            reads = [probe.reads.back_after(began) for probe in probes]
            found[f"writes are back{name}"] = max((seconds for seconds in writes if seconds is not None), default=0.0)
            if shards:
                found["reads are back"] = max(seconds for seconds in reads if seconds is not None)
        return found

    async def _blocked(self, began: float, shards: Sequence[int]) -> dict[str, float]:
        await asyncio.sleep(QUIET_SECONDS)
        return {"longest write": self._longest(shards, began)}

    def _longest(self, shards: Sequence[int], began: float) -> float:
        now = time.monotonic()
        return max(probe.writes.longest(began, now) for probe in self._probes.all if probe.shard in shards)


def _leaders(found: Survey) -> dict[int, str]:
    leaders = {shard.id: found.leader(shard.id) for shard in found.shard_map.shards}
    return {shard: leader.node for shard, leader in leaders.items() if leader is not None}


def _busiest(leaders: dict[int, str]) -> tuple[str, list[int]]:
    """Return the node that leads most shards, and these."""
    node = Counter(sorted(leaders.values())).most_common(1)[0][0]
    return node, [shard for shard, leader in leaders.items() if leader == node]


def _target(event: str, what: str) -> float | None:
    if what == "writes are back":
        return TARGET_BACK_SECONDS
    return TARGET_BLOCKED_SECONDS if event in ("transfer-leader", "failover NODE") else None


async def measure(folder: Path, runs: int, only: str, progress: Console) -> tuple[list[Figures], int]:
    """Start a cluster, let every event happen `runs` times; return the figures, and how many calls failed in all."""
    cluster = ProcessCluster(folder, loopback(managers=1, keyspace=f"shards: {SHARDS}"))
    figures: dict[tuple[str, str], Figures] = {}
    try:
        cluster.start_all()
        await cluster.ready()
        routes = Routes((await cluster.survey()).shard_map)
        probes = ClosedLoopProbes(routes, routes.keyspaces_by_name["default"], PAUSE_SECONDS)
        bench = Bench(cluster, probes)
        events: dict[str, Callable[[], Awaitable[dict[str, float]]]] = {
            "nothing": bench.quiet,
            "transfer-leader": bench.transfer,
            "failover NODE": bench.failover,
            "SIGKILL of a node": bench.kill,
            "SIGSTOP of a node": bench.stop,
        }
        async with AsyncClient(cluster.url) as db, probes.running(db):
            await asyncio.sleep(1.0)
            for event, happen in events.items():
                if only not in event:
                    continue
                progress.print(f"{runs} x {event}")
                for _ in range(runs):
                    for what, seconds in (await happen()).items():
                        key = (event, what)
                        figures.setdefault(key, Figures(event, what, _target(event, what))).runs.append(seconds)
                    probes.forget()
                    await asyncio.sleep(QUIET_SECONDS)
            failed = probes.failed
    finally:
        await cluster.stop_all()
    for message, count in Counter(repr(error) for error in failed).most_common(5):
        progress.print(f"{count} x {message}")
    return list(figures.values()), len(failed)


def table(figures: Sequence[Figures], failed: int) -> Table:
    """Return the distributions in milliseconds."""
    shown = Table("event", "the slowest shard's", "min", "p50", "p90", "max", "target", "within", title="milliseconds")
    for one in figures:
        cells = [f"{quantile(one.runs, share) * 1000:,.0f}" for share in (0.0, 0.5, 0.9, 1.0)]
        within = "" if one.target is None else f"{sum(run < one.target for run in one.runs)} of {len(one.runs)}"
        shown.add_row(one.event, one.what, *cells, "" if one.target is None else f"< {one.target * 1000:,.0f}", within)
    shown.caption = f"{failed} calls failed"
    return shown


def main(
    runs: Annotated[int, typer.Option(min=1, help="How often each event happens.")] = 20,
    only: Annotated[str, typer.Option(help="Only events whose name contains this.")] = "",
) -> None:
    """Measure, print the table, and keep it."""
    progress = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="shoal-failover-") as name:
        figures, failed = uvloop.run(measure(Path(name), runs, only, progress))
    record = Record("failover", progress)
    record.print(f"{machine()}; {runs} runs each, default settings, {SHARDS} shards on 3 nodes")
    record.print(table(figures, failed))
    record.keep({"runs": runs, "calls_failed": failed, "seconds": {f"{f.event}: {f.what}": f.runs for f in figures}})


if __name__ == "__main__":
    typer.run(main)
