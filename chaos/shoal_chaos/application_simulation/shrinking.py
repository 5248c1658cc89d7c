"""Makes a plan of faults under which an application fails short: fewer faults, shorter and sooner ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from shoal_chaos.application_simulation.faults import SECONDS_MIN, Fault

RUNS_MAX = 60
"""So many runs are spent on it at the most."""


def shrink(plan: Sequence[Fault], fails: Callable[[Sequence[Fault]], bool]) -> tuple[list[Fault], int]:
    """Return a part of `plan`, of faults that may be shorter, under which the application fails, too; and the runs it took.

    Args:
        plan: one that it fails under.
        fails: runs the application under a plan.
    """
    left = list(plan)
    runs = 0

    def still_fails(candidate: list[Fault]) -> bool:
        nonlocal runs
        if runs >= RUNS_MAX:
            return False
        runs += 1
        return fails(candidate)

    again = True
    while again:
        again = False
        for fault in list(left):
            without = [other for other in left if other is not fault]
            if still_fails(without):
                left, again = without, True
    for number, fault in enumerate(left):
        shorter = fault.seconds / 2
        while shorter >= SECONDS_MIN:
            candidate = [*left[:number], replace(fault, seconds=round(shorter, 3)), *left[number + 1 :]]
            if not still_fails(candidate):
                break
            left, shorter = candidate, shorter / 2
    return left, runs
