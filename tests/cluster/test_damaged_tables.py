"""A table file is damaged under a node that runs: its replicas are rebuilt, and its tables are written anew."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import shoal
from prometheus_client.parser import text_string_to_metric_families
from shoal.admin.survey import survey
from shoal_chaos.checkers.divergence import find_violations
from shoal_server.local.layout import free_ports, generated_config
from shoal_server.storage.folder import DATABASE_FOLDER
from shoal_server.storage.mending import MARKER
from shoal_server.storage.rocks import RocksEngine

KEYS = 20_000
DAMAGED_BYTES = 128
MIB = 1 << 20
SMALL = "storage: {block_cache: 1MiB, write_buffer: 4MiB}\n"


def seeds(cluster: Any) -> list[str]:
    return cluster.addresses


def largest_of_data(database: Path) -> Path:
    """Return the largest table with rows of users, of a node that is down."""
    engine = RocksEngine(database, block_cache_bytes=MIB, write_buffer_bytes=MIB)
    files = engine._database.live_files()
    engine.close()
    # What a flush writes of the data begins with what replicas have applied, in place of a keyspace 0, and their shards'
    # numbers are small; in the log's tables, what stands in place of a group 0 goes on with a letter.
    data = [file for file in files if file["start_key"].startswith(bytes(5))]
    return database / max((file["size"], file["name"].lstrip("/")) for file in data)[1]


def damage(table: Path) -> None:
    assert table.stat().st_size > MIB
    with table.open("r+b") as file:
        file.seek(table.stat().st_size // 2)
        file.write(os.urandom(DAMAGED_BYTES))


async def metric(page: str, name: str, **labels: str) -> float:
    """Return what a metric is, all its series with these labels together."""

    def fetch() -> str:
        with urlopen(f"http://{page}/metrics", timeout=20) as answer:
            return str(answer.read().decode())

    families = text_string_to_metric_families(await asyncio.to_thread(fetch))
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def until_said(cluster: Any, event: str) -> None:
    """Wait until n2's log has an event."""
    async with asyncio.timeout(60):
        while f'"{event}"' not in cluster.log_of("n2"):
            await asyncio.sleep(0.2)


async def until_whole(cluster: Any, seconds: float) -> None:
    """Wait until every replica is there, and none has failed."""
    async with asyncio.timeout(seconds):
        while True:
            found = await survey(seeds(cluster))
            told = [report.status.replicas for report in found.nodes if report.status is not None]
            if len(told) == 3 and not any(replica.failure for replicas in told for replica in replicas):
                return
            await asyncio.sleep(0.2)


@pytest.mark.timeout(180)
async def test_a_node_with_a_damaged_table_is_whole_and_compacts_again_after_one_start(real_cluster: Any) -> None:
    (port,) = free_ports(1)
    page = f"127.0.0.1:{port}"

    def layout(ports: Sequence[int]) -> str:
        return generated_config(3, ports).replace("data: ./n2", f"data: ./n2, metrics: {page}")

    async with real_cluster(SMALL, layout=layout) as cluster, shoal.AsyncClient(cluster.url) as db:
        values = {f"key-{number}": os.urandom(150).hex() for number in range(KEYS)}
        await db.put_many(values)
        database = cluster.root / "n2" / DATABASE_FOLDER
        assert await cluster.stop("n2") == 0
        table = largest_of_data(database)
        cluster.start("n2")
        await cluster.ready()
        damage(table)
        # That the node has come back is reason enough to compare its rows with the others'.
        await until_said(cluster, "replica_failed")
        assert (database / MARKER).exists()
        assert await metric(page, "shoal_storage_damaged_families") == 1

        assert await cluster.stop("n2") == 0
        cluster.start("n2")
        await until_said(cluster, "tables_rewritten")
        await until_whole(cluster, 60)
        assert await metric(page, "shoal_storage_damaged_families") == 0
        assert not (database / MARKER).read_text()
        # More than once through the write buffer: it is flushed, and what is flushed is compacted.
        for _ in range(3):
            await db.put_many(values)
        found = await db.get_many(list(values))
        assert [(value or b"").decode() for value in found] == list(values.values())
        assert await find_violations(seeds(cluster)) == []
        assert await metric(page, "shoal_storage_level_files", family="data", level="6"), "it was compacted"
        assert not [line for line in cluster.log_of("n2").splitlines() if '"node_failed"' in line]
        failed = cluster.log_of("n2").rpartition('"node_started"')[2].count('"replica_failed"')
        assert failed == 0, "and never again"
