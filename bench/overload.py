"""Three times what the nodes can do, and one greedy keyspace of ten: what is done, and what a light load beside feels of it.

Capacity is what callers in closed loops, in several processes, come to with calls that are much work for nodes and little for
clients (demand.py). Then three times as many calls are due, whether or not earlier ones are answered, each with a deadline:
goodput is what is answered in time. Beside that goes a light load of gets and puts, whose client is interactive, before, during
and after. The demand is of the same priority, or of a lower one.

All of this shares the processors of one machine. The processes that demand have a lower priority than the nodes, and what they
took of the processors is shown: what an overload costs its own makers is no goodput that the nodes lose, which cannot be told
apart where no processor has idle time.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
import uvloop
from attacked import AttackedCluster
from demand import Demand, Met, demanding, met
from light_load import GETS, KEYS, MIX, PUTS, LoadFigures, figures
from msgspec.structs import replace
from records import Record, machine
from rich.console import Console
from rich.table import Table
from shoal_chaos.clusters.memory import MemoryWatch
from steady_load import Seen, steady_load

PROCESSES = 3
CALLERS = 8
"""Of each process, in a closed loop."""
TIMES = 3.0
DEADLINE_SECONDS = 1.0
KEYSPACES = 10
KEYSPACE_RATE = 35.0
"""Calls a second, of each that is not greedy: on two cores the nodes and those who call take about a third of the machine with
it, as is shown. With much more the machine has no time for the greedy one, with much less there is nothing to hold up."""
GREEDY_CALLERS = 64
SETTLE_SECONDS = 2.0
SLOW = 5.0
"""A call is slow that takes so many times the p99 of the quiet time."""
CEILING_MIB = 3_000.0
KINDS = {"partition": ("", False), "whole": ("", True), "batch": ("batch", False)}
"""By name: the priority of those who demand, "" for that of the light load, and whether they scan the whole keyspace."""

GOODPUT, P99, RECOVERED_SECONDS, OTHERS_P99 = 0.9, 5.0, 5.0, 2.0
"""What is to come of it: of capacity; of the quiet p99; after the spike; of the quiet p99, where one keyspace is greedy."""


@dataclass(frozen=True, slots=True)
class Spike:
    """Three times the capacity for a while.

    Attributes:
        kind: of the demand, as `KINDS` names it.
        capacity, offered, goodput: calls a second; in_closed_loop, in_spike: what became of all of them.
        recovered: when, after the spike, the last slow call of the light load was due (s).
    """

    kind: str
    capacity: float
    offered: float
    goodput: float
    quiet: LoadFigures
    during: LoadFigures
    after: LoadFigures
    recovered: float
    rss_mib: tuple[float, float, float]
    in_closed_loop: dict[str, Any]
    in_spike: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Greedy:
    """One keyspace of ten that asks for all it can; figures of the other nine's load.

    `quiet_cores`, `during_cores`: what the nodes and all who call took of the processors.
    """

    quiet: LoadFigures
    during: LoadFigures
    after: LoadFigures
    in_closed_loop: dict[str, Any]
    quiet_cores: float
    during_cores: float


def _keyspace(name: str, *, shards: int) -> str:
    return f"  {name}: {{microshards: 64, shards: {shards}, delimiter: /, voters: 3}}\n"


async def spike(folder: Path, kind: str, seconds: float, say: Console) -> Spike:
    """Measure capacity, and what three times as much comes to."""
    cluster = AttackedCluster(folder, keyspaces=_keyspace("spike", shards=4))
    memory = MemoryWatch(cluster.processes, CEILING_MIB)
    try:
        await cluster.start()
        url = cluster.processes.url.replace("/default", "/spike")
        priority, whole = KINDS[kind]
        closed = Demand(url, seconds, whole, callers=CALLERS, timeout=5.0, priority=priority)
        loops = [replace(closed, seed=number) for number in range(PROCESSES)]
        async with demanding(loops) as processes:
            alone = await met(processes, seconds)
        capacity = alone.answered / seconds
        say.print(f"capacity: {capacity:,.0f} calls a second; {alone}")
        flood = replace(closed, callers=0, rate=TIMES * capacity / PROCESSES, timeout=DEADLINE_SECONDS)
        floods = [replace(flood, seed=number) for number in range(PROCESSES)]
        async with memory.running(), demanding(floods) as processes, steady_load(url, GETS + PUTS, MIX, KEYS) as seen:
            await asyncio.sleep(SETTLE_SECONDS)
            began, before = time.monotonic(), memory.now()
            await asyncio.sleep(seconds)
            memory.mark()
            attacked = time.monotonic()
            over = await met(processes, seconds)
            calm = time.monotonic()
            await asyncio.sleep(seconds)
            ended, peak, after = time.monotonic(), memory.peak(), memory.now()
    finally:
        await cluster.stop()
    say.print(f"at {TIMES:g} times as much: {over}")
    quiet = figures(seen, began, attacked)
    return Spike(
        kind, capacity, over.due / seconds, over.answered / seconds,
        quiet, figures(seen, attacked, calm), figures(seen, calm, ended),
        _recovered(seen, calm, quiet.p99_ms), (round(before), round(peak), round(after)),
        _plain(alone), _plain(over),
    )  # fmt: skip


def _recovered(seen: Seen, calm: float, quiet_p99_ms: float) -> float:
    """Return when the last call was due that failed or was slow, in seconds after the spike."""
    slow = [call.due for call in seen.calls if call.seconds * 1000 > SLOW * quiet_p99_ms]
    late = [due - calm for due in (*slow, *(call.due for call in seen.failed)) if due >= calm]
    return round(max(late, default=0.0), 2)


def _plain(done: Met) -> dict[str, Any]:
    return {"due": done.due, "answered": done.answered, "errors": done.errors, "processor": round(done.processor, 2)}


async def greedy(folder: Path, seconds: float, say: Console) -> Greedy:
    """Have one keyspace of ten ask for all it can, beside the others."""
    names = [f"k{number}" for number in range(KEYSPACES)]
    cluster = AttackedCluster(folder, keyspaces="".join(_keyspace(name, shards=1) for name in names))
    try:
        await cluster.start()
        urls = [cluster.processes.url.replace("/default", f"/{name}") for name in names]
        loops = [
            Demand(urls[0], seconds, callers=GREEDY_CALLERS // PROCESSES, timeout=5.0, seed=n) for n in range(PROCESSES)
        ]
        async with AsyncExitStack() as stack:
            processes = await stack.enter_async_context(demanding(loops))
            loads = [await stack.enter_async_context(steady_load(url, KEYSPACE_RATE, MIX, 100)) for url in urls[1:]]
            await asyncio.sleep(SETTLE_SECONDS)
            began, used = time.monotonic(), _processor_seconds()
            await asyncio.sleep(seconds)
            attacked, used_quietly = time.monotonic(), _processor_seconds()
            done = await met(processes, seconds)
            calm, used_in_all = time.monotonic(), _processor_seconds()
            await asyncio.sleep(seconds)
            ended = time.monotonic()
    finally:
        await cluster.stop()
    say.print(f"the greedy keyspace: {done}")
    seen = Seen([call for load in loads for call in load.calls], [call for load in loads for call in load.failed])
    return Greedy(
        figures(seen, began, attacked), figures(seen, attacked, calm), figures(seen, calm, ended), _plain(done),
        round((used_quietly - used) / (attacked - began), 2),
        round((used_in_all - used_quietly) / (calm - attacked), 2),
    )  # fmt: skip


def _processor_seconds() -> float:
    """Return what the nodes and those who call have taken of the processors."""
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            total += times.user + times.system
    return total


def table(spikes: Sequence[Spike], one: Greedy | None) -> Table:
    """Return what was found, and what was wanted."""
    shown = Table(
        "what", "capacity", "offered", "goodput", "p99 quiet", "during", "after", "failed", "recovered", "of clients"
    )
    for each in spikes:
        shown.add_row(
            f"{TIMES:g} times the capacity, {each.kind}",
            f"{each.capacity:,.0f}/s", f"{each.offered:,.0f}/s", _judged(each.goodput / each.capacity, GOODPUT, least=True),
            f"{each.quiet.p99_ms:.1f} ms", _judged(each.during.p99_ms / each.quiet.p99_ms, P99),
            f"{each.after.p99_ms:.1f} ms", str(each.during.failed + each.after.failed),
            f"{each.recovered:g} s" + ("" if each.recovered <= RECOVERED_SECONDS else f" (target {RECOVERED_SECONDS:g})"),
            f"{each.in_spike['processor']:.2f} cores",
        )  # fmt: skip
    if one is not None:
        shown.add_row(
            f"one greedy keyspace of {KEYSPACES}",
            "", "", f"{one.in_closed_loop['answered']:,} calls",
            f"{one.quiet.p99_ms:.1f} ms", _judged(one.during.p99_ms / one.quiet.p99_ms, OTHERS_P99),
            f"{one.after.p99_ms:.1f} ms", str(one.during.failed + one.after.failed), "",
            f"{one.in_closed_loop['processor']:.2f} cores",
        )  # fmt: skip
        shown.add_row(
            "all processes of it", "", "", "", f"{one.quiet_cores:.2f} cores", f"{one.during_cores:.2f} cores", "", "", "", ""
        )  # fmt: skip
    return shown


def _judged(times: float, target: float, *, least: bool = False) -> str:
    good = times >= target if least else times <= target
    return f"{times:.2f} times" + ("" if good else f" (target {target:g})")


def main(
    seconds: Annotated[float, typer.Option(help="Seconds of each part.")] = 10.0,
    only: Annotated[str, typer.Option(help="`partition`, `whole`, `batch` or `greedy`.")] = "",
    as_json: Annotated[Path | None, typer.Option("--json", help="Keep the record in this file alone.")] = None,
) -> None:
    """Measure, print the table, and keep it."""
    progress = Console(stderr=True)
    spikes: list[Spike] = []
    one: Greedy | None = None
    for kind in [each for each in KINDS if only in ("", each)]:
        with tempfile.TemporaryDirectory(prefix="shoal-overload-") as name:
            spikes.append(uvloop.run(spike(Path(name), kind, seconds, progress)))
    if only in ("", "greedy"):
        with tempfile.TemporaryDirectory(prefix="shoal-overload-") as name:
            one = uvloop.run(greedy(Path(name), seconds, progress))
    kept = {
        "machine": machine(),
        "seconds": seconds,
        "spikes": [asdict(each) for each in spikes],
        "greedy": None if one is None else asdict(one),
    }
    if as_json is not None:
        as_json.write_text(json.dumps(kept, indent=1) + "\n")
        Console(width=220).print(table(spikes, one))
        return
    record = Record("overload", progress)
    record.print(f"{machine()}; calls are scans of ten rows over all microshards; {seconds:g} s each")
    record.print(table(spikes, one))
    record.keep(kept)


if __name__ == "__main__":
    typer.run(main)
