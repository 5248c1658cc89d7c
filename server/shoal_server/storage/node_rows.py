"""The rows of a node itself: its shard map, the lives of its process, what it has promised, and its peers' incarnations."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from shoal.shardmap import NodeAddress, ShardMap

from shoal_server.invariants import invariant
from shoal_server.storage.decoding import damaged_row, decoded
from shoal_server.storage.engine import REPLACE_NODE, Batch, Damaged, Engine, StorageFailed
from shoal_server.storage.generations import load_generation
from shoal_server.storage.layout import (
    DERIVED_MAP_ROW,
    EPOCH_ROW,
    NUMBER_BYTES,
    PROMISED_ROW,
    SHARD_MAP_ROW,
    load_number,
    peer_key,
)
from shoal_server.storage.meta_rows import DamageRule, MetaKind

CLUSTER_ID_BYTES = 16
"""Of a cluster's id, which is written in hexadecimal digits."""
FIRST_EPOCH_UNIX_SECONDS = 1_735_689_600
"""The beginning of 2025: an epoch has 31 bits in a promise's number (raft/liveness.py), enough until 2093."""
EPOCH_BY_CLOCK_MAX = (1 << 31) - (1 << 20)
"""No clock makes an epoch greater than this: there are a million lives left then, whatever the clock has shown."""


def load_shard_map(engine: Engine) -> ShardMap | None:
    """Return the stored shard map, or None in a new database.

    Raises:
        Damaged: it cannot be read.
    """
    row = engine.get(engine.meta, SHARD_MAP_ROW)
    if row is None:
        return None
    try:
        return msgspec.msgpack.decode(row, type=ShardMap)
    except msgspec.MsgspecError as error:
        raise damaged_row("meta", SHARD_MAP_ROW, f"it is no shard map: {error}") from error


def put_shard_map(batch: Batch, engine: Engine, shard_map: ShardMap, *, derived: bool) -> None:
    """Store the shard map with the rest of a batch; `derived`: this node has made it, the shard manager has not."""
    batch.put(SHARD_MAP_ROW, msgspec.msgpack.encode(shard_map), engine.meta)
    batch.put(DERIVED_MAP_ROW, (shard_map.version if derived else 0).to_bytes(8, "big"), engine.meta)


def load_derived_version(engine: Engine) -> int:
    """Return the version of the stored shard map if this node has made it, else 0."""
    return load_number(engine, DERIVED_MAP_ROW, NUMBER_BYTES) or 0


def save_shard_map(engine: Engine, shard_map: ShardMap) -> None:
    """Store the shard map, durably."""
    _save(engine, SHARD_MAP_ROW, msgspec.msgpack.encode(shard_map))


def rename_cluster(engine: Engine, cluster_id: str) -> None:
    """Give the node another cluster's id, durably, from the node's next start on.

    Raises:
        StorageFailed: the node has no shard map yet.
    """
    known = load_shard_map(engine)
    if known is None:
        raise StorageFailed("there is no shard map: no node has begun on this database yet")
    _save(engine, SHARD_MAP_ROW, msgspec.msgpack.encode(msgspec.structs.replace(known, cluster_id=cluster_id)))


def begin_epoch(engine: Engine, unix_seconds: float) -> int:
    """Return the number of this life of the node's process: more than ever before, on disk before it is used.

    Peers tell lives apart by it. Where the disk loses the number, though it had confirmed it, the clock keeps the next one
    from being the same: the number is no less than the seconds since `FIRST_EPOCH_UNIX_SECONDS`.
    """
    last = load_number(engine, EPOCH_ROW, NUMBER_BYTES) or 0
    # A clock that shows nonsense must not use up the numbers that fit into what is promised (raft/liveness.py).
    epoch = max(last + 1, min(int(unix_seconds) - FIRST_EPOCH_UNIX_SECONDS, EPOCH_BY_CLOCK_MAX))
    _save(engine, EPOCH_ROW, epoch.to_bytes(8, "big"))
    return epoch


def begin_promising(engine: Engine, support_ns: int) -> int:
    """Return the longest support (ns) that any life of the node's process may have promised its peers, this one included.

    It is on disk before anything is promised. `timing.support` may be made shorter between two lives of the process; what
    the one before promised holds for as long as it said.
    """
    longest = load_number(engine, PROMISED_ROW, NUMBER_BYTES) or 0
    if longest < support_ns:
        _save(engine, PROMISED_ROW, support_ns.to_bytes(8, "big"))
    return max(longest, support_ns)


def forget_longer_promises(engine: Engine, support_ns: int) -> None:
    """Take note that all promises of earlier lives are over, and this one's last for `support_ns` at the most."""
    batch = engine.batch()
    batch.put(PROMISED_ROW, support_ns.to_bytes(8, "big"), engine.meta)
    engine.write(batch)


def load_peer_incarnation(engine: Engine, node: str) -> str | None:
    """Return the incarnation that a peer was first met with, or None."""
    key = peer_key(node)
    row = engine.get(engine.meta, key)
    return None if row is None else decoded("meta", key, row, _decode_incarnation)


def _decode_incarnation(_: bytes, row: bytes) -> str:
    return row.decode()


def check_own_rows(engine: Engine, nodes: Iterable[NodeAddress]) -> None:
    """Read all rows that are the node's own, each of which a replica here may have to go by.

    Args:
        nodes: of the cluster. What peers there are, or were, cannot be told by rows that may be damaged.

    Raises:
        Damaged: one of them cannot be read, or is no such row. The node may not open.
    """
    checks: dict[MetaKind, Callable[[], object]] = {
        MetaKind.SHARD_MAP: lambda: load_shard_map(engine),
        MetaKind.DERIVED_MAP: lambda: load_derived_version(engine),
        MetaKind.EPOCH: lambda: load_number(engine, EPOCH_ROW, NUMBER_BYTES),
        MetaKind.PROMISED: lambda: load_number(engine, PROMISED_ROW, NUMBER_BYTES),
        MetaKind.GENERATION: lambda: load_generation(engine),
        MetaKind.PEER: lambda: [load_peer_incarnation(engine, node.id) for node in nodes],
    }
    own = {kind for kind in MetaKind if kind.rule is DamageRule.NODE_REFUSES}
    invariant(checks.keys() == own, "every kind of row of the node itself is looked at")
    for kind, check in checks.items():
        try:
            check()
        except Damaged as error:
            raise Damaged("meta", f"{kind.what} cannot be read: {error}; {REPLACE_NODE}") from error


def save_peer_incarnation(engine: Engine, node: str, incarnation: str) -> None:
    """Remember the incarnation of a peer; on disk with the next sync."""
    batch = engine.batch()
    batch.put(peer_key(node), incarnation.encode(), engine.meta)
    engine.write(batch)


def _save(engine: Engine, key: bytes, value: bytes) -> None:
    batch = engine.batch()
    batch.put(key, value, engine.meta)
    engine.write(batch)
    engine.sync()
