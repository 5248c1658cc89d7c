"""Random faults on several groups at once: nothing unsafe ever happens, and afterwards everything recovers."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from shoal_server.raft.config import RaftConfig
from shoal_server.raft.membership import ChangeKind

MS = 1_000_000
FAULTS = ("loss", "duplicates", "slow", "crash", "cut", "one-way cut", "pause", "membership", "transfer", "compact")


def disturb(cluster: Any, random: Random, faults: set[str]) -> None:
    """Do one random thing among those that this seed allows."""
    node = cluster.nodes[random.choice(cluster.names)]
    other = random.choice([name for name in cluster.names if name != node.name])
    number = random.randrange(cluster.group_count)
    action = random.choice(FAULTS)
    if action not in faults:
        return
    if action == "crash":
        if node.alive:
            node.crash()
        else:
            node.start()
    elif action == "cut":
        if cluster.cut:
            cluster.cut.clear()
        elif random.random() < 0.5:
            cluster.isolate(node.name)
        else:
            cluster.part(node.name, other)
    elif action == "one-way cut":
        cluster.part(node.name, other, both=False)
    elif action == "pause" and node.alive:
        if node.paused is None:
            node.paused = []
        else:
            node.resume()
    elif node.alive and node.paused is None:
        leader = cluster.leader(number)
        if action == "compact":
            node.compact(number)
        elif leader is not None and leader.paused is None and action == "membership":
            leader.change_membership(number, random.choice(list(ChangeKind)), random.choice(cluster.names))
        elif leader is not None and leader.paused is None and action == "transfer":
            leader.transfer(number, other)


def live_through(make_cluster: Any, seed: int, nodes: int, voters: int) -> Any:
    random = Random(f"faults/{seed}")
    faults = {fault for fault in FAULTS if random.random() < 0.6}
    config = RaftConfig(
        max_append_bytes=random.choice([40, 1 << 20]),
        max_inflight_messages=random.choice([1, 4, 64]),
        cache_bytes=random.choice([0, 1 << 20]),
        max_apply_bytes=random.choice([30, 1 << 20]),
    )
    cluster = make_cluster(seed, nodes, voters=voters, groups=2, config=config, drift=True)
    cluster.faults.loss = 0.1 if "loss" in faults else 0.0
    cluster.faults.duplicates = 0.1 if "duplicates" in faults else 0.0
    cluster.faults.slow = 0.05 if "slow" in faults else 0.0
    cluster.faults.sync_max = random.choice([2, 50]) * MS
    for _ in range(120):
        for node in cluster.nodes.values():
            if node.alive and node.paused is None:
                number = random.randrange(cluster.group_count)
                node.propose(number)
                if random.random() < 0.3:
                    node.read(number)
        disturb(cluster, random, faults)
        cluster.run(random.choice([5, 30, 100, 300]) * MS)
    cluster.faults.loss = cluster.faults.duplicates = cluster.faults.slow = 0.0
    cluster.heal()
    cluster.converge()
    return cluster


@pytest.mark.parametrize("seed", range(12))
def test_three_nodes_stay_safe_and_recover(make_cluster: Any, seed: int) -> None:
    live_through(make_cluster, seed, nodes=3, voters=3)


@pytest.mark.parametrize("seed", range(100, 108))
def test_five_nodes_with_changing_voters_stay_safe_and_recover(make_cluster: Any, seed: int) -> None:
    live_through(make_cluster, seed, nodes=5, voters=3)


@pytest.mark.parametrize("seed", range(200, 206))
def test_a_group_that_begins_with_one_voter_stays_safe_and_recovers(make_cluster: Any, seed: int) -> None:
    live_through(make_cluster, seed, nodes=4, voters=1)


def test_equal_seeds_give_equal_runs(make_cluster: Any) -> None:
    runs = [live_through(make_cluster, 7, nodes=3, voters=3).history.committed for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0]
