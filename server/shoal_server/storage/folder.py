"""A node's data folder: whose it is, in which format, and that one process at a time uses it.

    DATA/shoal.json    cluster, node, incarnation, format: written once, atomically
    DATA/lock          held with flock for as long as the process lives
    DATA/database/     RocksDB

The incarnation is drawn when the folder is made: peers remember it, so a node that comes back with an empty folder under
its old name, having forgotten what it promised, is told apart from one that was merely away.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import msgspec
from shoal.shardmap import NodeAddress, ShardMap

from shoal_server.invariants import invariant
from shoal_server.storage.decoding import damaged_row, decoded
from shoal_server.storage.engine import (
    REPLACE_NODE,
    Batch,
    Damaged,
    DataFolderInUse,
    DataFolderRefused,
    Engine,
    StorageFailed,
)
from shoal_server.storage.folder_sync import sync_folder
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

IDENTITY_FILE = "shoal.json"
LOCK_FILE = "lock"
DATABASE_FOLDER = "database"
OWN_ENTRIES = {IDENTITY_FILE, IDENTITY_FILE + ".new", LOCK_FILE, DATABASE_FOLDER}
FOLDER_FORMAT = 4
"""Of the folder as a whole: raised where what is in it cannot be read as before. 2: entries have
checksums, clusters have ids. 4: what a replica's promises rest on is stored twice."""
CLUSTER_ID_BYTES = 16
"""Of a cluster's id, which is written in hexadecimal digits."""
FIRST_EPOCH_UNIX_SECONDS = 1_735_689_600
"""The beginning of 2025: an epoch has 31 bits in a promise's number (raft/liveness.py), enough until 2093."""
EPOCH_BY_CLOCK_MAX = (1 << 31) - (1 << 20)
"""No clock makes an epoch greater than this: there are a million lives left then, whatever the clock has shown."""


class FolderIdentity(msgspec.Struct, frozen=True):
    """Whose folder it is."""

    format: int
    cluster: str
    node: str
    incarnation: str


class DataFolder:
    """An open data folder. Closing it, or the end of the process, lets another one open it."""

    def __init__(self, path: Path, identity: FolderIdentity, lock: IO[str]) -> None:
        self.path = path
        self.identity = identity
        self._lock = lock

    @property
    def incarnation(self) -> str:
        return self.identity.incarnation

    @property
    def database(self) -> Path:
        return self.path / DATABASE_FOLDER

    def close(self) -> None:
        if not self._lock.closed:
            # Closing alone would leave the lock to a child that this process forked meanwhile.
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._lock.close()


def open_data_folder(path: Path, cluster: str, node: str) -> DataFolder:
    """Open the data folder of `node`, or make it where there is none.

    Raises:
        DataFolderInUse: a process has it open, be it this one.
        DataFolderRefused: it is another cluster's or node's, of a newer format, or not Shoal's at all.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in OWN_ENTRIES)
    except OSError as error:
        raise DataFolderRefused(f"data folder {path} cannot be used: {error}") from error
    identity_file = path / IDENTITY_FILE
    if foreign and not identity_file.exists():
        raise DataFolderRefused(
            f"data folder {path} is not empty and not Shoal's (it holds {foreign[0]!r}): name an empty or a new one"
        )
    lock = _lock(path)
    try:
        identity = _read_identity(identity_file) if identity_file.exists() else _make(path, cluster, node)
        _check(path, identity, cluster, node)
    except BaseException:
        lock.close()
        raise
    return DataFolder(path, identity, lock)


def open_present_folder(path: Path) -> DataFolder:
    """Open a data folder that is there, whoever's it is.

    Raises:
        DataFolderInUse: a process has it open.
        DataFolderRefused: there is none, or it is of another format.
    """
    if not (path / IDENTITY_FILE).is_file():
        raise DataFolderRefused(f"{path} is no data folder: it has no {IDENTITY_FILE}")
    lock = _lock(path)
    try:
        identity = _read_identity(path / IDENTITY_FILE)
        _check_format(path, identity)
    except BaseException:
        lock.close()
        raise
    return DataFolder(path, identity, lock)


def _lock(path: Path) -> IO[str]:
    try:
        lock = (path / LOCK_FILE).open("a+")
    except OSError as error:
        raise DataFolderRefused(f"data folder {path} cannot be written: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        itself = " (this one)" if owner == str(os.getpid()) else ""
        raise DataFolderInUse(f"data folder {path} is in use by process {owner}{itself}") from error
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _read_identity(file: Path) -> FolderIdentity:
    try:
        return msgspec.json.decode(file.read_bytes(), type=FolderIdentity)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataFolderRefused(f"{file} cannot be read: {error}") from error


def _check_format(path: Path, identity: FolderIdentity) -> None:
    if identity.format == FOLDER_FORMAT:
        return
    other = "a newer" if identity.format > FOLDER_FORMAT else "an older"
    raise DataFolderRefused(
        f"data folder {path} was written by {other} Shoal (format {identity.format}); this one reads format {FOLDER_FORMAT}: "
        f"export the rows with the Shoal that wrote it, and import them into a new cluster"
    )


def _make(path: Path, cluster: str, node: str) -> FolderIdentity:
    if (path / DATABASE_FOLDER).exists():
        raise DataFolderRefused(f"data folder {path} has a database but no {IDENTITY_FILE}: restore the file")
    identity = FolderIdentity(FOLDER_FORMAT, cluster, node, secrets.token_hex(8))
    new = path / (IDENTITY_FILE + ".new")
    try:
        with new.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(identity)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path / IDENTITY_FILE)
        (path / DATABASE_FOLDER).mkdir(exist_ok=True)
        sync_folder(path)
    except OSError as error:
        raise DataFolderRefused(f"data folder {path} cannot be written: {error}") from error
    return identity


def _check(path: Path, identity: FolderIdentity, cluster: str, node: str) -> None:
    _check_format(path, identity)
    if identity.cluster != cluster:
        raise DataFolderRefused(f"data folder {path} belongs to cluster {identity.cluster!r}, not {cluster!r}")
    if identity.node != node:
        raise DataFolderRefused(f"data folder {path} belongs to node {identity.node!r}, not {node!r}")


# -- rows of the node itself


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
