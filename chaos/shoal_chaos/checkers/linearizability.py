"""Is a history of one register linearizable? Wing and Gong's search with Lowe's memory of configurations.

Wing and Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for linearizability" (2017). An operation
whose answer never came may have taken effect at any time after it was called, or never.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

NEVER = float("inf")


class Found(NamedTuple):
    """That the register held `value` (None: absent), or, where not `equal`, that it held something else."""

    value: bytes | None
    equal: bool = True


@dataclass(frozen=True, slots=True)
class RegisterOperation:
    """A write of `value`, or a read that returned it (None: absent). `ended` is NEVER where no answer came.

    `when` is of a comparison: a write that was done because of what it found; or, in place of a read's `value`, what one
    found that therefore wrote nothing.
    """

    client: str
    is_write: bool
    value: bytes | None
    began: float
    ended: float
    when: Found | None = None


def find_violation(history: Sequence[RegisterOperation]) -> list[RegisterOperation] | None:
    """Return None where the history is linearizable, else a shortest prefix of it that is not.

    Args:
        history: operations on one register that is absent at first; reads without an answer are left out.
    """
    if _linearizable(history):
        return None
    ends = sorted({operation.ended for operation in history if operation.ended != NEVER})
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        if _linearizable(_up_to(history, ends[middle])):
            low = middle + 1
        else:
            high = middle
    return sorted(_up_to(history, ends[low]), key=lambda operation: operation.began)


def _up_to(history: Sequence[RegisterOperation], end: float) -> list[RegisterOperation]:
    """Return what was known at `end`: what had not ended by then counts as never answered; reads of that kind go."""
    known: list[RegisterOperation] = []
    for operation in history:
        if operation.ended <= end:
            known.append(operation)
        elif operation.is_write and operation.began <= end:
            known.append(replace(operation, ended=NEVER))
    return known


def _linearizable(history: Sequence[RegisterOperation]) -> bool:
    """Search for an order, depth first: (which operations are placed, the register's value) is never tried twice."""
    operations = sorted((o for o in history if o.is_write or o.ended != NEVER), key=lambda operation: operation.began)
    count = len(operations)
    must = 0
    for index, operation in enumerate(operations):
        if operation.ended != NEVER:
            must |= 1 << index
    seen: set[tuple[int, bytes | None]] = set()
    stack: list[tuple[int, bytes | None, int]] = [(0, None, 0)]
    while stack:
        placed, value, first = stack.pop()
        if placed & must == must:
            return True
        while first < count and placed >> first & 1:
            first += 1
        # Whatever is placed next must have begun before the earliest end among those not yet placed.
        bound = NEVER
        index = first
        candidates: list[int] = []
        while index < count and operations[index].began <= bound:
            if not placed >> index & 1:
                candidates.append(index)
                bound = min(bound, operations[index].ended)
            index += 1
        for index in candidates:
            operation = operations[index]
            if operation.began > bound or not _fits(operation, value):
                continue
            following = (placed | 1 << index, operation.value if operation.is_write else value)
            if following not in seen:
                seen.add(following)
                stack.append((*following, first))
    return False


def _fits(operation: RegisterOperation, value: bytes | None) -> bool:
    """Whether an operation can take effect on a register that holds `value`."""
    if operation.when is not None:
        return (value == operation.when.value) is operation.when.equal
    return operation.is_write or operation.value == value
