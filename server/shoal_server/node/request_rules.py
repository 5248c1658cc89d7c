"""What a request to a node must be like beyond what its type says: checked before anything of it is done, or proposed.

The types of messages bound each number by itself (`shoal.bounds`); here is what makes sense of them together.
An entry that is in the log is applied by every replica, now and at each start, so nothing may get there that applying
could stumble over. Each function returns "" or, in words, why the request is refused. What a shard map must be like is in
`shoal.map_rules`, since those who make one keep to the same.
"""

from __future__ import annotations

from shoal.bounds import MAX_VERSION
from shoal.map_rules import refuse_leap, refuse_ranges
from shoal.protocol.messages import SplitShard
from shoal.protocol.migration import (
    AdoptMicroshards,
    BeginIncoming,
    BeginOutgoing,
    ClearedRange,
    MigrationStep,
    MovedRow,
    SealMicroshards,
    StoreMoved,
)
from shoal.shardmap import Keyspace

from shoal_server.shard.moving import MAX_MOVED_ROWS
from shoal_server.storage.layout import row_problem

MAX_SEQ_LEAP = 1 << 49
"""By so much the seqs of a shard that gives microshards are above those of the one that gets them: seqs count log entries,
of which a shard has at most 2^48, on from those of shards that it had microshards from."""


def refuse_split(request: SplitShard, keyspace: Keyspace, map_version: int) -> str:
    """A split names a new shard and some microshards; whether the parent has these is for its leader to see.

    `map_version` is that of the node's shard map.
    """
    child = request.child
    if not 1 <= child.id != request.shard:
        return "a new shard has a number from 1, and another one than its parent's"
    if request.map_version >= MAX_VERSION:
        return f"versions of shard maps are less than {MAX_VERSION}"
    problem = refuse_leap(request.map_version, map_version, "the shard map's version")
    if problem:
        return problem
    return refuse_ranges(child.ranges, keyspace)


def refuse_step(request: MigrationStep, keyspace: Keyspace, map_version: int, seq: int) -> str:
    """A step of a migration names two shards, microshards and rows that there can be.

    Args:
        map_version: that of the node's shard map.
        seq: the position of the shard whose step it is.
    """
    if isinstance(request, SealMicroshards | AdoptMicroshards):
        return refuse_leap(request.map_version, map_version, "the shard map's version")
    if isinstance(request, BeginIncoming | BeginOutgoing):
        other = request.source if isinstance(request, BeginIncoming) else request.target
        if not 1 <= other != request.shard:
            return f"microshards go from one shard to another, not from {request.shard} to {other}"
        return refuse_ranges(request.ranges, keyspace)
    if isinstance(request, StoreMoved):
        if request.cursor.seq > seq + MAX_SEQ_LEAP:
            return (
                f"a page is of a shard at seq {request.cursor.seq}, and {seq} is reached here: by a mistake, it seems"
            )
        return _refuse_page(request.cleared, request.rows, keyspace)
    return ""


def _refuse_page(cleared: list[ClearedRange], rows: list[MovedRow], keyspace: Keyspace) -> str:
    if len(cleared) + len(rows) > MAX_MOVED_ROWS:
        return f"a page has at most {MAX_MOVED_ROWS} rows and ranges, not {len(cleared) + len(rows)}"
    for microshard, start, end in cleared:
        if microshard >= keyspace.microshards or (end and start >= end):
            return f"a range of microshard {microshard} that was cleared has no row"
    for microshard, key, row in rows:
        if microshard >= keyspace.microshards or not key:
            return f"a row has a key, and is in one of the keyspace's {keyspace.microshards} microshards"
        problem = "" if row is None else row_problem(row)
        if problem:
            return f"a row of microshard {microshard} is damaged: {problem}"
    return ""
