"""What the numbers and names in messages may be: a named type each, checked where a message is decoded.

A field of a wire struct has one of these types instead of `int` or `str`, so that msgspec refuses whatever else arrives, in
the decoder, before anybody sees it. The bounds are those of what is done with the numbers: what fits into a key on disk,
what may be added up without end, and what a cluster can ever come to. What only makes sense beside other things (a range
within its keyspace, a child of its parent) is checked where a request is admitted. Decision 21 has the reasons.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

MAX_NUMBER = (1 << 63) - 1
"""Of whatever is only ever compared, or handed back as it came."""

MAX_SHARD = (1 << 31) - 1
"""Shards are numbered for ever, and named by 4 bytes on disk."""
MAX_KEYSPACE = (1 << 31) - 1
"""The highest bit of the 4 bytes on disk is the expiry index's."""
MAX_MICROSHARDS = 1 << 16
"""The most microshards that a keyspace can have."""
MAX_TERM = 1 << 40
"""An election every millisecond reaches it in 34 years; above it nobody could campaign, and a group had no leader for ever."""
MAX_INDEX = 1 << 48
"""100,000 entries a second reach it in 89 years."""
REPLAY_LAG_ENTRIES = 1_000
"""A replica that has more than this still to apply is not in step: it answers nothing until it has, and leaves it to others to
lead."""
MAX_SEQ = 1 << 62
MAX_MOVED_SEQ = 1 << 61
"""Of a shard that microshards are taken from: the one that gets them goes on above it, and stays below `MAX_SEQ`."""
MAX_VERSION = 1 << 48
MAX_EPOCH = (1 << 31) - 1
"""Lives of a process; a promise's number has one in front of 32 bits."""
MAX_NS = 1 << 62
MAX_MS = 100 * 366 * 24 * 3600 * 1000
"""A hundred years: nobody waits, keeps or tolerates for longer."""
MAX_TTL_MS = 100 * 365 * 24 * 3600 * 1000
MAX_UNIX_MS = 1 << 52
"""A TTL added to a clock stays within it for the next hundred thousand years."""
MAX_BYTES = 1 << 50
MAX_QUOTA_RATE = 1 << 40
"""Operations a second: more than all nodes of a cluster do."""
WHOLE = 1_000_000
"""All of something of which there are shares."""
MAX_CHECKSUM = (1 << 32) - 1

MAX_NAME = 63
"""Characters in the name of a node, cluster or keyspace, as in cluster.yaml."""
MAX_PLACE = 255
MAX_ADDRESS = 300
"""A host name of 255 characters, brackets and a port."""
MAX_WORD = 64
MAX_TEXT = 64 * 1024
MAX_NODES = 4096
MAX_KEYSPACES = 65_536
MAX_SHARDS = 1 << 15
"""In one map, of all keyspaces: every node decodes all of it at each change."""
MAX_VOTERS = 7
MAX_FOLLOWERS = 16
"""Of a shard, as a keyspace may ask for them."""
MAX_REPLICAS = 64
"""Of one shard: more than a keyspace can ask for, with those that are on their way."""
MAX_CHILDREN = 64
"""Shards that one says to have split off: the last ones. The map has the others long since."""
MAX_OPERATIONS_BYTES = 64 * 1024 * 1024
"""Of a write's operations, encoded: the most that a node can be told to accept."""
MAX_KEY = 64 * 1024
"""Bytes of the longest key that a node can be told to accept."""
MAX_BOUND = MAX_KEY + 1
"""An end of a range: one byte behind the longest key."""
MAX_CURSOR = MAX_BOUND + 32
"""A place in a scan, or in a journal: a key with what stands before it."""
MAX_DELIMITER = 64
MAX_DIGEST = 64
MAX_FEATURES = 64
MAX_MOVED = 65_536
"""Rows, or ranges, of one page of a migration: whatever the nodes of another version put into one."""
MAX_ROWS = 1 << 20
"""Of one page, whoever asks; nodes have lower limits of their own."""

CountOrNone: TypeAlias = Annotated[int, Meta(ge=-1, le=MAX_NUMBER)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
RequestNumber: TypeAlias = Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
"""Handed back as it came."""
Int64: TypeAlias = Annotated[int, Meta(ge=-(1 << 63), le=MAX_NUMBER)]

ShardId: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_SHARD)]
KeyspaceId: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_KEYSPACE)]
MicroshardNumber: TypeAlias = Annotated[int, Meta(ge=0, lt=MAX_MICROSHARDS)]
MicroshardEnd: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_MICROSHARDS)]
MicroshardCount: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_MICROSHARDS)]

Term: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_TERM)]
LogIndex: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_INDEX)]
LogIndexOrNone: TypeAlias = Annotated[int, Meta(ge=-1, le=MAX_INDEX)]
Seq: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_SEQ)]
MinSeq: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
"""Asked of a replica: no seq reaches the highest ones, which asks for the leader."""
MovedSeq: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_MOVED_SEQ)]
Version: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_VERSION)]
Epoch: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_EPOCH)]
Promise: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
WriteNumber: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_SEQ)]
MigrationId: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_VERSION)]
PageNumber: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_INDEX)]
Checksum: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_CHECKSUM)]

ClockNs: TypeAlias = Annotated[int, Meta(ge=-MAX_NS, le=MAX_NS)]
DurationNs: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NS)]
DurationUs: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NS)]
DurationMs: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_MS)]
TtlMs: TypeAlias = Annotated[int, Meta(ge=-1, le=MAX_TTL_MS)]
"""-1: the keyspace's default; 0: for ever."""
UnixMs: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_UNIX_MS)]
WallMs: TypeAlias = Annotated[int, Meta(ge=-MAX_UNIX_MS, le=MAX_UNIX_MS)]
"""What a wall clock shows, right or wrong, or by how much one is off."""
Bytes: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_BYTES)]
RowCount: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_ROWS)]
Rate: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
QuotaRate: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_QUOTA_RATE)]
"""Operations a second; 0: as many as go."""
Millionths: TypeAlias = Annotated[int, Meta(ge=0, le=WHOLE)]
Share: TypeAlias = Annotated[float, Meta(ge=0)]

Name: TypeAlias = Annotated[str, Meta(max_length=MAX_NAME)]
Place: TypeAlias = Annotated[str, Meta(max_length=MAX_PLACE)]
Address: TypeAlias = Annotated[str, Meta(max_length=MAX_ADDRESS)]
Word: TypeAlias = Annotated[str, Meta(max_length=MAX_WORD)]
Text: TypeAlias = Annotated[str, Meta(max_length=MAX_TEXT)]
RangeBound: TypeAlias = Annotated[bytes, Meta(max_length=MAX_BOUND)]
CursorBytes: TypeAlias = Annotated[bytes, Meta(max_length=MAX_CURSOR)]
EncodedOperations: TypeAlias = Annotated[bytes, Meta(max_length=MAX_OPERATIONS_BYTES)]
"""An encoded list of a write's operations. As bytes, it is passed over at once by whoever does not look into it."""
Digest: TypeAlias = Annotated[bytes, Meta(max_length=MAX_DIGEST)]
Names: TypeAlias = Annotated[tuple[Name, ...], Meta(max_length=MAX_REPLICAS)]
"""The nodes that have a replica of one shard."""
Children: TypeAlias = Annotated[tuple[ShardId, ...], Meta(max_length=MAX_CHILDREN)]
Delimiter: TypeAlias = Annotated[bytes, Meta(max_length=MAX_DELIMITER)]
Features: TypeAlias = Annotated[tuple[Word, ...], Meta(max_length=MAX_FEATURES)]
Generation: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_CHECKSUM)]
"""Of rows on disk: 4 bytes."""
Token: TypeAlias = Annotated[bytes, Meta(max_length=MAX_DIGEST)]
"""Names somebody, and nothing else."""
