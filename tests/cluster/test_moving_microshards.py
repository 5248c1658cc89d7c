"""Microshards move between shards of other nodes on real processes, under load, by one driver and then by another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import shoal
from shoal.admin.connection import AdminConnection
from shoal.keys import microshard_of
from shoal.protocol.messages import ReplicaStatus
from shoal.shardmap import MicroshardRange, Shard, ShardMap

PAGE_BYTES = 500
SMALL_ROUND = 50
FIRST_PAGES = 3
"""So many the first driver stores before it dies."""


class Driver:
    """Drives one migration by what the two shards say, and nothing else; on connections of its own."""

    def __init__(self, addresses: dict[str, str], migration: int, source: Shard, target: Shard) -> None:
        self._addresses = addresses
        self._migration = migration
        self._source = source
        self._target = target
        self._ranges = (MicroshardRange(source.ranges[0].first, source.ranges[0].first + 16),)

    async def leader(self, shard: int) -> tuple[str, ReplicaStatus]:
        for address in self._addresses.values():
            async with await AdminConnection.open(address) as connection:
                for replica in (await connection.status()).replicas:
                    if replica.shard == shard and replica.role == "leader":
                        return address, replica
        pytest.fail(f"nobody leads shard {shard}")

    async def run(self, pages: int | None = None) -> None:
        """Go on with the migration to its end, or for so many pages."""
        source, target, number = self._source.id, self._target.id, self._migration
        at_source, giving = await self.leader(source)
        at_target, taking = await self.leader(target)
        async with await AdminConnection.open(at_source) as give, await AdminConnection.open(at_target) as take:
            if taking.incoming is None:
                await take.begin_incoming(target, number, source, self._ranges)
            await give.begin_outgoing(source, number, target, self._ranges)
            _, taking = await self.leader(target)
            assert taking.incoming is not None
            cursor, page_number = taking.incoming.cursor, taking.incoming.number
            version = (await give.shard_map()).version + 1
            sealed = giving.outgoing is not None and giving.outgoing.sealed
            while not cursor.complete:
                if pages is not None and page_number > pages:
                    return
                page = await give.read_moving(source, number, cursor, max_bytes=PAGE_BYTES)
                await take.store_moved(target, number, page_number, page.cleared, page.rows, page.cursor, cursor)
                cursor, page_number = page.cursor, page_number + 1
                if page.done and not sealed and len(page.rows) < SMALL_ROUND:
                    await give.seal_microshards(source, number, version)
                    sealed = True
            await take.adopt_microshards(target, number, version)
            await give.forget_moved(source, number)


async def test_no_call_fails_and_nothing_is_lost_while_microshards_move(real_cluster: Callable[..., Any]) -> None:
    async with real_cluster(nodes=4) as cluster, shoal.AsyncClient(cluster.url) as db:
        addresses = dict(zip(cluster.names, cluster.addresses, strict=True))
        async with await AdminConnection.open(addresses["n1"]) as connection:
            shard_map: ShardMap = await connection.shard_map()
        source = shard_map.shards[0]
        target = next(shard for shard in shard_map.shards if set(shard.voters) != set(source.voters))
        keyspace = shard_map.keyspaces[0]
        moving = set(range(source.ranges[0].first, source.ranges[0].first + 16))
        names = (b"key-%d" % number for number in range(1_000_000))
        keys = [next(key for key in names if _microshard(key, keyspace) in moving) for _ in range(200)]
        counter = keys[0]
        session = db.session()
        written: dict[bytes, int] = {}
        stop = asyncio.Event()

        async def put(own: list[bytes]) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                for key in own:
                    await session.put(key, b"%d" % number)
                    written[key] = number
                    assert int(await session.get(key, consistency="read_your_writes") or 0) == number
                await asyncio.sleep(0.005)

        async def count() -> int:
            number = 0
            while not stop.is_set():
                number += 1
                assert await db.increment(counter) == number, "each increment is applied once"
                await asyncio.sleep(0.002)
            return number

        async def scan() -> None:
            while not stop.is_set():
                found = [key async for key, _ in db.scan(prefix=b"key-")]
                assert set(found) >= set(keys[1:]), "a scan sees all rows wherever they are"
                await asyncio.sleep(0.02)

        await db.put_many(dict.fromkeys(keys[1:], b"0"))
        load = [asyncio.create_task(task) for task in (put(keys[1:11]), put(keys[11:21]), scan())]
        counting = asyncio.create_task(count())
        for migration, (giver, taker) in enumerate(((source, target), (target, source)), 1):
            # The second time they go back; the shard that they leave then has them behind its own.
            here = msgspec.structs.replace(giver, ranges=source.ranges)
            await Driver(addresses, migration, here, taker).run(pages=FIRST_PAGES)
            await Driver(addresses, migration, here, taker).run()
        stop.set()
        await asyncio.gather(*load)
        counted = await counting
        assert await db.get(counter) == b"%d" % counted
        values = await db.get_many(list(written))
        assert [int(value or b"") for value in values] == list(written.values())


def _microshard(key: bytes, keyspace: Any) -> int:
    return microshard_of(key, keyspace.delimiter, keyspace.microshards)
