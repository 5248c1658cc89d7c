"""What clients are told while a leadership is on its way: who leads, as soon as that is known, and nothing else."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from shoal.errors import ErrorCode
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    Done,
    Failure,
    InstallShardMap,
    OpenSession,
    Put,
    SessionOpened,
    TransferLeader,
    Write,
    Written,
)
from shoal.shardmap import ShardMap
from shoal_server.node.refusals import PATIENCE_NS
from shoal_server.storage.replica_failure import FailureKind, ReplicaFailure

SHARD = 1
BODY = encode_operations([Put(b"k", b"v")])


def session_of(nodes: Any) -> bytes:
    opened = nodes.ask_and_wait(nodes.leader, lambda request: OpenSession(request, SHARD))
    assert isinstance(opened, SessionOpened)
    return opened.session


def write(nodes: Any, node: str, session: bytes, number: int) -> int:
    """Send a write to a node, whoever leads; return its request's number."""
    sent: int = nodes.ask(node, lambda request: Write(request, SHARD, 1, session, number, 5000, BODY))
    return sent


def hand_over(nodes: Any, target: str) -> int:
    asked: int = nodes.ask(nodes.leader, lambda request: TransferLeader(request, SHARD, target, 5000))
    return asked


def install(nodes: Any, node: str, shard_map: ShardMap) -> None:
    nodes.ask(node, lambda request: InstallShardMap(request, shard_map))


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


def test_a_transfer_is_answered_when_newer_maps_come_at_the_same_moment_as_the_new_leader(nodes: Any) -> None:
    old, target = nodes.leader, nodes.others[0]
    transfer = hand_over(nodes, target)
    newest = nodes.shard_map
    while nodes.replica(old).group.leader != target:
        newest = replace(newest, version=newest.version + 1)
        install(nodes, old, newest)
        nodes.step()
    assert isinstance(nodes.answer(transfer), Done)


def test_writes_are_done_when_the_transfer_comes_to_nothing(nodes: Any) -> None:
    session, old, target = session_of(nodes), nodes.leader, nodes.others[0]
    transfer = hand_over(nodes, target)
    nodes.cut.add((old, target))
    request = write(nodes, old, session, 1)
    assert isinstance(nodes.answer(request), Written)
    assert transfer not in nodes.answers, "the old leader goes on before who asked has lost patience"


def test_a_write_that_is_kept_for_longer_than_its_caller_waits_is_not_done(nodes: Any) -> None:
    session, old, target = session_of(nodes), nodes.leader, nodes.others[0]
    hand_over(nodes, target)
    nodes.cut.add((old, target))
    late = nodes.ask(
        old, lambda request: Write(request, SHARD, 1, session, 1, 5, encode_operations([Put(b"late", b"v")]))
    )
    patient = write(nodes, old, session, 2)
    refused = nodes.answer(late)
    assert nodes.replica(old).group.transferring, "it is answered while the others wait"
    assert isinstance(refused, Failure)
    assert (refused.code, refused.maybe_applied) == (ErrorCode.DEADLINE_EXCEEDED.value, False)
    assert "longer than its caller waits, and was not done" in refused.message
    assert isinstance(nodes.answer(patient), Written)
    assert nodes.stored_keys(old) == [b"k"]
    assert nodes.replica(old).memory.entries == 0


def test_what_is_kept_of_a_client_that_has_gone_is_not_done(nodes: Any) -> None:
    session, old, target = session_of(nodes), nodes.leader, nodes.others[0]
    node = nodes.nodes[old]
    node.client_connected(50, b"")
    hand_over(nodes, target)
    nodes.cut.add((old, target))
    nodes.step()
    node.receive_client(50, [Write(1, SHARD, 1, session, 1, 5000, encode_operations([Put(b"gone", b"v")]))])
    patient = write(nodes, old, session, 2)
    nodes.step()
    assert nodes.replica(old).backlog.commands == 2
    node.client_gone(50)
    assert nodes.replica(old).backlog.commands == 1
    assert isinstance(nodes.answer(patient), Written)
    assert nodes.stored_keys(old) == [b"k"]


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


def test_whoever_asks_while_a_leader_is_gone_is_told_the_next_one_as_soon_as_there_is_one(nodes: Any) -> None:
    session, old, others = session_of(nodes), nodes.leader, nodes.others
    asked = others[0]
    nodes.isolate(old)
    for node in others:
        nodes.nodes[node].peer_lost(old)
    requests = [write(nodes, asked, session, 1)]
    nodes.step()
    assert requests[0] not in nodes.answers, "it is not sent to a leader whose connection has gone"
    while nodes.replica(asked).group.leader in ("", old):
        nodes.pass_time(10)
        if requests[-1] in nodes.answers:
            requests.append(write(nodes, asked, session, 1))
    nodes.pass_time(10)
    refusals = [nodes.answer(request) for request in requests]
    assert all(refused.code == ErrorCode.NOT_LEADER.value for refused in refusals)
    assert refusals[-1].route.leader in others
    assert 1 < len(requests) < 8, "some wait in vain, each for a while"


def test_a_leader_that_is_not_connected_is_not_said_to_lead(nodes: Any) -> None:
    session, old, asked = session_of(nodes), nodes.leader, nodes.others[0]
    nodes.isolate(asked)
    for node in (old, nodes.others[1]):
        nodes.nodes[asked].peer_lost(node)
    request = write(nodes, asked, session, 1)
    nodes.pass_time(2 * PATIENCE_NS // 1_000_000)
    [refused] = nodes.answers[request]
    assert isinstance(refused, Failure)
    assert refused.message == f"{asked} does not lead shard {SHARD}; {old} did, and is not connected"
    assert refused.route is not None
    assert refused.route.leader == old, "it may be that only this node has lost it"


def test_a_leader_that_is_connected_is_named_at_once(nodes: Any) -> None:
    session, leader, asked = session_of(nodes), nodes.leader, nodes.others[0]
    request = write(nodes, asked, session, 1)
    nodes.step()
    [refused] = nodes.answers[request]
    assert refused.route.leader == leader


def test_a_replica_that_has_not_heard_of_a_leader_yet_says_so_at_once(make_nodes: Any) -> None:
    """Such as one that a split has made: others may know more."""
    nodes = make_nodes()
    request = write(nodes, "n2", bytes(16), 1)
    nodes.step()
    [refused] = nodes.answers[request]
    assert refused.code == ErrorCode.NOT_LEADER.value
    assert refused.route.leader == ""


def test_leadership_is_not_handed_to_a_replica_that_gets_its_rows_anew(nodes: Any) -> None:
    leader = nodes.leader
    failed, whole = sorted(nodes.others, reverse=True)
    # The one that would be chosen, were it whole; of snapshots none gets through.
    nodes.nodes[leader]._transfers._settings = replace(nodes.settings, snapshots_at_once=0)
    replica = nodes.replica(failed)
    nodes.nodes[failed].failing.fail(replica, ReplicaFailure(FailureKind.DIVERGED, "planted", 1), nodes.now)
    nodes.pass_time(20)
    assert replica.failure is not None
    refused = nodes.ask_and_wait(leader, lambda request: TransferLeader(request, SHARD, failed, 5000))
    assert isinstance(refused, Failure)
    assert "gets its rows anew" in refused.message
    nodes.nodes[leader].hand_over(nodes.now)
    nodes.until(lambda: nodes.replica(whole).group.is_leader, 100)
