"""docs/results.md: what was measured, made of the newest records in bench/results/.

`python bench/page.py` writes the page anew, with `--check` it says whether the page is that of the records. A benchmark leaves
its records there by itself; those of chaos are `shoal chaos report --table`, as `chaos-DATE.md`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from records import RESULTS
from shoal_chaos.probes.quantiles import quantile

PAGE = Path(__file__).parents[1] / "docs" / "results.md"


def newest(kind: str, suffix: str = ".json") -> Path:
    """Return the newest record of a kind.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(RESULTS.glob(f"{kind}-*{suffix}"))
    if not found:
        raise FileNotFoundError(f"no record {kind}-*{suffix} in {RESULTS}: `make bench` leaves them")
    return found[-1]


def loaded(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(newest(kind).read_text())
    return found


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def source(kind: str, suffix: str = ".json") -> str:
    return f"(`bench/results/{newest(kind, suffix).name}`)"


def milliseconds(ms: float) -> str:
    return f"{ms:.2f} ms" if ms < 1 else f"{ms:.1f} ms" if ms < 10 else f"{ms:.0f} ms"


def comparison() -> str:
    """Calls a second and latencies beside other systems."""
    record = loaded("compare")
    medians: dict[str, dict[str, dict[str, tuple[float, float]]]] = record["medians"]
    callers = list(next(iter(medians.values()))["put"])
    rows = [
        [
            f"{'write' if operation == 'put' else 'read'}: {system}",
            *(f"{found[operation][n][0]:,.0f} ({milliseconds(found[operation][n][1])})" for n in callers),
        ]
        for operation in ("put", "get")
        for system, found in medians.items()
    ]
    text = (
        f"{record['machine']}, generators included; three replicas each, 16-byte keys, 100-byte values; {record['rounds']} "
        f"rounds, medians {source('compare')}. Calls a second, and in brackets the median latency (etcd's generator says the "
        "mean). Shoal is driven by one Python client, its reads are strong, and its writes are on disk at a majority; etcd's "
        "reads are linearizable; Redis syncs its own file and does not wait for its replicas. etcd and Redis are driven by "
        "their C load generators.\n\n"
    )
    return text + markdown(["callers", *callers], rows)


def failovers() -> str:
    """For how long a shard stands still when leaders go."""
    record = loaded("failover")
    rows = []
    for name, runs in record["seconds"].items():
        event, what = name.split(": ")
        shown = [f"{1000 * seconds:,.0f}" for seconds in (min(runs), median(runs), quantile(runs, 0.9), max(runs))]
        rows.append([event, what, *shown])
    text = (
        f"{record['machine']}; {record['runs']} runs each, default settings, 8 shards on 3 nodes, {record['calls_failed']} "
        f"calls failed {source('failover')}. The slowest shard's, in milliseconds:\n\n"
    )
    return text + markdown(["event", "what", "min", "p50", "p90", "max"], rows)


def operations() -> str:
    """What callers notice of operators' commands."""
    record = loaded("operations")
    figures = record["figures"]
    quiet = figures[0]["p99_ms"]
    rows = [
        [
            one["operation"],
            f"{one['calls']:,}",
            f"{one['failed']:,}",
            f"{one['p50_ms']:.1f}",
            f"{one['p99_ms']:.1f}",
            f"{one['max_ms']:.0f}",
            f"{one['p99_ms'] / quiet:.2f}",
        ]
        for one in figures
    ]
    text = (
        f"{record['machine']}; {record['rate']:g} calls a second, 8 shards on 3 nodes and then 5, one manager, one client; "
        f"each operation {record['rounds']} times {source('operations')}. Load, nodes, manager and the starts of restarted "
        "processes share the machine. Latencies in milliseconds:\n\n"
    )
    return text + markdown(["operation", "calls", "failed", "p50", "p99", "max", "p99 / quiet p99"], rows)


def isolation() -> str:
    """What a light load feels of attackers."""
    record = loaded("isolation")
    rows = []
    for row in record["rows"]:
        parts = [row[part] for part in ("quiet", "during", "after")]
        deeds = row["deeds"]
        rows.append(
            [
                f"{row['attack']}: {row['words']}",
                str(sum(part["failed"] for part in parts[1:])),
                *(f"{part['p99_ms']:.0f}" for part in parts),
                f"{row['shut']} of {row['knocks']}",
                " / ".join(f"{mib:.0f}" for mib in row["rss_mib"]),
                f"{deeds['requests']:,} ({deeds['answered']:,})",
                f"{deeds['cpu_seconds'] / row['seconds']:.0%}",
                "; ".join(row["ended"]),
            ]
        )
    text = (
        f"{record['machine']}; {record['gets']:g} gets and {record['puts']:g} puts a second beside each attack, 8 shards on 3 "
        f"nodes {source('isolation')}. All share the machine, so the last column but one says which part of "
        "a core the attacker itself took. The calls that failed and the p99 in milliseconds are the light load's; shut is how "
        "often a newcomer was not let in at some port; memory is that of the largest node, in MiB.\n\n"
    )
    head = ("attack", "failed", "p99 before", "during", "after", "shut", "memory before / peak / after",
            "requests (answered)", "attacker", "nodes")  # fmt: skip
    return text + markdown(head, rows)


def overload() -> str:
    """What is done where three times as much is asked as can be, and beside one greedy keyspace."""
    record = loaded("overload")
    rows = [
        [
            f"three times the capacity, {one['kind']}",
            f"{one['capacity']:,.0f}",
            f"{one['offered']:,.0f}",
            f"{one['goodput'] / one['capacity']:.2f}",
            f"{one['quiet']['p99_ms']:.0f}",
            f"{one['during']['p99_ms']:.0f}",
            f"{one['recovered']:g} s",
            f"{one['in_spike']['processor']:.2f}",
        ]
        for one in record["spikes"]
    ]
    one = record["greedy"]
    if one is not None:
        rows.append(
            [
                "one greedy keyspace of ten", "", "", "", f"{one['quiet']['p99_ms']:.0f}", f"{one['during']['p99_ms']:.0f}", "",
                f"{one['in_closed_loop']['processor']:.2f}",
            ]
        )  # fmt: skip
    text = (
        f"{record['machine']}; scans of 500 keys of a partition, or of ten rows over a whole keyspace {source('overload')}. "
        "Capacity is what closed loops come to, goodput what is answered within a second, as a part of it. Whoever asks shares "
        "the processors with the nodes: the last column says how many cores that took, and at three times the capacity it is "
        "more than at one, which the nodes have less. The p99 in milliseconds is that of the light load beside.\n\n"
    )
    head = (
        "what",
        "capacity (1/s)",
        "offered (1/s)",
        "goodput / capacity",
        "p99 before",
        "during",
        "recovered after",
        "cores",
    )
    return text + markdown(head, rows)


def chaos() -> str:
    """What held under faults."""
    kept = newest("chaos", ".md")
    text = (
        f"`shoal chaos run`, 8 seconds of faults a run {source('chaos', '.md')}. A run holds if every checker finds its "
        "history right, replicas agree, and the cluster is back in time; the score is what callers noticed "
        "([how](chaos.md#verdicts-and-the-score)).\n\n"
    )
    return text + kept.read_text()


FURTHER = (
    ("isolation", "Beside attackers", isolation),
    ("overload", "Asked for more than can be done", overload),
)
"""Parts that are there once there is a record of them."""


def page() -> str:
    """Return the page."""
    parts = [
        "# Results\n\nMade by `python bench/page.py` of the newest records in `bench/results/`: those that `make bench` "
        "leaves, and `shoal chaos report --table`. How fast a shared machine is changes by half within a day: compare within a "
        "table.\n",
        f"## Beside etcd and Redis\n\n{comparison()}",
        f"## When leaders go\n\n{failovers()}",
        f"## Operations under load\n\n{operations()}",
        *(f"## {title}\n\n{make()}" for kind, title, make in FURTHER if any(RESULTS.glob(f"{kind}-*.json"))),
        f"## Under faults\n\n{chaos()}",
    ]
    return "\n".join(parts)


def main(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 where the page is another.")
    ] = False,
) -> None:
    """Write docs/results.md."""
    made = page()
    if not check:
        PAGE.write_text(made)
    elif not PAGE.exists() or PAGE.read_text() != made:
        print(f"{PAGE.name} is not that of the records: python bench/page.py", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
