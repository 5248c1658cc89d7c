"""What operations and ranges touch: which keys, and which microshards."""

from __future__ import annotations

from collections.abc import Collection

from shoal.keys import partition_of
from shoal.protocol.messages import (
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
from shoal.shardmap import Keyspace, Ranges, all_of, microshards_in, one_microshard

RANGE_BYTES = 12
"""At most what a range of microshards takes in a message."""


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
            found.update(microshards_in(condition.ranges))
    return found


def size_of(part: Condition | AtomicOperation) -> int:
    """Return the bytes of what a part of an atomic operation carries."""
    if isinstance(part, RangeUnchanged):
        return len(part.start) + len(part.end) + len(part.digest) + RANGE_BYTES * len(part.ranges)
    if isinstance(part, Put | ValueEquals | ValueEqualsOrAbsent):
        return len(part.key) + len(part.value)
    return len(part.key)


def prefix_end(prefix: bytes) -> bytes:
    """Return the first key after all that begin with `prefix`; empty where no key is."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b""


def microshards_of_range(keyspace: Keyspace, prefix: bytes, start: bytes, end: bytes) -> Ranges:
    """Return the microshards that may hold keys with `prefix` in [start, end).

    That is one where all those keys begin with the same partition, otherwise all that there are.
    """
    delimiter = keyspace.delimiter
    if delimiter and delimiter in prefix:
        partition: bytes | None = partition_of(prefix, delimiter)
    else:
        partition = partition_of_range(keyspace, start, end)
    return all_of(keyspace) if partition is None else one_microshard(keyspace.microshard_of(partition))


def share_a_partition(operation: Atomic, keyspace: Keyspace) -> bool:
    """Say whether all that an atomic operation depends on is of one partition, and so of one shard in every cluster."""
    delimiter = keyspace.delimiter
    found: set[bytes | None] = {partition_of(key, delimiter) for key in keys_of(operation)}
    for condition in operation.conditions:
        if isinstance(condition, RangeUnchanged):
            found.add(partition_of_range(keyspace, condition.start, condition.end))
    return len(found) == 1 and None not in found


def partition_of_range(keyspace: Keyspace, start: bytes, end: bytes) -> bytes | None:
    """Return the partition that every key in [start, end) is of; None where they may be of several."""
    delimiter = keyspace.delimiter
    if not delimiter or delimiter not in start:
        return None
    partition = partition_of(start, delimiter)
    last = prefix_end(partition)
    return partition if not last or (end and end <= last) else None
