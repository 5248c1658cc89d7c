"""Rounds of all workloads: `python -m shoal_chaos.workloads --minutes 10`, on a cluster of its own, under faults.

With `--url`, on a cluster that is there: no harm is done to it, and the keys, which begin with the seed, stay. With
`--operations`, on new clusters without faults, while operators move, drain, join and so on: then no call may fail at all.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from shoal_server.local.layout import free_ports

from shoal_chaos.checkers.divergence import find_violations as find_divergence
from shoal_chaos.clusters.configuration import Configuration
from shoal_chaos.clusters.process_cluster import ProcessCluster
from shoal_chaos.clusters.regions import regional_config, regions_of
from shoal_chaos.workloads.faults import ProcessFault, inflict, schedule
from shoal_chaos.workloads.suite import Suite, open_clients, urls_of_single_nodes
from shoal_chaos.workloads.under_operations import rounds

NODES = 5
ROUND_SECONDS = 20.0


def main(
    minutes: Annotated[float, typer.Option(help="How long, in rounds that begin within this time.")] = 1,
    url: Annotated[str, typer.Option(help="Of a cluster that is there; none: of its own, under faults.")] = "",
    seed: Annotated[int | None, typer.Option(help="Of the faults and of what is done; none: the time.")] = None,
    operations: Annotated[bool, typer.Option("--operations", help="Operations in place of faults.")] = False,
) -> None:
    """Run all workloads for some minutes, and check the history of each round."""
    seed = int(time.time()) if seed is None else seed
    print(f"seed {seed}", flush=True)
    if operations:
        failed = asyncio.run(rounds(minutes, seed))
    else:
        failed = asyncio.run(_on(url, minutes, seed) if url else _on_own_cluster(minutes, seed))
    sys.exit(1 if failed else 0)


async def _on_own_cluster(minutes: float, seed: int) -> int:
    configuration = Configuration(regional_config(free_ports(NODES)))
    cluster = ProcessCluster(Path(tempfile.mkdtemp(prefix="shoal-workloads-")), configuration)
    cluster.start_all()
    failed = 1
    try:
        await cluster.ready()
        failed = await _on(cluster.url, minutes, seed, cluster)
    finally:
        for ended in cluster.take_exits():
            print(f"node {ended.node} has ended by itself, with {ended.exit_code}: {' | '.join(ended.last_lines)}")
            failed += 1
        await cluster.stop_all()
        if failed:
            print(f"configuration, data and logs are kept in {cluster.root}")
        else:
            shutil.rmtree(cluster.root)
    return failed


async def _on(url: str, minutes: float, seed: int, nodes: ProcessCluster | None = None) -> int:
    """Run rounds; return how many had violations."""
    until = time.monotonic() + minutes * 60
    random, faults = Random(seed), schedule(Random(seed))
    rounds = failed = 0
    while time.monotonic() < until:
        rounds += 1
        async with AsyncExitStack() as stack:
            clients = await open_clients(stack, url, regions_of(NODES) if nodes is not None else ["", ""])
            suite = Suite(f"{seed}-{rounds}", random, clients, urls_of_single_nodes(url))
            async with _running(suite):
                await _disturb(nodes, faults)
        violations = suite.violations()
        if nodes is not None:
            violations += [found.sentence for found in await find_divergence(nodes.addresses)]
        failed += bool(violations)
        print(f"round {rounds}: {suite.summary()}; {len(violations)} violations", flush=True)
        for violation in violations:
            print(violation, flush=True)
    print(f"{rounds - failed} rounds passed, {failed} failed")
    return failed


@asynccontextmanager
async def _running(suite: Suite) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(suite.run(stop))
        try:
            yield
        finally:
            stop.set()


async def _disturb(nodes: ProcessCluster | None, faults: Iterator[ProcessFault]) -> None:
    """Do harm for as long as a round lasts; or wait."""
    if nodes is None:
        await asyncio.sleep(ROUND_SECONDS)
        return
    until = time.monotonic() + ROUND_SECONDS
    while time.monotonic() < until:
        print(f"  {await inflict(next(faults), nodes)}", flush=True)


if __name__ == "__main__":
    typer.run(main)
