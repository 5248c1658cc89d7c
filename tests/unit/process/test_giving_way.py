"""Where memory is short, whoever holds much goes first, and of the others who is slowest."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from shoal_server.process.giving_way import Held, giving_way, much

MIB = 1 << 20
MAY_HOLD = 16 * MIB


def order(frames: Iterable[Held[str]], may_hold: int = MAY_HOLD) -> list[str]:
    return [connection for connection, _ in giving_way(frames, may_hold)]


def many(holder: str, count: int, size: int, pace: float) -> list[Held[str]]:
    """Return what one holder holds, the first of which are the slowest."""
    return [Held(f"{holder}-{number}", holder, size, 1 / (pace + number)) for number in range(count)]


def test_many_connections_of_one_address_keep_no_slower_client_out():
    slow = Held("slow", "honest", 600_000, 1 / 30_000)
    crowd = many("attacker", 40, 2 * MIB, 100_000.0)
    gone = order([slow, *crowd])
    # Until what is left of the crowd is no more than one client may hold: 8 frames.
    assert gone[:32] == [f"attacker-{number}" for number in range(32)]
    assert gone[32] == "slow"


def test_the_largest_goes_first_until_it_is_as_large_as_the_next():
    frames = [*many("large", 6, 10 * MIB, 500.0), *many("larger", 7, 10 * MIB, 900.0)]
    gone = order(frames)
    assert gone[0] == "larger-0"
    assert {"large-0", "larger-1"} == set(gone[1:3])
    assert sorted(gone) == sorted(frame.connection for frame in frames)


def test_where_nobody_holds_much_the_slowest_goes():
    frames = [Held(f"c{pace}", f"h{pace}", pace * MIB, 1 / pace) for pace in (3, 1, 5, 2)]
    assert order(frames) == ["c1", "c2", "c3", "c5"]


def test_every_frame_is_named_once_and_none_more_than_one_client_may_hold_goes_before_the_rest():
    random = Random(7)
    for _ in range(200):
        frames = [
            Held(f"c{number}", random.randrange(5), random.randrange(1, 9 * MIB), random.random())
            for number in range(random.randrange(30))
        ]
        by_connection = {frame.connection: frame for frame in frames}
        left = list(frames)
        for connection, besides in giving_way(frames, MAY_HOLD):
            frame = by_connection[connection]
            held = {each.holder: 0 for each in left}
            for each in left:
                held[each.holder] += each.size
            if max(held.values()) > MAY_HOLD:
                assert held[frame.holder] == max(held.values())
                assert f"{held[frame.holder]} bytes" in besides
                assert frame.slowness == max(each.slowness for each in left if each.holder == frame.holder)
            else:
                assert frame.slowness == max(each.slowness for each in left)
            left.remove(frame)
        assert not left


def test_how_much_is_much_depends_on_the_memory_that_there_is():
    assert much(400 * MIB, 16 * MIB) == 16 * MIB
    assert much(40 * MIB, 16 * MIB) == 10 * MIB


def test_nobody_gives_way_where_there_is_nobody():
    assert order([]) == []
