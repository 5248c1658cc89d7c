"""What many clients do and see while processes are killed and stopped is judged by the checkers of histories."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import islice
from random import Random
from time import monotonic_ns
from typing import Any

import pytest
import shoal
from shoal.admin.survey import fetch_shard_map
from shoal.shardmap import Routes
from shoal_chaos.checkers.staleness import AcknowledgedWrite, BoundedRead, find_violations
from shoal_chaos.clusters.regions import regional_config, regions_of
from shoal_chaos.workloads.faults import inflict, schedule
from shoal_chaos.workloads.suite import Suite, open_clients, urls_of_single_nodes

NODES = 5
SECOND = 1_000_000_000
PAUSED_SECONDS = 1.5
KEYS = 60
TIGHT_SECONDS, LOOSE_SECONDS = BOUNDS_SECONDS = 0.05, 5.0


async def run_under_faults(cluster: Any, regions: Sequence[str], seed: int, faults: int) -> Suite:
    """Run all workloads while a number of faults happen one after another, and let them end."""
    random = Random(seed)
    planned = list(islice(schedule(random), faults))
    async with AsyncExitStack() as stack:
        clients = await open_clients(stack, cluster.url, regions)
        suite = Suite("t", random, clients, urls_of_single_nodes(cluster.url))
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(suite.run(stop))
            try:
                for fault in planned:
                    print(await inflict(fault, cluster))
            finally:
                stop.set()
    print(suite.summary())
    return suite


def check(suite: Suite) -> None:
    violations = suite.violations()
    assert not violations, "\n".join(violations[:10])
    for workload in suite.workloads:
        assert workload.recorder.done > 5, f"{workload.name} must have done something"


@pytest.mark.timeout(120)
async def test_histories_hold_what_is_promised_while_leaders_are_killed_and_paused(real_cluster: Any) -> None:
    async with real_cluster() as cluster:
        suite = await run_under_faults(cluster, ["", ""], seed=1, faults=4)
    check(suite)


@pytest.mark.timeout(120)
async def test_histories_hold_what_is_promised_where_followers_serve_in_their_regions(real_cluster: Any) -> None:
    async with real_cluster(nodes=NODES, layout=regional_config) as cluster:
        suite = await run_under_faults(cluster, regions_of(NODES), seed=2, faults=4)
    check(suite)
    assert len(suite.staleness.weakly_served) > 3, "weak reads must have been served in several regions"


async def weak_reads(client: shoal.AsyncClient, keys: Sequence[str], bound: float) -> list[tuple[BoundedRead, str]]:
    """Read keys weakly, all at once; return what was said of each, and which node said it."""

    async def one(key: str) -> tuple[BoundedRead, str]:
        began = monotonic_ns()
        entry = await client.get_entry(key, consistency="eventual", max_staleness=bound)
        assert entry is not None
        assert entry.staleness <= bound
        said = round(entry.staleness * SECOND)
        return BoundedRead(key.encode(), entry.seq, entry.seq, began, monotonic_ns(), said), entry.served_by

    return await asyncio.gather(*(one(key) for key in keys))


async def followed_keys(ports: Sequence[int], node: str) -> list[str]:
    """Return keys of the shards that `node` follows without a vote, so that nobody misses it."""
    routes = Routes(await fetch_shard_map([f"127.0.0.1:{port}" for port in ports]))
    keyspace = routes.keyspaces_by_name["default"]
    keys = [f"key-{number}" for number in range(KEYS)]
    return [key for key in keys if node in routes.shards[routes.shard_of(keyspace, key.encode())].followers]


@pytest.mark.timeout(120)
async def test_a_follower_that_was_stopped_declines_is_fresh_or_says_how_stale_it_is(real_cluster: Any) -> None:
    async with (
        real_cluster(nodes=4, layout=regional_config) as cluster,
        shoal.AsyncClient(cluster.url) as db,
        # One client each: a client sends the reads of a shard one batch after another, and none may wait for the other.
        shoal.AsyncClient(f"{cluster.url}?region=r4") as tight,
        shoal.AsyncClient(f"{cluster.url}?region=r4") as loose,
    ):
        near = {TIGHT_SECONDS: tight, LOOSE_SECONDS: loose}
        others = [node for node in cluster.names if node != "n4"]
        keys = await followed_keys(cluster.ports, "n4")
        await db.put_many(dict.fromkeys(keys, "old"))
        async with asyncio.timeout(20):
            # Weak reads go to the node of the region, as soon as that knows how fresh it is.
            for client in near.values():
                while {node for _, node in await weak_reads(client, keys, LOOSE_SECONDS)} != {"n4"}:
                    pass
        writes: list[AcknowledgedWrite] = []
        reads: list[tuple[BoundedRead, str]] = []
        for value, alone in (("new", False), ("newer", True)):
            cluster.pause("n4")
            try:
                results = await db.put_many(dict.fromkeys(keys, value))
                now = monotonic_ns()
                for key, result in zip(keys, results, strict=True):
                    writes.append(AcknowledgedWrite(key.encode(), result.seq, now))
                await asyncio.sleep(PAUSED_SECONDS)
                # These wait in the node's socket until it goes on: the first that it does is to answer them.
                waiting = [asyncio.create_task(weak_reads(client, keys, bound)) for bound, client in near.items()]
                await asyncio.sleep(0.1)
                for node in others if alone else ():
                    cluster.pause(node)
            finally:
                cluster.resume("n4")
            if alone:
                try:
                    # Nobody tells it how fresh it is: it has to know how stale it may have become.
                    stale = await waiting[BOUNDS_SECONDS.index(LOOSE_SECONDS)]
                finally:
                    for node in others:
                        cluster.resume(node)
                assert {node for _, node in stale} == {"n4"}
                assert all(read.staleness_ns > PAUSED_SECONDS * SECOND for read, _ in stale)
            until = monotonic_ns() + SECOND // 2
            while monotonic_ns() < until:
                for bound, client in near.items():
                    reads += await weak_reads(client, keys, bound)
            for answered in await asyncio.gather(*waiting):
                reads += answered
        found = find_violations(writes, [read for read, _ in reads])
        assert not found, "\n".join(violation.sentence for violation in found[:5])
        by_follower = [read for read, node in reads if node == "n4"]
        assert any(read.staleness_ns < PAUSED_SECONDS * SECOND for read in by_follower), "it must have recovered"
