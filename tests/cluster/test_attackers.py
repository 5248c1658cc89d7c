"""Attackers do what they say to a real cluster, in processes of their own, and are gone in the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
from shoal_chaos.attackers.base import Ground
from shoal_chaos.attackers.catalogue import BY_NAME
from shoal_chaos.attackers.process import AttackerProcess
from shoal_chaos.clusters.faulty_cluster import FaultyCluster
from shoal_chaos.clusters.networks import Medium
from shoal_chaos.nemeses.neighbours import ExpensiveRequests
from shoal_chaos.scenarios.neighbours import ALL_PORTS

SEED = 1
SECONDS = 1.0
ONE_OF_EACH = (
    "scans-64",
    "never-reads",
    "narrow-link",
    "silent-connections",
    "giant-writes",
    "tiny-deadlines",
    "statuses",
)


@pytest.mark.timeout(400)
async def test_an_attack_of_each_family_does_something_and_leaves_no_process(
    real_cluster: Callable[..., Any],
) -> None:
    async with real_cluster() as cluster:
        for name in ONE_OF_EACH:
            ground = Ground(cluster.url, cluster.addresses, seed=SEED, seconds=SECONDS)
            async with AttackerProcess(BY_NAME[name], ground) as attacker:
                attacker.go()
                deeds = await attacker.deeds()
            assert deeds.requests or deeds.connections, name
            assert "ended" not in deeds.errors, (name, deeds.words)
    assert not [one for one in psutil.Process().children(recursive=True) if "shoal_chaos.attackers" in one.cmdline()]


@pytest.mark.timeout(120)
async def test_an_attack_ends_when_it_is_healed_and_says_what_came_of_it(tmp_path: Path) -> None:
    cluster = FaultyCluster(tmp_path, ALL_PORTS, Random(SEED), system_faults=False, medium=Medium.NOTHING)
    try:
        await cluster.start()
        nemesis = ExpensiveRequests("pings")
        await nemesis.prepare(cluster, Random(SEED))
        words = await nemesis.start(cluster, Random(SEED))
        began = time.monotonic()
        await nemesis.heal(cluster)
        assert time.monotonic() - began < 10
    finally:
        await cluster.stop()
    assert words.startswith("pings: ")
    assert "processor time" in nemesis.outcome
    assert cluster.remarks == []
