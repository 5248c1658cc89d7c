"""Somebody gives nodes a shard map past the managers: what it leaves out comes back, what it may never change is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import shoal
from msgspec.structs import replace
from shoal.admin.connection import AdminConnection
from shoal.errors import InvalidArgument
from shoal.map_changes import with_migrated, without_shard
from shoal.shardmap import Routes, ShardMap

from .managed import OperatedCluster
from .test_settling import ROWS, every_row_is_there, until_well


async def install(cluster: OperatedCluster, changed: Callable[[ShardMap], ShardMap]) -> None:
    for port in cluster.ports:
        async with await AdminConnection.open(f"127.0.0.1:{port}") as connection:
            await connection.install_shard_map(changed(await connection.shard_map()))


def without_shard_four(known: ShardMap) -> ShardMap:
    """The map in which shard 3 has what shard 4 has."""
    given = with_migrated(known, 4, 3, Routes(known).shards[4].ranges, known.version + 1)
    return without_shard(given, 4, known.version + 1)


async def test_a_shard_that_a_map_leaves_out_is_there_again_though_all_nodes_were_killed_meanwhile(
    managed_cluster: Callable[..., Any],
) -> None:
    async with managed_cluster(nodes=3, managers=1) as cluster:
        await until_well(cluster)
        await write_rows(cluster)
        await cluster.kill("m1")
        await install(cluster, without_shard_four)
        for name in cluster.names:
            await cluster.kill(name)
        for name in (*cluster.names, "m1"):
            cluster.start(name)
        await until_well(cluster)
        await every_row_is_there(cluster)


async def test_a_map_that_says_that_a_shard_began_otherwise_is_refused(managed_cluster: Callable[..., Any]) -> None:
    async with managed_cluster(nodes=3, managers=1) as cluster:
        await until_well(cluster)
        await write_rows(cluster)
        with pytest.raises(
            InvalidArgument, match="shard 1 was founded by n1, n2, n3, not by n1: what its log goes on from"
        ):
            await install(cluster, founded_by_one)
        with pytest.raises(InvalidArgument, match="shard 1 was founded with other microshards"):
            await install(cluster, with_swapped_ranges)
        await every_row_is_there(cluster)


def founded_by_one(known: ShardMap) -> ShardMap:
    first, *others = known.shards
    return replace(known, version=known.version + 1, shards=(replace(first, founders=(first.voters[0],)), *others))


def with_swapped_ranges(known: ShardMap) -> ShardMap:
    one, two, *others = known.shards
    swapped = (replace(one, ranges=two.ranges), replace(two, ranges=one.ranges))
    return replace(known, version=known.version + 1, shards=(*swapped, *others))


async def write_rows(cluster: OperatedCluster) -> None:
    async with shoal.AsyncClient(cluster.url, timeout=20.0) as db:
        await db.put_many(ROWS)
