"""The checker of counters, on histories whose verdict is known and on those of a model."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from shoal_chaos.checkers.counters import Increment, find_violations


def test_a_counter_nobody_touched_keeps_its_value() -> None:
    assert find_violations([], None) == []
    assert find_violations([], 7, initial=7) == []
    assert find_violations([], 8, initial=7)


def test_acknowledged_increments_are_applied_exactly_once() -> None:
    history = [Increment(2, 2, 0, 1), Increment(3, 5, 2, 3)]
    assert find_violations(history, 5) == []
    for final in (2, 3, 4, 6, 8):
        (violation,) = find_violations(history, final)
        assert violation.sentence == f"The counter ended at {final}, but its increments allow only 5."


def test_increments_of_unknown_outcome_are_applied_once_or_never() -> None:
    history = [Increment(2, 2, 0, 1), Increment(3, None, 0, None), Increment(-1, None, 0, None)]
    for final in range(8):
        assert (find_violations(history, final) == []) == (1 <= final <= 5)


def test_two_increments_never_return_the_same_value_or_overlap() -> None:
    assert find_violations([Increment(1, 1, 0, 9), Increment(1, 1, 0, 9)], None)
    assert find_violations([Increment(5, 5, 0, 9), Increment(3, 6, 0, 9)], None)
    assert find_violations([Increment(5, 5, 0, 9), Increment(3, 9, 0, 9)], None) == []


def test_a_later_increment_returns_a_value_further_on() -> None:
    assert find_violations([Increment(1, 2, 0, 1), Increment(1, 1, 2, 3)], None)
    assert find_violations([Increment(1, 2, 0, 2), Increment(1, 1, 2, 3)], None) == []
    assert find_violations([Increment(-1, -2, 0, 1), Increment(-1, -1, 2, 3)], None)
    assert find_violations([Increment(-1, -1, 0, 1), Increment(-1, -2, 2, 3)], None) == []


def test_with_both_signs_values_may_repeat_and_go_back() -> None:
    history = [Increment(1, 1, 0, 1), Increment(-1, 0, 2, 3), Increment(1, 1, 4, 5)]
    assert find_violations(history, 1) == []
    assert find_violations(history, 0)


@given(st.integers(0, 10_000), st.sampled_from([1, -1]))
def test_histories_of_a_model_pass_and_corrupted_ones_fail(seed: int, sign: int) -> None:
    random = Random(seed)
    value = initial = random.randint(-5, 5)
    history: list[Increment] = []
    for number in range(40):
        by = sign * random.randint(1, 4)
        began, ended = number * 10 - random.randint(0, 30), number * 10 + random.randint(0, 30)
        if random.random() < 0.2:
            value += random.choice([0, by])
            history.append(Increment(by, None, began, None))
        else:
            value += by
            history.append(Increment(by, value, began, ended))
    random.shuffle(history)
    assert find_violations(history, value, initial) == []
    unknown = sum(increment.by for increment in history if increment.returned is None)
    assert find_violations(history, value + unknown + sign * 200, initial)
    number = random.choice([n for n, increment in enumerate(history) if increment.returned is not None])
    assert find_violations([*history, history[number]], None, initial)
    late = replace(history[number], invoked=1000, completed=1001)
    newest = max((i.returned for i in history if i.returned is not None), key=lambda returned: returned * sign)
    corrupted = [*history[:number], late, *history[number + 1 :]]
    assert (find_violations(corrupted, None, initial) == []) == (late.returned == newest)
