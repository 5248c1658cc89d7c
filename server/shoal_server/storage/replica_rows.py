"""All rows of one replica: where it came from, and how it is removed without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import msgspec
from shoal.bounds import (
    Count,
    Generation,
    KeyspaceId,
    MicroshardNumber,
    ShardId,
    Version,
)
from shoal.shardmap import Shard

from shoal_server.storage.applied_state import AppliedState
from shoal_server.storage.decoding import RowCodec
from shoal_server.storage.engine import Batch, Damaged, Engine
from shoal_server.storage.journal import journal_prefix
from shoal_server.storage.layout import (
    FORMAT,
    KEYSPACE_BYTES,
    LAST_GENERATION,
    NO_GENERATION,
    applied_state_key,
    data_prefix,
    expiry_prefix,
    failure_key,
    load_split_off,
    log_key,
    log_start_key,
    marked_strays,
    origin_key,
    prefix_end,
    sessions_prefix,
    staging_key,
    strays_key,
)
from shoal_server.storage.log_store import LAST_INDEX
from shoal_server.storage.promises import HARD_STATES
from shoal_server.storage.replica_failure import LOST
from shoal_server.storage.skipped_entries import drop_skipped


class ReplicaOrigin(msgspec.Struct, frozen=True, array_like=True):
    """How a replica came to this node.

    Args:
        founded: it is one of the first replicas of its shard, and knew its membership from the shard map.
        membership_version: otherwise, the one from which on it knows enough to vote. 0: it does from the beginning, since
            the node has never had another replica of the shard, and so has promised nothing (see `opening.origin_of_empty`).
        parent: the shard that its own was split off, 0: none.
    """

    founded: bool
    membership_version: Version
    parent: ShardId = 0
    format: Count = FORMAT


FOUNDER = ReplicaOrigin(True, 0)
"""The origin of a replica without a row of its own: it was on the node's first shard map."""


def origin_of_newcomer(shard: Shard) -> ReplicaOrigin:
    """Return the origin of a replica that is not its shard's first on this node, as far as anybody can know."""
    return ReplicaOrigin(False, max(1, shard.membership_version), shard.parent)


_codec = RowCodec(ReplicaOrigin, "meta", FORMAT)


def put_origin(batch: Batch, engine: Engine, shard: int, origin: ReplicaOrigin) -> None:
    """Store where a replica comes from."""
    batch.put(origin_key(shard), _codec.encode(origin), engine.meta)


def load_origin(engine: Engine, shard: int) -> ReplicaOrigin:
    """Return where a replica came from."""
    return _codec.load(engine, origin_key(shard)) or FOUNDER


def is_stored(engine: Engine, shard: int) -> bool:
    """Say whether the node has anything of a replica of this shard."""
    try:
        if HARD_STATES.is_there(engine, shard) or engine.get(engine.meta, origin_key(shard)) is not None:
            return True
        return engine.get(engine.data, applied_state_key(shard)) is not None
    except Damaged:
        # Of a replica that is not here there is no row to be damaged.
        return True


def stored_parent(engine: Engine, shard: int) -> int | None:
    """Return which shard the stored replica of `shard` was split off, 0 where it was founded; None: nothing is stored.

    Raises:
        Damaged: it cannot be read.
    """
    if engine.get(engine.meta, origin_key(shard)) is not None:
        return load_origin(engine, shard).parent
    split_off = load_split_off(engine, shard)
    if split_off is not None:
        return split_off.child.parent
    return 0 if is_stored(engine, shard) else None


def drop_replica(
    batch: Batch, engine: Engine, shard: Shard, state: AppliedState, cleared: Iterable[Mapping[int, int]]
) -> None:
    """Remove everything that the replica of `shard` has stored, and nothing that another one here has.

    Args:
        state: as applied: it says which rows are the replica's.
        cleared: the generations, by microshard, of rows that it has removed, which a crash may bring back.
    """
    batch.delete_range(log_key(shard.id, 0), log_key(shard.id, LAST_INDEX), engine.log)
    discard_staged(batch, engine, shard.id)
    drop_skipped(batch, engine, shard.id)
    for key_of in (log_start_key, origin_key, failure_key):
        batch.delete(key_of(shard.id), engine.meta)
    for rows in (HARD_STATES, LOST):
        rows.delete(batch, engine, shard.id)
    for generations in (state.generations(state.stored_ranges), *cleared):
        drop_rows(batch, engine, shard.keyspace, generations)
    for make in (sessions_prefix, journal_prefix):
        # What lies by shard, not by microshard, is the replica's under whichever generation; its applied state, too.
        first, last = (make(shard.id, generation) for generation in (NO_GENERATION, LAST_GENERATION))
        batch.delete_range(first, prefix_end(last), engine.data)


class StagedRows(msgspec.Struct, frozen=True, array_like=True):
    """Rows of a snapshot that is being taken in: of these microshards of a keyspace, under a generation of their own."""

    keyspace: KeyspaceId
    microshards: list[MicroshardNumber]
    generation: Generation
    format: Count = FORMAT


_staged_codec = RowCodec(StagedRows, "meta", FORMAT)


def put_staged(batch: Batch, engine: Engine, shard: int, staged: StagedRows) -> None:
    """Note that rows are being staged, so that they can be found and removed whatever happens."""
    batch.put(staging_key(shard), _staged_codec.encode(staged), engine.meta)


def load_staged(engine: Engine, shard: int) -> StagedRows | None:
    """Return what is being staged of a snapshot, or was when the process ended.

    Raises:
        Damaged: it cannot be read.
    """
    return _staged_codec.load(engine, staging_key(shard))


def discard_staged(batch: Batch, engine: Engine, shard: int) -> None:
    """Remove what a transfer that was not finished has left of a snapshot, if there is any."""
    staged = load_staged(engine, shard)
    if staged is None:
        return
    drop_rows(batch, engine, staged.keyspace, dict.fromkeys(staged.microshards, staged.generation))
    drop_own_rows(batch, engine, shard, staged.generation)
    batch.delete(staging_key(shard), engine.meta)


def drop_own_rows(batch: Batch, engine: Engine, shard: int, generation: int) -> None:
    """Remove what lies by shard, not by microshard, under a generation: sessions, and a journal."""
    for make in (sessions_prefix, journal_prefix):
        prefix = make(shard, generation)
        batch.delete_range(prefix, prefix_end(prefix), engine.data)


def drop_rows(batch: Batch, engine: Engine, keyspace: int, generations: Mapping[int, int]) -> None:
    """Remove the rows of microshards, each under its generation, and what indexes them."""
    for microshard, generation in generations.items():
        for make in (data_prefix, expiry_prefix):
            prefix = make(keyspace, microshard, generation)
            batch.delete_range(prefix, prefix_end(prefix), engine.data)


# -- rows of which nobody knows whose they were


def put_strays(batch: Batch, engine: Engine, shard: int, keyspace: int) -> None:
    """Store that a replica of `shard`, of `keyspace`, has rows here and does not know which."""
    batch.put(strays_key(shard), keyspace.to_bytes(KEYSPACE_BYTES, "big"), engine.meta)


def load_strays(engine: Engine, shards: Iterable[Shard]) -> dict[int, int]:
    """Return the keyspaces, by shard, of what has left rows behind; where that cannot be read, those of all `shards`."""
    try:
        return marked_strays(engine)
    except Damaged:
        # To look for rows of nobody where there are none does no harm.
        return {shard.id: shard.keyspace for shard in shards}


def forget_strays(batch: Batch, engine: Engine, shard: int) -> None:
    """Nothing is left behind of a replica of `shard` any more."""
    batch.delete(strays_key(shard), engine.meta)


def drop_all_but(
    batch: Batch, engine: Engine, keyspace: int, microshards: int, known: Mapping[int, Iterable[int]]
) -> None:
    """Remove all rows of a keyspace that do not lie under generations that are `known`, by microshard."""
    for microshard in range(microshards):
        for make in (data_prefix, expiry_prefix):
            _drop_between(batch, engine, partial(make, keyspace, microshard), NO_GENERATION, known.get(microshard, ()))


def drop_own_rows_but(batch: Batch, engine: Engine, shard: int, known: Iterable[int]) -> None:
    """Remove what lies by shard, not by microshard, but under `known` generations."""
    # Before the first one and behind the last one there are the applied state and what a split has made.
    _drop_between(batch, engine, partial(sessions_prefix, shard), NO_GENERATION + 1, known)
    _drop_between(batch, engine, partial(journal_prefix, shard), NO_GENERATION, known)


def _drop_between(
    batch: Batch, engine: Engine, prefix_of: Callable[[int], bytes], first: int, known: Iterable[int]
) -> None:
    for generation in (*sorted(known), LAST_GENERATION):
        if generation > first:
            batch.delete_range(prefix_of(first), prefix_of(generation), engine.data)
        first = generation + 1
