"""A failed replica whose log is the newest that is left leads until another has it, and serves nobody meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from shoal.protocol.messages import Failure, Freshness, GetStatus, Put, Rows, Written
from shoal_server.node.settings import NodeSettings
from shoal_server.raft.ready import NotLeader
from shoal_server.raft.state import Role
from shoal_server.storage.replica_failure import FailureKind, ReplicaFailure

from .conftest import NODES, Nodes

STRONG = Freshness()


def fail(nodes: Any, name: str, kind: FailureKind, log_lost_to: int = 0) -> None:
    failure = ReplicaFailure(kind, "for this test", nodes.replica(name).machine.state.index, log_lost_to)
    nodes.nodes[name].failing.fail(nodes.replica(name), failure, nodes.now)


def lose_leader(nodes: Any) -> tuple[str, str]:
    """Let one follower miss what the other has acknowledged, and the leader be gone; return (who has it, who lacks it)."""
    nodes.answer(nodes.write(Put(b"a", b"1")))
    nodes.pass_time(300)
    old = nodes.leader
    whole, behind = nodes.others
    nodes.cut |= {(old, behind), (behind, old)}
    assert isinstance(nodes.answer(nodes.write(Put(b"b", b"2"))), Written)
    nodes.pass_time(100)
    nodes.cut.clear()
    nodes.isolate(old)
    for name in (whole, behind):
        nodes.nodes[name].peer_lost(old)
    return whole, behind


def feeds(nodes: Any, name: str) -> bool:
    return bool(nodes.replica(name).group.role is Role.LEADER)


@pytest.mark.parametrize("kind", list(FailureKind))
def test_what_only_a_failed_replica_has_reaches_the_other_which_then_leads(nodes: Any, kind: FailureKind) -> None:
    whole, behind = lose_leader(nodes)
    fail(nodes, whole, kind)
    nodes.until(lambda: feeds(nodes, whole), 8000)
    nodes.until(lambda: nodes.replica(behind).group.read_index(nodes.now) is not None, 3000)
    rows = nodes.answer(nodes.read(behind, b"b", freshness=STRONG))
    assert isinstance(rows, Rows)
    assert rows.values[0] == b"2"
    if kind is not FailureKind.STUCK:
        nodes.until(lambda: nodes.replica(whole).failure is None, 5000)


def test_while_it_leads_it_serves_nobody_and_says_that_it_does_not_lead(nodes: Any) -> None:
    whole, behind = lose_leader(nodes)
    fail(nodes, whole, FailureKind.DIVERGED)
    nodes.cut |= {(whole, behind)}
    nodes.pass_time(1500)
    nodes.cut -= {(whole, behind)}
    nodes.until(lambda: feeds(nodes, whole), 8000)
    group = nodes.replica(whole).group
    assert not group.is_leader
    assert group.leader == ""
    assert group.read_index(nodes.now) is None
    with pytest.raises(NotLeader):
        group.propose([b""])
    with pytest.raises(NotLeader):
        group.start_read(1, nodes.now)
    asked = nodes.read(whole, b"b", freshness=STRONG)
    assert isinstance(nodes.answer(asked), Failure)


def test_it_leaves_leading_to_a_whole_replica_that_can_win(nodes: Any) -> None:
    nodes.answer(nodes.write(Put(b"a", b"1")))
    nodes.pass_time(300)
    old = nodes.leader
    failed, other = nodes.others
    fail(nodes, failed, FailureKind.STUCK)
    nodes.isolate(old)
    while not nodes.replica(other).group.is_leader:
        nodes.step()
        assert not feeds(nodes, failed)


def connect_only(nodes: Any, *pairs: tuple[str, str]) -> None:
    """Leave these ways between nodes, in both directions; all are told."""
    ways = {*pairs, *((second, first) for first, second in pairs)}
    nodes.cut = {(one, other) for one in NODES for other in NODES if one != other} - ways
    for one in NODES:
        for other in NODES:
            if one != other:
                nodes.nodes[one].peer_lost(other)
                if (one, other) in ways:
                    nodes.nodes[one].peer_connected(other)


def test_one_that_can_help_nobody_leaves_leading_to_a_whole_one_out_of_its_reach() -> None:
    nodes = Nodes(NodeSettings(log_retain_bytes=1, log_checkpoint_bytes=1))
    whole = nodes.leader
    failed, behind = nodes.others
    nodes.answer(nodes.write(Put(b"a", b"1")))
    nodes.pass_time(500)
    connect_only(nodes, (whole, failed))
    for number in range(6):
        nodes.answer(nodes.write(Put(b"k%d" % number, b"v")))
        nodes.pass_time(100)
    lacks = nodes.replica(behind).group.log.last_index + 1
    nodes.until(lambda: nodes.replica(failed).group.log.first_index > lacks)
    connect_only(nodes, (behind, failed))
    fail(nodes, failed, FailureKind.DIVERGED)
    nodes.until(lambda: feeds(nodes, failed), 8000)
    connect_only(nodes, (behind, failed), (behind, whole))
    nodes.until(lambda: nodes.replica(whole).group.read_index(nodes.now) is not None, 30_000)


def test_one_that_has_lost_its_log_never_leads(nodes: Any) -> None:
    whole, behind = lose_leader(nodes)
    fail(nodes, whole, FailureKind.DAMAGED, log_lost_to=nodes.replica(whole).group.log.last_index)
    for _ in range(20_000):
        nodes.step()
        assert not feeds(nodes, whole)
        assert not feeds(nodes, behind)


def test_where_all_have_failed_they_lead_ever_more_seldom(nodes: Any) -> None:
    nodes.answer(nodes.write(Put(b"a", b"1")))
    for name in NODES:
        fail(nodes, name, FailureKind.STUCK)
    nodes.pass_time(30_000)
    early = max(nodes.replica(name).group.term for name in NODES)
    assert early <= 16
    nodes.pass_time(60_000)
    assert max(nodes.replica(name).group.term for name in NODES) - early <= 8
    for name in NODES:
        [replica] = nodes.ask_and_wait(name, GetStatus).replicas
        assert replica.role != "leader"
