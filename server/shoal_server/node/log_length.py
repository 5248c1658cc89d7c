"""How long a replica's log may become, and what of it can be cut off."""

from __future__ import annotations

from collections import deque

from shoal_server.node.settings import NodeSettings
from shoal_server.raft.group import Group
from shoal_server.raft.messages import Entry
from shoal_server.storage.engine import Batch
from shoal_server.storage.log_store import GroupLogStore

ENTRY_BYTES = 32
"""What an entry takes beside its payload, about."""


class LogLength:
    """Counts the bytes of one replica's log, and shortens it.

    `snapshot_floor`: entries after it are needed for snapshots that are being sent; None: nothing is.
    """

    __slots__ = (
        "_bytes",
        "_checkpoints",
        "_flushed_index",
        "_group",
        "_settings",
        "_since_checkpoint",
        "_store",
        "snapshot_floor",
    )

    def __init__(self, group: Group, store: GroupLogStore, settings: NodeSettings, flushed_index: int) -> None:
        """`flushed_index`: what was applied up to it is on disk."""
        self.snapshot_floor: int | None = None
        self._group = group
        self._store = store
        self._settings = settings
        self._flushed_index = flushed_index
        self._checkpoints: deque[tuple[int, int]] = deque()
        self._bytes = 0
        self._since_checkpoint = 0

    def appended(self, entries: list[Entry]) -> None:
        """Entries are being stored."""
        size = 0
        for entry in entries:
            size += len(entry.payload) + ENTRY_BYTES
        self._bytes += size
        self._since_checkpoint += size
        if self._since_checkpoint >= self._settings.log_checkpoint_bytes:
            self._checkpoints.append((entries[-1].index, self._since_checkpoint))
            self._since_checkpoint = 0

    def flushed(self, index: int) -> None:
        """What was applied up to `index` is on disk."""
        self._flushed_index = max(self._flushed_index, index)

    def restored(self, index: int) -> None:
        """The log begins anew behind a snapshot at `index`."""
        self._checkpoints.clear()
        self._bytes = 0
        self._since_checkpoint = 0
        self._flushed_index = index

    def rebased(self, index: int) -> None:
        """What is applied is a snapshot at `index` now; the log is as it was."""
        self._flushed_index = index

    def shorten(self, batch: Batch) -> bool:
        """Cut entries beyond the retained bytes off the log, but none that a live replica, a snapshot or a restart needs.

        Returns whether the log is long for want of a flush.
        """
        retain = self._settings.log_retain_bytes
        checkpoints = self._checkpoints
        if self._bytes <= retain or not checkpoints:
            return False
        group = self._group
        log = group.log
        bound = min(self._flushed_index, log.persisted_index)
        if self.snapshot_floor is not None:
            bound = min(bound, self.snapshot_floor)
        if self._bytes <= 4 * retain:
            bound = min(bound, group.needed_from() - 1)
        cut = 0
        while self._bytes > retain and checkpoints and checkpoints[0][0] <= bound:
            cut, size = checkpoints.popleft()
            self._bytes -= size
        if cut > log.truncated_index:
            term = log.term(cut)
            group.compact(cut)
            self._store.truncate(batch, cut, term)
        # A flush is for all shards: ask for one when there is as much to cut off as to keep.
        return self._bytes > 2 * retain and self._flushed_index < log.applied_index
