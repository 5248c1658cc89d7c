"""The checker of registers on long and generated histories: fast enough, never wrong, and short in what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shoal_chaos.checkers.linearizability import NEVER, Found, RegisterOperation, find_violation


def simulated(
    seed: int, length: int, clients: int, unknown: float = 0.0, swaps: float = 0.0
) -> list[RegisterOperation]:
    """Return what clients, each of them always in a call, see of a register whose calls take effect at one instant each."""
    random = Random(seed)
    free = [0.0] * clients
    calls: list[tuple[float, float, float]] = []
    for _ in range(length):
        client = min(range(clients), key=free.__getitem__)
        began = free[client] + random.random() * 0.1
        free[client] = began + random.expovariate(1) + 0.01
        calls.append((random.uniform(began, free[client]), began, free[client]))
    value: bytes | None = None
    history: list[RegisterOperation] = []
    for number, (_, began, ended) in enumerate(sorted(calls)):
        new, kind = b"%d" % number, random.random()
        if kind < unknown:
            value = random.choice([new, value])
            history.append(RegisterOperation("", True, new, began, NEVER))
        elif kind < 0.35:
            value = new
            history.append(RegisterOperation("", True, value, began, ended))
        elif kind < 0.4:
            value = None
            history.append(RegisterOperation("", True, value, began, ended))
        elif kind < 0.4 + swaps:
            expected = random.choice([value, b"%d" % random.randint(0, number)])
            if expected == value:
                value = new
                history.append(RegisterOperation("", True, value, began, ended, Found(expected)))
            else:
                history.append(RegisterOperation("", False, None, began, ended, Found(expected, equal=False)))
        else:
            history.append(RegisterOperation("", False, value, began, ended))
    random.shuffle(history)
    return history


def explained(history: list[RegisterOperation]) -> bool:
    """Try all orders of all subsets that leave out what was never answered."""
    return any(_holds(order) for order in _orders(history))


def _orders(history: list[RegisterOperation]) -> Iterator[tuple[RegisterOperation, ...]]:
    optional = [operation for operation in history if operation.ended == NEVER]
    answered = [operation for operation in history if operation.ended != NEVER]
    for chosen in range(1 << len(optional)):
        some = [operation for number, operation in enumerate(optional) if chosen >> number & 1]
        yield from permutations([*answered, *some])


def _holds(order: tuple[RegisterOperation, ...]) -> bool:
    value: bytes | None = None
    latest = -1.0
    for operation in order:
        if operation.ended < latest:
            return False
        latest = max(latest, operation.began)
        if operation.when is not None:
            fits = (value == operation.when.value) is operation.when.equal
        else:
            fits = operation.is_write or operation.value == value
        if not fits:
            return False
        value = operation.value if operation.is_write else value
    return True


VALUES = st.sampled_from([None, b"a", b"b"])


@st.composite
def few_operations(draw: st.DrawFn) -> list[RegisterOperation]:
    history: list[RegisterOperation] = []
    for _ in range(draw(st.integers(1, 5))):
        began = draw(st.integers(0, 6))
        is_write = draw(st.booleans())
        ended = float(began + draw(st.integers(0, 4)))
        if is_write and draw(st.integers(0, 3)) == 0:
            ended = NEVER
        when = draw(st.none() | st.builds(Found, VALUES, st.just(True) if is_write else st.booleans()))
        history.append(RegisterOperation("", is_write, draw(VALUES), float(began), ended, when))
    return history


@given(few_operations())
@settings(max_examples=300, deadline=None)
def test_the_verdict_is_that_of_a_search_of_all_orders(history: list[RegisterOperation]) -> None:
    assert (find_violation(history) is None) == explained(history)


@given(few_operations())
@settings(max_examples=200, deadline=None)
def test_what_is_shown_cannot_be_explained_by_itself(history: list[RegisterOperation]) -> None:
    shown = find_violation(history)
    if shown is not None:
        assert not explained(shown)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1]), st.sampled_from([0.0, 0.3]))
@settings(max_examples=60, deadline=None)
def test_histories_of_a_register_pass(seed: int, unknown: float, swaps: float) -> None:
    assert find_violation(simulated(seed, 60, 4, unknown, swaps)) is None


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_read_of_what_was_surely_overwritten_fails(seed: int) -> None:
    history = simulated(seed, 80, 3)
    read = max((read for read in history if not read.is_write), key=lambda read: read.began)
    writes = [write for write in history if write.is_write and write.value is not None]
    old = min(writes, key=lambda write: write.ended)
    assume(any(old.ended < write.began and write.ended < read.began for write in writes))
    history.remove(read)
    assert find_violation([*history, replace(read, value=old.value)]) is not None


@pytest.mark.parametrize(("clients", "unknown", "swaps"), [(4, 0.01, 0.0), (6, 0.0, 0.2)])
def test_one_wrong_read_among_many_is_shown_with_little_else(clients: int, unknown: float, swaps: float) -> None:
    history = sorted(simulated(7, 5_000, clients, unknown, swaps), key=lambda operation: operation.began)
    assert find_violation(history) is None
    reads = [n for n, read in enumerate(history) if not read.is_write and read.when is None and read.value is not None]
    wrong, old = reads[-100], reads[-200]
    history[wrong] = replace(history[wrong], value=history[old].value)
    shown = find_violation(history)
    assert shown is not None
    assert history[wrong] in shown
    assert len(shown) <= 5


def test_many_writes_of_unknown_outcome_cost_little() -> None:
    history = [RegisterOperation("", True, b"lost %d" % n, float(n), NEVER) for n in range(2_000)]
    history += [
        RegisterOperation("", True, b"new", 3_000.0, 3_001.0),
        RegisterOperation("", False, b"new", 3_002.0, 3_003.0),
    ]
    assert find_violation(history) is None
    history.append(RegisterOperation("", False, None, 3_004.0, 3_005.0))
    assert find_violation(history) is not None
