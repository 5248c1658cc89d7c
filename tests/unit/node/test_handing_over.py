"""What clients are told while a leadership is on its way: who leads, as soon as that is known, and nothing else."""

from __future__ import annotations

from typing import Any

from shoal.errors import ErrorCode
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import Done, Failure, OpenSession, Put, SessionOpened, TransferLeader, Write, Written
from shoal_server.node.handover import PATIENCE_NS

SHARD = 1
BODY = encode_operations([Put(b"k", b"v")])


def session_of(nodes: Any) -> int:
    opened = nodes.ask_and_wait(nodes.leader, lambda request: OpenSession(request, SHARD))
    assert isinstance(opened, SessionOpened)
    return opened.session


def write(nodes: Any, node: str, session: int, number: int) -> int:
    """Send a write to a node, whoever leads; return its request's number."""
    sent: int = nodes.ask(node, lambda request: Write(request, SHARD, 1, session, number, 1000, BODY))
    return sent


def hand_over(nodes: Any, target: str) -> int:
    asked: int = nodes.ask(nodes.leader, lambda request: TransferLeader(request, SHARD, target, 5000))
    return asked


def test_whoever_asks_the_old_leader_during_a_transfer_is_told_the_new_one(nodes: Any) -> None:
    session, old, target = session_of(nodes), nodes.leader, nodes.others[0]
    transfer = hand_over(nodes, target)
    asked = []
    while transfer not in nodes.answers:
        asked.append(write(nodes, old, session, len(asked) + 1))
        nodes.step()
    assert isinstance(nodes.answer(transfer), Done)
    assert len(asked) > 3
    for request in asked:
        answer = nodes.answer(request)
        assert isinstance(answer, Failure)
        assert answer.code == ErrorCode.NOT_LEADER.value
        assert answer.route is not None
        assert answer.route.leader == target


def test_writes_are_done_when_the_transfer_comes_to_nothing(nodes: Any) -> None:
    session, old, target = session_of(nodes), nodes.leader, nodes.others[0]
    transfer = hand_over(nodes, target)
    nodes.cut.add((old, target))
    request = write(nodes, old, session, 1)
    assert isinstance(nodes.answer(request), Written)
    assert transfer not in nodes.answers, "the old leader goes on before who asked has lost patience"


def test_nobody_waits_for_long_for_a_leader_that_does_not_come_up(nodes: Any) -> None:
    session, old, target = session_of(nodes), nodes.leader, nodes.others[0]
    hand_over(nodes, target)
    nodes.until(lambda: not nodes.replica(old).group.is_leader and not nodes.replica(old).group.leader)
    nodes.isolate(old)
    request = write(nodes, old, session, 1)
    nodes.step()
    assert request not in nodes.answers
    nodes.pass_time(2 * PATIENCE_NS // 1_000_000)
    [refused] = nodes.answers[request]
    assert isinstance(refused, Failure)
    assert refused.code == ErrorCode.NOT_LEADER.value
