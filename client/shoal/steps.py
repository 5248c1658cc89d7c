"""Making steps of calls, and of their results what callers get."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar, cast

from shoal.arguments import FastWrite, Fetch, Step
from shoal.errors import ConditionFailed, InvalidArgument, ShoalError
from shoal.key_sets import keys_of
from shoal.operations import key_absent, put, value_equals
from shoal.protocol.messages import (
    Atomic,
    AtomicOperation,
    Condition,
    Delete,
    Increment,
    KeyAbsent,
    KeyPresent,
    Put,
    SeqEquals,
    Touch,
    ValueEquals,
    ValueEqualsOrAbsent,
)
from shoal.results import WriteResult

R = TypeVar("R")

_OPERATIONS = (Put, Delete, Touch, Increment)
_CONDITIONS = (KeyPresent, KeyAbsent, ValueEquals, ValueEqualsOrAbsent, SeqEquals)


def atomic(ops: Iterable[AtomicOperation], when: Iterable[Condition]) -> Atomic:
    """Return the step that does all of `ops` if all of `when` hold.

    Raises:
        InvalidArgument: one of them is something else, or there are none.
    """
    for what, given in (("ops", ops), ("when", when)):
        if not isinstance(given, Iterable):
            raise InvalidArgument(f"{what} is a list, or another iterable, not {given!r:.80}")
    operations, conditions = list(ops), list(when)
    for operation in operations:
        if not isinstance(operation, _OPERATIONS):
            raise InvalidArgument(f"ops are made by shoal.put, delete, increment and touch, not {operation!r:.80}")
    for condition in conditions:
        if not isinstance(condition, _CONDITIONS):
            raise InvalidArgument(
                "conditions are made by shoal.key_present, key_absent, value_equals, value_equals_or_absent and "
                f"seq_equals, not {condition!r:.80}"
            )
    if not operations and not conditions:
        raise InvalidArgument("write() was given nothing to do")
    return Atomic(conditions, operations)


def exchange(key: bytes | str, expected: bytes | str | None, value: bytes | str, ttl: float | None) -> Atomic:
    """Return the step that sets `key` if it has the expected value; None: if it has none."""
    condition = key_absent(key) if expected is None else value_equals(key, expected)
    return Atomic([condition], [put(key, value, ttl)])


# -- results -----------------------------------------------------------------------------------------------------------


def is_there(result: object) -> bool:
    """Of a get: whether there is a value."""
    return result is not None


def first_result(result: object) -> int:
    """Of a write: the result of its one operation."""
    return cast(WriteResult, result).results[0]


def was_there(result: object) -> bool:
    """Of a touch: whether there was such a key."""
    return bool(first_result(result))


def held(result: object) -> bool:
    """Of a conditional write, or the error it ended with: whether it was done.

    Raises:
        ShoalError: that error, where it is another than that the condition did not hold.
    """
    if isinstance(result, ConditionFailed):
        return False
    if isinstance(result, ShoalError):
        raise result
    return True


# -- many --------------------------------------------------------------------------------------------------------------


def keys_of_step(step: Step) -> tuple[bytes, ...]:
    """Return the keys that a step is about."""
    if isinstance(step, Fetch | FastWrite):
        return (step.key,)
    return keys_of(step)


def all_or_raise(steps: Sequence[Step], results: list[R]) -> list[R]:
    """Return the results of steps, or raise the first error among them, with the keys of all that failed."""
    failed = [(step, result) for step, result in zip(steps, results, strict=True) if isinstance(result, ShoalError)]
    if not failed:
        return results
    first = failed[0][1]
    error = type(first)(
        f"{len(failed)} of {len(steps)} keys failed; the first: {first}",
        maybe_applied=any(each.maybe_applied for _, each in failed),
        retry_after=first.retry_after,
        shard=first.shard,
        request_id=first.request_id,
    )
    error.failed_keys = tuple(dict.fromkeys(key for step, _ in failed for key in keys_of_step(step)))
    if isinstance(error, ConditionFailed) and isinstance(first, ConditionFailed):
        error.condition, error.found, error.found_seq = first.condition, first.found, first.found_seq
    raise error from first
