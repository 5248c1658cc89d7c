"""What was begun on shards without the shard manager is found by `shoal doctor`, and `shoal settle` undoes or finishes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import shoal
from msgspec.structs import replace
from shoal.admin.connection import AdminConnection
from shoal.errors import InvalidArgument
from shoal.protocol.migration import MigrationCursor
from shoal.shardmap import MicroshardRange, NodeAddress, Ranges, Routes, Shard, microshards_in
from shoal_server.raft.membership import ChangeKind

from .managed import OperatedCluster

ROWS = {f"key-{number}".encode(): f"value-{number}".encode() for number in range(200)}
MIGRATION = 900


class ByHand:
    """What somebody sends to the shards' leaders, past the managers."""

    def __init__(self, cluster: OperatedCluster) -> None:
        self._cluster = cluster

    async def leader(self, shard: int) -> AdminConnection:
        for port in self._cluster.ports:
            connection = await AdminConnection.open(f"127.0.0.1:{port}")
            for replica in (await connection.status()).replicas:
                if replica.shard == shard and replica.role == "leader":
                    return connection
            connection.close()
        pytest.fail(f"nobody leads shard {shard}")

    async def shard(self, shard: int) -> Shard:
        async with await self.leader(shard) as connection:
            return Routes(await connection.shard_map()).shards[shard]

    async def begin(self, source: int, target: int, number: int, ranges: Ranges) -> None:
        async with await self.leader(source) as giving, await self.leader(target) as taking:
            await taking.begin_incoming(target, number, source, ranges)
            await giving.begin_outgoing(source, number, target, ranges)

    async def copy_and_seal(self, source: int, target: int, number: int) -> int:
        """Copy all rows, then seal; return the version that nodes were told."""
        async with await self.leader(source) as giving, await self.leader(target) as taking:
            page = await giving.read_moving(source, number, MigrationCursor(), max_bytes=1 << 20)
            await taking.store_moved(target, number, 1, page.cleared, page.rows, page.cursor, MigrationCursor())
            version = (await giving.shard_map()).version + 1
            await giving.seal_microshards(source, number, version)
            return version

    async def finish(self, source: int, target: int, number: int, version: int) -> None:
        async with await self.leader(source) as giving, await self.leader(target) as taking:
            incoming = next(one.incoming for one in (await taking.status()).replicas if one.shard == target)
            assert incoming is not None
            cursor, page_number = incoming.cursor, incoming.number
            while not cursor.complete:
                page = await giving.read_moving(source, number, cursor, max_bytes=1 << 20)
                await taking.store_moved(target, number, page_number, page.cleared, page.rows, page.cursor, cursor)
                cursor, page_number = page.cursor, page_number + 1
            await taking.adopt_microshards(target, number, version)
            await giving.forget_moved(source, number)

    async def split(self, shard: int, child: int) -> None:
        async with await self.leader(shard) as leader:
            known = Routes(await leader.shard_map())
            parent = known.shards[shard]
            taken = (MicroshardRange(parent.ranges[0].end - 1, parent.ranges[0].end),)
            made = Shard(child, parent.keyspace, taken, parent.voters)
            await leader.split_shard(shard, made, known.map.version + 1)


async def until_found(cluster: OperatedCluster, code: str, shard: int) -> None:
    """Wait until the doctor has this finding of the shard, whose advice names the command."""

    async def found() -> bool:
        _, text = await doctor(cluster)
        findings = json.loads(text)["findings"]
        return any(
            (finding["code"], finding["shard"]) == (code, shard) and f"`shoal settle {shard}`" in finding["advice"]
            for finding in findings
        )

    await cluster.wait_for(found)


async def doctor(cluster: OperatedCluster) -> tuple[int, str]:
    """Return the doctor's exit code and report."""
    return await cluster.run_printing("doctor", "--json")


async def until_well(cluster: OperatedCluster) -> None:
    async def well() -> bool:
        return (await doctor(cluster))[0] == 0

    await cluster.wait_for(well)


async def every_row_is_there(cluster: OperatedCluster) -> None:
    async with shoal.AsyncClient(cluster.url, timeout=20.0) as db:
        values = await db.get_many(list(ROWS))
        assert dict(zip(ROWS, values, strict=True)) == ROWS
        await db.put_many(ROWS)


async def all_others_are_served(cluster: OperatedCluster, lacking: MicroshardRange) -> None:
    """Also in a client that asks for everything at once."""
    async with (
        shoal.AsyncClient(cluster.url, timeout=2.0) as db,
        await AdminConnection.open(f"127.0.0.1:{cluster.ports[0]}") as node,
    ):
        keyspace = (await node.shard_map()).keyspaces[0]
        served = {key for key in ROWS if keyspace.microshard_of(key) not in microshards_in((lacking,))}
        assert 0 < len(served) < len(ROWS)
        for ask in (
            db.get,
            partial(db.get, consistency="eventual"),
            lambda key: db.put(key, ROWS[key]),
            lambda key: db.put(key, ROWS[key], durability="fast"),
        ):
            results = await asyncio.gather(*map(ask, ROWS), return_exceptions=True)
            done = {key for key, result in zip(ROWS, results, strict=True) if not isinstance(result, BaseException)}
            assert done == served


@pytest.mark.timeout(300)
async def test_a_migration_that_no_operation_drives_is_undone_or_finished(managed_cluster: Callable[..., Any]) -> None:
    async with managed_cluster(nodes=3, managers=1) as cluster:
        await until_well(cluster)  # the managers have learned the cluster: what is done now is past them
        hand = ByHand(cluster)
        span = (await hand.shard(1)).ranges[0]
        first, second = MicroshardRange(span.first, span.first + 1), MicroshardRange(span.first + 1, span.first + 2)

        await hand.begin(1, 2, MIGRATION, (first,))
        await until_found(cluster, "migration_without_operation", 1)
        code, said = await cluster.shoal("settle", "1", "--plan")
        assert (code, f"shard 1 gives migration {MIGRATION} up" in said) == (0, True)
        undone = await cluster.done("settle", "2")
        assert "all is as it was before" in undone["reason"]
        assert (await hand.shard(1)).ranges == (span,)
        await until_well(cluster)
        await every_row_is_there(cluster)

        await hand.begin(1, 2, MIGRATION + 1, (first,))
        await hand.copy_and_seal(1, 2, MIGRATION + 1)
        await until_found(cluster, "migration_without_operation", 2)
        await cluster.done("settle", "1")
        await until_well(cluster)
        await every_row_is_there(cluster)

        await hand.begin(1, 2, MIGRATION + 2, (second,))
        version = await hand.copy_and_seal(1, 2, MIGRATION + 2)
        await hand.finish(1, 2, MIGRATION + 2, version)
        await until_found(cluster, "microshards_unserved", 1)
        await all_others_are_served(cluster, second)
        await cluster.done("settle", "1")
        await until_well(cluster)
        await every_row_is_there(cluster)
        assert (await cluster.shards())[1]["microshards"] == f"{span.first + 2}-{span.end - 1}"
        assert (await cluster.shoal("settle", "1"))[0] == 3, "there is nothing left to settle"


@pytest.mark.timeout(300)
async def test_microshards_that_went_through_a_shard_past_the_managers_are_neither_dropped_with_it_nor_lost_sight_of(
    managed_cluster: Callable[..., Any],
) -> None:
    async with managed_cluster(nodes=3, managers=1) as cluster:
        await until_well(cluster)
        hand = ByHand(cluster)
        span = (await hand.shard(1)).ranges[0]
        moved = (MicroshardRange(span.first, span.first + 1),)

        async def move(source: int, target: int, number: int) -> None:
            await hand.begin(source, target, number, moved)
            await hand.finish(source, target, number, await hand.copy_and_seal(source, target, number))

        await move(1, 2, MIGRATION)
        await until_found(cluster, "microshards_unserved", 1)
        assert (await cluster.shoal("status"))[0] == 5, "status and doctor agree"
        code, said = await cluster.shoal("merge", "3", "2")
        assert (code, "shard 2 has microshards" in said, "`shoal settle 2` comes first" in said) == (1, True, True)

        await move(2, 3, MIGRATION + 1)
        assert (await cluster.shoal("split", "1", "--plan"))[0] == 1
        await cluster.done("settle", "1")
        await until_well(cluster)
        assert await cluster.all_well()
        await every_row_is_there(cluster)
        await cluster.shoal("settings", "--set", "merge_linger=100ms")
        await cluster.done("merge", "3", "2")
        await every_row_is_there(cluster)


async def test_a_shard_that_was_split_off_without_the_managers_comes_into_their_map(
    managed_cluster: Callable[..., Any],
) -> None:
    async with managed_cluster(nodes=3, managers=1) as cluster:
        await until_well(cluster)  # the managers have learned the cluster: what is done now is past them
        await ByHand(cluster).split(3, 50)
        await until_found(cluster, "microshards_unserved", 3)
        await cluster.done("settle", "3")
        assert sorted(await cluster.shards()) == [1, 2, 3, 4, 50]
        await until_well(cluster)
        await every_row_is_there(cluster)
        await cluster.done("split", "3")
        assert sorted(await cluster.shards()) == [1, 2, 3, 4, 50, 51], "no number is given twice"


async def test_a_member_that_is_no_node_stays_out_of_the_map_and_is_taken_out_of_its_group(
    managed_cluster: Callable[..., Any],
) -> None:
    async with managed_cluster(nodes=3, managers=1) as cluster:
        await until_well(cluster)
        hand = ByHand(cluster)
        before = (await hand.shard(1)).membership_version

        async with await hand.leader(1) as leader:
            with pytest.raises(InvalidArgument, match="has no node 'n9'"):
                await leader.change_membership(1, ChangeKind.ADD_LEARNER, "n9")
            known = await leader.shard_map()
            nodes = (*known.nodes, NodeAddress("n9", "127.0.0.1:1"))
            await leader.install_shard_map(replace(known, version=known.version + 1, nodes=nodes))
            await leader.change_membership(1, ChangeKind.ADD_LEARNER, "n9")

        async def undone() -> bool:
            """Added and removed again: the map follows only what any node takes."""
            return (await hand.shard(1)).membership_version >= before + 2

        await cluster.wait_for(undone)
        assert "n9" not in (await hand.shard(1)).replicas
        await until_well(cluster)
        for command in (("why", "1"), ("rebalance", "--plan"), ("drain", "n3", "--plan")):
            assert "unknown node" not in (await cluster.shoal(*command))[1], command
        await cluster.done("split", "1")
