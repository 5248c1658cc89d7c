"""What `write` takes: operations, and the conditions they may depend on."""

from __future__ import annotations

from shoal.arguments import to_bytes, to_ttl_ms
from shoal.errors import InvalidArgument
from shoal.integers import INTEGERS
from shoal.protocol.messages import (
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
from shoal.results import Duration


def put(key: bytes | str, value: bytes | str, ttl: Duration | None = None) -> Put:
    """Set `key` to `value`.

    Args:
        ttl: seconds until it expires; 0: never; None: the keyspace's default.

    Raises:
        InvalidArgument: an argument is of a wrong type or out of range.
    """
    return Put(to_bytes("key", key), to_bytes("value", value), to_ttl_ms(ttl))


def delete(key: bytes | str) -> Delete:
    """Remove `key`; removing what is not there is no error.

    Raises:
        InvalidArgument: the key is neither bytes nor str.
    """
    return Delete(to_bytes("key", key))


def increment(key: bytes | str, by: int = 1, ttl: Duration | None = None) -> Increment:
    """Add `by` to the decimal integer stored under `key`. Its result is the sum.

    Args:
        ttl: of a counter that begins with this, from 0: seconds until it expires; 0: never; None: the keyspace's default.
            One that is there keeps its expiry.

    Raises:
        InvalidArgument: `by` is no integer of 64 bits, or the time is wrong.
    """
    if isinstance(by, bool) or not isinstance(by, int) or by not in INTEGERS:
        raise InvalidArgument(f"an increment is by an integer from -2**63 to 2**63 - 1, not {by!r}")
    return Increment(to_bytes("key", key), by, to_ttl_ms(ttl))


def touch(key: bytes | str, ttl: Duration | None = None) -> Touch:
    """Let `key` expire `ttl` seconds from now (0: never; None: after the keyspace's default).

    Its result is 1, or 0 where there is no such key.

    Raises:
        InvalidArgument: an argument is of a wrong type or out of range.
    """
    return Touch(to_bytes("key", key), to_ttl_ms(ttl))


def key_present(key: bytes | str) -> KeyPresent:
    """The condition that `key` has a value."""
    return KeyPresent(to_bytes("key", key))


def key_absent(key: bytes | str) -> KeyAbsent:
    """The condition that `key` has no value."""
    return KeyAbsent(to_bytes("key", key))


def value_equals(key: bytes | str, value: bytes | str) -> ValueEquals:
    """The condition that `key` has this value."""
    return ValueEquals(to_bytes("key", key), to_bytes("value", value))


def value_equals_or_absent(key: bytes | str, value: bytes | str) -> ValueEqualsOrAbsent:
    """The condition that `key` has this value, or none."""
    return ValueEqualsOrAbsent(to_bytes("key", key), to_bytes("value", value))


def seq_equals(key: bytes | str, seq: int) -> SeqEquals:
    """The condition that `key` was last written at `seq` (`Entry.seq`); 0: that it has no value.

    Raises:
        InvalidArgument: `seq` is no sequence number.
    """
    if isinstance(seq, bool) or not isinstance(seq, int) or not 0 <= seq < 2**63:
        raise InvalidArgument(f"a sequence number is an integer from 0, not {seq!r}")
    return SeqEquals(to_bytes("key", key), seq)
