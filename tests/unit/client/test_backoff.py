"""Waits stay under their bounds, and retries under their budget."""

from __future__ import annotations

from random import Random

import pytest
from shoal.routing.backoff import Backoff, RetryBudget


def test_waits_are_drawn_from_zero_to_a_bound_that_doubles_up_to_the_cap() -> None:
    backoff = Backoff(0.01, 0.25, Random(1))
    for retry, bound in [(0, 0.01), (1, 0.02), (4, 0.16), (5, 0.25), (10_000, 0.25)]:
        waits = [backoff.delay(retry) for _ in range(500)]
        assert 0 <= min(waits) < bound * 0.05
        assert bound * 0.95 < max(waits) <= bound


def test_equal_seeds_wait_equally() -> None:
    first, second = Backoff(0.01, 0.25, Random(7)), Backoff(0.01, 0.25, Random(7))
    assert [first.delay(i) for i in range(20)] == [second.delay(i) for i in range(20)]


def test_a_wait_without_budget_is_of_the_caps_upper_half() -> None:
    waits = [Backoff(0.01, 0.25, Random(i)).longest() for i in range(200)]
    assert min(waits) >= 0.125
    assert max(waits) <= 0.25


def test_a_budget_gives_out_its_tokens_and_a_part_back_for_each_success() -> None:
    budget = RetryBudget(capacity=2, refund=0.5)
    assert [budget.spend(), budget.spend(), budget.spend()] == [True, True, False]
    budget.succeeded()
    assert not budget.spend()
    budget.succeeded()
    assert budget.spend()
    for _ in range(100):
        budget.succeeded()
    assert [budget.spend(), budget.spend(), budget.spend()] == [True, True, False]


def test_senseless_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="0 < first <= cap"):
        Backoff(0.5, 0.25, Random())
    with pytest.raises(ValueError, match="capacity >= 1"):
        RetryBudget(0, 0.1)
