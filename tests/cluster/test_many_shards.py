"""A hundred shards of thousands of microshards on three real nodes: start, routes, load in every shard, reports."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import shoal
from shoal.admin.connection import AdminConnection
from shoal.admin.survey import survey
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.local.layout import generated_config

SHARDS = 100
MICROSHARDS = 4096
KEYS = 5000
WAIT_SECONDS = 60


def layout(ports: Sequence[int]) -> str:
    few = "microshards: 1024, shards: 8"
    text = generated_config(len(ports), ports)
    assert few in text
    return text.replace(few, f"microshards: {MICROSHARDS}, shards: {SHARDS}")


@pytest.mark.timeout(180)
async def test_a_hundred_shards_of_four_thousand_microshards_start_serve_and_report(real_cluster: Any) -> None:
    async with real_cluster(layout=layout) as cluster:
        addresses = cluster.addresses
        async with asyncio.timeout(WAIT_SECONDS):
            found = await survey(addresses)
            while not all(found.leader(shard) for shard in range(1, SHARDS + 1)):
                await asyncio.sleep(0.1)
                found = await survey(addresses)
        assert len(msgspec.msgpack.encode(found.shard_map)) < 64 * 1024, "the map is in every greeting"
        async with shoal.AsyncClient(cluster.url, timeout=WAIT_SECONDS) as db:
            await db.put_many({f"key-{number}": "v" for number in range(KEYS)})
            assert await db.get_many([f"key-{number}" for number in range(KEYS)]) == [b"v"] * KEYS
            seen = 0
            async for _ in db.scan("key-", keys_only=True):
                seen += 1
            assert seen == KEYS
        written, keys = 0, 0
        async with await AdminConnection.open(addresses[0], WAIT_SECONDS) as connection:
            async with asyncio.timeout(WAIT_SECONDS):
                while keys < KEYS:
                    replicas = (await connection.status()).replicas
                    keys = sum(replica.keys for replica in replicas if replica.counted)
                    written = sum(replica.writes > 0 for replica in replicas)
                    await asyncio.sleep(0.1)
        assert written == SHARDS, "keys go to every shard"


def test_a_map_in_which_no_two_neighbouring_microshards_are_of_one_shard_is_still_a_small_greeting() -> None:
    nodes = tuple(f"node-{number}" for number in range(3))
    shards = tuple(
        Shard(
            shard + 1,
            1,
            tuple(MicroshardRange(first, first + 1) for first in range(shard, MICROSHARDS, SHARDS)),
            nodes,
            membership_version=9,
        )
        for shard in range(SHARDS)
    )
    addresses = tuple(NodeAddress(node, "127.0.0.1:7400", "eu", "a") for node in nodes)
    shard_map = ShardMap(1, "c", addresses, (Keyspace(1, "default", MICROSHARDS, b"/"),), shards)
    encoded = msgspec.msgpack.encode(shard_map)
    assert len(encoded) < 64 * 1024
    assert msgspec.msgpack.decode(encoded, type=ShardMap) == shard_map
