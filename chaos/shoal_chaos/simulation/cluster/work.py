"""How long a simulated node's turn takes, by what came of it, where turns are to take time.

In most runs they take none: whatever arrives is done at once. Where clients ask for more than a node can do, what matters is
for how long it is busy, and with whom. The figures are those of a real node, within a factor of two; they are not those that
the node itself reckons with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from shoal.protocol.checksums import ChecksumSlice
from shoal.protocol.messages import Answer, Failure, Page, Rows, ScanPage, ShardMapReply, StatusReply

MICROSECOND = 1_000
TURN = 30 * MICROSECOND
ANSWER = 4 * MICROSECOND
REFUSAL = 3 * MICROSECOND
KEY = 2_500
PAGE = 100 * MICROSECOND
PAGE_ROW = 1_500
BYTE = 2
REPLICA_STATUS = 15 * MICROSECOND
MAP_SHARD = 2 * MICROSECOND


def turn_takes(answered: Mapping[int, Sequence[Answer]]) -> int:
    """Return for how long a turn keeps a node that gives these answers (ns)."""
    return TURN + sum(_takes(answer) for answers in answered.values() for answer in answers)


def _takes(answer: Answer) -> int:
    match answer:
        case Failure():
            return REFUSAL
        case Rows():
            return ANSWER + len(answer.values) * KEY + _size(answer.values) * BYTE
        case ScanPage() | Page():
            return PAGE + len(answer.keys) * PAGE_ROW + (_size(answer.keys) + _size(answer.values)) * BYTE
        case ChecksumSlice():
            return PAGE + answer.rows * PAGE_ROW
        case StatusReply():
            return ANSWER + len(answer.replicas) * REPLICA_STATUS
        case ShardMapReply():
            return ANSWER + len(answer.shard_map.shards) * MAP_SHARD
        case _:
            return ANSWER


def _size(values: Iterable[bytes | None]) -> int:
    return sum(len(value) for value in values if value is not None)
