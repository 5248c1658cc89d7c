"""What operations and ranges touch: which keys, and which microshards."""

from __future__ import annotations

from collections.abc import Collection

from shoal.keys import partition_of
from shoal.protocol.messages import (
    ALL_MICROSHARDS,
    Atomic,
    AtomicOperation,
    Condition,
    DeleteRange,
    Operation,
    Put,
    RangeUnchanged,
    ValueEquals,
    ValueEqualsOrAbsent,
)
from shoal.shardmap import Keyspace


def keys_of(operation: Operation) -> tuple[bytes, ...]:
    """Return the keys that an operation names, conditions included; ranges have none."""
    if isinstance(operation, Atomic):
        conditions = (part.key for part in operation.conditions if not isinstance(part, RangeUnchanged))
        return tuple(dict.fromkeys((*conditions, *(part.key for part in operation.operations))))
    return () if isinstance(operation, DeleteRange) else (operation.key,)


def microshards_of(operation: Atomic, keyspace: Keyspace) -> Collection[int]:
    """Return the microshards that an atomic operation depends on."""
    found = {keyspace.microshard_of(key) for key in keys_of(operation)}
    for condition in operation.conditions:
        if isinstance(condition, RangeUnchanged):
            if condition.microshard == ALL_MICROSHARDS:
                return range(keyspace.microshards)
            found.add(condition.microshard)
    return found


def fields_of(part: Condition | AtomicOperation) -> tuple[bytes, ...]:
    """Return the bytes that a part of an atomic operation carries."""
    if isinstance(part, RangeUnchanged):
        return part.start, part.end, part.digest
    if isinstance(part, Put | ValueEquals | ValueEqualsOrAbsent):
        return part.key, part.value
    return (part.key,)


def prefix_end(prefix: bytes) -> bytes:
    """Return the first key after all that begin with `prefix`; empty where no key is."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b""


def microshard_of_range(keyspace: Keyspace, prefix: bytes, start: bytes, end: bytes) -> int:
    """Return the microshard that holds all keys with `prefix` in [start, end); ALL_MICROSHARDS where none does.

    That is so where all those keys begin with the same partition.
    """
    delimiter = keyspace.delimiter
    if delimiter:
        for common in (prefix, _common_prefix(start, end)):
            if delimiter in common:
                return keyspace.microshard_of(partition_of(common, delimiter))
    return ALL_MICROSHARDS


def _common_prefix(one: bytes, other: bytes) -> bytes:
    length = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    return min(one, other, key=len) if length is None else one[:length]
