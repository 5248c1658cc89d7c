"""Losing, draining and refusing: nodes and zones lost, quorums gone, drains that end and drains that cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest
from shoal_shardmanager.placement import (
    AddReplica,
    Keyspace,
    Load,
    Mode,
    MoveReplica,
    NewShard,
    Node,
    NodeState,
    RemoveReplica,
    Settings,
    Shard,
    State,
    TransferLeader,
    initial,
    plan,
)

from .simulator import Simulator, cluster, keyspaces

SETTINGS = Settings()


def spread(nodes: tuple[Node, ...], shards: int, voters: int = 3) -> State:
    state = State(nodes, keyspaces(1, voters), ())
    placed = initial(state, SETTINGS, [NewShard(n + 1, 1, Load(100, 10, 1, 0.1)) for n in range(shards)])
    assert placed.refusals == ()
    return replace(state, shards=placed.shards)


def mark(state: State, mode: NodeState, *names: str, zone: str = "none") -> State:
    return replace(
        state,
        nodes=tuple(
            replace(node, state=mode) if node.id in names or node.zone == zone else node for node in state.nodes
        ),
    )


@pytest.mark.parametrize("mode", [Mode.EMERGENCY, Mode.PERIODIC])
def test_a_lost_node_is_replaced_in_its_own_zone_and_nothing_else_moves_in_an_emergency(mode: Mode) -> None:
    state = mark(spread(cluster(9), 30), NodeState.GONE, "n4")
    answer = plan(state, SETTINGS, mode)
    simulator = Simulator(state, SETTINGS)
    simulator.run(answer)
    assert simulator.replicas("n4") == 0
    assert answer.refusals == ()
    assert answer.after.gone == answer.after.missing == answer.after.crowded == 0
    if mode is Mode.EMERGENCY:
        assert {step.source for step in answer.steps if isinstance(step, MoveReplica)} == {"n4"}
        assert all(step.reason == "n4 is gone" for step in answer.steps)
    counts = simulator.counts()
    assert max(counts[n] for n in ("n1", "n7")) - min(counts[n] for n in ("n1", "n7")) <= 1


def test_a_lost_zone_is_replaced_in_the_others_and_goes_back_when_it_returns() -> None:
    whole = spread(cluster(9), 30)
    lost = mark(whole, NodeState.GONE, zone="z1")
    simulator = Simulator(lost, SETTINGS)
    answer = plan(lost, SETTINGS, Mode.EMERGENCY)
    simulator.run(answer)
    assert answer.after.gone == 0
    assert all(simulator.replicas(name) == 0 for name in ("n1", "n4", "n7"))
    back = replace(simulator.now(), nodes=whole.nodes)
    again = plan(back, SETTINGS, Mode.PERIODIC)
    assert again.before.crowded > 0
    assert again.after.crowded == 0
    Simulator(back, SETTINGS).run(again)


def test_a_zone_whose_other_nodes_are_full_is_no_reason_to_crowd_another() -> None:
    nodes = tuple(replace(node, replicas_max=10) for node in cluster(6))
    state = mark(spread(nodes, 20), NodeState.GONE, "n4")
    answer = plan(state, SETTINGS, Mode.EMERGENCY)
    assert answer.steps == ()
    assert len(answer.refusals) == 10
    assert "n4 is gone, but of 5 other nodes" in answer.refusals[0].reason
    assert answer.refusals[0].remedy


def test_a_shard_without_quorum_is_refused_and_the_others_are_mended() -> None:
    shards = (Shard(1, 1, ("n0", "n1", "n2"), leader="n0"), Shard(2, 1, ("n0", "n4", "n5"), leader="n5"))
    state = mark(State(cluster(9), keyspaces(1), shards), NodeState.GONE, "n0", "n1")
    answer = plan(state, SETTINGS, Mode.EMERGENCY)
    assert [step.shard for step in answer.steps] == [2]
    assert [refusal.subject for refusal in answer.refusals] == ["shard 1"]
    assert "no quorum: 1 of 3 voters" in answer.refusals[0].reason


def test_the_shards_with_the_fewest_voters_left_come_first() -> None:
    shards = (Shard(1, 1, ("n0", "n2", "n4", "n5", "n3")), Shard(2, 1, ("n0", "n1", "n2", "n3", "n4")))
    state = mark(State(cluster(9, 9), keyspaces(1, 5), shards), NodeState.GONE, "n0", "n1")
    answer = plan(state, replace(SETTINGS), Mode.EMERGENCY)
    assert answer.steps[0].shard == 2


def test_missing_replicas_are_added_and_surplus_ones_removed() -> None:
    shards = (Shard(1, 1, ("n0", "n1"), leader="n0"), Shard(2, 1, ("n0", "n1", "n2", "n3"), leader="n0"))
    state = State(cluster(6), keyspaces(1), shards)
    answer = plan(state, SETTINGS, Mode.PERIODIC)
    assert {type(step) for step in answer.steps if step.shard == 1} >= {AddReplica}
    assert [step.source for step in answer.steps if isinstance(step, RemoveReplica)] in (["n0"], ["n3"])
    emergency = plan(state, SETTINGS, Mode.EMERGENCY)
    assert [type(step) for step in emergency.steps] == [AddReplica]


def test_a_drained_node_ends_empty_and_its_leaderships_go_along() -> None:
    state = mark(spread(cluster(9), 30), NodeState.DRAINING, "n3")
    answer = plan(state, SETTINGS, Mode.PERIODIC)
    simulator = Simulator(state, SETTINGS)
    after = simulator.run(answer)
    assert simulator.replicas("n3") == 0
    assert answer.refusals == ()
    assert all(shard.leader for shard in after.shards)


def test_a_drain_that_cannot_end_says_why_and_still_moves_the_leaders() -> None:
    state = mark(spread(cluster(3), 9), NodeState.DRAINING, "n1")
    answer = plan(state, SETTINGS, Mode.PERIODIC)
    simulator = Simulator(state, SETTINGS)
    after = simulator.run(answer)
    assert all(isinstance(step, TransferLeader) for step in answer.steps)
    assert not any(shard.leader == "n1" for shard in after.shards)
    node = next(refusal for refusal in answer.refusals if refusal.subject == "node n1")
    assert "9 replicas have nowhere to go" in node.reason
    shard = next(refusal for refusal in answer.refusals if refusal.subject.startswith("shard"))
    assert "2 already hold a replica of it" in shard.reason
    assert "add nodes" in shard.remedy


def test_the_tail_of_a_drain_goes_where_the_last_zone_is_gone() -> None:
    """cockroach 138040: the last replicas stayed. With one zone less, two in one zone is the best there is."""
    state = mark(spread(cluster(6), 20), NodeState.DRAINING, zone="z2")
    answer = plan(state, SETTINGS, Mode.PERIODIC)
    simulator = Simulator(state, SETTINGS)
    simulator.run(answer)
    assert simulator.replicas("n2") == simulator.replicas("n5") == 0


def test_required_regions_are_filled_and_kept() -> None:
    nodes = tuple(Node(f"{region}{n}", region, f"z{n}") for region in ("eu", "us") for n in range(3))
    keyspace = Keyspace(1, 3, required={"eu": 2})
    shards = (Shard(1, 1, ("us0", "us1", "us2"), leader="us0"),)
    answer = plan(State(nodes, (keyspace,), shards), SETTINGS, Mode.PERIODIC)
    assert (answer.before.region_shortage, answer.after.region_shortage) == (2, 0)
    nobody = Keyspace(1, 3, required={"mars": 1})
    refused = plan(State(nodes, (nobody,), shards), SETTINGS, Mode.PERIODIC)
    assert "missing in required regions" in refused.refusals[0].reason


def test_an_overfull_node_gives_up_replicas_and_a_full_one_receives_none() -> None:
    nodes = tuple(
        Node(f"n{n}", "r", f"z{n % 3}", capacity=Load(bytes=1000 if n < 3 else 250)) for n in range(6)
    )  # 900 and 225 usable
    shards = tuple(Shard(s + 1, 1, ("n0", "n1", "n2"), leader="n0", load=Load(bytes=100)) for s in range(10))
    state = State(nodes, keyspaces(1), shards)
    answer = plan(state, SETTINGS, Mode.PERIODIC)
    simulator = Simulator(state, SETTINGS)
    simulator.run(answer)
    assert (answer.before.over_capacity, answer.after.over_capacity) == (3, 0)
    assert max(simulator.disk(f"n{n}") for n in (3, 4, 5)) <= 225


def test_busy_shards_are_left_alone_and_what_they_fill_counts() -> None:
    shards = (
        Shard(1, 1, ("n0", "n1", "n2"), leader="n0", busy=True, incoming=("n3",)),
        Shard(2, 1, ("n0", "n1", "n2"), leader="n0"),
        Shard(3, 1, ("n0", "n1", "n2"), leader="n0"),
    )
    state = State(cluster(6), keyspaces(1), shards)
    answer = plan(state, SETTINGS, Mode.PERIODIC)
    assert 1 not in {step.shard for step in answer.steps}
    Simulator(state, SETTINGS).run(answer)
    lost = plan(mark(state, NodeState.GONE, "n0"), SETTINGS, Mode.EMERGENCY)
    assert [refusal.subject for refusal in lost.refusals] == ["shard 1"]


def test_a_state_that_contradicts_itself_is_refused() -> None:
    good = State(cluster(3), keyspaces(1), (Shard(1, 1, ("n0", "n1", "n2"), leader="n0"),))
    shard = good.shards[0]
    for bad in (
        replace(good, nodes=good.nodes + good.nodes[:1]),
        replace(good, shards=good.shards * 2),
        replace(good, shards=(replace(shard, voters=("n0", "n0"), leader=""),)),
        replace(good, shards=(replace(shard, voters=("n9",), leader=""),)),
        replace(good, shards=(replace(shard, keyspace=9),)),
        replace(good, shards=(replace(shard, voters=("n1",)),)),
        replace(good, shards=(replace(shard, voters=("n0",), incoming=("n1",)),)),
    ):
        with pytest.raises(ValueError, match=r"two|shard 1"):
            plan(bad, SETTINGS, Mode.PERIODIC)
