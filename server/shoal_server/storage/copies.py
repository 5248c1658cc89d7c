"""Copies of data folders: what makes them a cluster of their own, which clients and peers tell from what they are copies of."""

from __future__ import annotations

from pathlib import Path

from shoal_server.storage.folder import open_present_folder, rename_cluster
from shoal_server.storage.rocks import RocksEngine

_CACHE_BYTES = 8 * 1024 * 1024


def rename_stored_cluster(path: Path, cluster_id: str) -> None:
    """Give the node whose data folder is `path`, and which must not run, another cluster's id, durably.

    Raises:
        DataFolderInUse: a process has it open.
        DataFolderRefused: it is no node's folder, or of a newer format.
        StorageFailed: the database cannot be opened or written, or no node has begun on it yet.
    """
    folder = open_present_folder(path)
    try:
        engine = RocksEngine(folder.database, block_cache_bytes=_CACHE_BYTES, write_buffer_bytes=_CACHE_BYTES)
        try:
            rename_cluster(engine, cluster_id)
        finally:
            engine.close()
    finally:
        folder.close()
