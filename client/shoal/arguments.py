"""From what callers pass to what is sent: bytes, within the limits that the nodes announced."""

from __future__ import annotations

from typing import Protocol

import msgspec

from shoal.errors import InvalidArgument, TooLarge
from shoal.outcomes import shown
from shoal.protocol.messages import Operation, Put

OPERATION_BYTES = 16
"""At most what an operation takes in a batch besides its key and value."""


class Limits(Protocol):
    """Sizes in bytes that are accepted."""

    max_key_bytes: int
    max_value_bytes: int


class Fetch(msgspec.Struct, frozen=True, gc=False):
    """A read: of the value, or of the whole entry."""

    key: bytes
    whole: bool = False


def to_bytes(what: str, given: object) -> bytes:
    """Return `given` as bytes; `str` is encoded as UTF-8.

    Raises:
        InvalidArgument: it is of another type.
    """
    if isinstance(given, bytes):
        return given
    if isinstance(given, str):
        return given.encode()
    raise InvalidArgument(f"a {what} is bytes or str, not {type(given).__name__}: {given!r:.80}")


def check_step(step: Operation | Fetch, limits: Limits) -> int:
    """Check sizes; return the bytes that the step takes in a batch.

    Raises:
        InvalidArgument: the key is empty.
        TooLarge: the key or the value is over its limit.
    """
    key = step.key
    size = len(key)
    if not 0 < size <= limits.max_key_bytes:
        if not size:
            raise InvalidArgument(f"the key is empty; a key has 1 to {limits.max_key_bytes} bytes")
        raise TooLarge(f"the key {shown(key)} has {size} bytes; a key has 1 to {limits.max_key_bytes} bytes")
    if type(step) is Put:
        value_size = len(step.value)
        if value_size > limits.max_value_bytes:
            raise TooLarge(
                f"the value of key {shown(key)} has {value_size} bytes; "
                f"at most {limits.max_value_bytes} are accepted: split it over several keys"
            )
        size += value_size
    return size + OPERATION_BYTES


def check_timeout(timeout: float | None) -> None:
    """
    Raises:
        InvalidArgument: it is not a positive number of seconds.
    """
    if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
        raise InvalidArgument(f"timeout is a number of seconds greater than 0, not {timeout!r}")
