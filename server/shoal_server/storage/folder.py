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
from pathlib import Path
from typing import IO

import msgspec

from shoal_server.storage.engine import DataFolderInUse, DataFolderRefused
from shoal_server.storage.folder_sync import replace_file, sync_folder

IDENTITY_FILE = "shoal.json"
LOCK_FILE = "lock"
DATABASE_FOLDER = "database"
OWN_ENTRIES = {IDENTITY_FILE, IDENTITY_FILE + ".new", LOCK_FILE, DATABASE_FOLDER}
FOLDER_FORMAT = 4
"""Of the folder as a whole: raised where what is in it cannot be read as before. 2: entries have
checksums, clusters have ids. 4: what a replica's promises rest on is stored twice."""


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
    try:
        replace_file(path / IDENTITY_FILE, msgspec.json.format(msgspec.json.encode(identity)) + b"\n")
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
