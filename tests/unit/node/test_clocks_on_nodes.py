"""Rows that expire while wall clocks are wrong: their lives are as long as they are to be."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest
from shoal.protocol.messages import (
    STRONG,
    Applied,
    Atomic,
    ConditionNotMet,
    Freshness,
    KeyAbsent,
    Put,
    Rows,
    TransferLeader,
)
from shoal_server.node.core import Node
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.node.status import StatusInPieces
from shoal_server.node.wall_clock import OFF_LEAST_NS
from shoal_server.raft.messages import HeartbeatAnswer

MS = 1_000_000
HOUR = 3_600_000
YEAR = 365 * 24 * HOUR
ANY = Freshness(strong=False)


def get(nodes: Any, key: bytes) -> bytes | None:
    answer = nodes.answer(nodes.read(nodes.leader, key, freshness=STRONG))
    assert isinstance(answer, Rows), answer
    return answer.values[0]


def restart(nodes: Any, name: str) -> None:
    """End a node's process, and begin another on the same disk."""
    identity = NodeIdentity("test", name, f"{name}-1", 2)
    node = Node(identity, nodes.shard_map, nodes.engines[name], nodes.settings, Random(9), nodes.now)
    nodes.nodes[name] = node
    for other in nodes.nodes:
        if other != name:
            nodes.nodes[other].peer_lost(name)
            nodes.nodes[other].peer_connected(name)
            node.peer_connected(other)


def settle(nodes: Any) -> None:
    nodes.until(lambda: all(node.clock.settled for node in nodes.nodes.values()))


@pytest.mark.parametrize("off", [YEAR, 8 * HOUR, -YEAR, 3000])
def test_a_leader_whose_clock_jumps_spoils_nothing_and_hands_over(nodes: Any, off: int) -> None:
    settle(nodes)
    nodes.answer(nodes.write(Put(b"session", b"v", HOUR)))
    wrong = nodes.leader
    nodes.wall_off_ms[wrong] = off
    nodes.step()
    nodes.answer(nodes.write(Put(b"lock", b"me", 1000), Put(b"x", b"any")))
    nodes.until(lambda: nodes.leader != wrong)
    status = StatusInPieces(nodes.nodes[wrong], 1)
    status.step(nodes.now)
    assert status.reply is not None
    assert "wall clock" in status.reply.not_leading
    assert abs(status.reply.clock_offset_ms - off) < 20
    assert get(nodes, b"session") == b"v"
    nodes.wall_off_ms.clear()
    nodes.pass_time(1100)
    assert (get(nodes, b"session"), get(nodes, b"lock")) == (b"v", None)
    taken = nodes.answer(nodes.write(Atomic([KeyAbsent(b"lock")], [Put(b"lock", b"other", 1000)])))
    assert isinstance(taken.results[0], Applied)
    nodes.pass_time(500)
    assert get(nodes, b"lock") == b"other"
    nodes.pass_time(600)
    assert get(nodes, b"lock") is None


def test_a_replica_whose_clock_is_wrong_serves_as_the_others_do(nodes: Any) -> None:
    settle(nodes)
    nodes.answer(nodes.write(Put(b"k", b"v", 2000)))
    follower = nodes.others[0]
    nodes.wall_off_ms[follower] = YEAR
    nodes.pass_time(300)
    assert nodes.answer(nodes.read(follower, b"k", freshness=ANY)).values == [b"v"]
    nodes.wall_off_ms[follower] = -YEAR
    nodes.pass_time(2000)
    assert nodes.answer(nodes.read(follower, b"k", freshness=ANY)).values == [None]


def test_nobody_hands_leadership_to_a_node_whose_clock_is_off_but_who_is_left_alone_leads(nodes: Any) -> None:
    settle(nodes)
    leader = nodes.leader
    wrong = nodes.others[0]
    nodes.wall_off_ms[wrong] = HOUR
    nodes.pass_time(500)
    refusal = nodes.answer(nodes.ask(leader, lambda number: TransferLeader(number, 1, wrong, 1000)))
    assert "its clock is off" in refusal.message
    nodes.wall_off_ms[wrong] = 0
    nodes.pass_time(OFF_LEAST_NS // MS + 300)
    nodes.answer(nodes.ask(leader, lambda number: TransferLeader(number, 1, wrong, 1000)))
    assert nodes.leader == wrong
    nodes.wall_off_ms = dict.fromkeys(nodes.nodes, 0) | {wrong: HOUR}
    nodes.isolate(next(name for name in nodes.nodes if name not in (wrong, leader)))
    nodes.until(lambda: nodes.leader == leader)


@pytest.mark.parametrize("off", [YEAR, -YEAR])
def test_the_first_node_of_a_cold_start_removes_and_sets_nothing_by_its_wrong_clock(nodes: Any, off: int) -> None:
    settle(nodes)
    nodes.answer(nodes.write(Put(b"hour", b"v", HOUR), Put(b"forever", b"v")))
    nodes.pass_time(500)
    stamped = nodes.replica(nodes.leader).machine.state.clock_ms
    for name in nodes.nodes:
        nodes.isolate(name)
    nodes.wall_off_ms["n1"] = off
    restart(nodes, "n1")
    nodes.pass_time(12_000)
    assert not nodes.nodes["n1"].clock.settled
    restart(nodes, "n2")
    nodes.cut -= {("n1", "n2"), ("n2", "n1")}
    leads = nodes.leader
    if leads != "n1":
        nodes.ask(leads, lambda number: TransferLeader(number, 1, "n1", 1000))
        nodes.until(lambda: nodes.leader == "n1")
    nodes.pass_time(3000)
    nodes.answer(nodes.write(Put(b"another", b"v", HOUR)))
    assert stamped <= nodes.replica(nodes.leader).machine.state.clock_ms <= nodes.wall_ms + 10
    assert (get(nodes, b"hour"), get(nodes, b"another")) == (b"v", b"v")
    nodes.heal()
    restart(nodes, "n3")
    nodes.until(lambda: nodes.leader != "n1", 20_000)
    nodes.pass_time(3000)
    assert [get(nodes, key) for key in (b"hour", b"another", b"forever")] == [b"v"] * 3
    assert abs(nodes.nodes[nodes.leader].clock.now_ms(nodes.now) - nodes.wall_ms) < 50


def poison(nodes: Any, ahead: int) -> None:
    """Have the shard's clock as a wrong one had set it, on all replicas."""
    nodes.pass_time(100)
    for name in nodes.nodes:
        machine = nodes.replica(name).machine
        machine.state = msgspec.structs.replace(machine.state, clock_ms=nodes.wall_ms + ahead)


def test_a_clock_that_was_set_too_far_is_set_back_through_the_log(nodes: Any) -> None:
    settle(nodes)
    nodes.answer(nodes.write(Put(b"session", b"v", YEAR * 2)))
    nodes.wall_ms += YEAR
    nodes.pass_time(1500)
    nodes.answer(nodes.write(Put(b"any", b"v")))
    assert nodes.replica(nodes.leader).machine.state.clock_ms >= nodes.wall_ms - 10, "all of them show it, and go on to"
    nodes.wall_ms -= YEAR
    nodes.pass_time(1500)
    clocks = {nodes.replica(name).machine.state.clock_ms for name in nodes.nodes}
    assert len(clocks) == 1
    assert abs(clocks.pop() - nodes.wall_ms) < 700
    nodes.answer(nodes.write(Put(b"lock", b"me", 1000)))
    nodes.pass_time(1100)
    assert (get(nodes, b"lock"), get(nodes, b"session")) == (None, b"v")
    settled = nodes.replica(nodes.leader).group.log.last_index
    nodes.pass_time(1000)
    assert nodes.replica(nodes.leader).group.log.last_index <= settled + 1, "a purge at most, and no order again"


def test_what_a_wrong_clock_hid_and_was_not_removed_is_there_again(nodes: Any) -> None:
    settle(nodes)
    nodes.answer(nodes.write(Put(b"session", b"v", HOUR)))
    leader = nodes.replica(nodes.leader)
    poison(nodes, YEAR)
    nodes.until(lambda: leader.machine.state.clock_ms < nodes.wall_ms + HOUR)
    assert get(nodes, b"session") == b"v", "removal waits until the time is certain"


def test_a_clock_that_is_a_little_ahead_is_waited_for(nodes: Any) -> None:
    settle(nodes)
    poison(nodes, 3000)
    nodes.answer(nodes.write(Put(b"k", b"v", 1000)))
    assert isinstance(
        nodes.answer(nodes.write(Atomic([KeyAbsent(b"k")], [Put(b"k", b"w")]))).results[0], ConditionNotMet
    )
    nodes.pass_time(1000)
    assert get(nodes, b"k") == b"v"
    nodes.pass_time(3100)
    assert get(nodes, b"k") is None


def test_the_tolerance_is_a_setting(make_nodes: Any) -> None:
    nodes = make_nodes(NodeSettings(clock_tolerance_ns=10_000 * MS))
    settle(nodes)
    wrong = nodes.leader
    nodes.wall_off_ms[wrong] = 9000
    nodes.pass_time(1000)
    assert (nodes.leader, nodes.nodes[wrong].not_leading) == (wrong, "")


def test_answers_to_an_earlier_life_or_with_nonsense_say_nothing(nodes: Any) -> None:
    settle(nodes)
    follower = nodes.others[0]
    node = nodes.nodes[follower]
    for name in nodes.nodes:
        if name != follower:
            node.receive_peer(name, [HeartbeatAnswer(1, 0, 0, nodes.wall_ms + YEAR)])
            node.receive_peer(name, [HeartbeatAnswer(nodes.now + 1000 * MS, 0, 0, nodes.wall_ms + YEAR)])
            node.receive_peer(name, [HeartbeatAnswer(nodes.now, 0, 0, 1 << 63)])
            node.receive_peer(name, [HeartbeatAnswer(nodes.now, 0, 0, -5)])
    nodes.pass_time(60)
    assert (node.not_leading, node.clock.offset_ms) == ("", 0)
