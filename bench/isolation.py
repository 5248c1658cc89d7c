"""What a light load beside feels of every attack: failed calls, latencies, and what the nodes hold in memory.

Each attack has three new nodes with eight shards, at the default settings. It prepares; then a light load with a client of its
own goes on from before the attack until after it. The attacker is a process at the lowest priority, the load another. Also
every port of the nodes is tried twice a second by newcomers: clients, readers of the pages, callers by gRPC. Nodes, load and
attacker share the processors of this machine, so that what an attacker takes of these is shown, too. Results are kept in
bench/results/.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import uvloop
from attacked import AttackedCluster, Doors, TlsMissing
from light_load import GETS, KEYS, MIX, PUTS, LoadFigures, figures
from records import Record, machine
from rich.console import Console
from rich.table import Table
from shoal_chaos.attackers.base import Attack, Deeds, Needs
from shoal_chaos.attackers.catalogue import ALL
from shoal_chaos.attackers.process import AttackerFailed, AttackerProcess
from shoal_chaos.clusters.memory import MemoryWatch
from steady_load import FailedCall, steady_load

TARGET_MS = 100.0
SETTLE_SECONDS = 2.0
"""After the attacker has prepared, and after the load has begun."""
ROW_SECONDS = 240.0
SEED = 1


@dataclass(frozen=True, slots=True)
class Row:
    """One attack, and what came of it.

    Attributes:
        errors: of the light load's calls that failed, the most frequent.
        knocks, shut: how often newcomers came to a port during the attack, and were not let in; doors: where.
        rss_mib: of the largest node, before the attack, at its peak, and some seconds after.
        ended: what happened to nodes that should go on, in words.
        deeds: what the attacker did; valid: and it was its due.
    """

    attack: str
    words: str
    seconds: float
    quiet: LoadFigures
    during: LoadFigures
    after: LoadFigures
    errors: tuple[str, ...]
    knocks: int
    shut: int
    doors: tuple[str, ...]
    rss_mib: tuple[float, float, float]
    ended: tuple[str, ...]
    deeds: dict[str, Any]
    valid: bool = False

    @property
    def problems(self) -> list[str]:
        """What is not as it should be, in words."""
        failed = self.during.failed + self.after.failed
        slow = max(self.during.p99_ms, self.after.p99_ms)
        found = list(self.ended)
        if failed:
            found.append(f"{failed} calls failed")
        if slow > TARGET_MS:
            found.append(f"p99 {slow:.0f} ms")
        if self.shut:
            found.append(f"{self.shut} of {self.knocks} not let in")
        unserved = self.deeds["failed"] + self.deeds["overloaded"]
        if self.valid and (unserved or not self.deeds["answered"]):
            found.append(
                f"{unserved} of its {self.deeds['requests']} calls failed, {self.deeds['answered']} were answered"
            )
        return found


@dataclass(frozen=True, slots=True)
class Times:
    """How long each part of a row is, in seconds."""

    quiet: float
    attack: float
    after: float


async def measure(attack: Attack, folder: Path, times: Times, ceiling_mib: float, say: Console) -> Row:
    """Let one attack loose on new nodes.

    Raises:
        TlsMissing: it needs certificates, and nothing here can make them.
        TimeoutError: it does not come to an end.
    """
    cluster = AttackedCluster(folder, attack.needs)
    ground = cluster.ground(SEED, max(times.attack, attack.seconds_least))
    memory = MemoryWatch(cluster.processes, ceiling_mib)
    doors = Doors(ground, tls=attack.needs is Needs.TLS)
    deeds = Deeds()
    problems: list[str] = []
    try:
        async with asyncio.timeout(ROW_SECONDS):
            await cluster.start()
            async with memory.running(), AttackerProcess(attack, ground) as attacker:
                await asyncio.sleep(SETTLE_SECONDS)
                async with steady_load(cluster.processes.url, GETS + PUTS, MIX, KEYS) as seen, doors.running():
                    await asyncio.sleep(SETTLE_SECONDS)
                    began = time.monotonic()
                    await asyncio.sleep(times.quiet)
                    before = memory.now()
                    memory.mark()
                    attacked = time.monotonic()
                    attacker.go()
                    try:
                        deeds = await attacker.deeds()
                    except AttackerFailed as error:
                        problems.append(str(error))
                    await attacker.kill()
                    over = time.monotonic()
                    await asyncio.sleep(times.after)
                    peak, afterwards = memory.peak(), memory.now()
                    ended = time.monotonic()
    finally:
        problems += [
            f"{gone.node} ended with {gone.exit_code}"
            for gone in cluster.processes.take_exits()
            if gone.node not in memory.ended
        ]
        await cluster.stop()
    problems += [f"{node} was ended here at {mib:,.0f} MiB" for node, mib in memory.ended.items()]
    shut = doors.shut(attacked, ended)
    for knock in doors.shut(began, attacked):
        say.print(f"in the quiet time before {attack.name}, somebody was not let in: {knock.door}")
    failed = [call for call in seen.failed if attacked <= call.due < ended]
    return Row(
        attack=attack.name,
        words=attack.words,
        seconds=round(over - attacked, 1),
        quiet=figures(seen, began, attacked),
        during=figures(seen, attacked, over),
        after=figures(seen, over, ended),
        errors=_most(failed),
        knocks=len(doors.within(attacked, ended)),
        shut=len(shut),
        doors=tuple(sorted({knock.door.split(" at ")[0] for knock in shut})),
        rss_mib=(round(before), round(peak), round(afterwards)),
        ended=tuple(problems),
        deeds=msgspec.to_builtins(deeds),
        valid=attack.valid,
    )


def _most(failed: Sequence[FailedCall]) -> tuple[str, ...]:
    kinds = Counter(f"{call.kind}: {call.error[:160]}" for call in failed)
    return tuple(f"{count} x {words}" for words, count in kinds.most_common(3))


def table(rows: Sequence[Row]) -> Table:
    """Return the table of all rows."""
    shown = Table(
        "attack", "failed", "p99 quiet", "during", "after", "max", "shut", "RSS before", "peak", "after",
        "requests", "answered", "overloaded", "failed", "CPU", "not as it should be",
    )  # fmt: skip
    for row in rows:
        deeds = row.deeds
        shown.add_row(
            row.attack,
            str(row.during.failed + row.after.failed),
            *(f"{part.p99_ms:.1f}" for part in (row.quiet, row.during, row.after)),
            f"{max(row.during.max_ms, row.after.max_ms):.0f}",
            str(row.shut),
            *(f"{mib:.0f}" for mib in row.rss_mib),
            *(f"{deeds[name]:,}" for name in ("requests", "answered", "overloaded", "failed")),
            f"{deeds['cpu_seconds'] / row.seconds:.0%}",
            "; ".join(row.problems),
        )
    return shown


def loaded(path: Path) -> dict[str, Any]:
    """Return a record that was kept, of which rows are measured anew."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _row(kept: dict[str, Any]) -> Row:
    row = Row(**kept)
    parts = {name: LoadFigures(**kept[name]) for name in ("quiet", "during", "after")}
    return replace(row, **parts, **{name: tuple(kept[name]) for name in ("errors", "doors", "rss_mib", "ended")})


def main(
    only: Annotated[str, typer.Option(help="Only attacks whose name contains one of these words.")] = "",
    quiet: Annotated[float, typer.Option(help="Seconds before each attack.")] = 5.0,
    seconds: Annotated[float, typer.Option(help="Seconds of each attack.")] = 8.0,
    after: Annotated[float, typer.Option(help="Seconds after each attack.")] = 5.0,
    ceiling: Annotated[
        float, typer.Option(help="MiB at which a node is ended, for the sake of this machine.")
    ] = 3_000.0,
    add_to: Annotated[Path | None, typer.Option(help="A record whose other rows are taken over.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Keep the record in this file alone.")] = None,
) -> None:
    """Measure, print the table, and keep it."""
    progress = Console(stderr=True)
    wanted = [attack for attack in ALL if any(word in attack.name for word in only.split() or [""])]
    kept = [] if add_to is None else [_row(one) for one in loaded(add_to)["rows"]]
    rows = {row.attack: row for row in kept}
    for attack in wanted:
        with tempfile.TemporaryDirectory(prefix="shoal-isolation-") as name:
            try:
                row = uvloop.run(measure(attack, Path(name), Times(quiet, seconds, after), ceiling, progress))
            except (TlsMissing, TimeoutError, AttackerFailed) as error:
                progress.print(f"{attack.name} is left out: {error or 'it came to no end'}")
                continue
        rows[attack.name] = row
        progress.print(f"{attack.name}: {'; '.join(row.problems) or 'as it should be'} {list(row.errors)}")
        if as_json is not None:
            as_json.write_text(json.dumps(_record(rows, quiet, seconds, after), indent=1) + "\n")
    ordered = [rows[attack.name] for attack in ALL if attack.name in rows]
    if as_json is not None:
        Console(width=220).print(table(ordered))
        return
    record = Record("isolation", progress)
    record.print(f"{machine()}; {GETS:g} gets and {PUTS:g} puts a second beside each attack, 8 shards on 3 nodes")
    record.print(table(ordered))
    record.keep(_record(rows, quiet, seconds, after))


def _record(rows: dict[str, Row], quiet: float, seconds: float, after: float) -> dict[str, Any]:
    ordered = [asdict(rows[attack.name]) for attack in ALL if attack.name in rows]
    times = {"quiet": quiet, "attack": seconds, "after": after}
    return {"machine": machine(), "gets": GETS, "puts": PUTS, "seconds": times, "rows": ordered}


if __name__ == "__main__":
    typer.run(main)
