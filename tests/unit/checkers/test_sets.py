"""The checker of sets, on histories whose verdict is known and on those of a model."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shoal_chaos.checkers.sets import Addition, SetRead, find_violations

A, B = b"a", b"b"


def kinds(additions: list[Addition], reads: list[SetRead]) -> list[str]:
    return [found.kind for found in find_violations(additions, reads)]


def test_what_was_acknowledged_is_there_from_then_on() -> None:
    assert kinds([Addition(A, 0, 1)], [SetRead([A], 2, 3)]) == []
    assert kinds([Addition(A, 0, 1)], [SetRead([], 2, 3)]) == ["lost"]
    assert kinds([Addition(A, 0, 2)], [SetRead([], 2, 3)]) == []


def test_a_read_that_is_behind_is_stale_and_what_never_comes_back_is_lost() -> None:
    reads = [SetRead([A, B], 2, 3), SetRead([], 4, 5), SetRead([A], 6, 7)]
    found = find_violations([Addition(A, 0, 1), Addition(B, 0, 1)], reads)
    assert [(each.kind, each.elements) for each in found] == [
        ("lost", (B,)),
        ("stale", (A,)),
        ("lost", (B,)),
    ]


def test_an_addition_of_unknown_outcome_may_come_late_or_never_but_does_not_go() -> None:
    unknown = [Addition(A, 0, None)]
    assert kinds(unknown, [SetRead([], 2, 3), SetRead([A], 4, 5)]) == []
    assert kinds(unknown, [SetRead([A], 2, 3), SetRead([], 4, 5)]) == ["lost"]


def test_what_nobody_added_or_twice_is_found() -> None:
    assert kinds([], [SetRead([A], 2, 3)]) == ["ghost"]
    assert kinds([Addition(A, 4, 5)], [SetRead([A], 2, 3)]) == ["ghost"]
    assert kinds([Addition(A, 0, 1)], [SetRead([A, A], 2, 3)]) == ["twice"]


def model(random: Random) -> tuple[list[Addition], list[SetRead]]:
    there: list[bytes] = []
    additions: list[Addition] = []
    reads: list[SetRead] = []
    for number in range(60):
        began, ended = 10 * number - random.randint(0, 30), 10 * number + random.randint(0, 30)
        if random.random() < 0.4:
            reads.append(SetRead(random.sample(there, len(there)), began, ended))
            continue
        unknown = random.random() < 0.2
        additions.append(Addition(b"%d" % number, began, None if unknown else ended))
        if not unknown or random.random() < 0.5:
            there.append(b"%d" % number)
    return additions, [*reads, SetRead(there, 1000, 1001)]


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_histories_of_a_model_pass(seed: int) -> None:
    random = Random(seed)
    additions, reads = model(random)
    random.shuffle(additions)
    random.shuffle(reads)
    assert find_violations(additions, reads) == []


@pytest.mark.parametrize("seed", range(10))
def test_one_change_to_a_history_of_a_model_is_found(seed: int) -> None:
    additions, reads = model(Random(seed))
    last = reads[-1]
    for elements in (last.elements[1:], [*last.elements, b"?"], [*last.elements, last.elements[0]]):
        assert len(kinds(additions, [*reads[:-1], replace(last, elements=elements)])) == 1
