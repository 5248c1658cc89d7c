"""Was every acknowledged increment of a counter applied exactly once, and no other more than once?

The bounds on the final value are those of the counter and set tests of Kingsbury's Jepsen (2013 and later); the order of
the returned values is Herlihy and Wing, "Linearizability" (1990), where increments of one sign make the value its own clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise


@dataclass(frozen=True, slots=True)
class Increment:
    """Adds `by`, which may be negative; `returned` is the value after it, None where the outcome is unknown.

    `invoked` and `completed` are nanoseconds of the history's clock; `completed` is None where no answer came.
    """

    by: int
    returned: int | None
    invoked: int
    completed: int | None


@dataclass(frozen=True, slots=True)
class CounterViolation:
    """The increments that cannot all have been applied as they say; none where it is their sum that is wrong."""

    increments: tuple[Increment, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class _Answer:
    """An acknowledged increment with what it returned, turned so that it counts upwards."""

    increment: Increment
    before: int
    after: int
    completed: int


def find_violations(history: Sequence[Increment], final: int | None, initial: int = 0) -> list[CounterViolation]:
    """Return what is wrong: the final value, values returned twice, values that went back.

    The returned values are judged only where all increments have one sign. An increment is after another if it was
    invoked, in nanoseconds, later than the other completed.

    Args:
        history: increments of one counter that were acknowledged or may have been applied, in any order.
        final: the value read after all of them, None if it was not read.
        initial: the value before all of them.
    """
    found: list[CounterViolation] = []
    if final is not None:
        found.extend(_check_final(history, final, initial))
    for sign in (1, -1):
        if all(increment.by * sign > 0 for increment in history):
            answers = [
                _Answer(
                    increment,
                    (increment.returned - increment.by) * sign,
                    increment.returned * sign,
                    increment.completed,
                )
                for increment in history
                if increment.returned is not None and increment.completed is not None
            ]
            found.extend(_check_overlaps(answers))
            found.extend(_check_order(answers))
    return found


def _check_final(history: Sequence[Increment], final: int, initial: int) -> list[CounterViolation]:
    acknowledged = initial + sum(increment.by for increment in history if increment.returned is not None)
    unknown = [increment.by for increment in history if increment.returned is None]
    least = acknowledged + sum(by for by in unknown if by < 0)
    most = acknowledged + sum(by for by in unknown if by > 0)
    if least <= final <= most:
        return []
    expected = str(least) if least == most else f"{least} to {most}"
    return [CounterViolation((), f"The counter ended at {final}, but its increments allow only {expected}.")]


def _check_overlaps(answers: list[_Answer]) -> list[CounterViolation]:
    """Each increment moved the counter over a stretch of values that no other moved it over."""
    found: list[CounterViolation] = []
    for one, other in pairwise(sorted(answers, key=lambda answer: answer.after)):
        if other.before < one.after:
            sentence = (
                f"Increments by {one.increment.by} and {other.increment.by} returned {one.increment.returned} and "
                f"{other.increment.returned}: neither can have been applied to what the other left."
            )
            found.append(CounterViolation((one.increment, other.increment), sentence))
    return found


def _check_order(answers: list[_Answer]) -> list[CounterViolation]:
    completed = sorted(answers, key=lambda answer: answer.completed)
    times = [answer.completed for answer in completed]
    furthest = list(accumulate(completed, _further))
    found: list[CounterViolation] = []
    for answer in sorted(answers, key=lambda answer: answer.increment.invoked):
        count = bisect_left(times, answer.increment.invoked)
        if count and furthest[count - 1].after >= answer.after:
            earlier = furthest[count - 1].increment
            sentence = (
                f"An increment by {answer.increment.by} invoked at {answer.increment.invoked} ns returned "
                f"{answer.increment.returned}, but the counter had reached {earlier.returned} when another completed at "
                f"{earlier.completed} ns."
            )
            found.append(CounterViolation((earlier, answer.increment), sentence))
    return found


def _further(one: _Answer, other: _Answer) -> _Answer:
    return other if other.after > one.after else one
