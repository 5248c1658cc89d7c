"""What is said to compare the replicas of a shard: each is asked for the checksums of its rows, a slice at a time.

Every replica answers, the leader or not, of what it has applied. At one index all replicas of a shard have the same rows,
so that equal cursors lead to equal slices, as long as nothing is written meanwhile and none has gone astray.
"""

from __future__ import annotations

import msgspec

from shoal.bounds import (
    Count,
    Digest,
    LogIndex,
    MicroshardEnd,
    RangeBound,
    RequestNumber,
    RowCount,
    ShardId,
)
from shoal.shardmap import Ranges


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """As in `shoal.protocol.messages`, which this module may not import."""


class ChecksumCursor(_Message, frozen=True):
    """Go on in microshard `microshard` or the next one that there is, there behind the key `after` (b"": at its start)."""

    microshard: MicroshardEnd = 0
    after: RangeBound = b""


class ReadChecksum(_Message, frozen=True, tag=31):
    """Read the checksum of the rows that follow `cursor`, at most `max_rows`, on the node's replica of `shard`.

    Of the microshards `ranges`, which may be none: the first slice, whose cursor is `ChecksumCursor()`, is also of the
    replica's state.
    """

    request: RequestNumber
    shard: ShardId
    ranges: Ranges
    cursor: ChecksumCursor
    max_rows: RowCount


class ChecksumSlice(_Message, frozen=True, tag=50):
    """The checksum of some rows.

    Args:
        index: of the last log entry that the replica has applied.
        digest: BLAKE2b, 16 bytes, over the microshard, key, value, seq and expiry of each row; of the first slice, also
            over what of the replica's state is not rows.
        rows: how many there were.
        next: where to go on; None where no more rows follow.
    """

    request: RequestNumber
    index: LogIndex
    digest: Digest
    rows: Count
    next: ChecksumCursor | None
