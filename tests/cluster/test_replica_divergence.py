"""Replicas of real nodes are compared: equal after writes and restarts, and a row planted in one of them is found."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import shoal
from shoal.admin.survey import fetch_shard_map
from shoal.shardmap import Routes
from shoal_chaos.checkers.divergence import NotQuiet, find_violations
from shoal_chaos.scenarios.replicas import are_equal
from shoal_server.storage.applied_state import load_applied_state
from shoal_server.storage.folder import DATABASE_FOLDER
from shoal_server.storage.layout import data_prefix, value_header
from shoal_server.storage.rocks import RocksEngine

MIB = 1 << 20
KEYS = 3_000
PLANTED = b"planted"


def seeds(cluster: Any) -> list[str]:
    return cluster.addresses


def plant(database: Path, keyspace: int, shard: int, microshard: int) -> None:
    """Put a row into a replica whose node is down, past its log."""
    engine = RocksEngine(database, block_cache_bytes=MIB, write_buffer_bytes=MIB)
    state = load_applied_state(engine, shard)
    assert state is not None
    prefix = data_prefix(keyspace, microshard, state.generations(state.ranges)[microshard])
    batch = engine.batch()
    batch.put(prefix + PLANTED, value_header(1) + b"by nobody", engine.data)
    engine.write(batch)
    engine.close()


@pytest.mark.timeout(120)
async def test_a_row_planted_in_one_replica_is_found_and_named(real_cluster: Any) -> None:
    # Whoever compares replicas from outside is to find it before they do so themselves.
    quiet = "storage: {compare_replicas: false}\n"
    async with real_cluster(quiet) as cluster, shoal.AsyncClient(cluster.url) as db:
        await db.put_many({f"key-{number}": str(number) for number in range(KEYS)})
        await db.put_many({f"brief-{number}": "" for number in range(100)}, ttl=3600)
        await db.delete_many([f"key-{number}" for number in range(0, KEYS, 3)])
        assert await find_violations(seeds(cluster)) == []

        routes = Routes(await fetch_shard_map(seeds(cluster)))
        (keyspace,) = routes.map.keyspaces
        shard = routes.shard_of(keyspace, PLANTED)
        assert await cluster.stop("n2") == 0
        plant(cluster.root / "n2" / DATABASE_FOLDER, keyspace.id, shard, keyspace.microshard_of(PLANTED))
        cluster.start("n2")
        await cluster.ready()
        (found,) = await find_violations(seeds(cluster))
        assert found.shard == shard
        assert found.groups == (("n1", "n3"), ("n2",))
        assert "n2: b'planted' in microshard" in found.sentence

        assert await find_violations(seeds(cluster), without=["n2"]) == []
        verdict = await are_equal(seeds(cluster), [], alone=True)
        assert not verdict.passed
        assert verdict.safety
        assert verdict.found == (found.sentence,)


@pytest.mark.timeout(150)
async def test_a_row_planted_in_one_replica_is_found_by_its_leader_and_goes_again(real_cluster: Any) -> None:
    async with real_cluster() as cluster, shoal.AsyncClient(cluster.url) as db:
        await db.put_many({f"key-{number}": str(number) for number in range(KEYS)})
        routes = Routes(await fetch_shard_map(seeds(cluster)))
        (keyspace,) = routes.map.keyspaces
        shard = routes.shard_of(keyspace, PLANTED)
        assert await cluster.stop("n2") == 0
        plant(cluster.root / "n2" / DATABASE_FOLDER, keyspace.id, shard, keyspace.microshard_of(PLANTED))
        cluster.start("n2")
        await cluster.ready()
        # Nothing is written: that the node has come back is reason enough to compare.
        async with asyncio.timeout(90):
            for event in ('"kind": "diverged"', '"event": "snapshot_adopted"'):
                while event not in cluster.log_of("n2"):
                    await asyncio.sleep(0.2)
        assert await find_violations(seeds(cluster)) == []
        assert await db.get(PLANTED) is None
        assert all('"kind": "diverged"' not in cluster.log_of(name) for name in ("n1", "n3"))


@pytest.mark.timeout(120)
async def test_replicas_that_do_not_come_to_one_position_are_not_called_equal(real_cluster: Any) -> None:
    async with real_cluster() as cluster, shoal.AsyncClient(cluster.url) as db:
        cluster.pause("n3")
        await db.put("key", "value")
        with pytest.raises((NotQuiet, shoal.DeadlineExceeded)):
            await find_violations(seeds(cluster), patience_seconds=1.0)
        cluster.resume("n3")
        assert await find_violations(seeds(cluster)) == []
