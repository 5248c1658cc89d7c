"""What was begun on a shard without the managers is undone, finished or taken into the map, as the shards' logs say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs
from shoal.protocol.migration import MigrationEnd, MigrationStatus
from shoal.shardmap import Keyspace, MicroshardRange, with_ranges, without_ranges
from shoal_shardmanager.control.requests import MoveMicroshardsRequest, Refused, SettleRequest, SplitRequest, Why, check
from shoal_shardmanager.control.rows import State

from .simulated import Group

STRAY = 900
MOVING = (MicroshardRange(0, 1),)


def begin(cluster: Any, *, sealed: bool = False) -> None:
    """Shard 1 gives microshards to shard 2 in a migration that somebody has begun by hand."""
    source, target = cluster.groups[1], cluster.groups[2]
    source.outgoing = MigrationStatus(STRAY, 2, MOVING, sealed=sealed)
    target.incoming = MigrationStatus(STRAY, 1, MOVING)
    if sealed:
        source.ranges = without_ranges(source.ranges, MOVING)
        cluster.migrators._derive(source)


def adopt(cluster: Any) -> None:
    target = cluster.groups[2]
    target.incoming, target.ranges = None, with_ranges(target.ranges, MOVING)
    target.ended[STRAY] = MigrationEnd.ADOPTED
    cluster.migrators._derive(target)


def split_off(cluster: Any, ranges: tuple[MicroshardRange, ...], parent: int = 1, child: int = 50) -> None:
    """Somebody has shard 50, with these microshards, split off shard 1 by hand."""
    group = cluster.groups[parent]
    made = cluster.groups[child] = Group(list(group.voters), list(group.followers), group.voters[0])
    made.ranges, made.match, made.version = ranges, dict(group.match), group.version
    group.ranges = without_ranges(group.ranges, ranges)
    group.children = (*group.children, child)
    cluster.asked_voters[child] = cluster.asked_voters[parent]
    for member in made.members:
        cluster.nodes[member].replicas.add(child)
    cluster.run(5)


def parent_on_map(cluster: Any, child: int) -> int:
    [shard] = [shard for shard in cluster.state.map.shards if shard.id == child]
    parent: int = shard.parent
    return parent


@pytest.mark.parametrize("shard", [1, 2])
def test_what_is_not_sealed_is_undone_from_either_side(simulated: Any, shard: int) -> None:
    cluster = simulated()
    begin(cluster)
    cluster.run(5)
    row = cluster.run_to_end(cluster.request(SettleRequest(shard)))
    assert (row.state, row.reason) == (
        State.DONE,
        "it was begun without the shard manager; all is as it was before",
    )
    assert {group.ended[STRAY] for group in (cluster.groups[1], cluster.groups[2])} == {MigrationEnd.CANCELLED}
    cluster.settled()


@pytest.mark.parametrize("shard", [1, 2])
def test_what_is_sealed_is_finished_and_the_map_follows(simulated: Any, shard: int) -> None:
    cluster = simulated()
    begin(cluster, sealed=True)
    cluster.run(5)
    assert cluster.run_to_end(cluster.request(SettleRequest(shard))).state is State.DONE
    assert cluster.groups[2].ended[STRAY] is MigrationEnd.ADOPTED
    assert cluster.groups[1].ended[STRAY] is MigrationEnd.FORGOTTEN
    cluster.settled()


def test_what_is_adopted_already_is_forgotten_and_the_map_follows(simulated: Any) -> None:
    cluster = simulated()
    begin(cluster, sealed=True)
    adopt(cluster)
    cluster.run(5)
    assert cluster.run_to_end(cluster.request(SettleRequest(1))).state is State.DONE
    cluster.settled()


def test_the_map_follows_what_both_shards_are_done_with(simulated: Any) -> None:
    cluster = simulated()
    begin(cluster, sealed=True)
    adopt(cluster)
    cluster.migrators.forget(cluster.groups[1], STRAY)
    cluster.run(5)
    assert cluster.run_to_end(cluster.request(SettleRequest(1))).state is State.DONE
    cluster.settled()


@pytest.mark.parametrize("event", range(1, 12))
def test_another_manager_takes_over_at_any_event(simulated: Any, event: int) -> None:
    cluster = simulated()
    begin(cluster, sealed=True)
    cluster.run(5)
    operation = cluster.request(SettleRequest(1))
    cluster.crash_at = cluster.events + event
    assert cluster.run_to_end(operation).state is State.DONE
    cluster.settled()


def test_what_the_target_has_given_up_after_the_seal_is_left_alone(simulated: Any) -> None:
    cluster = simulated()
    begin(cluster, sealed=True)
    cluster.groups[2].incoming = None
    cluster.groups[2].ended[STRAY] = MigrationEnd.CANCELLED
    cluster.run(5)
    with pytest.raises(Refused, match="keep both shards as they are"):
        cluster.request(SettleRequest(1))


def test_what_is_sealed_while_it_is_undone_fails_and_says_what_to_do(simulated: Any) -> None:
    cluster = simulated()
    begin(cluster)
    cluster.run(5)
    operation = cluster.request(SettleRequest(1))
    begin(cluster, sealed=True)
    row = cluster.run_to_end(operation)
    assert (row.state, "`shoal settle 1` finishes it" in row.reason) == (State.FAILED, True)
    assert cluster.run_to_end(cluster.request(SettleRequest(1))).state is State.DONE
    cluster.settled()


def test_a_shard_that_somebody_has_split_off_comes_into_the_map(simulated: Any) -> None:
    cluster = simulated()
    split_off(cluster, MOVING)
    assert cluster.run_to_end(cluster.request(SettleRequest(1))).state is State.DONE
    cluster.settled()
    assert cluster.run_to_end(cluster.request(SplitRequest(1))).state is State.DONE
    assert 51 in cluster.groups, "the number is not given again"


def test_its_parent_on_the_map_is_who_split_it_off_and_not_who_had_its_microshards_before(simulated: Any) -> None:
    cluster = simulated()
    begin(cluster, sealed=True)
    adopt(cluster)
    cluster.migrators.forget(cluster.groups[1], STRAY)
    split_off(cluster, MOVING, parent=2)
    assert cluster.run_to_end(cluster.request(SettleRequest(1))).state is State.DONE
    assert parent_on_map(cluster, 50) == 2
    cluster.settled()


def test_of_a_shard_and_one_split_off_it_the_parent_comes_into_the_map_first(simulated: Any) -> None:
    cluster = simulated()
    split_off(cluster, (MicroshardRange(0, 2),), child=51)
    split_off(cluster, MOVING, parent=51, child=50)
    for child, parent in ((51, 1), (50, 51)):
        assert cluster.run_to_end(cluster.request(SettleRequest(1))).state is State.DONE
        assert parent_on_map(cluster, child) == parent
    cluster.settled()


@pytest.mark.parametrize(
    ("parents", "words"),
    [
        ((), "no shard that the managers hear of says to have split it off"),
        ((1, 2), "shards 1, 2 each have split one of that number off"),
    ],
)
def test_a_shard_that_nobody_or_more_than_one_has_split_off_stays_out_of_the_map(
    simulated: Any, parents: tuple[int, ...], words: str
) -> None:
    cluster = simulated()
    split_off(cluster, MOVING)
    for number in (1, 2):
        cluster.groups[number].children = (50,) if number in parents else ()
    with pytest.raises(Refused, match=words):
        cluster.request(SettleRequest(1))


def test_a_shard_whose_parent_the_map_does_not_name_has_to_wait_for_that_one(simulated: Any) -> None:
    cluster = simulated()
    split_off(cluster, MOVING)
    cluster.groups[1].children, cluster.groups[2].children = (), (51,)
    cluster.groups[51] = replace(cluster.groups[2], ranges=(), children=(50,))
    for member in cluster.groups[51].members:
        cluster.nodes[member].replicas.add(51)
    with pytest.raises(Refused, match="was split off shard 51, which the map does not name either"):
        cluster.request(SettleRequest(1))


def test_a_shard_with_other_microshards_is_not_taken_for_one_that_was_split_off(simulated: Any) -> None:
    cluster = simulated()
    split_off(cluster, with_ranges(MOVING, (MicroshardRange(6, 7),)))
    with pytest.raises(Refused, match="it is not, or not everywhere, what was split off"):
        cluster.request(SettleRequest(1))


def test_where_two_shards_were_split_off_under_one_number_neither_comes_into_the_map(simulated: Any) -> None:
    cluster = simulated()
    split_off(cluster, MOVING)
    situation = cluster.situation()
    name, report = next(
        (node, report) for node, report in situation.observed.reports.items() if node in cluster.groups[50].voters[1:]
    )
    replicas = tuple(
        structs.replace(one, ranges=(MicroshardRange(4, 5),)) if one.shard == 50 else one
        for one in report.status.replicas
    )
    status = structs.replace(report.status, replicas=replicas)
    observed = replace(
        situation.observed, reports={**situation.observed.reports, name: replace(report, status=status)}, _leaders={}
    )
    with pytest.raises(Refused, match="it is not, or not everywhere, what was"):
        check(SettleRequest(1), replace(situation, observed=observed))


def test_a_shard_split_off_in_another_keyspace_has_other_microshards_of_the_same_numbers(simulated: Any) -> None:
    cluster = simulated()
    shards = tuple(structs.replace(shard, keyspace=shard.id) for shard in cluster.state.map.shards)
    keyspaces = tuple(Keyspace(number, f"k{number}", 8, b"/") for number in (1, 2))
    cluster.state = replace(cluster.state, map=structs.replace(cluster.state.map, shards=shards, keyspaces=keyspaces))
    cluster.groups[1].ranges = without_ranges(cluster.groups[1].ranges, MOVING)
    cluster.groups[2].ranges = with_ranges(cluster.groups[2].ranges, MOVING)
    split_off(cluster, MOVING, parent=2)
    with pytest.raises(Refused, match="shard 1 lacks microshards 0 by its log, and no leader"):
        check(SettleRequest(1), cluster.situation())


def test_microshards_that_nobody_has_are_not_given_to_anybody(simulated: Any) -> None:
    cluster = simulated()
    cluster.groups[1].ranges = without_ranges(cluster.groups[1].ranges, MOVING)
    cluster.run(5)
    with pytest.raises(Refused, match="shard 1 lacks microshards 0 by its log, and no leader"):
        cluster.request(SettleRequest(1))


def test_where_all_is_as_the_map_says_or_an_operation_is_at_work_nothing_is_settled(simulated: Any) -> None:
    cluster = simulated()
    cluster.run(5)
    with pytest.raises(Refused, match="there is nothing to settle") as refused:
        cluster.request(SettleRequest(1))
    assert refused.value.why is Why.NOT_FOUND
    cluster.request(MoveMicroshardsRequest(1, 2, MOVING))
    cluster.run(5)
    with pytest.raises(Refused, match="is on shard 2: wait for it"):
        cluster.request(SettleRequest(2))
