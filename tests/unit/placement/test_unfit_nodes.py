"""Nodes that should lead nothing, or be given nothing for now: what plans make of them, and what is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from shoal_shardmanager.placement import (
    Load,
    Mode,
    MoveReplica,
    NewShard,
    Node,
    NodeState,
    Plan,
    Refusal,
    Settings,
    State,
    TransferLeader,
    described,
    initial,
    plan,
    why,
)

from .simulator import Simulator, cluster, keyspaces

SETTINGS = Settings()
SLOW = "a sync of the disk takes 900 ms"


def spread(nodes: tuple[Node, ...], shards: int) -> State:
    state = State(nodes, keyspaces(1, 3), ())
    placed = initial(state, SETTINGS, [NewShard(n + 1, 1, Load(100, 10, 1, 0.1)) for n in range(shards)])
    assert placed.refusals == ()
    return replace(state, shards=placed.shards)


def with_node(known: State, name: str, **fields: str | NodeState) -> State:
    nodes = tuple(replace(node, **fields) if node.id == name else node for node in known.nodes)  # type: ignore[arg-type]
    return replace(known, nodes=nodes)


def led(state: State) -> dict[str, int]:
    return {node.id: sum(shard.leader == node.id for shard in state.shards) for node in state.nodes}


def carried_out(state: State, answer: Plan) -> State:
    simulator = Simulator(state, SETTINGS)
    simulator.run(answer)
    return simulator.now()


def test_no_plan_gives_leaderships_to_a_node_that_takes_none() -> None:
    state = with_node(spread(cluster(6), 60), "n1", not_leading=SLOW)
    without = replace(
        state,
        shards=tuple(
            replace(shard, leader=next(voter for voter in shard.voters if voter != "n1")) for shard in state.shards
        ),
    )
    answer = plan(without, SETTINGS, Mode.PERIODIC)
    assert all(step.target != "n1" for step in answer.steps if isinstance(step, TransferLeader))
    assert all(step.target != "n1" for step in answer.steps if isinstance(step, MoveReplica) and step.leads)
    after = led(carried_out(without, answer))
    assert after.pop("n1") == 0
    assert max(after.values()) - min(after.values()) <= 2, "the others share what it would lead"


def test_a_node_that_takes_no_leaderships_takes_replicas() -> None:
    state = spread(cluster(6), 60)
    more = replace(state, nodes=(*state.nodes, replace(cluster(7)[6], not_leading=SLOW)))
    after = carried_out(more, plan(more, SETTINGS, Mode.PERIODIC))
    assert sum("n6" in shard.voters for shard in after.shards) > 0
    assert led(after)["n6"] == 0


def test_leaders_are_even_again_once_it_leads_again() -> None:
    state = with_node(spread(cluster(6), 60), "n1", not_leading=SLOW)
    apart = carried_out(state, plan(state, SETTINGS, Mode.PERIODIC))
    well = with_node(apart, "n1", not_leading="")
    after = led(carried_out(well, plan(well, SETTINGS, Mode.PERIODIC)))
    assert max(after.values()) - min(after.values()) <= 2


def test_new_shards_are_led_elsewhere() -> None:
    state = with_node(State(cluster(3), keyspaces(1, 3), ()), "n2", not_leading=SLOW)
    placed = initial(state, SETTINGS, [NewShard(n + 1, 1) for n in range(9)])
    assert {shard.leader for shard in placed.shards} == {"n0", "n1"}
    assert all("n2" in shard.voters for shard in placed.shards)


def test_where_nobody_may_lead_new_shards_are_placed_all_the_same() -> None:
    nodes = tuple(replace(node, not_leading=SLOW) for node in cluster(3))
    placed = initial(State(nodes, keyspaces(1, 3), ()), SETTINGS, [NewShard(1, 1)])
    assert placed.refusals == ()
    assert len(placed.shards[0].voters) == 3


@pytest.mark.parametrize("mode", [Mode.EMERGENCY, Mode.PERIODIC])
def test_nothing_is_placed_on_a_node_that_is_closed(mode: Mode) -> None:
    state = with_node(with_node(spread(cluster(9), 30), "n4", state=NodeState.GONE), "n7", closed="it does not answer")
    answer = plan(state, SETTINGS, mode)
    assert answer.after.gone == 0
    assert all(getattr(step, "target", "") != "n7" for step in answer.steps)


def test_a_drain_that_only_closed_nodes_could_take_is_refused_for_that() -> None:
    state = with_node(
        with_node(spread(cluster(4), 4), "n1", state=NodeState.DRAINING), "n3", closed="it does not answer"
    )
    held = [shard.id for shard in state.shards if "n1" in shard.voters and "n3" not in shard.voters]
    assert held
    answer = plan(state, SETTINGS, Mode.PERIODIC)
    reasons = " ".join(refusal.reason for refusal in answer.refusals)
    assert "1 do not answer or take no writes" in reasons


def test_why_says_that_a_node_takes_no_leaderships_and_for_what_reason() -> None:
    state = with_node(spread(cluster(3), 3), "n2", not_leading=SLOW)
    here = next(shard for shard in state.shards if shard.leader == "n2")
    elsewhere = next(shard for shard in state.shards if shard.leader != "n2")
    assert any(
        line.startswith("leader on n2") and f"takes no leaderships: {SLOW}" in line
        for line in why(state, SETTINGS, here.id).lines
    )
    assert f"  n2: takes no leaderships: {SLOW}" in why(state, SETTINGS, elsewhere.id).lines


def test_why_says_that_a_node_is_given_nothing() -> None:
    state = with_node(spread(cluster(3), 3), "n2", closed="the disk is full")
    lines = why(state, SETTINGS, 1).lines
    assert any(line.startswith("voter on n2") and "is given nothing new: the disk is full" in line for line in lines)


def test_what_is_refused_for_the_same_reason_is_said_once() -> None:
    refusals = [Refusal(f"shard {n}", "no room", "add nodes") for n in range(1, 6)]
    refusals.append(Refusal("shard 9", "busy", "wait"))
    assert described(refusals) == "shard 1, shard 2, shard 3 and 2 more: no room (add nodes); shard 9: busy (wait)"
