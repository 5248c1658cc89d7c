"""Moving one replica: steps in order, failures and takeovers at every point, and going back."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from msgspec.structs import replace
from shoal_shardmanager.control.requests import Refused
from shoal_shardmanager.control.rows import Drain, MoveLeader, MoveReplica, State, Step
from shoal_shardmanager.control.state import changed

MOVE = MoveReplica(1, "n1", "n4")
EVENTS_MAX = 60


def test_a_move_goes_through_its_steps_in_order(simulated: Any) -> None:
    cluster = simulated()
    row = cluster.run_to_end(cluster.request(MOVE))
    assert row.state is State.DONE
    steps = list(dict.fromkeys(change.step for change in cluster.history))
    assert steps == [
        Step.ROUTE,
        Step.ADD,
        Step.CATCH_UP,
        Step.PROMOTE,
        Step.HAND_OVER,
        Step.DEMOTE,
        Step.REMOVE,
        Step.DROP,
    ]
    assert cluster.groups[1].leader != "n1"
    assert sorted(cluster.groups[1].voters) == ["n2", "n3", "n4"]
    cluster.settled()


@pytest.mark.parametrize("event", range(1, EVENTS_MAX))
def test_another_manager_takes_over_at_any_event(simulated: Any, event: int) -> None:
    cluster = simulated()
    operation = cluster.request(MOVE)
    cluster.crash_at = event
    assert cluster.run_to_end(operation).state is State.DONE
    assert sorted(cluster.groups[1].voters) == ["n2", "n3", "n4"]
    cluster.settled()


@pytest.mark.parametrize("event", range(1, EVENTS_MAX))
def test_any_request_may_fail(simulated: Any, event: int) -> None:
    cluster = simulated()
    operation = cluster.request(MOVE)
    cluster.refuse_at = event
    assert cluster.run_to_end(operation).state is State.DONE
    cluster.settled()


@pytest.mark.parametrize("tick", range(30))
@pytest.mark.parametrize("away", ["n1", "n2", "n4"])
def test_a_node_that_stops_for_a_while_only_delays(simulated: Any, away: str, tick: int) -> None:
    cluster = simulated()
    operation = cluster.request(MOVE)
    cluster.run(tick)
    cluster.stop(away)
    cluster.run(60)
    cluster.start(away)
    assert cluster.run_to_end(operation).state is State.DONE
    cluster.settled()


@pytest.mark.parametrize("tick", range(30))
def test_a_target_that_is_gone_for_good_is_given_up(simulated: Any, tick: int) -> None:
    cluster = simulated()
    operation = cluster.request(MOVE)
    cluster.run(tick)
    cluster.stop("n4")
    row = cluster.run_to_end(operation)
    cluster.run(600)
    assert "n4" not in cluster.groups[1].members
    assert len(cluster.groups[1].voters) == 3
    assert row.state in (State.FAILED, State.DONE)
    assert row.state is State.DONE or "n4 is gone" in row.reason
    cluster.settled()
    cluster.start("n4")
    cluster.settled()


@pytest.mark.parametrize("tick", range(30))
def test_a_source_that_is_gone_for_good_does_not_stop_a_move(simulated: Any, tick: int) -> None:
    cluster = simulated()
    operation = cluster.request(MOVE)
    cluster.run(tick)
    cluster.stop("n1")
    assert cluster.run_to_end(operation).state is State.DONE
    cluster.run(600)
    assert "n1" not in cluster.groups[1].members
    cluster.start("n1")
    cluster.settled()
    assert 1 not in cluster.nodes["n1"].replicas


@pytest.mark.parametrize("tick", range(30))
def test_a_cancelled_move_leaves_nothing_behind(simulated: Any, tick: int) -> None:
    cluster = simulated()
    operation = cluster.request(MOVE)
    cluster.run(tick)
    try:
        cluster.cancel(operation)
    except Refused as refusal:
        assert "can only go on" in str(refusal) or "has ended" in str(refusal)
        wanted, voters = State.DONE, ["n2", "n3", "n4"]
    else:
        wanted, voters = State.CANCELLED, ["n1", "n2", "n3"]
    assert cluster.run_to_end(operation).state is wanted
    assert sorted(cluster.groups[1].voters) == voters
    cluster.settled()


def test_one_stuck_move_does_not_stop_the_others(simulated: Any) -> None:
    cluster = simulated(nodes=6, shards=2)
    stuck = cluster.request(MoveReplica(1, "n1", "n4"))
    cluster.run(2)
    cluster.stop("n4")
    other = cluster.request(MoveReplica(2, "n2", "n5"))
    assert cluster.run_to_end(other, ticks=100).state is State.DONE
    assert cluster.state.operations[stuck].running
    assert "n4" in cluster.last.notes[stuck].waiting


def test_caps_hold_moves_back(simulated: Any) -> None:
    cluster = simulated(nodes=6, shards=6)
    for shard in range(1, 7):
        cluster.request(MoveReplica(shard, cluster.groups[shard].voters[0], "n4"))
    most = 0
    while cluster.state.running():
        cluster.step()
        filling = [
            row for row in cluster.state.running() if row.step is not Step.QUEUED and row.arguments.target == "n4"
        ]
        most = max(most, len(filling))
    assert most == cluster.state.settings.moves_per_node
    cluster.settled()


def test_a_leadership_is_transferred(simulated: Any) -> None:
    cluster = simulated()
    assert cluster.run_to_end(cluster.request(MoveLeader(1, "n3"))).state is State.DONE
    assert cluster.groups[1].leader == "n3"


@pytest.mark.parametrize("seed", range(40))
def test_moves_under_random_faults_end_or_say_why(simulated: Any, seed: int) -> None:
    random = Random(seed)
    cluster = simulated(nodes=6, shards=4, random=random)
    operations: list[int] = []
    for _ in range(12):
        shard = random.randrange(1, 5)
        free = sorted(set(cluster.nodes) - set(cluster.groups[shard].members))
        try:
            source = random.choice(cluster.groups[shard].voters)
            operations.append(cluster.request(MoveReplica(shard, source, random.choice(free))))
            if random.random() < 0.2:
                cluster.run(random.randrange(20))
                cluster.cancel(operations[-1])
        except Refused:
            pass
        down = [name for name, node in cluster.nodes.items() if not node.runs]
        if down:
            cluster.start(random.choice(down))
        elif random.random() < 0.5:
            cluster.stop(random.choice(sorted(cluster.nodes)))
        cluster.crash_at = cluster.events + random.randrange(1, 20)
        cluster.refuse_at = cluster.events + random.randrange(1, 20)
        cluster.run(random.randrange(60))
    for name in cluster.nodes:
        cluster.start(name)
    assert cluster.run(3_000, lambda: not cluster.state.running()), cluster.last.notes
    cluster.settled()


@pytest.mark.parametrize("tick", range(1, 30))
@pytest.mark.parametrize("seed", range(2))
def test_changes_that_a_dying_leader_takes_with_it_are_made_again(simulated: Any, tick: int, seed: int) -> None:
    cluster = simulated(shards=1, random=Random(seed))
    operation = cluster.request(MOVE)
    cluster.run(tick)
    leader = cluster.groups[1].leader
    cluster.stop(leader)
    cluster.run(30 + seed)
    cluster.start(leader)
    assert cluster.run_to_end(operation).state is State.DONE
    cluster.settled()


def test_a_queued_move_to_a_node_that_is_drained_meanwhile_does_not_begin(simulated: Any) -> None:
    cluster = simulated(nodes=6, shards=2)
    cluster.state = changed(cluster.state, [replace(cluster.state.settings, moves_per_cluster=1)])
    first = cluster.request(MoveReplica(1, "n1", "n4"))
    queued = cluster.request(MoveReplica(2, "n2", "n5"))
    cluster.run(3)
    cluster.request(Drain("n5"))
    row = cluster.run_to_end(queued)
    assert row.state is State.FAILED
    assert "n5 is drain" in row.reason
    assert cluster.run_to_end(first).state is State.DONE
    cluster.settled()


def test_a_transfer_to_a_node_that_is_gone_for_good_ends(simulated: Any) -> None:
    cluster = simulated()
    operation = cluster.request(MoveLeader(1, "n2"))
    cluster.stop("n2")
    row = cluster.run_to_end(operation)
    assert row.state is State.FAILED
    assert row.reason == "node n2 is gone"


def test_leadership_goes_to_no_node_that_takes_none(simulated: Any) -> None:
    cluster = simulated()
    operation = cluster.request(MoveLeader(1, "n2"))
    cluster.not_leading["n2"] = "its disk is slow"
    row = cluster.run_to_end(operation)
    assert (row.state, row.reason) == (State.FAILED, "node n2 takes no leaderships: its disk is slow")
    with pytest.raises(Refused, match="n2 takes no leaderships: its disk is slow; the other voters are n1, n3"):
        cluster.request(MoveLeader(1, "n2"))
    cluster.stop("n2")
    with pytest.raises(Refused, match="node n2 does not answer: the other voters are n1, n3"):
        cluster.request(MoveLeader(1, "n2"))


def test_what_ended_last_is_remembered_longest(simulated: Any) -> None:
    cluster = simulated(nodes=6, shards=2)
    cluster.state = changed(cluster.state, [replace(cluster.state.settings, history=1)])
    slow = cluster.request(MoveReplica(1, "n1", "n4"))
    quick = cluster.request(MoveLeader(2, "n3"))
    assert cluster.run_to_end(quick).id == quick
    assert cluster.run_to_end(slow).id == slow
    cluster.run(3)
    assert slow in cluster.state.operations
    assert quick not in cluster.state.operations
