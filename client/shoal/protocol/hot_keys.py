"""Which keys clients ask a node for most: asked for by operators, for a moment."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from shoal.bounds import MAX_KEY, KeyspaceId, Name, Rate, RequestNumber, ShardId

MAX_HOT_SHARDS = 32
"""Of one answer, where no shard is named: the busiest."""
MAX_HOT_KEYS = 256
MAX_HOT_BYTES = 512 * 1024
"""Keys of one answer, and their bytes together."""

KeyBytes: TypeAlias = Annotated[bytes, Meta(max_length=MAX_KEY)]


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """As in `shoal.protocol.messages`, which this module may not import."""


class GetHotKeys(_Message, frozen=True, tag=36):
    """Ask which keys clients have asked the node for most lately: answered by `HotKeys`. `shard` 0: of its busiest replicas."""

    request: RequestNumber
    shard: ShardId = 0


class HotKey(_Message, frozen=True):
    """What was asked of a key, a second, over about the last ten; estimated from a sample.

    Both are off by `error` together at the most, 19 times of 20: by the sample, and by what may have been asked for before the
    node counted it by itself. What is asked for less than some 20 times a second is met too seldom to be told of.
    """

    key: KeyBytes
    reads: Rate
    writes: Rate
    error: Rate


class HotShard(_Message, frozen=True):
    """The keys of one replica that were asked for most, the first most; `rate`: of all its keys, a second."""

    shard: ShardId
    keyspace: KeyspaceId
    rate: Rate
    keys: Annotated[tuple[HotKey, ...], Meta(max_length=MAX_HOT_KEYS)]


class HotKeys(_Message, frozen=True, tag=52):
    """The answer to `GetHotKeys`, of the node `node`, bounded in keys and bytes: those asked for least are left out."""

    request: RequestNumber
    node: Name
    shards: Annotated[tuple[HotShard, ...], Meta(max_length=MAX_HOT_SHARDS)]
