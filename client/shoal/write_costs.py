"""How much work a write makes, about: microseconds of one core, on every replica that applies it.

While a node applies an entry of its log it serves nobody. So what is applied at once is bounded: the work of one write, and
of the writes that become one entry. Clients and nodes reckon alike, by what an operation says and never by what is stored:
clients make no larger batches, and a node refuses what would be more, before anything of it is done.

The figures are of one slow core, measured with rows in RocksDB's tables (docs/decisions/0031-the-work-of-a-write.md).
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal.protocol.digest import rows_of
from shoal.protocol.messages import (
    Atomic,
    AtomicOperation,
    Condition,
    Delete,
    DeleteRange,
    Operation,
    Put,
    RangeUnchanged,
    Touch,
)
from shoal.shardmap import count_in

WRITE_US = 20_000
"""The most work of one write, and of one entry of a log."""

PLAIN_US = 3
"""Of a put or a delete by itself."""
EXPIRING_US = 3
"""Of a put that expires, besides."""
READING_US = 12
"""Of an increment, which reads a row first."""
TOUCH_US = 32
"""Of a touch, which writes again what it reads: 4 KiB are reckoned, what a row has more is counted when it is seen."""
ATOMIC_US = 8
"""Of an atomic operation, besides its parts."""
PART_US = 5
"""Of a condition on a key, or of a put or delete in an atomic operation."""
RANGE_US = 8
"""Of a range, besides its microshards."""
SPAN_US = 8
"""Of a microshard that a range of keys is looked for in."""
ROW_US = 3
"""Of a row that a condition on a range covers."""
_BYTES_SHIFT = 10
"""A microsecond for each KiB."""
_BOUNDS_SHIFT = 7
"""A microsecond for each 128 bytes of the ends of a range, in each of its microshards: there they are stored, or looked for."""

WHAT_IS_ACCEPTED = (
    f"a replica serves nobody else meanwhile, so at most {WRITE_US // 1000} ms are accepted: {WRITE_US // PLAIN_US} small puts "
    f"or deletes, {WRITE_US // PART_US} conditions on keys, ranges over {WRITE_US // SPAN_US} microshards, or conditions on "
    f"ranges of {WRITE_US // ROW_US} rows. Write less at once"
)
"""What is right instead of a write that was more work."""


def bytes_cost(size: int) -> int:
    """Return what `size` bytes of operations cost, whatever they are."""
    return size >> _BYTES_SHIFT


def plain_cost(operations: int, expiring: int = 0) -> int:
    """Return what so many puts and deletes cost, of which some are puts that expire, besides their bytes."""
    return PLAIN_US * operations + EXPIRING_US * expiring


def operations_cost(operations: Iterable[Operation]) -> int:
    """Return what operations cost, besides their bytes. Ranges in them must be well formed."""
    return sum(map(_operation_cost, operations))


def _operation_cost(operation: Operation) -> int:
    kind = type(operation)
    if kind is Put:
        return PLAIN_US + EXPIRING_US if operation.ttl_ms > 0 else PLAIN_US  # type: ignore[union-attr]
    if kind is Delete:
        return PLAIN_US
    if isinstance(operation, DeleteRange):
        return _range_cost(operation)
    if isinstance(operation, Atomic):
        return (
            ATOMIC_US
            + sum(map(_condition_cost, operation.conditions))
            + sum([_part_cost(each) for each in operation.operations])
        )
    return TOUCH_US if kind is Touch else READING_US


def _condition_cost(condition: Condition) -> int:
    if isinstance(condition, RangeUnchanged):
        return _range_cost(condition) + ROW_US * max(0, rows_of(condition.digest))
    return PART_US


def _part_cost(operation: AtomicOperation) -> int:
    if isinstance(operation, Put):
        return PART_US + EXPIRING_US if operation.ttl_ms > 0 else PART_US
    if isinstance(operation, Delete):
        return PART_US
    return TOUCH_US if isinstance(operation, Touch) else READING_US


def _range_cost(range_: DeleteRange | RangeUnchanged) -> int:
    microshards = count_in(range_.ranges)
    return RANGE_US + SPAN_US * microshards + _bounds_cost(microshards, range_.start, range_.end)


def _bounds_cost(microshards: int, start: bytes, end: bytes) -> int:
    """Return what the ends of a range cost, which is put together with its microshards one by one."""
    return microshards * (len(start) + len(end)) >> _BOUNDS_SHIFT


def microshards_at_once(start: bytes, end: bytes) -> int:
    """Return in how many microshards a range may be removed with one operation: half of what a write may be."""
    return (WRITE_US << _BOUNDS_SHIFT) // (2 * ((SPAN_US << _BOUNDS_SHIFT) + len(start) + len(end)))


def too_much_work(what: str, cost: int) -> str:
    """Return why a write of `what`, which would cost so much, is refused."""
    return f"{what}: applying them would take each replica about {max(1, cost // 1000)} ms; {WHAT_IS_ACCEPTED}"
