"""The node's accounts of memory: bounds that hold, each for itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal_server.invariants import InvariantViolated
from shoal_server.node.memory import LEAST_BYTES, SHARES, SQUEEZED_LEAST, Account, MemoryBudget

MIB = 1 << 20


def test_the_bounds_of_all_accounts_are_the_whole_and_no_more():
    memory = MemoryBudget(1000 * MIB)
    bounds = [memory.bound(account) for account in Account]
    assert 1000 * MIB - len(Account) <= sum(bounds) <= 1000 * MIB
    assert memory.bound(Account.REQUESTS) == 250 * MIB


def test_what_finds_no_room_takes_none_and_is_counted():
    memory = MemoryBudget(1000 * MIB)
    assert memory.take(Account.FRAMES, 90 * MIB)
    assert not memory.take(Account.FRAMES, 20 * MIB)
    assert memory.used(Account.FRAMES) == 90 * MIB
    assert memory.refused[Account.FRAMES] == 1
    assert memory.take(Account.FRAMES, 10 * MIB)
    memory.give_back(Account.FRAMES, 100 * MIB)
    assert memory.used(Account.FRAMES) == 0


def test_a_full_account_leaves_the_others_alone():
    memory = MemoryBudget(LEAST_BYTES)
    assert memory.take(Account.REQUESTS, 1 << 40)
    assert not memory.take(Account.REQUESTS, 1)
    assert all(memory.take(account, MIB) for account in Account if account is not Account.REQUESTS)


def test_the_first_thing_fits_however_small_the_bound():
    memory = MemoryBudget(0)
    assert memory.total == LEAST_BYTES
    assert memory.take(Account.SNAPSHOTS, 1 << 40)
    assert not memory.take(Account.SNAPSHOTS, 1)


def test_it_is_tight_before_it_is_full():
    memory = MemoryBudget(1000 * MIB)
    memory.take(Account.REQUESTS, 187 * MIB)
    assert not memory.is_tight(Account.REQUESTS)
    memory.add(Account.REQUESTS, MIB)
    assert memory.is_tight(Account.REQUESTS)
    assert memory.pressure(Account.REQUESTS) == pytest.approx(0.752)


def test_squeezed_bounds_are_smaller_and_never_nothing():
    memory = MemoryBudget(1000 * MIB)
    memory.squeeze(0.5)
    assert memory.bound(Account.REQUESTS) == 125 * MIB
    memory.squeeze(0.0)
    assert memory.bound(Account.REQUESTS) == 250 * MIB * SQUEEZED_LEAST
    memory.squeeze(7.0)
    assert memory.bound(Account.REQUESTS) == 250 * MIB


def test_what_was_not_taken_is_not_given_back():
    memory = MemoryBudget(0)
    memory.take(Account.PEERS, 5)
    with pytest.raises(InvariantViolated, match="not taken"):
        memory.give_back(Account.PEERS, 6)


def test_a_refusal_names_what_was_too_much_the_bound_and_what_would_be_right():
    memory = MemoryBudget(1000 * MIB)
    memory.take(Account.REQUESTS, 7)
    words = memory.refusal(Account.REQUESTS)
    assert f"7 bytes of requests, of {250 * MIB}" in words
    assert "limits.memory" in words


@given(st.lists(st.tuples(st.sampled_from(Account), st.integers(0, 40 * MIB)), max_size=60))
def test_no_account_holds_more_than_its_bound_and_one_thing(steps: list[tuple[Account, int]]):
    memory = MemoryBudget(LEAST_BYTES)
    largest = dict.fromkeys(Account, 0)
    for account, size in steps:
        if memory.take(account, size):
            largest[account] = max(largest[account], size)
        assert memory.used(account) <= LEAST_BYTES * SHARES[account] // 1000 + largest[account]
