"""All rows of one replica: where it came from, and how it is removed without a trace."""

from __future__ import annotations

import msgspec
from shoal.shardmap import MicroshardRange, Shard

from shoal_server.storage.engine import Batch, Engine
from shoal_server.storage.layout import (
    FORMAT,
    LAST_GENERATION,
    NO_GENERATION,
    SYSTEM_KEYSPACE,
    applied_state_key,
    check_format,
    data_prefix,
    expiry_prefix,
    hard_state_key,
    log_key,
    log_start_key,
    origin_key,
    prefix_end,
    staging_key,
)
from shoal_server.storage.log_store import LAST_INDEX


class ReplicaOrigin(msgspec.Struct, frozen=True, array_like=True):
    """How a replica came to this node.

    Args:
        founded: it is one of the first replicas of its shard, and knew its membership from the shard map.
        membership_version: otherwise, the one from which on it knows enough to vote.
    """

    founded: bool
    membership_version: int
    format: int = FORMAT


FOUNDER = ReplicaOrigin(True, 0)
"""The origin of a replica without a row of its own: it was on the node's first shard map."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ReplicaOrigin)


def put_origin(batch: Batch, engine: Engine, shard: int, origin: ReplicaOrigin) -> None:
    """Store where a replica comes from."""
    batch.put(origin_key(shard), _encoder.encode(origin), engine.meta)


def load_origin(engine: Engine, shard: int) -> ReplicaOrigin:
    """Return where a replica came from."""
    row = engine.get(engine.meta, origin_key(shard))
    if row is None:
        return FOUNDER
    origin = _decoder.decode(row)
    check_format(origin.format, f"the origin of the replica of shard {shard}")
    return origin


def is_stored(engine: Engine, shard: int) -> bool:
    """Say whether the node has anything of a replica of this shard."""
    return engine.get(engine.data, applied_state_key(shard)) is not None or any(
        engine.get(engine.meta, key) is not None for key in (hard_state_key(shard), origin_key(shard))
    )


def drop_replica(batch: Batch, engine: Engine, shard: Shard, ranges: tuple[MicroshardRange, ...]) -> None:
    """Remove everything that the replica of `shard` has stored, of whatever generation.

    Args:
        ranges: the microshards that it has, which need not be those that a newer shard map says.
    """
    batch.delete_range(log_key(shard.id, 0), log_key(shard.id, LAST_INDEX), engine.log)
    for key in (hard_state_key(shard.id), log_start_key(shard.id), staging_key(shard.id), origin_key(shard.id)):
        batch.delete(key, engine.meta)
    spans = [
        make(shard.keyspace, microshard, NO_GENERATION)
        for make in (data_prefix, expiry_prefix)
        for span in ranges
        for microshard in range(span.first, span.end)
    ]
    spans.append(data_prefix(SYSTEM_KEYSPACE, shard.id, NO_GENERATION))
    generation_bytes = len(LAST_GENERATION.to_bytes(4, "big"))
    for first in spans:
        # Of the keys of all generations the last is greater than the prefix with the highest one.
        last = first[:-generation_bytes] + LAST_GENERATION.to_bytes(4, "big")
        batch.delete_range(first, prefix_end(last), engine.data)
