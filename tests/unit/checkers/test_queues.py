"""The checker of queues, on histories whose verdict is known, on those of a model, and beside a search of all orders."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shoal_chaos.checkers.queues import Put, Take, find_violations

A, B = b"a", b"b"


def kinds(puts: list[Put], takes: list[Take], left: list[bytes] | None = None) -> list[str]:
    return sorted({found.kind for found in find_violations(puts, takes, left)})


def test_what_is_put_is_taken_once_in_order() -> None:
    puts = [Put(A, 0, 1), Put(B, 2, 3)]
    assert kinds(puts, [Take(A, 4, 5), Take(B, 6, 7), Take(None, 8, 9)], []) == []
    assert kinds(puts, [Take(A, 4, 5), Take(A, 6, 7), Take(B, 8, 9)], []) == ["repeated"]
    assert kinds(puts, [Take(B, 4, 5), Take(A, 6, 7)], []) == ["order"]
    assert kinds([Put(A, 0, 3), Put(B, 0, 3)], [Take(B, 4, 5), Take(A, 6, 7)], []) == []
    assert kinds(puts, [Take(B, 4, 7), Take(A, 4, 7)], []) == []


def test_what_was_put_is_taken_or_left() -> None:
    puts = [Put(A, 0, 1), Put(B, 2, 3)]
    assert kinds(puts, [], [A, B]) == []
    assert kinds(puts, [Take(A, 4, 5)], [B]) == []
    assert kinds(puts, [Take(A, 4, 5)], []) == ["lost"]
    assert kinds(puts, [Take(A, 4, 5)], [A, B]) == ["repeated"]
    assert kinds(puts, [], [B, A]) == ["order"]
    assert kinds(puts, [Take(B, 4, 5)], [A]) == ["order"]
    assert kinds(puts, [], [A, B, b"?"]) == ["fresh"]


def test_nothing_is_taken_before_it_was_put() -> None:
    assert kinds([], [Take(A, 0, 1)]) == ["fresh"]
    assert kinds([Put(A, 2, 3)], [Take(A, 0, 1)]) == ["fresh"]
    assert kinds([Put(A, 1, 3)], [Take(A, 0, 2)]) == []


def test_a_queue_is_found_empty_only_where_it_may_have_been() -> None:
    assert kinds([Put(A, 0, 1)], [Take(None, 2, 3), Take(A, 4, 5)]) == ["empty"]
    assert kinds([Put(A, 0, 3)], [Take(None, 2, 4), Take(A, 4, 5)]) == []
    assert kinds([Put(A, 0, 1), Put(B, 2, 3)], [Take(None, 4, 9), Take(A, 6, 7), Take(B, 10, 11)]) == ["empty"]
    assert kinds([Put(A, 0, 1), Put(B, 5, 8)], [Take(None, 2, 9), Take(A, 6, 7), Take(B, 10, 11)]) == []


def test_calls_of_unknown_outcome_may_have_been_done_or_not() -> None:
    assert kinds([Put(A, 0, None)], [], []) == []
    assert kinds([Put(A, 0, None)], [], [A]) == []
    assert kinds([Put(A, 0, 1)], [Take(A, 2, None)], []) == []
    assert kinds([Put(A, 0, 1)], [Take(A, 2, None)], [A]) == []
    assert kinds([Put(A, 0, 1)], [Take(A, 2, None), Take(None, 3, 4)], []) == []


def model(random: Random, length: int = 60) -> tuple[list[Put], list[Take], list[bytes]]:
    queue: list[bytes] = []
    puts: list[Put] = []
    takes: list[Take] = []
    for number in range(length):
        began, ended = 10 * number - random.randint(0, 30), 10 * number + random.randint(0, 30)
        unknown = random.random() < 0.2
        done = not unknown or random.random() < 0.5
        completed = None if unknown else ended
        if random.random() < 0.5:
            puts.append(Put(b"%d" % number, began, completed))
            if done:
                queue.append(b"%d" % number)
        elif not queue:
            takes.append(Take(None, began, ended))
        else:
            takes.append(Take(queue[0], began, completed))
            queue = queue[1:] if done else queue
    return puts, takes, queue


@given(st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_histories_of_a_model_pass(seed: int) -> None:
    random = Random(seed)
    puts, takes, left = model(random)
    random.shuffle(puts)
    random.shuffle(takes)
    assert find_violations(puts, takes, left) == []


@pytest.mark.parametrize("seed", range(10))
def test_one_change_to_a_history_of_a_model_is_found(seed: int) -> None:
    puts, takes, left = model(Random(seed))
    taken = next(take for take in takes if take.element is not None and take.completed is not None)
    assert "repeated" in kinds(puts, [*takes, replace(taken, invoked=900, completed=901)], left)
    assert "fresh" in kinds([put for put in puts if put.element != taken.element], takes, left)
    acknowledged = next(put for put in puts if put.completed is not None)
    without = [take for take in takes if take.element != acknowledged.element]
    assert "lost" in kinds(puts, without, [element for element in left if element != acknowledged.element])


def explained(puts: list[Put], takes: list[Take], left: list[bytes]) -> bool:
    calls: list[Put | Take] = [*puts, *takes]
    return any(_holds(order, left) for order in permutations(calls))


def _holds(order: tuple[Put | Take, ...], left: list[bytes]) -> bool:
    queue: list[bytes] = []
    latest = -1
    for call in order:
        assert call.completed is not None
        if call.completed < latest:
            return False
        latest = max(latest, call.invoked)
        if isinstance(call, Put):
            queue.append(call.element)
        elif call.element is None:
            if queue:
                return False
        elif queue[:1] != [call.element]:
            return False
        else:
            queue.pop(0)
    return queue == left


@st.composite
def few_calls(draw: st.DrawFn) -> tuple[list[Put], list[Take], list[bytes]]:
    def times() -> tuple[int, int]:
        began = draw(st.integers(0, 5))
        return began, began + draw(st.integers(0, 3))

    elements = [A, B, b"c"][: draw(st.integers(0, 3))]
    puts = [Put(element, *times()) for element in elements]
    found = draw(st.lists(st.sampled_from([None, *elements]), max_size=3))
    takes = [Take(element, *times()) for element in found]
    return puts, takes, draw(st.permutations([element for element in elements if element not in found]))


@given(few_calls())
@settings(max_examples=500, deadline=None)
def test_the_verdict_is_that_of_a_search_of_all_orders(calls: tuple[list[Put], list[Take], list[bytes]]) -> None:
    assert (find_violations(*calls) == []) == explained(*calls)
