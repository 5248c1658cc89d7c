"""Whatever the state: no step makes a hard constraint worse, caps hold, plans repeat, and planning comes to rest."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shoal_shardmanager.placement import (
    Budget,
    Caps,
    Keyspace,
    Load,
    Mode,
    NewShard,
    Node,
    NodeState,
    Settings,
    Shard,
    State,
    initial,
    plan,
    why,
)
from shoal_shardmanager.placement.board import Board
from shoal_shardmanager.placement.context import Context
from shoal_shardmanager.placement.planner import search

from .simulator import Simulator

REGIONS = ("eu", "us")
PLANS_MAX = 12  # within so many plans, nothing is left to do


@st.composite
def states(draw: st.DrawFn) -> State:
    """Any small state, mostly a bad one: off-duty nodes, missing and surplus replicas, crowded zones, little room."""
    rng = Random(draw(st.integers(0, 2**32)))
    tight = draw(st.booleans())
    zones = draw(st.sampled_from([("",), ("a", "b"), ("a", "b", "c")]))
    regions = draw(st.sampled_from([("eu",), REGIONS]))
    off_duty = draw(st.sampled_from([0.0, 0.15, 0.4]))
    nodes = tuple(
        Node(
            f"n{number}",
            rng.choice(regions),
            rng.choice(zones),
            rng.choice([NodeState.DRAINING, NodeState.GONE]) if rng.random() < off_duty else NodeState.ACTIVE,
            Load(rng.choice([0, 300, 1000]), rng.choice([0, 100]), 0, rng.choice([0, 4])) if tight else Load(),
            rng.choice([0, 4, 8]) if tight else 0,
            rng.choice([1.0, 1.0, 2.0]),
        )
        for number in range(draw(st.integers(1, 8)))
    )
    keyspaces = tuple(
        Keyspace(
            number,
            rng.choice([1, 3, 3, 5]),
            rng.choice([0, 0, 1, 2]),
            rng.choice([{}, {}, {"eu": 1}, {"us": 1}]),
            rng.choice([(), ("eu",), ("us", "eu")]),
            rng.choice([(), ("us",)]),
        )
        for number in range(1, draw(st.integers(1, 3)) + 1)
    )
    skewed = rng.random() < 0.5
    shards = []
    for number in range(draw(st.integers(0, 20))):
        keyspace = rng.choice(keyspaces)
        order = sorted(node.id for node in nodes)
        if not skewed:
            rng.shuffle(order)
        voters = min(len(order), max(1, keyspace.voters + rng.choice([0, 0, 0, 0, -1, 1])))
        followers = min(len(order) - voters, keyspace.followers)
        members = order[: voters + followers]
        busy = rng.random() < 0.1
        shards.append(
            Shard(
                number + 1,
                keyspace.id,
                tuple(members[:voters]),
                tuple(members[voters:]),
                rng.choice(["", *members[:voters], *members[:voters]]),
                Load(rng.choice([0, 10, 100]), rng.choice([0, 1, 50]), rng.choice([0, 1]), rng.choice([0, 0.5])),
                busy,
                tuple(order[len(members) : len(members) + 1]) if busy and rng.random() < 0.5 else (),
            )
        )
    return State(nodes, keyspaces, tuple(shards))


options = st.builds(
    Settings,
    caps=st.builds(Caps, per_node=st.integers(1, 2), per_shard=st.just(1), per_cluster=st.sampled_from([1, 3, 64])),
    tolerance=st.sampled_from([0.0, 0.05]),
)
thorough = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(states(), options, st.sampled_from(Mode), st.integers(0, 3))
def test_no_step_makes_a_hard_constraint_worse_and_caps_hold(
    state: State, options: Settings, mode: Mode, seed: int
) -> None:
    Simulator(state, options).run(plan(state, options, mode, seed=seed))


@thorough
@given(states(), options, st.integers(0, 9), st.sampled_from([None, 0, 1, 5]), st.sampled_from([None, 0, 150]))
def test_the_budget_of_moves_and_bytes_is_kept(
    state: State, options: Settings, seed: int, moves: int | None, size: int | None
) -> None:
    answer = plan(state, options, Mode.PERIODIC, Budget(moves=moves, bytes=size), seed)
    Simulator(state, options).run(answer)
    assert moves is None or answer.moves <= moves
    assert size is None or answer.bytes <= size


@thorough
@given(states(), options, st.sampled_from(Mode), st.integers(0, 9))
def test_equal_seeds_give_equal_plans(state: State, options: Settings, mode: Mode, seed: int) -> None:
    assert plan(state, options, mode, seed=seed) == plan(state, options, mode, seed=seed)


@thorough
@given(states(), options, st.integers(0, 9))
def test_planning_again_and_again_comes_to_rest(state: State, options: Settings, seed: int) -> None:
    seen = []
    for turn in range(PLANS_MAX):
        answer = plan(state, options, Mode.PERIODIC, seed=seed + turn)
        if not answer.steps:
            return
        state = Simulator(state, options).run(answer)
        assert state.shards not in seen, "it oscillates"
        seen.append(state.shards)
    raise AssertionError(f"still moving after {PLANS_MAX} plans: {answer.steps}")


@thorough
@given(states(), options, st.sampled_from([Mode.EMERGENCY, Mode.PERIODIC]))
def test_what_is_lost_and_not_replaced_is_refused_in_words(state: State, options: Settings, mode: Mode) -> None:
    answer = plan(state, options, mode)
    after = Simulator(state, options).run(answer)
    subjects = {refusal.subject for refusal in answer.refusals}
    gone = {node.id for node in state.nodes if node.state is NodeState.GONE}
    wanted = {keyspace.id: keyspace for keyspace in state.keyspaces}
    for shard in after.shards:
        short = len(shard.voters) < wanted[shard.keyspace].voters
        if gone.intersection(shard.replicas) or short:
            assert f"shard {shard.id}" in subjects
    if mode is Mode.PERIODIC:
        for node in state.nodes:
            if node.state is NodeState.DRAINING and any(node.id in shard.replicas for shard in after.shards):
                assert f"node {node.id}" in subjects
    assert all(refusal.reason and refusal.remedy for refusal in answer.refusals)


@thorough
@given(states(), options, st.integers(0, 9))
def test_the_sums_kept_by_the_search_are_those_of_the_replicas(state: State, options: Settings, seed: int) -> None:
    board = Board(state, options)
    search(Context(board, options, Budget(), seed), Mode.PERIODIC)
    board.check()


@thorough
@given(states(), options)
def test_every_shard_can_be_explained(state: State, options: Settings) -> None:
    for shard in state.shards:
        explanation = why(state, options, shard.id)
        assert len(explanation.placed) >= len(shard.replicas)
        assert all(line.strip() for line in explanation.lines)


@thorough
@given(states(), options, st.integers(0, 20), st.integers(0, 9))
def test_new_shards_keep_the_constraints_and_leave_the_others_alone(
    state: State, options: Settings, count: int, seed: int
) -> None:
    wanted = [NewShard(100 + number, state.keyspaces[number % len(state.keyspaces)].id) for number in range(count)]
    answer = initial(state, options, wanted, seed=seed)
    assert [shard.id for shard in answer.shards] == [new.id for new in wanted]
    nodes = {node.id: node for node in state.nodes}
    subjects = {refusal.subject for refusal in answer.refusals}
    before = Simulator(state, options).faults()
    after = Simulator(replace(state, shards=state.shards + answer.shards), options).faults()
    for shard in answer.shards:
        assert all(nodes[node].state is NodeState.ACTIVE for node in shard.replicas)
        assert len(set(shard.replicas)) == len(shard.replicas)
        assert not shard.voters or shard.leader in ("", shard.voters[0])
        if after["voters", shard.id] or after["followers", shard.id]:
            assert f"shard {shard.id}" in subjects
        assert not after["crowded", shard.id]
        assert not after["voters crowded", shard.id]
    for node in state.nodes:
        for kind in ("bytes", "seats", "off duty"):
            assert after.get((kind, node.id), 0) <= before.get((kind, node.id), 0)
