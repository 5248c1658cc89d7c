"""Makes a history that breaks a rule short: what is left breaks it, too, and can be read.

Operations that name a common value stand and fall together. Where all that name a value are left out, whoever explains
the whole history explains what is left; so a part that cannot be explained proves that the whole cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

FIRST_GROUPS = 4
SMALL_GROUP = 50
"""Larger ones, such as all that found nothing or deleted, are left out first of all."""
TRIES = 400
"""How many times the rule is asked about groups that are left out, and again about single operations."""

_Operation = TypeVar("_Operation")


def shrink(
    history: Sequence[_Operation],
    values_named: Callable[[_Operation], Iterable[Hashable]],
    is_alone: Callable[[_Operation], bool],
    is_broken: Callable[[Sequence[_Operation]], bool],
) -> list[_Operation]:
    """Return a part of `history` that is broken, of whose parts few are.

    Args:
        history: is broken, and by its last operations, without which it is not.
        values_named: of an operation; those that share one are kept or left out together.
        is_alone: an operation that may also be left out by itself.
    """
    groups = _grouped(history, values_named)
    small = _last_groups([group for group in groups if len(group) <= SMALL_GROUP], is_broken, history)
    groups = small if is_broken(_in_order(history, small)) else _last_groups(groups, is_broken, history)
    groups = _leave_out(groups, lambda kept: is_broken(_in_order(history, kept)))
    left = _in_order(history, groups)
    alone = [[number] for number, operation in enumerate(left) if is_alone(operation)]
    bound = [[number] for number, operation in enumerate(left) if not is_alone(operation)]
    kept = _leave_out(alone, lambda some: is_broken(_in_order(left, [*bound, *some])))
    return _in_order(left, [*bound, *kept])


def _grouped(
    history: Sequence[_Operation], values_named: Callable[[_Operation], Iterable[Hashable]]
) -> list[list[int]]:
    """Return the numbers of the operations, by what they share, in order of the last of each group."""
    leaders = list(range(len(history)))

    def find(number: int) -> int:
        while leaders[number] != number:
            leaders[number] = leaders[leaders[number]]
            number = leaders[number]
        return number

    first: dict[Hashable, int] = {}
    for number, operation in enumerate(history):
        for value in values_named(operation):
            leaders[find(first.setdefault(value, number))] = find(number)
    groups: dict[int, list[int]] = {}
    for number in range(len(history)):
        groups.setdefault(find(number), []).append(number)
    return sorted(groups.values(), key=lambda group: group[-1])


def _last_groups(
    groups: list[list[int]], is_broken: Callable[[Sequence[_Operation]], bool], history: Sequence[_Operation]
) -> list[list[int]]:
    """Return as many of the last groups as it takes, doubling."""
    count = FIRST_GROUPS
    while count < len(groups):
        if is_broken(_in_order(history, groups[-count:])):
            return groups[-count:]
        count *= 2
    return groups


def _leave_out(groups: list[list[int]], is_broken: Callable[[list[list[int]]], bool]) -> list[list[int]]:
    """Leave out what the rule stays broken without: halves, quarters and so on (Zeller and Hildebrandt 2002), then ones."""
    size, tries = max(1, len(groups) // 2), 0
    while groups and tries < TRIES:
        start, left_out = 0, False
        while start < len(groups) and tries < TRIES:
            tries += 1
            fewer = groups[:start] + groups[start + size :]
            if is_broken(fewer):
                groups, left_out = fewer, True
            else:
                start += size
        if size == 1 and not left_out:
            break
        size = max(1, size // 2)
    return groups


def _in_order(history: Sequence[_Operation], groups: Iterable[list[int]]) -> list[_Operation]:
    return [history[number] for number in sorted(number for group in groups for number in group)]
