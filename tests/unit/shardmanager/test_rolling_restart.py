"""A rolling restart: one node at a time, leaderships first, the next one only when all is well; resumed by any manager."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from shoal_shardmanager.control.operations.restart import current_node
from shoal_shardmanager.control.requests import Refused, RestartRequest, Why
from shoal_shardmanager.control.rows import Drain, OperationRow, Rebalance, RemoveNode, State, Step


def operator(cluster: Any, operation: int, ticks: int = 2_000, *, all_others_run: bool = True) -> list[str]:
    """Restart whichever node's turn it is, until the operation has ended; return them in order."""
    restarted: list[str] = []
    for _ in range(ticks):
        row = cluster.state.operations[operation]
        if not row.running:
            return restarted
        if row.step is Step.RESTART and current_node(row.arguments) not in restarted:
            node = current_node(row.arguments)
            assert all(group.leader != node for group in cluster.groups.values()), "it leads nothing any more"
            assert not all_others_run or all(other.runs for other in cluster.nodes.values()), "all others run"
            restarted.append(node)
            cluster.stop(node)
            cluster.run(8)
            assert cluster.state.operations[operation].step is Step.RESTART
            cluster.start(node)
        cluster.step()
    raise AssertionError(cluster.last.notes)


def leaders(cluster: Any) -> Counter[str]:
    """Return how many shards each of the nodes leads that have replicas."""
    return Counter(group.leader for group in cluster.groups.values())


def test_all_nodes_are_restarted_one_after_the_other(simulated: Any) -> None:
    cluster = simulated(shards=6)
    operation = cluster.request(RestartRequest())
    assert operator(cluster, operation) == ["n1", "n2", "n3", "n4", "n5"]
    row = cluster.state.operations[operation]
    assert (row.state, row.reason) == (State.DONE, "5 nodes were restarted, one after the other")
    cluster.settled()


def test_leaders_are_spread_again_once_all_nodes_were_restarted_and_no_replica_moves(simulated: Any) -> None:
    cluster = simulated(shards=10)
    restart = cluster.request(RestartRequest())
    operator(cluster, restart)
    replicas = {shard.id: shard.replicas for shard in cluster.state.map.shards}
    assert sorted(leaders(cluster).values())[-1] > 4, "the restart has left leaders uneven"
    cluster.settled()
    assert sorted(leaders(cluster).values()) == [3, 3, 4]
    assert {shard.id: shard.replicas for shard in cluster.state.map.shards} == replicas
    (work,) = [row for row in cluster.state.operations.values() if isinstance(row.arguments, Rebalance)]
    assert (work.state, work.reason) == (State.DONE, "leaders are as even as they get")
    cluster.run(200)
    assert sum(isinstance(row.arguments, Rebalance) for row in cluster.state.operations.values()) == 1


def test_nodes_that_are_named_are_restarted_in_that_order(simulated: Any) -> None:
    cluster = simulated()
    assert operator(cluster, cluster.request(RestartRequest(("n3", "n1")))) == ["n3", "n1"]


@pytest.mark.parametrize("event", range(1, 30))
def test_another_manager_goes_on_with_it(simulated: Any, event: int) -> None:
    cluster = simulated()
    operation = cluster.request(RestartRequest(("n1", "n2")))
    cluster.crash_at = event
    assert operator(cluster, operation) == ["n1", "n2"]


def test_nothing_is_restarted_while_a_replica_is_not_in_step(simulated: Any) -> None:
    cluster = simulated()
    cluster.groups[1].match["n2"] = 0
    with pytest.raises(Refused, match="the replica of shard 1 on n2 is not in step: nothing may be taken away now"):
        cluster.request(RestartRequest())
    cluster.run(5)
    operation = cluster.request(RestartRequest(("n1", "n4", "n3")))
    assert cluster.run(100, lambda: cluster.state.operations[operation].step is Step.RESTART)
    cluster.stop("n1")
    cluster.run(5)
    cluster.start("n1")
    cluster.stop("n2")
    cluster.run(100)
    row = cluster.state.operations[operation]
    assert (row.step, row.arguments.done) == (Step.SETTLE, 0)
    assert "on n2 is not in step" in cluster.last.notes[operation].waiting
    cluster.start("n2")
    assert operator(cluster, operation) == ["n4", "n3"]


def test_a_process_that_was_not_restarted_is_not_taken_for_another(simulated: Any) -> None:
    cluster = simulated()
    cluster.run(50)
    operation = cluster.request(RestartRequest(("n1",)))
    cluster.run(2_000)
    assert cluster.state.operations[operation].step is Step.RESTART
    assert cluster.last.notes[operation].waiting == "restart node n1 now"


def test_leaderships_that_come_back_are_given_away_again(simulated: Any) -> None:
    cluster = simulated()
    operation = cluster.request(RestartRequest(("n1",)))
    assert cluster.run(100, lambda: cluster.state.operations[operation].step is Step.RESTART)
    cluster.groups[1].leader = "n1"
    cluster.run(3)
    assert cluster.groups[1].leader != "n1"


def test_a_rolling_restart_can_be_cancelled(simulated: Any) -> None:
    cluster = simulated()
    operation = cluster.request(RestartRequest())
    cluster.run(20)
    cluster.cancel(operation)
    row = cluster.run_to_end(operation)
    assert (row.state, row.reason) == (State.CANCELLED, "cancelled; 0 of 5 nodes were restarted")


def test_a_node_that_is_gone_when_its_turn_comes_is_skipped(simulated: Any) -> None:
    cluster = simulated()
    operation = cluster.request(RestartRequest(("n4", "n5")))
    cluster.stop("n4")
    cluster.run(5)
    assert cluster.last.notes[operation].waiting == (
        "node n4 does not answer: it is skipped once it counts as gone, after 30s"
    )
    assert operator(cluster, operation, all_others_run=False) == ["n5"]
    row = cluster.state.operations[operation]
    assert row.state is State.DONE
    assert row.reason == "1 of 2 nodes were restarted (n4: skipped, since gone or removed)"


def test_a_node_that_was_removed_is_skipped(simulated: Any) -> None:
    cluster = simulated()
    cluster.run_to_end(cluster.request(Drain("n5")))
    operation = cluster.request(RestartRequest(("n1", "n5")))
    assert cluster.run_to_end(cluster.request(RemoveNode("n5"))).state is State.DONE
    assert operator(cluster, operation) == ["n1"]
    assert "n5: skipped" in cluster.state.operations[operation].reason


def test_a_drained_node_is_restarted_like_any_other(simulated: Any) -> None:
    cluster = simulated()
    cluster.run_to_end(cluster.request(Drain("n2")))
    assert operator(cluster, cluster.request(RestartRequest(("n2", "n1")))) == ["n2", "n1"]


@pytest.mark.parametrize("comes_back_first", [False, True])
def test_a_node_that_does_not_come_back_ends_it_with_the_reason(simulated: Any, comes_back_first: bool) -> None:
    cluster = simulated(voters=1)
    operation = cluster.request(RestartRequest(("n1", "n2")))
    assert cluster.run(100, lambda: cluster.state.operations[operation].step is Step.RESTART)
    cluster.run(50)
    cluster.stop("n1")
    cluster.run(5)
    assert "n1 is away, and is to come back before it counts as gone" in cluster.last.notes[operation].waiting
    if comes_back_first:
        cluster.start("n1")
        assert cluster.run(100, lambda: cluster.state.operations[operation].step is Step.SETTLE)
        cluster.stop("n1")
    row = cluster.run_to_end(operation)
    assert row.state is State.FAILED
    assert "0 of 2 nodes were restarted" in row.reason
    assert row.reason.endswith("go on with `shoal rolling-restart n1 n2`")


def test_what_waits_for_a_node_that_is_away_can_be_cancelled(simulated: Any) -> None:
    cluster = simulated()
    operation = cluster.request(RestartRequest(("n1",)))
    assert cluster.run(100, lambda: cluster.state.operations[operation].step is Step.RESTART)
    cluster.stop("n1")
    cluster.run(5)
    cluster.cancel(operation)
    assert cluster.run_to_end(operation, ticks=5).state is State.CANCELLED


def test_bad_requests_to_restart_are_refused(simulated: Any) -> None:
    cluster = simulated()
    for request, why, words in (
        (RestartRequest(("n9",)), Why.NOT_FOUND, "no node 'n9'"),
        (RestartRequest(("n1", "n1")), Why.WRONG, "n1 is named twice"),
    ):
        with pytest.raises(Refused, match=words) as refusal:
            cluster.request(request)
        assert refusal.value.why is why
    cluster.stop("n4")
    with pytest.raises(Refused, match="n4 does not answer: start it, or name the other nodes"):
        cluster.request(RestartRequest())
    cluster.start("n4")
    drain = cluster.request(Drain("n1"))
    with pytest.raises(Refused, match=r"operation 1 \(drain of n1\) is under way"):
        cluster.request(RestartRequest())
    cluster.run_to_end(drain)
    cluster.request(RestartRequest())
    with pytest.raises(Refused, match=r"operation \d+ is a rolling restart already"):
        cluster.request(RestartRequest())


def test_the_rebalance_that_follows_gives_way_to_one_that_is_requested(simulated: Any) -> None:
    cluster = simulated(shards=10)
    operator(cluster, cluster.request(RestartRequest()))

    def following() -> list[OperationRow]:
        return [row for row in cluster.state.running() if isinstance(row.arguments, Rebalance)]

    assert cluster.run(200, lambda: bool(following()))
    (automatic,) = following()
    requested = cluster.request(Rebalance())
    with pytest.raises(Refused, match=f"operation {requested} is rebalancing already"):
        cluster.request(Rebalance())
    assert cluster.run_to_end(requested).state is State.DONE
    given_way = cluster.run_to_end(automatic.id)
    assert given_way.state is State.CANCELLED
    assert given_way.reason == f"operation {requested} rebalances, as requested"
    cluster.settled()
