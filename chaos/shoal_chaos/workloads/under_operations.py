"""All workloads at once while operators change the cluster: histories must hold, and no call may fail."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

from shoal_chaos.checkers.divergence import find_violations as find_divergence
from shoal_chaos.clusters.configuration import loopback
from shoal_chaos.clusters.process_cluster import ProcessCluster
from shoal_chaos.workloads.base import PACE_SECONDS
from shoal_chaos.workloads.operations import ALL, Operation
from shoal_chaos.workloads.suite import Suite, open_clients

CLIENTS = 2
KEYSPACE = "microshards: 64, shards: 4"


async def operate(
    cluster: ProcessCluster,
    run: str,
    random: Random,
    operations: Sequence[Operation],
    pace_seconds: float = PACE_SECONDS,
) -> Suite:
    """Do one operation after another under load; return what the load has seen.

    Args:
        pace_seconds: how long each task of the load waits between two calls, on average.

    Raises:
        RequestFailed: an operation was refused, or did not end well.
    """
    async with AsyncExitStack() as stack:
        clients = await open_clients(stack, cluster.url, [""] * CLIENTS)
        suite = Suite(run, random, clients, [cluster.url], exported_url=cluster.url)
        suite.be_patient()
        suite.keep_pace(pace_seconds)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(suite.run(stop))
            try:
                for operation in operations:
                    began = time.monotonic()
                    await operation.run(cluster)
                    print(f"  {operation.name}: {time.monotonic() - began:.1f} s", flush=True)
            finally:
                stop.set()
    return suite


async def rounds(minutes: float, seed: int) -> int:
    """Do all operations on one new cluster after another, in rounds that begin within a time; return how many failed."""
    until = time.monotonic() + minutes * 60
    random = Random(seed)
    done = failed = 0
    while time.monotonic() < until:
        done += 1
        failed += await _round(f"{seed}-{done}", random)
    print(f"{done - failed} rounds passed, {failed} failed")
    return failed


async def _round(run: str, random: Random) -> bool:
    """Run one round; return whether anything was wrong, in which case its folder is kept."""
    folder = Path(tempfile.mkdtemp(prefix="shoal-operations-"))
    cluster = ProcessCluster(folder, loopback(joiners=2, managers=1, keyspace=KEYSPACE))
    wrong: list[str] = []
    try:
        cluster.start_all()
        await cluster.ready()
        await cluster.linger_briefly()
        suite = await operate(cluster, run, random, ALL)
        wrong += [f"{one.node} has ended by itself, with {one.exit_code}" for one in cluster.take_exits()]
        wrong += [found.sentence for found in await find_divergence(cluster.addresses)]
    except BaseException:
        print(f"configuration, data and logs are kept in {folder}")
        raise
    finally:
        await cluster.stop_all()
    wrong += suite.failures() + suite.violations()
    print(f"round {run}: {suite.summary()}; {len(wrong)} wrong", flush=True)
    for words in wrong:
        print(words, flush=True)
    if wrong:
        print(f"configuration, data and logs are kept in {folder}")
    else:
        shutil.rmtree(folder)
    return bool(wrong)
