"""Steps, of which calls are made: what is asked for, checked and measured, and of their results what callers get."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias, TypeVar, cast

import msgspec

from shoal.errors import ConditionFailed, InvalidArgument, ShoalError, TooLarge, said_again
from shoal.key_sets import RANGE_BYTES, keys_of, size_of
from shoal.operations import key_absent, put, value_equals
from shoal.protocol.messages import (
    Atomic,
    AtomicOperation,
    Condition,
    Delete,
    DeleteRange,
    Increment,
    KeyAbsent,
    KeyPresent,
    Operation,
    Put,
    RangeUnchanged,
    SeqEquals,
    Touch,
    ValueEquals,
    ValueEqualsOrAbsent,
)
from shoal.results import Duration, WriteResult
from shoal.routing.calls import STRONG_READ, shown
from shoal.routing.shard_queue import BATCH_BYTES
from shoal.write_costs import EXPIRING_US, PLAIN_US, WRITE_US, bytes_cost, operations_cost, too_much_work

R = TypeVar("R")

_OPERATIONS = (Put, Delete, Touch, Increment)
_CONDITIONS = (KeyPresent, KeyAbsent, ValueEquals, ValueEqualsOrAbsent, SeqEquals)

OPERATION_BYTES = 16
"""At most what an operation takes in a batch besides its key and value."""

_WORK_BYTES = -(-BATCH_BYTES // (WRITE_US - bytes_cost(BATCH_BYTES)))
"""What a microsecond of work counts as, so that no batch is more work than a node accepts, its bytes included."""
_PLAIN_BYTES = PLAIN_US * _WORK_BYTES
_EXPIRING_BYTES = (PLAIN_US + EXPIRING_US) * _WORK_BYTES


class Limits(Protocol):
    """Sizes in bytes that are accepted."""

    @property
    def max_key_bytes(self) -> int: ...

    @property
    def max_value_bytes(self) -> int: ...

    @property
    def max_batch_bytes(self) -> int: ...


class Fetch(msgspec.Struct, frozen=True, gc=False):
    """A read: of the value, or of the whole entry; `max_staleness_ms` as in `ReadCall`, or `KEYSPACE_STALENESS`."""

    key: bytes
    whole: bool = False
    max_staleness_ms: int = STRONG_READ


class FastWrite(msgspec.Struct, frozen=True, gc=False):
    """A put or delete that is acknowledged when the leader has queued it."""

    operation: Put | Delete

    @property
    def key(self) -> bytes:
        return self.operation.key


Step: TypeAlias = Operation | Fetch | FastWrite


def to_write(operation: Put | Delete, durability: str) -> Put | Delete | FastWrite:
    """Return the step that does `operation` with the durability asked for.

    Raises:
        InvalidArgument: there is no such durability.
    """
    if durability == "quorum":
        return operation
    if durability == "fast":
        return FastWrite(operation)
    raise InvalidArgument(f"durability is 'quorum' or 'fast', not {durability!r}")


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


def exchange(key: bytes | str, expected: bytes | str | None, value: bytes | str, ttl: Duration | None) -> Atomic:
    """Return the step that sets `key` if it has the expected value; None: if it has none."""
    condition = key_absent(key) if expected is None else value_equals(key, expected)
    return Atomic([condition], [put(key, value, ttl)])


# -- sizes -------------------------------------------------------------------------------------------------------------


def check_step(step: Step, limits: Limits) -> int:
    """Check sizes; return what the step counts as in a batch: its bytes, or those that its work counts as, if that is more.

    Raises:
        InvalidArgument: the key is empty.
        TooLarge: the key or the value is over its limit, or it is more work than a node accepts.
    """
    kind = type(step)
    if kind is Put or kind is Fetch or kind is Delete:
        key = step.key  # type: ignore[union-attr]
        size = len(key)
        if not 0 < size <= limits.max_key_bytes:
            check_key(key, limits)
        if kind is Fetch:
            return size + OPERATION_BYTES
        if kind is Put:
            value_size = len(step.value)  # type: ignore[union-attr]
            if value_size > limits.max_value_bytes:
                _check_value(key, step.value, limits)  # type: ignore[union-attr]
            size += value_size
            if step.ttl_ms > 0:  # type: ignore[union-attr]
                return max(size + OPERATION_BYTES, _EXPIRING_BYTES)
        size += OPERATION_BYTES
        return size if size > _PLAIN_BYTES else _PLAIN_BYTES
    if isinstance(step, FastWrite):
        return check_step(step.operation, limits)
    if isinstance(step, Atomic):
        size = _check_atomic(step, limits)
    elif isinstance(step, DeleteRange):
        check_bounds(step, limits)
        size = len(step.start) + len(step.end) + RANGE_BYTES * len(step.ranges) + 2 * OPERATION_BYTES
    else:
        assert not isinstance(step, Put | Fetch | Delete), "those have been seen to"
        check_key(step.key, limits)
        size = len(step.key) + 2 * OPERATION_BYTES
    return max(size, _WORK_BYTES * operations_cost((step,)))


def check_key(key: bytes, limits: Limits) -> None:
    """
    Raises:
        InvalidArgument: the key is empty.
        TooLarge: it is too long.
    """
    size = len(key)
    if not size:
        raise InvalidArgument(f"the key is empty; a key has 1 to {limits.max_key_bytes} bytes")
    if size > limits.max_key_bytes:
        raise TooLarge(f"the key {shown(key)} has {size} bytes; a key has 1 to {limits.max_key_bytes} bytes")


def check_bounds(step: DeleteRange | RangeUnchanged, limits: Limits) -> None:
    """
    Raises:
        TooLarge: an end of the range is longer than that behind the longest key.
    """
    size, longest = max(len(step.start), len(step.end)), limits.max_key_bytes + 1
    if size > longest:
        raise TooLarge(
            f"a range begins or ends at {size} bytes; at most {longest} are accepted, one more than a key has"
        )


def _check_value(key: bytes, value: bytes, limits: Limits) -> None:
    if len(value) > limits.max_value_bytes:
        raise TooLarge(
            f"the value of key {shown(key)} has {len(value)} bytes; "
            f"at most {limits.max_value_bytes} are accepted: split it over several keys"
        )


def _check_atomic(step: Atomic, limits: Limits) -> int:
    for key in keys_of(step):
        check_key(key, limits)
    size = OPERATION_BYTES
    for part in (*step.conditions, *step.operations):
        if isinstance(part, RangeUnchanged):
            check_bounds(part, limits)
        elif isinstance(part, Put):
            _check_value(part.key, part.value, limits)
        size += 2 * OPERATION_BYTES + size_of(part)
    what = f"{len(step.operations)} operations and {len(step.conditions)} conditions that are to take effect together"
    if size > limits.max_batch_bytes:
        raise TooLarge(f"{what} have {size} bytes; at most {limits.max_batch_bytes} are accepted: write less at once")
    cost = operations_cost((step,)) + bytes_cost(size)
    if cost > WRITE_US:
        raise TooLarge(too_much_work(what, cost))
    return size


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
    maybe_applied = any(each.maybe_applied for _, each in failed)
    error = said_again(
        first, f"{len(failed)} of {len(steps)} keys failed; the first: {first}", maybe_applied=maybe_applied
    )
    error.failed_keys = tuple(dict.fromkeys(key for step, _ in failed for key in keys_of_step(step)))
    raise error from first
