"""How many calls may be given up, by whom, and what it costs."""

from __future__ import annotations

from shoal_server.api.front.resets import ADDRESSES_MOST, BURST, BURST_OF_ALL, DEBT_MOST, RATE, Resets


def given_up(resets: Resets, address: str, now: float) -> int:
    count = 0
    while resets.may(address, now):
        count += 1
    return count


def test_an_address_may_give_up_some_at_once_and_then_so_many_a_second() -> None:
    resets = Resets(0.0)
    assert given_up(resets, "a", 0.0) == BURST
    assert not resets.could("a", 0.0)
    assert given_up(resets, "a", 1.0) == RATE


def test_no_number_of_addresses_gives_up_more_than_all_together_may() -> None:
    resets = Resets(0.0)
    assert sum(given_up(resets, str(number), 0.0) for number in range(20)) == BURST_OF_ALL


def test_a_connection_that_ends_with_calls_under_way_has_given_them_up() -> None:
    resets = Resets(0.0)
    assert not resets.owes("a", 0.0)
    resets.charge("a", int(BURST) + 100, 0.0)
    assert resets.owes("a", 0.0)
    assert not resets.owes("b", 0.0)
    assert not resets.owes("a", 1.0)
    resets.charge("a", 1_000_000, 1.0)
    assert resets.owes("a", 1.0 + DEBT_MOST / RATE - 0.1)
    assert not resets.owes("a", 1.0 + DEBT_MOST / RATE)


def test_addresses_that_are_kept_are_bounded() -> None:
    resets = Resets(0.0)
    for number in range(ADDRESSES_MOST + 10):
        resets.charge(str(number), 1, 0.0)
    assert len(resets._of_address) == ADDRESSES_MOST
