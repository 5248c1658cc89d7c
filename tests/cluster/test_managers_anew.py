"""Managers that begin with an empty folder, as those of a copy do, give no number that was used before them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from .managed import OperatedCluster
from .test_settling import every_row_is_there, until_well


async def begin_anew(cluster: OperatedCluster) -> None:
    """End the manager, and start it with an empty folder."""
    await cluster.stop("m1")
    shutil.rmtree(cluster.root / "m1")
    cluster.start("m1")
    await until_well(cluster)


async def test_a_migration_of_new_managers_is_not_taken_for_one_of_those_before(
    managed_cluster: Callable[..., Any],
) -> None:
    async with managed_cluster(nodes=3, managers=1) as cluster:
        await until_well(cluster)
        first = await cluster.done("move-microshards", "--from", "1", "--to", "2", "--microshards", "0")
        await begin_anew(cluster)
        await cluster.shoal("settings", "--set", "merge_linger=100ms")
        merged = await cluster.done("merge", "2", "1")
        assert merged["id"] > first["id"]
        assert sorted(await cluster.shards()) == [2, 3, 4]
        await every_row_is_there(cluster)
        await until_well(cluster)


async def test_a_shard_of_new_managers_does_not_get_the_number_of_one_that_is_no_more(
    managed_cluster: Callable[..., Any],
) -> None:
    async with managed_cluster(nodes=3, managers=1) as cluster:
        await until_well(cluster)
        await cluster.shoal("settings", "--set", "merge_linger=100ms")
        await cluster.done("split", "1")
        await cluster.done("merge", "1", "5")
        await begin_anew(cluster)
        await cluster.done("split", "1")
        await cluster.done("keyspace", "create", "other", "--microshards", "4", "--shards", "1")
        assert sorted(await cluster.shards()) == [1, 2, 3, 4, 6, 7]
        await every_row_is_there(cluster)
        await until_well(cluster)
