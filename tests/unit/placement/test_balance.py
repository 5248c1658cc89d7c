"""Evenness: replicas, leaders, loads of several metrics, each keyspace on its own, and rest where there is nothing to gain."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from shoal_shardmanager.placement import (
    Budget,
    Keyspace,
    Load,
    Mode,
    MoveReplica,
    NewShard,
    Node,
    NodeState,
    Settings,
    Shard,
    State,
    TransferLeader,
    initial,
    plan,
    why,
)

from .simulator import Simulator, cluster, keyspaces

SETTINGS = Settings()


def settled(state: State, settings: Settings = SETTINGS, seed: int = 0) -> Simulator:
    """Plan and carry out until nothing is left to do."""
    simulator = Simulator(state, settings)
    for turn in range(8):
        answer = plan(simulator.now(), settings, Mode.PERIODIC, seed=seed + turn)
        if not answer.steps:
            return simulator
        simulator.run(answer)
    raise AssertionError("no rest after 8 plans")


def width(counts: dict[str, int]) -> int:
    return max(counts.values()) - min(counts.values())


def piled(nodes: int, shards: int, kinds: int = 1, load: Load | None = None) -> State:
    """Return shards that are all on the first three nodes, led by the first."""
    members = ("n0", "n1", "n2")
    return State(
        cluster(nodes),
        keyspaces(kinds),
        tuple(Shard(s + 1, 1 + s % kinds, members, (), "n0", load or Load()) for s in range(shards)),
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("nodes", "shards"), [(3, 10), (6, 17), (12, 64), (30, 100)])
def test_replicas_and_leaders_end_even_within_one(nodes: int, shards: int, seed: int) -> None:
    simulator = settled(piled(nodes, shards), seed=seed)
    assert width(simulator.counts()) <= 1
    assert width(simulator.leaders()) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_every_keyspace_ends_even_on_its_own(seed: int) -> None:
    simulator = settled(piled(12, 200, kinds=7), seed=seed)
    assert width(simulator.counts()) <= 1
    for keyspace in range(1, 8):
        assert width(simulator.counts(keyspace)) <= 1
        assert width(simulator.leaders(keyspace)) <= 1


def test_keyspaces_uneven_in_opposite_ways_do_not_hide_each_other() -> None:
    """Together every node has as many; each keyspace has all of its own on half of the nodes."""
    nodes = cluster(6)
    first, second = ("n0", "n1", "n2"), ("n3", "n4", "n5")
    shards = tuple(
        Shard(s + 1, 1 + s % 2, (first, second)[s % 2], (), (first, second)[s % 2][s % 3]) for s in range(24)
    )
    simulator = settled(State(nodes, keyspaces(2), shards))
    assert {keyspace: width(simulator.counts(keyspace)) for keyspace in (1, 2)} == {1: 0, 2: 0}


def test_leaders_become_even_by_a_chain_where_no_single_transfer_helps() -> None:
    """n0 leads 3, n1 leads 2, n2 leads 1; no shard is on both n0 and n2, so n1 passes one on."""
    nodes = tuple(Node(f"n{n}", "r", f"z{n}") for n in range(3))
    full = tuple(replace(node, replicas_max=4 if node.id != "n1" else 6) for node in nodes)
    shards = [Shard(n, 1, ("n0", "n1"), (), "n0") for n in (1, 2, 3)]
    shards += [
        Shard(4, 1, ("n1", "n2"), (), "n1"),
        Shard(5, 1, ("n1", "n2"), (), "n1"),
        Shard(6, 1, ("n1", "n2"), (), "n2"),
    ]
    answer = plan(State(full, (Keyspace(1, 2),), tuple(shards)), SETTINGS, Mode.PERIODIC)
    simulator = Simulator(State(full, (Keyspace(1, 2),), tuple(shards)), SETTINGS)
    simulator.run(answer)
    assert set(simulator.leaders().values()) == {2}


def test_an_even_placement_is_left_alone() -> None:
    simulator = settled(piled(12, 96))
    again = plan(simulator.now(), SETTINGS, Mode.PERIODIC, seed=99)
    assert again.steps == ()
    assert again.before == again.after


def test_noise_of_load_within_the_tolerance_moves_nothing() -> None:
    simulator = settled(piled(12, 96, load=Load(1000, 100, 10, 0.5)))
    rng = Random(7)
    noisy = tuple(
        replace(shard, load=Load(1000, 100 * rng.uniform(0.96, 1.04), 10 * rng.uniform(0.96, 1.04), 0.5))
        for shard in simulator.now().shards
    )
    assert plan(replace(simulator.now(), shards=noisy), SETTINGS, Mode.PERIODIC).steps == ()


def test_a_hot_shard_does_not_move_back_and_forth() -> None:
    """Wherever a shard hotter than all others together goes, that node is the hottest: it stays."""
    simulator = settled(piled(6, 30, load=Load(100, 10, 1, 0.1)))
    shards = list(simulator.now().shards)
    shards[0] = replace(shards[0], load=Load(100, 10_000, 1000, 50))
    state = replace(simulator.now(), shards=tuple(shards))
    hot, where = shards[0].id, []
    for turn in range(6):
        answer = plan(state, SETTINGS, Mode.PERIODIC, seed=turn)
        where += [step for step in answer.steps if step.shard == hot]
        state = Simulator(state, SETTINGS).run(answer)
    assert len(where) <= 1
    assert answer.steps == ()


def test_a_node_whose_shards_are_all_hot_still_sheds_them() -> None:
    """tikv 14214: every shard of the node was hot, so each looked unfit to move."""
    nodes = cluster(6, capacity=Load(1 << 40, 1000.0, 1000.0, 8.0))
    hot = tuple(Shard(s + 1, 1, ("n0", "n1", "n2"), (), "n0", Load(100, 500, 100, 2)) for s in range(8))
    cold = tuple(Shard(s + 9, 1, ("n3", "n4", "n5"), (), "n3", Load(100, 0, 0, 0)) for s in range(8))
    simulator = settled(State(nodes, keyspaces(1), hot + cold))
    reads = simulator.loads("reads")
    assert max(reads.values()) <= 1.6 * sum(reads.values()) / 6


def test_tiny_hot_shards_are_not_hidden_by_bytes() -> None:
    """foundationdb 1450: bytes were even, all the reads on a few nodes."""
    settings = Settings()
    large = [Shard(s + 1, 1, ("n0", "n1", "n2"), (), f"n{s % 3}", Load(10**9, 1, 1, 0)) for s in range(12)]
    large += [Shard(s + 13, 1, ("n3", "n4", "n5"), (), f"n{3 + s % 3}", Load(10**9, 1, 1, 0)) for s in range(12)]
    tiny = [Shard(s + 25, 1, ("n0", "n1", "n2"), (), f"n{s % 3}", Load(100, 5000, 500, 0)) for s in range(12)]
    tiny += [Shard(s + 37, 1, ("n3", "n4", "n5"), (), f"n{3 + s % 3}", Load(100, 0, 0, 0)) for s in range(12)]
    state = State(cluster(6), keyspaces(1), tuple(large + tiny))
    before = Simulator(state, settings)
    assert width(before.counts()) == 0
    after = settled(state, settings)
    for metric in ("reads", "writes"):
        loads = after.loads(metric)
        assert max(loads.values()) <= 1.3 * sum(loads.values()) / 6, metric
    stored = after.loads("bytes")
    assert max(stored.values()) <= 1.2 * sum(stored.values()) / 6


def test_nodes_of_twice_the_weight_hold_twice_as_much() -> None:
    nodes = tuple(replace(node, weight=2.0 if node.id in ("n0", "n1", "n2") else 1.0) for node in cluster(6))
    state = replace(piled(6, 60), nodes=nodes)
    counts = settled(state).counts()
    assert [counts[f"n{n}"] for n in range(6)] == [40, 40, 40, 20, 20, 20]


@pytest.mark.parametrize("seed", range(3))
def test_an_added_node_gets_its_share_with_few_moves(seed: int) -> None:
    simulator = settled(piled(12, 200, kinds=3, load=Load(100, 10, 1, 0.1)), seed=seed)
    grown = replace(simulator.now(), nodes=cluster(15))
    answer = plan(grown, SETTINGS, Mode.PERIODIC, seed=seed)
    necessary = 3 * (600 // 15)
    after = Simulator(grown, SETTINGS)
    after.run(answer)
    assert width(after.counts()) <= 1
    assert answer.moves <= 1.1 * necessary


def test_leaders_go_to_the_preferred_region_and_voters_spread_over_regions() -> None:
    nodes = tuple(Node(f"{region}{n}", region, f"z{n}") for region in ("eu", "us", "ap") for n in range(3))
    keyspace = Keyspace(1, 3, 1, {"eu": 2}, ("us",), ("ap",))
    shards = tuple(Shard(s + 1, 1, ("eu0", "eu1", "eu2"), ("us0",), "eu0") for s in range(12))
    simulator = settled(State(nodes, (keyspace,), shards))
    regions = {node.id: node.region for node in nodes}
    for shard in simulator.now().shards:
        assert regions[shard.leader] == "us"
        assert regions[shard.followers[0]] == "ap"
        assert sum(regions[node] == "eu" for node in shard.replicas) >= 2
    leaders = simulator.leaders()
    assert [leaders[f"us{n}"] for n in range(3)] == [4, 4, 4]


def test_a_new_keyspace_is_spread_like_the_old_ones() -> None:
    simulator = settled(piled(9, 30))
    state = replace(simulator.now(), keyspaces=(*simulator.now().keyspaces, Keyspace(2)))
    placed = initial(state, SETTINGS, [NewShard(100 + n, 2) for n in range(30)])
    assert placed.refusals == ()
    after = Simulator(replace(state, shards=state.shards + placed.shards), SETTINGS)
    assert width(after.counts(2)) <= 1
    assert width(after.leaders(2)) <= 1
    assert width(after.counts()) <= 1
    assert plan(after.now(), SETTINGS, Mode.PERIODIC).moves == 0


def test_a_budget_of_effort_or_time_ends_a_plan_early_with_a_valid_plan() -> None:
    state = piled(30, 3000)
    answer = plan(state, SETTINGS, Mode.PERIODIC, Budget(effort=5000))
    assert answer.stopped == "the effort budget is used up"
    Simulator(state, SETTINGS).run(replace(answer, steps=answer.steps[:50]))
    asked = iter([False, False, True])
    timed = plan(state, SETTINGS, Mode.PERIODIC, Budget(expired=lambda: next(asked, True)))
    assert timed.stopped == "the time budget is used up"
    assert 0 < timed.moves < plan(state, SETTINGS, Mode.PERIODIC).moves


def test_why_names_alternatives_what_they_gain_and_what_forbids_the_others() -> None:
    nodes = (*cluster(6), Node("n6", "r", "z0", NodeState.DRAINING))
    simulator = settled(replace(piled(6, 12), nodes=nodes))
    text = "\n".join(why(simulator.now(), SETTINGS, 1).lines)
    assert "3 of 3 voters" in text
    assert "2 already hold a replica of it" in text
    assert "1 are draining" in text
    assert "two replicas into one failure domain" in text
    assert "no move would even the cluster out enough to be worth the copying" in text
    assert "leader on n" in text


def test_reasons_name_what_was_uneven() -> None:
    answer = plan(piled(6, 12), SETTINGS, Mode.PERIODIC)
    assert any("replicas" in step.reason for step in answer.steps if isinstance(step, MoveReplica))
    assert all(step.reason for step in answer.steps)
    assert all("lead" in step.reason for step in answer.steps if isinstance(step, TransferLeader))
