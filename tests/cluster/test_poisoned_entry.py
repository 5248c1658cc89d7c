"""An entry that no replica can apply, in the logs of three real nodes, and the runbook's way past it."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import shoal
from shoal.admin.survey import fetch_shard_map, survey
from shoal.protocol.failures import ReplicaFailure
from shoal.shardmap import Routes
from shoal_chaos.checkers.divergence import find_violations
from shoal_server.raft.messages import EntryKind, sealed
from shoal_server.shard.commands import COMMANDS_VERSION, Commands, encode_commands
from shoal_server.storage.folder import DATABASE_FOLDER
from shoal_server.storage.log_store import GroupLogStore
from shoal_server.storage.rocks import RocksEngine

MIB = 1 << 20
KEYS = 300
OF_A_NEWER_SHOAL = encode_commands(Commands(COMMANDS_VERSION + 1, 0, 0, []))


def append(folder: Path, shard: int, index: int, term: int) -> None:
    """Put an entry behind the last one of a log whose node is down: whole, and of no format that this version reads."""
    engine = RocksEngine(folder / DATABASE_FOLDER, block_cache_bytes=MIB, write_buffer_bytes=MIB)
    store = GroupLogStore(engine, shard)
    assert store.load_last_index() == index - 1
    batch = engine.batch()
    store.append(batch, [sealed(shard, term, index, EntryKind.COMMAND, OF_A_NEWER_SHOAL)])
    engine.write(batch)
    engine.close()


def end_of(folder: Path, shard: int) -> tuple[int, int]:
    """Return index and term of the last entry of a log whose node is down."""
    engine = RocksEngine(folder / DATABASE_FOLDER, block_cache_bytes=MIB, write_buffer_bytes=MIB)
    store = GroupLogStore(engine, shard)
    last = store.load_last_index()
    term = store.term(last)
    engine.close()
    return last, term


async def failures(seeds: list[str], shard: int) -> list[ReplicaFailure | None]:
    """Return what each of the three nodes says of its replica."""
    found = await survey(seeds)
    replicas = [found.replica(shard, node) for node in ("n1", "n2", "n3")]
    return [None if replica is None else replica.failure for replica in replicas]


async def command(cluster: Any, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shoal.cli", *arguments, "--url", cluster.url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=cluster.root,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, output.decode()


@pytest.mark.timeout(240)
async def test_the_runbook_leads_past_an_entry_that_no_replica_can_apply_and_nothing_else_is_lost(
    real_cluster: Any,
) -> None:
    async with real_cluster("storage: {compare_replicas: false}\n") as cluster:
        seeds = cluster.addresses
        before = {f"key-{number}": f"{number}".encode() for number in range(KEYS)}
        async with shoal.AsyncClient(cluster.url) as db:
            await db.put_many(before)
        routes = Routes(await fetch_shard_map(seeds))
        (keyspace,) = routes.map.keyspaces
        shard = routes.shard_of(keyspace, b"key-0")
        others = [key for key in before if routes.shard_of(keyspace, key.encode()) != shard]
        # At rest all logs are alike; nodes that were stopped one after the other would hand leaderships over.
        await asyncio.sleep(1)
        for name in cluster.names:
            cluster.pause(name)
        for name in cluster.names:
            await cluster.kill(name)
        ends = {name: end_of(cluster.root / name, shard) for name in cluster.names}
        [(last, term)] = set(ends.values())
        poisoned = last + 1
        for name in cluster.names:
            append(cluster.root / name, shard, poisoned, term)
        cluster.start_all()

        async with shoal.AsyncClient(cluster.url, timeout=20) as db:
            assert await db.get(others[0]) == before[others[0]]
            async with asyncio.timeout(60):
                while not all(each is not None and each.is_at(poisoned) for each in await failures(seeds, shard)):
                    await asyncio.sleep(0.2)
            await db.put(others[0], "still served")
            with pytest.raises(shoal.ShoalError):
                await db.get("key-0", timeout=1.0)

        # -- docs/operating.md: An entry that no replica can apply
        code, plan = await command(cluster, "skip-entry", str(shard), str(poisoned), "--plan")
        assert code == 0, plan
        assert plan.count("stuck") >= 3, plan
        [checksum] = set(re.findall(r"\b[0-9a-f]{8}\b", plan))
        code, said = await command(
            cluster, "skip-entry", str(shard), str(poisoned), "--term", str(term), "--checksum", "00000001"
        )
        assert code != 0, said
        code, said = await command(
            cluster, "skip-entry", str(shard), str(poisoned), "--term", str(term), "--checksum", checksum
        )
        assert code == 0, said
        assert said.count("skipped") >= 3, said

        async with shoal.AsyncClient(cluster.url, timeout=20) as db:
            found = await db.get_many(list(before))
            assert dict(zip(before, found, strict=True)) == before | {others[0]: b"still served"}
            await db.put("key-0", "after")
            # A node that starts again comes to the entry once more, and passes it by what it noted.
            await cluster.kill("n2")
            cluster.start("n2")
            await cluster.ready()
            assert await db.get("key-0") == b"after"
        assert await find_violations(seeds) == []
