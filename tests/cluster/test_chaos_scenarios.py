"""A short, fixed selection of scenarios, on real clusters: hypotheses hold, and faults beyond what can be borne are found."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from shoal import AsyncClient
from shoal_chaos.clusters.faulty_cluster import ClusterShape, FaultyCluster
from shoal_chaos.clusters.namespaces import NamespacesMissing
from shoal_chaos.clusters.networks import Medium
from shoal_chaos.clusters.system_faults import LibraryMissing, library
from shoal_chaos.nemeses.partitions import Partition, isolated_from_all
from shoal_chaos.report.page import page
from shoal_chaos.report.records import RunOutcome, RunRecord, kept
from shoal_chaos.scenarios.library import BY_NAME
from shoal_chaos.scenarios.run import run_here

ONE_FAULT_SECONDS = 1.0
SEED = 1
PATIENCE_SECONDS = 60.0
ROWS = 200


async def run(name: str, folder: Path) -> RunRecord:
    record = await run_here(BY_NAME[name], SEED, ONE_FAULT_SECONDS, folder, print)
    assert record.faults, "something must have been broken"
    assert all(phase.answered for phase in record.phases)
    assert datetime.fromisoformat(record.began) + timedelta(seconds=record.seconds) < datetime.now(UTC)
    return record


def broken_promises(record: RunRecord) -> list[str]:
    return [f"{one.checker}: {one.found}" for one in record.verdicts if one.safety and not one.passed]


@pytest.mark.timeout(120)
async def test_when_a_leader_is_cut_off_every_promise_is_kept_and_every_shard_comes_back(tmp_path: Path) -> None:
    record = await run("isolated-leader", tmp_path)
    assert broken_promises(record) == []
    assert record.outcome is RunOutcome.HELD, record.reason
    assert all(fault.ready is not None for fault in record.faults)


@pytest.mark.timeout(120)
async def test_when_all_disks_lie_and_all_power_is_lost_the_checkers_find_what_is_gone(tmp_path: Path) -> None:
    try:
        library()
    except LibraryMissing as missing:
        pytest.skip(str(missing))
    record = await run("lying-fsync-everywhere", tmp_path)
    assert record.outcome is RunOutcome.HELD, record.reason
    assert any(promise.startswith("acknowledged writes") for promise in broken_promises(record))


@pytest.mark.timeout(120)
async def test_when_all_packets_of_a_leader_vanish_the_others_serve_every_shard(tmp_path: Path) -> None:
    try:
        cluster = FaultyCluster(tmp_path, ClusterShape(), Random(SEED), system_faults=False, medium=Medium.PACKETS)
    except NamespacesMissing as missing:
        pytest.skip(str(missing))
    cut = Partition(isolated_from_all)
    try:
        await cluster.start()
        await cut.start(cluster, Random(SEED))
        async with AsyncClient(cluster.url, timeout=PATIENCE_SECONDS) as db:
            await db.put_many({f"key-{number}": "value" for number in range(ROWS)})
        await cut.heal(cluster)
        await cluster.ready()
    finally:
        await cluster.stop()
    assert cluster.failures == []


@pytest.mark.parametrize("name", ["packet-filter", "packet-loss", "packet-disorder"])
async def test_where_there_are_no_packet_filters_a_scenario_is_skipped_and_says_why(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    record = await run_here(BY_NAME[name], SEED, ONE_FAULT_SECONDS, tmp_path, print)
    assert record.outcome is RunOutcome.SKIPPED
    assert "need" in record.reason
    assert not record.faults


@pytest.mark.timeout(120)
async def test_a_cluster_that_is_there_is_put_under_load_and_the_run_is_kept(real_cluster: Any, tmp_path: Path) -> None:
    async with real_cluster() as cluster:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "shoal.cli", "chaos", "run", "load-spike", "--url", cluster.url, "--seed", str(SEED),
            "--duration", "1s", "--runs", str(tmp_path / "runs"), "--json", stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
    (printed,) = msgspec.json.decode(out, type=list[RunRecord])
    assert kept(tmp_path / "runs").records == [printed]
    assert broken_promises(printed) == []
    assert "callers more" in printed.faults[0].words
    assert "load-spike" in page([printed])
