"""Was any value older than the read said it could be?

The bound is delta-atomicity of Golab, Li and Shah, "Analyzing consistency properties for fun and profit" (2011), told by
sequence numbers: a read that calls itself at most d old knows every write acknowledged d before it was invoked. For each
key the writes are sorted by when they were acknowledged, with the newest version up to then, and each read is a bisection.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class AcknowledgedWrite:
    """A write or deletion that got sequence number `seq`, acknowledged at `completed` (nanoseconds of the history's clock)."""

    key: bytes
    seq: int
    completed: int


@dataclass(frozen=True, slots=True)
class BoundedRead:
    """A read that said what it returned is at most `staleness_ns` old.

    Attributes:
        seq: the sequence number stored with the value (0: absent).
        shard_seq: the sequence number up to which the replica that answered had applied the key's shard.
        invoked: nanoseconds of the history's clock, as is `completed`.
        staleness_ns: nanoseconds.
    """

    key: bytes
    seq: int
    shard_seq: int
    invoked: int
    completed: int
    staleness_ns: int


@dataclass(frozen=True, slots=True)
class StalenessViolation:
    """`read` does not know of `write`, the newest one it had to know of."""

    write: AcknowledgedWrite
    read: BoundedRead
    sentence: str


def find_violations(writes: Iterable[AcknowledgedWrite], reads: Iterable[BoundedRead]) -> list[StalenessViolation]:
    """Return the reads that were staler than they said, by the time they were invoked.

    A read must know of every write of its key that was acknowledged at or before `invoked - staleness_ns`, in nanoseconds.
    That a key is absent is wrong only if the replica had not applied such a write: it may have been deleted since.

    Args:
        writes: acknowledged writes and deletions, in any order; sequence numbers of one key come from one shard.
        reads: reads that were answered, in any order.
    """
    by_key: dict[bytes, list[AcknowledgedWrite]] = {}
    for write in writes:
        by_key.setdefault(write.key, []).append(write)
    newest: dict[bytes, tuple[list[int], list[AcknowledgedWrite]]] = {}
    for key, known in by_key.items():
        known.sort(key=lambda write: write.completed)
        newest[key] = ([write.completed for write in known], list(accumulate(known, _newer)))
    found: list[StalenessViolation] = []
    for read in sorted(reads, key=lambda read: read.invoked):
        if read.key not in newest:
            continue
        times, newest_then = newest[read.key]
        count = bisect_right(times, read.invoked - read.staleness_ns)
        if count == 0:
            continue
        write = newest_then[count - 1]
        if read.shard_seq < write.seq or 0 < read.seq < write.seq:
            found.append(StalenessViolation(write, read, _sentence(write, read)))
    return found


def _newer(one: AcknowledgedWrite, other: AcknowledgedWrite) -> AcknowledgedWrite:
    return other if other.seq > one.seq else one


def _sentence(write: AcknowledgedWrite, read: BoundedRead) -> str:
    saw = f"version {read.seq}" if read.seq else "nothing"
    return (
        f"A read of {read.key!r} invoked at {read.invoked} ns saw {saw} on a replica at {read.shard_seq} and said that is "
        f"at most {read.staleness_ns} ns old, but write {write.seq} was acknowledged at {write.completed} ns, "
        f"{read.invoked - write.completed} ns before."
    )
