"""Managers that have forgotten which numbers they gave give none again; and what meets one all the same ends, in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs
from shoal.bounds import MAX_SHARD, MAX_VERSION
from shoal.protocol.messages import StatusReply
from shoal.protocol.migration import MigrationEnd
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_shardmanager.control.observed import Trouble
from shoal_shardmanager.control.operations import split
from shoal_shardmanager.control.requests import (
    Create,
    KeyspaceRequest,
    MergeRequest,
    MoveMicroshardsRequest,
    SplitRequest,
)
from shoal_shardmanager.control.rows import SplitShard, State, Step
from shoal_shardmanager.control.used_numbers import ROOM_OPERATIONS, ROOM_SHARDS, first_counters

NODES = ("n1", "n2", "n3")
ADDRESSES = tuple(NodeAddress(node, f"{node}:1") for node in NODES)
LATER = ShardMap(
    9, "c", ADDRESSES, (Keyspace(1, "k", 4, b"/"),), (Shard(4, 1, (MicroshardRange(0, 4),), NODES),), cluster_id="i"
)


def said(node: str, shard: int, migration: int = 0) -> StatusReply:
    return StatusReply(1, node, "c", "i", "s", 1, 9, (), "", 1, (), newest_shard=shard, newest_migration=migration)


def statuses(*of: StatusReply) -> dict[str, StatusReply]:
    return {status.node: status for status in of}


def test_managers_that_begin_anew_go_on_above_all_that_nodes_know():
    counters = first_counters(LATER, statuses(said("n1", 4, 7), said("n2", 12), said("n3", 5, 30)))
    assert (counters.next_shard, counters.next_operation, counters.next_keyspace) == (13, 31, 2)


@pytest.mark.parametrize("silent", [None, said("n3", 0)])
def test_they_leave_room_for_what_a_node_knows_that_does_not_say(silent: StatusReply | None):
    answers = [said("n1", 4, 7), said("n2", 12), *([silent] if silent else [])]
    counters = first_counters(LATER, statuses(*answers))
    assert (counters.next_shard, counters.next_operation) == (13 + ROOM_SHARDS, 8 + ROOM_OPERATIONS)


def test_a_new_cluster_begins_with_the_first_numbers_whoever_is_there_by_then():
    first = structs.replace(LATER, version=1)
    counters = first_counters(first, statuses(said("n1", 4)))
    assert (counters.next_shard, counters.next_operation, counters.next_keyspace) == (5, 1, 2)


def test_numbers_that_nobody_can_have_come_to_are_made_up_and_leave_some_to_be_given():
    counters = first_counters(LATER, statuses(said("n1", MAX_SHARD, MAX_VERSION), said("n2", 6, 2), said("n3", 4)))
    assert (counters.next_shard, counters.next_operation) == (7, 3)


def test_numbers_that_a_node_comes_back_with_are_passed_over(simulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = simulated()
    as_it_was = cluster.status
    monkeypatch.setattr(
        cluster, "status", lambda name: structs.replace(as_it_was(name), newest_shard=40, newest_migration=50)
    )
    cluster.run(2)
    assert cluster.request(SplitRequest(1)) == 51
    cluster.run_to_end(51)
    assert 41 in cluster.groups
    cluster.run_to_end(cluster.request(Create(KeyspaceRequest("other", microshards=4, shards=2))))
    assert [shard.id for shard in cluster.state.map.shards] == [1, 2, 41, 42, 43]


@pytest.mark.parametrize("shard", [1, 2])
@pytest.mark.parametrize("known", list(MigrationEnd))
@pytest.mark.parametrize("request_", [MergeRequest(2, 1), MoveMicroshardsRequest(1, 2, (MicroshardRange(0, 1),))])
def test_a_migration_whose_number_a_shard_is_done_with_ends_and_moves_nothing(
    simulated: Any, request_: Any, known: MigrationEnd, shard: int
) -> None:
    cluster = simulated()
    number = cluster.state.counters.next_operation
    cluster.groups[shard].ended[number] = known
    row = cluster.run_to_end(cluster.request(request_))
    assert row.state is State.FAILED
    assert f"shard {shard} is done with a migration of number {number} already ({known.name.lower()})" in row.reason
    cluster.settled()
    assert cluster.groups[1].ranges == (MicroshardRange(0, 4),)
    assert cluster.run_to_end(cluster.request(request_)).state is State.DONE
    cluster.settled()


def test_a_migration_that_is_cancelled_ends_though_a_shard_is_done_with_its_number(simulated: Any) -> None:
    cluster = simulated()
    operation = cluster.request(MergeRequest(2, 1))
    cluster.run(2)
    assert cluster.state.operations[operation].step is Step.COPY
    cluster.groups[1].ended[operation], cluster.groups[1].outgoing = MigrationEnd.FORGOTTEN, None
    cluster.cancel(operation)
    row = cluster.run_to_end(operation)
    assert (row.state, "shards 1 and 2 have what they had" in row.reason) == (State.FAILED, True)
    cluster.settled()


def test_a_split_gives_up_a_number_that_its_shard_has_used_before(simulated: Any) -> None:
    cluster = simulated()
    cluster.groups[1].children = (3,)
    operation = cluster.request(SplitRequest(1))
    row = cluster.run_to_end(operation)
    assert (row.state, row.arguments.child) == (State.DONE, 4)
    cluster.settled()


def test_a_split_gives_up_a_number_of_which_some_node_has_a_replica_still(simulated: Any) -> None:
    cluster = simulated()
    cluster.groups[3] = replace(cluster.groups[2], ranges=())
    cluster.nodes["n3"].replicas.add(3)
    cluster.check_safety = lambda: None  # nobody gave it that
    operation = cluster.request(SplitRequest(1))
    cluster.run(3)
    assert cluster.state.operations[operation].arguments == SplitShard(1, 4, (MicroshardRange(2, 4),))
    assert 4 in cluster.groups


def test_a_split_gives_up_a_number_that_a_leader_refuses_again_and_again(simulated: Any) -> None:
    cluster = simulated()
    row = cluster.state.operations.get(cluster.request(SplitRequest(1)))
    row = cluster.state.operations[1]
    observed = cluster.observed()
    leader = observed.leader(1).node
    report = observed.reports[leader]
    known = replace(report, status=structs.replace(report.status, newest_shard=3))
    for attempts, child in ((split.REFUSALS_MAX - 1, 3), (split.REFUSALS_MAX, 4)):
        seen = replace(
            observed,
            reports={**observed.reports, leader: known},
            troubles={1: Trouble("there is a shard 3 already", attempts)},
            _leaders={},
        )
        outcome = split.advance(row, row.arguments, cluster.state, seen)
        asked = [change.arguments.child for change in outcome.changes if hasattr(change, "arguments")]
        assert asked == ([] if child == 3 else [4])


def test_a_split_whose_microshards_went_otherwise_ends_in_words(simulated: Any) -> None:
    cluster = simulated()
    operation = cluster.request(SplitRequest(1))
    cluster.groups[1].ranges, cluster.groups[1].children = (MicroshardRange(0, 2),), (50,)
    row = cluster.run_to_end(operation)
    assert (row.state, "`shoal settle 1`" in row.reason) == (State.FAILED, True)
