"""What metrics cost at full load: the same cluster with scrapes each second and without, in turns, in one run.

    python bench/metrics_cost.py [--rounds 8] [--seconds 4] [--concurrency 1000] [--shards 8] [--kind put|get]

Three nodes on this machine serve one client. Rounds in which another process scrapes all nodes once a second, and rounds
without, follow each other in the order A B B A, so that what drifts hits both alike. Printed are the medians of both: calls
a second, which on a machine of few cores include what the scraper itself takes, and the nodes' CPU time for each call, which
does not. Counting cannot be switched off: what it costs is measured apart, by timing the steps that requests go through for
its sake (in ns each), times the requests and turns that there were, in shares of the nodes' CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
import timeit
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import psutil
import shoal
from shoal_server.local.cluster import LocalCluster, prepare_folder
from shoal_server.node.counters import NodeCounters, Served

READY_SECONDS = 60.0
KEYS = 20_000
VALUE = bytes(100)
SCRAPER = """
import http.client, sys, time
while True:
    due = time.monotonic() + 1.0
    for address in sys.argv[1:]:
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", "/metrics")
        connection.getresponse().read()
        connection.close()
    time.sleep(max(0.0, due - time.monotonic()))
"""


@dataclass
class Rounds:
    """What the rounds of one kind came to: calls a second, and the nodes' CPU time for each (us)."""

    speeds: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    @property
    def speed(self) -> float:
        return statistics.median(self.speeds)

    @property
    def cpu(self) -> float:
        return statistics.median(self.cpu_us)


class Nodes:
    """The node processes, and what they say of themselves."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.pages = [node.metrics or "" for node in cluster.config.nodes]
        self._processes = [psutil.Process(child.pid) for child in cluster.running.values()]

    def cpu_seconds(self) -> float:
        """Return the CPU time that they have taken."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)

    def counted(self) -> dict[str, int]:
        """Return how many requests and turns they have counted."""
        totals = {"requests": 0, "turns": 0}
        for address in self.pages:
            for line in scrape(address).decode().splitlines():
                for name in totals:
                    if line.startswith((f"shoal_node_{name}_total ", f"shoal_node_{name}_total{{")):
                        totals[name] += int(float(line.rpartition(" ")[2]))
        return totals


def scrape(address: str) -> bytes:
    """Fetch the samples of one process."""
    with urlopen(f"http://{address}/metrics", timeout=10) as answer:
        samples: bytes = answer.read()
        return samples


async def load(db: shoal.AsyncClient, kind: str, concurrency: int, seconds: float) -> tuple[int, float]:
    """Keep `concurrency` calls open for so long; return how many ended, and how long it really took."""
    done = 0
    ends = time.perf_counter() + seconds

    async def caller(place: int) -> None:
        nonlocal done
        number = place
        while time.perf_counter() < ends:
            key = b"key-%d/x" % (number % KEYS)
            number += concurrency
            if kind == "put":
                await db.put(key, VALUE)
            else:
                await db.get(key)
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(caller(place) for place in range(concurrency)))
    return done, time.perf_counter() - began


def counting_ns() -> dict[str, float]:
    """Return what the steps of counting take, in ns each."""
    counters = NodeCounters()
    counts = counters.requests

    def request() -> None:
        counts[NodeCounters] = counts.get(NodeCounters, 0) + 1

    def read() -> None:
        counters.read(Served.READ_STRONG, 0, 1, 1, 1)

    def turn() -> None:
        counters.begin_turn(1, 1)
        counters.at_once[Served.READ_STRONG] += 1
        counters.waited.append((Served.WRITE_QUORUM, 1, 1))
        counters.end_turn(2_000_000)

    times = 100_000
    steps = {"request taken in": request, "read served": read, "turn": turn}
    return {name: min(timeit.repeat(step, number=times, repeat=5)) / times * 1e9 for name, step in steps.items()}


async def measure(arguments: argparse.Namespace, nodes: Nodes, url: str) -> None:
    """Run the rounds and print what came of them."""
    scraped, quiet = Rounds(), Rounds()
    async with shoal.AsyncClient(url) as db:
        await db.put_many({b"key-%d/x" % number: VALUE for number in range(KEYS)})
        await load(db, arguments.kind, arguments.concurrency, arguments.seconds / 2)
        for number in range(arguments.rounds):
            rounds = scraped if number % 4 in (0, 3) else quiet
            scraper = None
            if rounds is scraped:
                scraper = await asyncio.create_subprocess_exec(sys.executable, "-c", SCRAPER, *nodes.pages)
            before = nodes.cpu_seconds()
            calls, seconds = await load(db, arguments.kind, arguments.concurrency, arguments.seconds)
            cpu_us = (nodes.cpu_seconds() - before) / calls * 1e6
            if scraper is not None:
                scraper.kill()
                await scraper.wait()
            rounds.speeds.append(calls / seconds)
            rounds.cpu_us.append(cpu_us)
            name = "scraped" if rounds is scraped else "quiet"
            print(f"{name:8} {calls / seconds:10,.0f}/s  {cpu_us:6.2f} us of the nodes' CPU a call", flush=True)
    report(scraped, quiet, nodes)


def report(scraped: Rounds, quiet: Rounds, nodes: Nodes) -> None:
    """Print the medians and the shares."""
    spread = max(max(each.cpu_us) - min(each.cpu_us) for each in (scraped, quiet)) / quiet.cpu
    print(
        f"speed     {quiet.speed:,.0f}/s, scraped {scraped.speed:,.0f}/s: {100 * (1 - scraped.speed / quiet.speed):.1f}% less"
    )
    print(
        f"CPU       {quiet.cpu:.2f} us a call, scraped {scraped.cpu:.2f}: {100 * (scraped.cpu / quiet.cpu - 1):.1f}% more; "
        f"rounds of one kind differ by up to {100 * spread:.1f}%"
    )
    steps, totals, cpu = counting_ns(), nodes.counted(), nodes.cpu_seconds()
    cost = totals["requests"] * (steps["request taken in"] + steps["read served"]) + totals["turns"] * steps["turn"]
    print(f"counting  {', '.join(f'{name} {ns:.0f} ns' for name, ns in steps.items())}")
    print(
        f"counting  {100 * cost / 1e9 / cpu:.2f}% of the nodes' CPU time "
        f"({totals['requests']:,} requests, {totals['turns']:,} turns, {cpu:.1f} s)"
    )
    print(f"a scrape  {len(scrape(nodes.pages[0])):,} bytes")


async def main() -> None:
    parser = argparse.ArgumentParser(description="What metrics cost at full load.")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--concurrency", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--kind", choices=("put", "get"), default="put")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_folder(Path(folder) / "cluster", nodes=3, port=0, managers=0)
        text = prepared.config_file.read_text().replace("shards: 8", f"shards: {arguments.shards}")
        prepared.config_file.write_text(text)
        cluster = LocalCluster(prepared, prepared.config_file)
        cluster.start_all()
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not await cluster.is_ready():  # noqa: ASYNC110 - it is other processes' state
                    await asyncio.sleep(0.1)
            await measure(arguments, Nodes(cluster), cluster.url())
        finally:
            await cluster.stop()


if __name__ == "__main__":
    asyncio.run(main())
