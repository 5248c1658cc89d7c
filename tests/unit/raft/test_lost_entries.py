"""A replica whose disk loses what it had acknowledged: its leader says so and fills it up, and nothing committed changes."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from shoal_server.raft.config import RaftConfig
from shoal_server.raft.liveness import PROMISE_BITS
from shoal_server.raft.messages import AppendAccepted, AppendEntries, AppendRejected, CommitNotice

MS = 1_000_000


def restart(cluster: Any, node: Any, disk: dict[int, Any]) -> None:
    """Kill a node and start it on a disk as it once was; the others notice."""
    node.crash()
    others = [other for other in cluster.nodes.values() if other is not node]
    for other in others:
        other.connected(node.name, False)
    cluster.run(10 * MS)
    node.disk = disk
    node.start()
    for other in others:
        other.connected(node.name, True)
        node.connected(other.name, True)


def write(cluster: Any, leader: Any, count: int) -> None:
    for _ in range(count):
        assert leader.propose(0)
        cluster.run(20 * MS)
    cluster.run(200 * MS)


def last_indexes(cluster: Any) -> set[int]:
    return {node.groups[0].log.last_index for node in cluster.nodes.values()}


@pytest.mark.parametrize("seed", range(8))
def test_a_replica_whose_disk_goes_back_in_time_is_filled_up_by_the_leader_that_leads_on(
    make_cluster: Any, seed: int
) -> None:
    random = Random(seed)
    cluster = make_cluster(seed, 3, config=RaftConfig(max_append_bytes=random.choice([40, 1 << 20])))
    leader = cluster.await_leader()
    victim = random.choice([node for node in cluster.nodes.values() if node is not leader])
    write(cluster, leader, 3)
    before = {number: stored.copy() for number, stored in victim.disk.items()}
    kept = before[0].last
    write(cluster, leader, random.randint(2, 9))
    acknowledged = leader.groups[0].log.last_index
    assert victim.disk[0].last == acknowledged
    if random.random() < 0.5:
        leader.compact(0)
        cluster.run(100 * MS)
    restart(cluster, victim, before)
    cluster.run(100 * MS)
    assert victim.groups[0].log.last_index < acknowledged or last_indexes(cluster) == {acknowledged}
    cluster.converge()
    assert cluster.leader() is leader
    assert len(last_indexes(cluster)) == 1
    (report,) = leader.reported
    assert (report.node, report.acknowledged) == (victim.name, acknowledged)
    assert kept < report.missing <= acknowledged


def test_a_replica_that_restarts_with_all_it_had_is_reported_by_nobody_and_gets_nothing_twice(
    make_cluster: Any,
) -> None:
    cluster = make_cluster(1, 3)
    leader = cluster.await_leader()
    victim = next(node for node in cluster.nodes.values() if node is not leader)
    write(cluster, leader, 5)
    sent: list[int] = []

    def tap(_sender: str, receiver: str, message: Any) -> None:
        if receiver == victim.name and type(message) is AppendEntries:
            sent.extend(entry.index for entry in message.entries)

    cluster.tap = tap
    restart(cluster, victim, victim.disk)
    cluster.run(2000 * MS)
    assert cluster.leader() is leader
    assert leader.reported == []
    assert sent == []
    (peer,) = [peer for peer in leader.groups[0].status().peers if peer.node == victim.name]
    assert (peer.match_index, peer.state) == (leader.groups[0].log.last_index, "replicate")


def test_what_a_dead_life_had_acknowledged_commits_nothing_and_sends_no_commit(make_cluster: Any) -> None:
    """n2 of two voters comes back without its last entries: until it has them again, the leader is alone with its own."""
    cluster = make_cluster(1, 2)
    leader = cluster.await_leader()
    victim = next(node for node in cluster.nodes.values() if node is not leader)
    before = {number: stored.copy() for number, stored in victim.disk.items()}
    write(cluster, leader, 5)
    shown = 0

    def tap(sender: str, receiver: str, message: Any) -> None:
        nonlocal shown
        if receiver == leader.name and type(message) is AppendAccepted and sender == victim.name:
            shown = max(shown, message.match_index)
        if type(message) is CommitNotice and victim.epoch == 2:
            assert message.commit <= shown

    committed = leader.groups[0].log.commit_index
    cluster.tap = tap
    restart(cluster, victim, before)
    leader.propose(0)
    cluster.run_until(lambda: leader.groups[0].log.commit_index > committed, 3000 * MS)
    assert shown > committed, "what the new life has shown, not what the old one had"


def test_a_late_acceptance_by_a_dead_life_is_ignored(make_cluster: Any) -> None:
    cluster = make_cluster(1, 3)
    leader = cluster.await_leader()
    victim = next(node for node in cluster.nodes.values() if node is not leader)
    write(cluster, leader, 5)
    cluster.isolate(victim.name)
    group = leader.groups[0]
    last = group.log.last_index

    def match() -> list[int]:
        return [peer.match_index for peer in group.status().peers if peer.node == victim.name]

    late = AppendAccepted(0, group.term, last, 0, victim.liveness.promise_to(leader.name, leader.epoch))
    assert match() == [last]
    leader.receive(victim.name, AppendRejected(0, group.term, last, 0, 2, (victim.epoch + 1) << PROMISE_BITS))
    assert match() == [0]
    leader.receive(victim.name, late)
    assert match() == [0]
