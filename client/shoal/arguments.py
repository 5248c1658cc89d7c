"""From what callers pass to what is sent: bytes, within the limits that the nodes announced; times in milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Protocol, TypeAlias, TypeGuard

import msgspec

from shoal.errors import InvalidArgument, TooLarge
from shoal.key_sets import RANGE_BYTES, keys_of, size_of
from shoal.options import check_consistency
from shoal.protocol.messages import DEFAULT_TTL, NO_TTL, Atomic, Delete, DeleteRange, Increment, Operation, Put, Touch
from shoal.results import Consistency
from shoal.routing.calls import STRONG_READ, shown
from shoal.routing.shard_queue import BATCH_BYTES

OPERATION_BYTES = 16
"""At most what an operation takes in a batch besides its key and value."""

KEYSPACE_STALENESS = -2
"""In place of a bound on staleness in milliseconds: the keyspace's."""

MAX_SECONDS = 100 * 365 * 24 * 3600
"""The longest time that is accepted anywhere: a hundred years. Nodes accept no longer one, and clocks count no further."""

MAX_BOUND_BYTES = 64 * 1024 + 1
"""The longest end of a range: one byte more than the longest key that a node may be told to accept."""

MAX_RESULTS = 16_384
"""The most results that one request may have: what nodes accept."""
_RESULT_BYTES = BATCH_BYTES // MAX_RESULTS
"""What an operation with a result counts as, at least, so that no batch of them has more results than that."""


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


def to_bytes(what: str, given: object) -> bytes:
    """Return `given` as bytes; `str` is encoded as UTF-8.

    Raises:
        InvalidArgument: it is of another type, or no text that UTF-8 can express.
    """
    if isinstance(given, bytes):
        return given
    if isinstance(given, str):
        try:
            return given.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"a {what} is bytes or text, and {given!r:.80} is no text: {error.reason}") from error
    raise InvalidArgument(f"a {what} is bytes or str, not {type(given).__name__}: {given!r:.80}")


def many_keys(given: Iterable[bytes | str]) -> Iterable[bytes | str]:
    """Return several keys as they were given.

    Raises:
        InvalidArgument: it is one key, or no iterable.
    """
    if isinstance(given, bytes | str) or not isinstance(given, Iterable):
        raise InvalidArgument(
            f"keys are given as a list, or another iterable, not as {type(given).__name__}: {given!r:.80}"
        )
    return given


def many_items(
    given: Mapping[bytes, bytes | str] | Mapping[str, bytes | str],
) -> Iterable[tuple[bytes | str, bytes | str]]:
    """Return keys and their values.

    Raises:
        InvalidArgument: it is no mapping.
    """
    if not isinstance(given, Mapping):
        raise InvalidArgument(f"keys and values are given as a mapping, not as {type(given).__name__}: {given!r:.80}")
    return given.items()


def to_bound(what: str, given: object) -> bytes:
    """Return the prefix, start or end of a range as bytes.

    Raises:
        InvalidArgument: it is of another type.
        TooLarge: it is longer than any key, and may be longer than a request.
    """
    bound = to_bytes(what, given)
    if len(bound) > MAX_BOUND_BYTES:
        raise TooLarge(f"a {what} has at most {MAX_BOUND_BYTES} bytes, which no key exceeds; this one has {len(bound)}")
    return bound


def to_ttl_ms(ttl: float | None) -> int:
    """Return a time to live, given in seconds, as operations carry it; None: the keyspace's default; 0: for ever.

    Raises:
        InvalidArgument: it is no such number.
    """
    if ttl is None:
        return DEFAULT_TTL
    if (ttl != 0 and not _is_duration(ttl)) or isinstance(ttl, bool):
        raise InvalidArgument(
            f"ttl is a number of seconds up to {MAX_SECONDS}, or 0 for never, or None for the keyspace's default, not {ttl!r}"
        )
    return max(1, ceil(ttl * 1000)) if ttl else NO_TTL


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


def to_max_staleness_ms(consistency: Consistency, max_staleness: float | None, fallback: float | None) -> int:
    """Return the staleness that a read of this level accepts, in milliseconds, as `Fetch` carries it.

    Args:
        max_staleness: seconds, as the call gave it; refused with "strong".
        fallback: seconds, the client's.

    Raises:
        InvalidArgument: there is no such level, or the staleness is not positive, or is given for a strong read.
    """
    if max_staleness is not None:
        check_max_staleness(max_staleness)
        if consistency == "strong":
            raise InvalidArgument(
                f"max_staleness={max_staleness!r} is for reads that may be stale: add consistency='eventual'"
            )
    elif consistency != "strong":
        max_staleness = fallback
    if check_consistency(consistency) == "strong":
        return STRONG_READ
    if max_staleness is not None:
        return max(1, int(max_staleness * 1000))
    return KEYSPACE_STALENESS if consistency == "eventual" else 0


def check_max_staleness(given: float) -> None:
    """
    Raises:
        InvalidArgument: it is not a positive number of seconds.
    """
    if not _is_duration(given):
        raise InvalidArgument(
            f"max_staleness is a number of seconds greater than 0, up to {MAX_SECONDS}, not {given!r}"
        )


def check_step(step: Step, limits: Limits) -> int:
    """Check sizes; return the bytes that the step takes in a batch.

    Raises:
        InvalidArgument: the key is empty.
        TooLarge: the key or the value is over its limit.
    """
    kind = type(step)
    if kind is Put or kind is Fetch or kind is Delete:
        key = step.key  # type: ignore[union-attr]
        size = len(key)
        if not 0 < size <= limits.max_key_bytes:
            check_key(key, limits)
        if kind is Put:
            value_size = len(step.value)  # type: ignore[union-attr]
            if value_size > limits.max_value_bytes:
                _check_value(key, step.value, limits)  # type: ignore[union-attr]
            size += value_size
        return size + OPERATION_BYTES
    if isinstance(step, FastWrite):
        return check_step(step.operation, limits)
    if isinstance(step, Atomic):
        return _check_atomic(step, limits)
    if isinstance(step, DeleteRange):
        return len(step.start) + len(step.end) + RANGE_BYTES * len(step.ranges) + 2 * OPERATION_BYTES
    check_key(step.key, limits)
    return len(step.key) + 2 * OPERATION_BYTES


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


def _check_value(key: bytes, value: bytes, limits: Limits) -> None:
    if len(value) > limits.max_value_bytes:
        raise TooLarge(
            f"the value of key {shown(key)} has {len(value)} bytes; "
            f"at most {limits.max_value_bytes} are accepted: split it over several keys"
        )


def _check_atomic(step: Atomic, limits: Limits) -> int:
    for key in keys_of(step):
        check_key(key, limits)
    size = _RESULT_BYTES
    results = 1
    for part in (*step.conditions, *step.operations):
        if isinstance(part, Put):
            _check_value(part.key, part.value, limits)
        elif isinstance(part, Touch | Increment):
            results += 1
            size += _RESULT_BYTES
        size += 2 * OPERATION_BYTES + size_of(part)
    if results > MAX_RESULTS:
        raise TooLarge(
            f"{results - 1} increments and touches are to take effect together; at most {MAX_RESULTS - 1} may: "
            "write less at once"
        )
    if size > limits.max_batch_bytes:
        raise TooLarge(
            f"{len(step.operations)} operations and {len(step.conditions)} conditions that are to take effect together "
            f"have {size} bytes; at most {limits.max_batch_bytes} are accepted: write less at once"
        )
    return size


def check_timeout(timeout: float | None) -> None:
    """
    Raises:
        InvalidArgument: it is not a positive number of seconds.
    """
    if timeout is not None and not _is_duration(timeout):
        raise InvalidArgument(f"timeout is a number of seconds greater than 0, up to {MAX_SECONDS}, not {timeout!r}")


def _is_duration(given: object) -> TypeGuard[float]:
    return not isinstance(given, bool) and isinstance(given, int | float) and 0 < given <= MAX_SECONDS
