"""Which way a connection's calls take, and that nobody has all of them."""

from __future__ import annotations

from shoal_server.api.front.lanes import LANES, LANES_OF_CALLER, Lanes


def test_connections_take_lanes_of_their_own_as_long_as_there_are_some() -> None:
    lanes = Lanes()
    assert [lanes.enter(f"a{number}") for number in range(LANES)] == list(range(LANES))
    assert lanes.enter("b") == 0


def test_a_caller_with_many_connections_leaves_lanes_for_others() -> None:
    lanes = Lanes()
    taken = {lanes.enter("a") for _ in range(1000)}
    assert len(taken) == LANES_OF_CALLER
    assert lanes.enter("b") not in taken


def test_a_lane_that_was_left_is_taken_again() -> None:
    lanes = Lanes()
    for caller in ("a", "b", "c"):
        lanes.enter(caller)
    lanes.leave("b", 1)
    assert lanes.enter("d") == 1
    for caller, lane in (("a", 0), ("c", 2), ("d", 1)):
        lanes.leave(caller, lane)
    assert not lanes._of_caller
    assert not any(lanes._used)
