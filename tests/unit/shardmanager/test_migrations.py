"""Microshards move between shards, and shards merge: steps in order, takeovers at every event, going back or only forward."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from shoal.protocol.migration import MigrationEnd
from shoal.shardmap import MicroshardRange
from shoal_shardmanager.control.requests import (
    Create,
    DropRequest,
    KeyspaceRequest,
    MergeRequest,
    MoveMicroshardsRequest,
    Refused,
    SplitRequest,
    Why,
)
from shoal_shardmanager.control.rows import Drain, MoveReplica, NodeState, State, Step

MOVE = MoveMicroshardsRequest(1, 2, (MicroshardRange(0, 1), MicroshardRange(2, 3)))
MERGE = MergeRequest(1, 2)
EVENTS_MAX = 30
TICKS = 16


def test_microshards_move_in_order(simulated: Any) -> None:
    cluster = simulated()
    row = cluster.run_to_end(cluster.request(MOVE))
    assert row.state is State.DONE
    assert row.reason == "2 microshards of shard 1 are shard 2's now"
    assert list(dict.fromkeys(change.step for change in cluster.history)) == [
        Step.COPY,
        Step.SEAL,
        Step.FORGET,
    ]
    assert cluster.groups[1].ranges == (MicroshardRange(1, 2), MicroshardRange(3, 4))
    assert cluster.groups[2].ranges == (MicroshardRange(0, 1), MicroshardRange(2, 3), MicroshardRange(4, 8))
    cluster.settled()


def test_a_merged_shard_lingers_and_is_dropped(simulated: Any) -> None:
    cluster = simulated()
    operation = cluster.request(MERGE)
    assert cluster.run(100, lambda: cluster.state.operations[operation].step is Step.LINGER)
    cluster.run(cluster.state.settings.merge_linger_ms // 100 - 10)
    assert cluster.state.shard(2).ranges == ()
    assert cluster.state.operations[operation].step is Step.LINGER
    row = cluster.run_to_end(operation)
    assert row.state is State.DONE
    assert [shard.id for shard in cluster.state.map.shards] == [1]
    assert cluster.groups[1].ranges == (MicroshardRange(0, 8),)
    assert all(2 not in node.replicas for node in cluster.nodes.values())
    cluster.settled()
    assert cluster.run_to_end(cluster.request(SplitRequest(1))).state is State.DONE
    assert 3 in cluster.groups, "the number of a shard is not given again"


@pytest.mark.parametrize("event", range(1, EVENTS_MAX))
@pytest.mark.parametrize("asked", [MOVE, MERGE])
def test_another_manager_takes_over_a_migration_at_any_event(simulated: Any, asked: Any, event: int) -> None:
    cluster = simulated()
    operation = cluster.request(asked)
    cluster.crash_at = event
    assert cluster.run_to_end(operation).state is State.DONE
    cluster.settled()


@pytest.mark.parametrize("event", range(1, EVENTS_MAX))
def test_any_request_of_a_merge_may_fail(simulated: Any, event: int) -> None:
    cluster = simulated()
    operation = cluster.request(MERGE)
    cluster.refuse_at = event
    assert cluster.run_to_end(operation).state is State.DONE
    cluster.settled()


@pytest.mark.parametrize("tick", range(TICKS))
@pytest.mark.parametrize("away", ["n1", "n2", "n3"])
def test_a_node_that_is_away_for_a_while_only_delays(simulated: Any, away: str, tick: int) -> None:
    cluster = simulated()
    operation = cluster.request(MOVE)
    cluster.run(tick)
    cluster.stop(away)
    cluster.run(60)
    cluster.start(away)
    assert cluster.run_to_end(operation).state is State.DONE
    cluster.settled()


@pytest.mark.parametrize("tick", range(TICKS))
@pytest.mark.parametrize("event", [None, 3])
def test_a_cancelled_migration_leaves_nothing_behind_or_is_past_it(
    simulated: Any, tick: int, event: int | None
) -> None:
    cluster = simulated()
    operation = cluster.request(MOVE)
    cluster.run(tick)
    try:
        cluster.cancel(operation)
    except Refused as refusal:
        assert "it can only go on: shard 1 has parted with its microshards" in str(refusal) or "has ended" in str(
            refusal
        )
        wanted = State.DONE
    else:
        wanted = State.CANCELLED
    if event is not None:
        cluster.crash_at = cluster.events + event
    row = cluster.run_to_end(operation)
    assert row.state is wanted
    if wanted is State.CANCELLED:
        assert cluster.groups[1].ranges == (MicroshardRange(0, 4),)
    cluster.settled()
    ended = {end for group in cluster.groups.values() for end in group.ended.values()}
    assert (MigrationEnd.ADOPTED in ended) == (wanted is State.DONE)


def test_a_queued_migration_is_cancelled_at_once(simulated: Any) -> None:
    cluster = simulated()
    operation = cluster.request(MOVE)
    cluster.cancel(operation)
    assert cluster.state.operations[operation].state is State.CANCELLED


def test_caps_hold_migrations_back(simulated: Any) -> None:
    cluster = simulated(nodes=3, shards=8)
    operations = [
        cluster.request(MoveMicroshardsRequest(shard, shard + 1, (MicroshardRange(4 * shard - 4, 4 * shard - 3),)))
        for shard in (1, 3, 5, 7)
    ]
    most = 0
    while cluster.state.running():
        cluster.step()
        most = max(most, sum(row.step in (Step.COPY, Step.SEAL) for row in cluster.state.running()))
    assert most == cluster.state.settings.moves_per_node
    assert all(cluster.state.operations[operation].state is State.DONE for operation in operations)
    cluster.settled()


def test_a_migration_that_is_stuck_does_not_hold_others_back(simulated: Any) -> None:
    cluster = simulated(nodes=6, shards=6)
    for node in ("n1", "n2"):
        cluster.stop(node)
    with pytest.raises(Refused, match="hear no leader of shard 1"):
        cluster.request(MOVE)
    for node in ("n1", "n2"):
        cluster.start(node)
    cluster.run(5)
    stuck = [cluster.request(MOVE), cluster.request(MoveMicroshardsRequest(3, 4, (MicroshardRange(8, 9),)))]
    cluster.run(2)
    cluster.migrators.stuck.update(stuck)
    other = cluster.request(MoveMicroshardsRequest(5, 6, (MicroshardRange(16, 17),)))
    assert cluster.run_to_end(other, ticks=100).state is State.DONE
    for operation in stuck:
        assert "made to stand still" in cluster.last.notes[operation].waiting


def test_replicas_of_shards_that_migrate_are_replaced_meanwhile(simulated: Any) -> None:
    cluster = simulated(nodes=4, shards=2)
    operation = cluster.request(MOVE)
    cluster.run(3)
    cluster.migrators.stuck.add(operation)
    cluster.stop("n3")
    assert cluster.run(800, lambda: all("n3" not in group.members for group in cluster.groups.values()))
    assert cluster.state.nodes["n3"].state is NodeState.GONE
    assert cluster.state.operations[operation].step is Step.COPY
    cluster.migrators.stuck.clear()
    assert cluster.run_to_end(operation).state is State.DONE
    cluster.settled()


def test_a_drain_waits_for_the_shards_that_migrate(simulated: Any) -> None:
    cluster = simulated(nodes=5, shards=2)
    move = cluster.request(MOVE)
    cluster.run(2)
    drain = cluster.request(Drain("n1"))
    assert cluster.run_to_end(drain).state is State.DONE
    assert cluster.state.operations[move].state is State.DONE
    cluster.settled()


@pytest.mark.parametrize(
    ("asked", "why", "words"),
    [
        (
            MoveMicroshardsRequest(9, 1, (MicroshardRange(0, 1),)),
            Why.NOT_FOUND,
            "no shard 9; the shards are 1, 2, 3, 4",
        ),
        (MoveMicroshardsRequest(1, 1, (MicroshardRange(0, 1),)), Why.WRONG, "shard 1 is named twice"),
        (MoveMicroshardsRequest(1, 2, ()), Why.WRONG, "no microshards are named"),
        (MoveMicroshardsRequest(1, 2, (MicroshardRange(0, 99),)), Why.WRONG, "they are 0 to 7 in this keyspace"),
        (
            MoveMicroshardsRequest(1, 2, (MicroshardRange(3, 5),)),
            Why.REFUSED,
            "microshards 4 are not in shard 1, which has 0-3",
        ),
        (MoveMicroshardsRequest(1, 2, (MicroshardRange(0, 4),)), Why.REFUSED, "`shoal merge 2 1`"),
        (
            MoveMicroshardsRequest(1, 3, (MicroshardRange(0, 1),)),
            Why.REFUSED,
            "of keyspace 'default', shard 3 of 'other'",
        ),
        (MergeRequest(1, 1), Why.WRONG, "shard 1 is named twice"),
        (MergeRequest(9, 1), Why.NOT_FOUND, "no shard 9"),
        (MergeRequest(1, 4), Why.REFUSED, "keys stay in their keyspace: shards of 'other' are 3 to 3"),
        (SplitRequest(9), Why.NOT_FOUND, "no shard 9"),
        (SplitRequest(1, at=0), Why.REFUSED, "0 is the first microshard of shard 1"),
        (SplitRequest(1, at=5), Why.REFUSED, "microshard 5 is not in shard 1, which has 0-3"),
    ],
)
def test_bad_requests_about_microshards_are_refused(simulated: Any, asked: Any, why: Why, words: str) -> None:
    cluster = simulated()
    cluster.run_to_end(cluster.request(Create(KeyspaceRequest("other", microshards=4, shards=2))))
    before = cluster.state
    with pytest.raises(Refused) as refusal:
        cluster.request(asked)
    assert refusal.value.why is why
    assert words in str(refusal.value)
    assert cluster.state is before


def test_a_shard_in_a_migration_is_in_no_other_operation(simulated: Any) -> None:
    cluster = simulated(shards=3)
    cluster.request(MOVE)
    for request in (
        MoveReplica(1, "n1", "n4"),
        MoveReplica(2, "n2", "n4"),
        MergeRequest(3, 2),
        MoveMicroshardsRequest(3, 1, (MicroshardRange(8, 9),)),
        SplitRequest(2),
        DropRequest("default"),
    ):
        with pytest.raises(Refused, match="operation 1"):
            cluster.request(request)


def test_a_target_without_room_is_refused(simulated: Any) -> None:
    cluster = simulated()
    cluster.disk_free["n3"] = 1000
    cluster.groups[1].bytes = 4000
    cluster.step()
    cluster.measure()
    with pytest.raises(Refused, match="n3, which has shard 2, has 1000 bytes free, and about 2000 are to come"):
        cluster.request(MOVE)


def test_the_plan_says_what_is_copied(simulated: Any) -> None:
    cluster = simulated()
    cluster.groups[1].bytes = 4000
    cluster.measure()
    accepted = cluster.plan(MOVE)
    assert accepted.bytes == 2000
    assert "copy the rows of microshards 0, 2 from n1 (shard 1) to n2 (shard 2)" in accepted.steps[0]
    assert not cluster.state.operations


@pytest.mark.parametrize("seed", [*range(20), 194])  # 194: a map that a node had derived was taken for the managers'
def test_resharding_under_random_faults_ends_or_says_why(simulated: Any, seed: int) -> None:
    random = Random(seed)
    cluster = simulated(nodes=5, shards=3, random=random)
    for _ in range(14):
        shards = [shard.id for shard in cluster.state.map.shards]
        source, target = random.choice(shards), random.choice(shards)
        spans = cluster.state.shard(source).ranges
        span = random.choice(spans) if spans else MicroshardRange(0, 1)
        requests = (
            SplitRequest(source),
            MergeRequest(target, source),
            MoveMicroshardsRequest(source, target, (MicroshardRange(span.first, span.first + 1),)),
            MoveReplica(source, random.choice(sorted(cluster.nodes)), random.choice(sorted(cluster.nodes))),
        )
        try:
            operation = cluster.request(random.choice(requests))
            if random.random() < 0.3:
                cluster.run(random.randrange(12))
                cluster.cancel(operation)
        except Refused:
            pass
        down = [name for name, node in cluster.nodes.items() if not node.runs]
        if down:
            cluster.start(random.choice(down))
        elif random.random() < 0.5:
            cluster.stop(random.choice(sorted(cluster.nodes)))
        cluster.crash_at = cluster.events + random.randrange(1, 20)
        cluster.refuse_at = cluster.events + random.randrange(1, 20)
        cluster.run(random.randrange(80))
    for name in cluster.nodes:
        cluster.start(name)
    assert cluster.run(3_000, lambda: not cluster.state.running()), cluster.last.notes
    cluster.settled()
