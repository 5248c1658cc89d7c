"""Support between nodes: who has promised what to whom, until when, and what ends it."""

from __future__ import annotations

from shoal_server.raft.config import Timing
from shoal_server.raft.liveness import FOREVER, Liveness
from shoal_server.raft.messages import Heartbeat

TIMING = Timing()
SECOND = 1_000_000_000


def pair(now: int = 0) -> tuple[Liveness, Liveness]:
    return Liveness("a", 1, TIMING, now), Liveness("b", 1, TIMING, now)


def beat(sender: Liveness, receiver: Liveness, now: int, *, wants: bool = True) -> bool:
    """One heartbeat there and its answer back, without delay."""
    sender.heartbeat_soon(receiver.node)
    heartbeat = sender.peers_heartbeats(now, [receiver.node], wants, True)[receiver.node]
    return sender.on_answer(receiver.node, receiver.on_heartbeat(sender.node, heartbeat, now), now)


def test_the_first_heartbeat_is_answered_without_support_and_the_second_with_it() -> None:
    a, b = pair()
    assert not beat(a, b, SECOND)
    assert a.supported_until("b") == 0
    assert beat(a, b, SECOND + 1)
    assert b.supports("a", 1, SECOND + 1)


def test_the_supported_node_relies_on_less_than_it_was_promised() -> None:
    a, b = pair()
    beat(a, b, SECOND)
    beat(a, b, SECOND + 1)
    assert a.supported_until("b") == SECOND + 1 + TIMING.lease_ns
    assert TIMING.lease_ns < TIMING.support_ns
    assert b.supports("a", 1, SECOND + TIMING.support_ns)
    assert not b.supports("a", 1, SECOND + 1 + TIMING.support_ns)


def test_a_node_that_does_not_hear_the_answers_is_not_supported() -> None:
    _, b = pair()
    for number in range(1, 20):
        answer = b.on_heartbeat("a", Heartbeat(1, number * SECOND, 0, True), number * SECOND)
        assert answer.support_ns == 0
    stale = b.on_heartbeat("a", Heartbeat(1, 30 * SECOND, 28 * SECOND, True), 30 * SECOND)
    assert stale.support_ns == 0


def test_a_node_whose_disk_stalls_asks_for_no_support_and_gets_none() -> None:
    a, b = pair()
    beat(a, b, SECOND)
    assert not beat(a, b, SECOND + 1, wants=False)
    assert not b.supports("a", 1, SECOND + 1)


def test_a_new_life_voids_what_was_promised_to_the_old_one_and_an_old_one_gets_nothing() -> None:
    a, b = pair()
    beat(a, b, SECOND)
    beat(a, b, SECOND + 1)
    reborn = Liveness("a", 2, TIMING, 0)
    beat(reborn, b, SECOND + 2)
    assert not b.supports("a", 1, SECOND + 2)
    assert not b.supports("a", 2, SECOND + 2)
    assert b.on_heartbeat("a", Heartbeat(1, SECOND + 3, SECOND + 2, True), SECOND + 3).support_ns == 0


def test_a_promise_that_has_run_out_is_replaced_by_one_with_a_higher_number() -> None:
    a, b = pair()
    beat(a, b, SECOND)
    beat(a, b, SECOND + 1)
    first = b.promise_to("a", 1)
    beat(a, b, SECOND + 2)
    assert b.promise_to("a", 1) == first, "an unbroken promise keeps its number"
    beat(a, b, 5 * SECOND)
    beat(a, b, 5 * SECOND + 1)
    assert b.promise_to("a", 1) > first
    assert a.promise_of("b") == b.promise_to("a", 1)


def test_a_later_life_of_the_promising_process_has_higher_numbers() -> None:
    a, b = pair()
    beat(a, b, SECOND)
    beat(a, b, SECOND + 1)
    before = a.promise_of("b")
    reborn = Liveness("b", 2, TIMING, 0)
    assert beat(a, reborn, SECOND + 2)
    assert a.promise_of("b") > before


def test_what_runs_out_is_reported_once_in_either_direction() -> None:
    a, b = pair()
    beat(a, b, SECOND)
    beat(a, b, SECOND + 1)
    assert b.expired(SECOND + 2) == []
    assert a.unsupported_by(SECOND + 2) == []
    late = SECOND + 1 + TIMING.support_ns
    assert b.expired(late) == ["a"]
    assert b.expired(late) == []
    assert a.unsupported_by(late) == ["b"]
    assert a.unsupported_by(late) == []


def test_heartbeats_are_due_at_their_interval() -> None:
    a, _ = pair()
    assert set(a.peers_heartbeats(SECOND, ["b", "c"], True, True)) == {"b", "c"}
    assert a.peers_heartbeats(SECOND + 1, ["b", "c"], True, True) == {}
    assert a.next_due(SECOND + 1, ["b", "c"]) == SECOND + TIMING.heartbeat_interval_ns
    later = SECOND + TIMING.heartbeat_interval_ns
    assert set(a.peers_heartbeats(later, ["b"], True, True)) == {"b"}
    assert a.next_due(later, ["b"]) == later + TIMING.heartbeat_interval_ns, "nothing is due for a peer that is no more"


def test_a_node_always_supports_itself() -> None:
    a, _ = pair()
    assert a.supports("a", 1, SECOND)
    assert a.supported_until("a") == FOREVER
