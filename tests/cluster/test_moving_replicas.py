"""Replicas come and go on real processes, under load, by the requests that the shard manager makes of nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import shoal
from shoal.admin.connection import AdminConnection, NotLeader
from shoal.errors import InvalidArgument
from shoal.protocol.messages import ReplicaStatus
from shoal.shardmap import MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.local.layout import free_ports
from shoal_server.raft.membership import ChangeKind

SHARD = 1
WAIT_SECONDS = 20.0


class Manager:
    """What a shard manager does, by hand."""

    def __init__(self, addresses: dict[str, str]) -> None:
        self.addresses = addresses

    async def map(self, node: str) -> ShardMap:
        async with await AdminConnection.open(self.addresses[node]) as connection:
            return await connection.shard_map()

    async def install(self, shard_map: ShardMap) -> None:
        for address in self.addresses.values():
            async with await AdminConnection.open(address) as connection:
                await connection.install_shard_map(shard_map)

    async def answers(self, node: str) -> None:
        """Wait until the node takes connections."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    await self.map(node)
                    return
                except shoal.Unavailable:
                    await asyncio.sleep(0.1)

    async def replica(self, node: str) -> ReplicaStatus | None:
        async with await AdminConnection.open(self.addresses[node]) as connection:
            return next((one for one in (await connection.status()).replicas if one.shard == SHARD), None)

    async def leader(self) -> tuple[str, ReplicaStatus]:
        """Wait until somebody leads: on a busy machine there may be nobody for a moment."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                for node in self.addresses:
                    found = await self.replica(node)
                    if found is not None and found.role == "leader":
                        return node, found
                await asyncio.sleep(0.05)

    async def until(self, what: Callable[[ReplicaStatus], bool]) -> ReplicaStatus:
        """Wait until the leader's status is so."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                _, status = await self.leader()
                if what(status):
                    return status
                await asyncio.sleep(0.05)

    async def change(self, kind: ChangeKind, node: str) -> None:
        leader, before = await self.leader()
        async with await AdminConnection.open(self.addresses[leader]) as connection:
            await connection.change_membership(SHARD, kind, node)
        await self.until(lambda now: now.membership_version > before.membership_version and now.membership_committed)


def with_shard(shard_map: ShardMap, *nodes: NodeAddress, **changes: object) -> ShardMap:
    """Return the next version of the map, with more nodes and SHARD changed."""
    shards = tuple(
        msgspec.structs.replace(shard, **changes) if shard.id == SHARD else shard for shard in shard_map.shards
    )
    return ShardMap(shard_map.version + 1, shard_map.cluster, shard_map.nodes + nodes, shard_map.keyspaces, shards)


def shard_of(shard_map: ShardMap) -> Shard:
    return next(shard for shard in shard_map.shards if shard.id == SHARD)


async def test_a_replica_moves_to_a_node_that_joined_while_writes_go_on(real_cluster: Any) -> None:
    newcomer = f"127.0.0.1:{free_ports(1)[0]}"
    async with real_cluster() as cluster:
        known = cluster.folder.config_file.read_text()
        joined = known.replace("nodes:\n", f"nodes:\n  - {{id: n4, zone: z4, address: '{newcomer}', data: ./n4}}\n", 1)
        assert joined != known
        cluster.folder.config_file.write_text(joined)
        cluster.start("n4", "--join")
        addresses = dict(zip(cluster.names, cluster.addresses, strict=True))
        manager = Manager({**addresses, "n4": newcomer})
        async with shoal.AsyncClient(cluster.url, timeout=10) as db:
            written: dict[str, str] = {}
            stopping = False

            async def write(writer: int) -> None:
                number = 0
                while not stopping:
                    key = f"{writer}-{number % 50}"
                    await db.put(key, str(number))
                    written[key] = str(number)
                    number += 1

            writers = [asyncio.create_task(write(number)) for number in range(8)]
            await asyncio.sleep(0.5)
            before = await manager.map("n1")
            old = shard_of(before)
            leader, _ = await manager.leader()
            leaving = next(node for node in old.voters if node != leader)
            staying = tuple(node for node in old.voters if node != leaving)
            address = NodeAddress("n4", newcomer, "", "z4")
            plan = with_shard(before, address, followers=("n4",))
            await manager.answers("n4")
            await manager.install(plan)
            await manager.change(ChangeKind.ADD_LEARNER, "n4")
            await manager.until(
                lambda now: any(peer.node == "n4" and peer.match_index >= now.commit_index for peer in now.peers)
            )
            await manager.change(ChangeKind.PROMOTE, "n4")
            await manager.change(ChangeKind.DEMOTE, leaving)
            await manager.change(ChangeKind.REMOVE, leaving)
            version = (await manager.leader())[1].membership_version
            done = with_shard(plan, followers=(), voters=(*staying, "n4"), membership_version=version)
            await manager.install(done)
            async with await AdminConnection.open(manager.addresses[leaving]) as connection:
                await connection.drop_replica(SHARD)
            assert await manager.replica(leaving) is None
            # The newcomer now counts: with one of the others gone it still makes a majority.
            leader, _ = await manager.leader()
            victim = next(node for node in staying if node != leader)
            await cluster.kill(victim)
            del manager.addresses[victim]
            await asyncio.sleep(1.0)
            stopping = True
            await asyncio.gather(*writers)
            assert len(written) == 400
            for key, value in written.items():
                assert await db.get(key) == value.encode()
            async with await AdminConnection.open(newcomer) as connection:
                with pytest.raises(InvalidArgument, match="has version"):
                    await connection.install_shard_map(before)
                with pytest.raises(InvalidArgument, match="change the map first"):
                    await connection.drop_replica(SHARD)
                with pytest.raises(NotLeader):
                    await connection.change_membership(99, ChangeKind.PROMOTE, "n1")
            # A restart finds the map and the replica where they were.
            assert await cluster.stop("n4") == 0
            cluster.start("n4", "--join")
            await manager.answers("n4")
            await manager.until(
                lambda now: any(peer.node == "n4" and peer.match_index >= now.commit_index for peer in now.peers)
            )
            assert (await manager.map("n4")).version == done.version


async def test_a_shard_splits_in_place_while_writes_and_reads_go_on_without_an_error(real_cluster: Any) -> None:
    async with real_cluster() as cluster:
        addresses = dict(zip(cluster.names, cluster.addresses, strict=True))
        manager = Manager(addresses)
        async with shoal.AsyncClient(cluster.url, timeout=10) as db:
            session = db.session()
            written: dict[str, int] = {}
            stopping = False

            async def count(number: int) -> None:
                while not stopping:
                    key = f"counter-{number}"
                    written[key] = await db.increment(key)
                    await session.put(f"session-{number}", str(written[key]))
                    assert await session.get(f"session-{number}") == str(written[key]).encode()
                    assert await db.get(key, consistency="eventual", max_staleness=5.0) is not None

            counters = [asyncio.create_task(count(number)) for number in range(40)]
            await asyncio.sleep(0.5)
            token = session.token()
            leader, _ = await manager.leader()
            before = await manager.map(leader)
            parent = shard_of(before)
            (span,) = parent.ranges
            middle = (span.first + span.end) // 2
            upper = (MicroshardRange(middle, span.end),)
            voters = (leader, *(voter for voter in parent.voters if voter != leader))
            child = Shard(99, parent.keyspace, upper, voters)
            async with await AdminConnection.open(addresses[leader]) as connection:
                for wrong, words in (
                    (msgspec.structs.replace(child, id=2), "a shard 2 already"),
                    (msgspec.structs.replace(child, ranges=parent.ranges), "none would stay"),
                    (msgspec.structs.replace(child, voters=voters[:2]), "those of the new shard are the same"),
                ):
                    with pytest.raises(InvalidArgument, match=words):
                        await connection.split_shard(SHARD, wrong, before.version + 1)
                await connection.split_shard(SHARD, child, before.version + 1)
            await asyncio.sleep(2.0)
            for node in addresses:
                derived = await manager.map(node)
                assert derived.version == before.version + 1
                assert shard_of(derived).ranges == (MicroshardRange(span.first, middle),)
                assert any(shard.id == 99 and shard.ranges == upper for shard in derived.shards)
            victim = next(node for node in addresses if node != leader)
            await cluster.kill(victim)
            await asyncio.sleep(1.5)
            cluster.start(victim)
            await manager.answers(victim)
            await asyncio.sleep(0.5)
            stopping = True
            await asyncio.gather(*counters)
            assert any(middle <= before.keyspaces[0].microshard_of(key.encode()) < span.end for key in written), (
                "some of the keys went to the new shard"
            )
            for key, total in written.items():
                assert await db.get(key) == str(total).encode()
            again = db.session(token)
            for number in range(40):
                assert await again.get(f"session-{number}") is not None
            assert len([key async for key in db.scan("counter-", keys_only=True)]) == 40
