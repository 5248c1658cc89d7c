"""Who is bound to a process that leads no more learns of it, whatever was lost with a connection."""

from __future__ import annotations

from typing import Any

import pytest
from shoal.protocol.messages import Put
from shoal_server.node.outbox import peer_decoder
from shoal_server.raft.messages import LeaderQuestion, Resigned
from shoal_server.storage.replica_failure import FailureKind, ReplicaFailure


def fail_leader(nodes: Any) -> str:
    """Let the leader's replica fail, up to when its resignations are under way; return its node."""
    nodes.answer(nodes.write(Put(b"a", b"1")))
    nodes.pass_time(300)
    old: str = nodes.leader
    failure = ReplicaFailure(FailureKind.STUCK, "for this test", 1)
    nodes.nodes[old].failing.fail(nodes.replica(old), failure, nodes.now)
    nodes.until(lambda: bool(under_way(nodes, Resigned)))
    return old


def under_way(nodes: Any, kind: type) -> list[tuple[str, str]]:
    """The links in which there is a message of `kind`."""
    return [
        (sender, receiver)
        for sender, receiver, body in nodes.frames
        if any(isinstance(message, kind) for message in peer_decoder.decode(body))
    ]


def break_link(nodes: Any, sender: str, receiver: str) -> None:
    """End the connection by which `sender` speaks, of which it alone is told; the next one is there at once."""
    nodes.frames = [frame for frame in nodes.frames if frame[:2] != (sender, receiver)]
    nodes.nodes[sender].peer_lost(receiver)
    nodes.nodes[sender].peer_connected(receiver)


def leads(nodes: Any, names: list[str]) -> bool:
    return any(nodes.replica(name).group.is_leader for name in names)


def test_resignations_that_are_lost_with_their_connections_are_asked_for_when_the_next_ones_are_there(
    nodes: Any,
) -> None:
    old = fail_leader(nodes)
    lost = under_way(nodes, Resigned)
    assert len(lost) == 2
    for sender, receiver in lost:
        break_link(nodes, sender, receiver)
    nodes.until(lambda: leads(nodes, [name for name in nodes.nodes if name != old]), 1000)


def test_one_lost_resignation_does_not_bind_the_only_other_voter_that_lives(nodes: Any) -> None:
    live, down = nodes.others
    nodes.isolate(down)
    nodes.pass_time(3000)
    old = fail_leader(nodes)
    break_link(nodes, old, live)
    nodes.until(lambda: nodes.replica(live).group.is_leader, 1000)


@pytest.mark.parametrize("times", [1, 3])
def test_questions_that_are_lost_are_asked_again_with_the_next_connection_of_who_asks(nodes: Any, times: int) -> None:
    old = fail_leader(nodes)
    for sender, receiver in under_way(nodes, Resigned):
        break_link(nodes, sender, receiver)
    for _ in range(times):
        nodes.until(lambda: len(under_way(nodes, LeaderQuestion)) == 2)
        for sender, receiver in under_way(nodes, LeaderQuestion):
            break_link(nodes, sender, receiver)
    nodes.until(lambda: leads(nodes, [name for name in nodes.nodes if name != old]), 1000)


def test_answers_that_are_lost_are_asked_for_again(nodes: Any) -> None:
    old = fail_leader(nodes)
    for _ in range(3):
        lost = under_way(nodes, Resigned)
        for sender, receiver in lost:
            assert sender == old
            break_link(nodes, sender, receiver)
        nodes.until(lambda: len(under_way(nodes, Resigned)) == 2)
    nodes.until(lambda: leads(nodes, [name for name in nodes.nodes if name != old]), 1000)


def test_a_replica_that_is_gone_since_it_resigned_is_answered_for(nodes: Any) -> None:
    old = fail_leader(nodes)
    nodes.nodes[old].replica_set.forget(1)
    for sender, receiver in under_way(nodes, Resigned):
        break_link(nodes, sender, receiver)
    nodes.until(lambda: leads(nodes, [name for name in nodes.nodes if name != old]), 1000)


def test_a_leader_that_still_leads_goes_on_to_and_a_quiet_group_says_nothing(nodes: Any) -> None:
    nodes.pass_time(1000)
    leader, term = nodes.leader, nodes.replica(nodes.leader).group.term
    for other in nodes.others:
        break_link(nodes, leader, other)
        break_link(nodes, other, leader)
    nodes.pass_time(500)
    for _ in range(1000):
        nodes.step()
        assert not under_way(nodes, LeaderQuestion)
    assert (nodes.leader, nodes.replica(leader).group.term) == (leader, term)
