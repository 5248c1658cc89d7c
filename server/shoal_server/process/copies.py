"""Copies of data folders: what makes them a cluster of their own, which clients and peers tell from what they are copies of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from shoal_server.process.joining import MANAGERS_KEYSPACE, managers_cluster
from shoal_server.storage.engine import DataFolderRefused, StorageFailed
from shoal_server.storage.folder import DataFolder, open_present_folder
from shoal_server.storage.node_rows import load_shard_map, rename_cluster
from shoal_server.storage.rocks import RocksEngine

_CACHE_BYTES = 8 * 1024 * 1024


def rename_stored_cluster(paths: Sequence[Path], cluster_id: str) -> None:
    """Give the nodes whose data folders are `paths`, and which must not run, another cluster's id, durably.

    All are looked at before the first one is changed.

    Raises:
        DataFolderInUse: a process has one open; none is changed.
        DataFolderRefused: one is no node's folder, or of another format; none is changed.
        StorageFailed: a database cannot be opened, or no node has begun on it yet: none is changed; or it cannot be
            written, and the message says which were before it.
    """
    with ExitStack() as opened:
        engines = [(path, _opened(path, opened)) for path in dict.fromkeys(path.resolve() for path in paths)]
        for number, (path, engine) in enumerate(engines):
            try:
                rename_cluster(engine, cluster_id)
            except StorageFailed as error:
                done = ", ".join(str(before) for before, _ in engines[:number])
                said = f"; these have the id {cluster_id} now: {done}" if done else ""
                raise StorageFailed(f"{path}: {error}{said}") from error


def _opened(path: Path, opened: ExitStack) -> RocksEngine:
    """Open the database of a storage node, which has a shard map, until `opened` ends."""
    folder = open_present_folder(path)
    opened.callback(folder.close)
    engine = _engine(folder)
    opened.callback(engine.close)
    shard_map = load_shard_map(engine)
    if shard_map is None:
        raise StorageFailed(f"{path}: there is no shard map: no node has begun on this database yet")
    keyspaces = {keyspace.name for keyspace in shard_map.keyspaces}
    if shard_map.cluster.endswith(managers_cluster("")) and keyspaces == {MANAGERS_KEYSPACE}:
        raise DataFolderRefused(
            f"{path} is the folder of manager {folder.identity.node}: managers of a copy begin with empty folders"
        )
    return engine


def _engine(folder: DataFolder) -> RocksEngine:
    try:
        return RocksEngine(folder.database, block_cache_bytes=_CACHE_BYTES, write_buffer_bytes=_CACHE_BYTES)
    except StorageFailed as error:
        raise StorageFailed(f"{folder.path}: {error}") from error
