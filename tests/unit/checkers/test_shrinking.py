"""What is left of a history that breaks a rule: little, whole groups of it, and nothing that the rule holds for."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from shoal_chaos.checkers.shrinking import shrink

Call = tuple[str, int]
"""The value that the call names, and its number; a call with an odd number may be left out by itself."""


def shrunk(history: list[Call], guilty: set[Call]) -> tuple[list[Call], list[list[Call]]]:
    """Shrink a history that is broken where all the guilty are in it; also return what was asked about."""
    asked: list[list[Call]] = []

    def is_broken(part: Sequence[Call]) -> bool:
        asked.append(list(part))
        return guilty <= set(part)

    return shrink(history, lambda call: [call[0]], lambda call: call[1] % 2 == 1, is_broken), asked


def test_only_the_groups_of_the_guilty_are_left_and_of_these_what_cannot_go_alone() -> None:
    history = [(f"v{number // 4}", number) for number in range(400)]
    left, asked = shrunk(history, {("v3", 13), ("v99", 397)})
    assert left == [("v3", 12), ("v3", 13), ("v3", 14), ("v99", 396), ("v99", 397), ("v99", 398)]
    assert len(asked) < 100


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=60).flatmap(
        lambda values: st.tuples(st.just(values), st.sets(st.integers(0, len(values) - 1), min_size=1, max_size=4))
    )
)
@settings(max_examples=100, deadline=None)
def test_what_is_left_is_broken_and_no_group_was_torn(case: tuple[list[int], set[int]]) -> None:
    values, guilty_numbers = case
    history = [(f"v{value}", number) for number, value in enumerate(values)]
    guilty = {history[number] for number in guilty_numbers}
    left, asked = shrunk(history, guilty)
    assert guilty <= set(left)
    assert left == sorted(left, key=history.index)
    assert {value for value, _ in left} == {value for value, _ in guilty}
    for part in asked:
        for value in {value for value, _ in part}:
            must = {call for call in history if call[0] == value and call[1] % 2 == 0}
            assert must <= set(part)
