"""Snapshots of a shard: read in bounded chunks from one consistent view, staged under a new generation, adopted at once.

The sender's view holds data, deduplication and the applied position of one instant. The receiver stages what arrives
under a generation that nothing reads yet; one batch then makes it the current one, begins the log anew behind it and
drops the old generation. A crash before that batch leaves the old state, and rows that `discard_leftovers` removes.
All of that is logged, unlike what applying writes: the log it replaces could not bring it back.
"""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

import msgspec
from shoal.shardmap import MicroshardRange

from shoal_server.raft.messages import Membership
from shoal_server.storage.engine import Batch, Engine, Family, View
from shoal_server.storage.layout import (
    AppliedState,
    applied_state_key,
    data_prefix,
    encode_applied_state,
    expiry_prefix,
    prefix_end,
    sessions_prefix,
    staging_key,
)
from shoal_server.storage.log_store import GroupLogStore


class SnapshotChunk(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=60):
    """A piece of a snapshot of `group` at (index, index_term), sent by its leader in `term`.

    Args:
        transfer: the sender's number for this transfer; `number` counts its chunks from 0.
        rows: (kind, microshard, key without what says keyspace, microshard and generation, value), as stored.
        checksum: CRC-32 over keys and values.
        state: on the last chunk, what the rows do not say.
    """

    group: int
    term: int
    transfer: int
    number: int
    index: int
    index_term: int
    checksum: int
    rows: list[tuple[str, int, bytes, bytes]]
    last: bool
    seq_base: int
    sessions_opened: int
    membership: Membership
    membership_index: int
    clock_ms: int
    ranges: tuple[MicroshardRange, ...]


class SnapshotAck(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=61):
    """Receiver to sender: chunk `number` is staged, and adopted if it was the last; or `problem` says why it ended.

    `needless` ends a transfer, too: the receiver's log has come to the snapshot's position without it.
    """

    group: int
    term: int
    transfer: int
    number: int
    problem: str = ""
    needless: bool = False


DATA = "d"
EXPIRY = "x"
SESSION = "s"


def checksum(rows: list[tuple[str, int, bytes, bytes]]) -> int:
    """Return the CRC-32 of a chunk's rows."""
    value = 0
    for _, _, key, row in rows:
        value = crc32(row, crc32(key, value))
    return value


class SnapshotReader:
    """Reads one shard out of a view, chunk by chunk. Close it: the view holds back compaction."""

    def __init__(
        self, engine: Engine, group: int, keyspace: int, microshards: list[int], state: AppliedState, chunk_bytes: int
    ) -> None:
        """
        Args:
            state: what the engine holds at this moment.
        """
        self.state = state
        self._view: View = engine.view()
        self._chunk_bytes = chunk_bytes
        self._rows = self._all_rows(engine, group, keyspace, microshards)

    def _all_rows(
        self, engine: Engine, group: int, keyspace: int, microshards: list[int]
    ) -> Iterator[tuple[str, int, bytes, bytes]]:
        generation = self.state.generation
        for microshard in microshards:
            prefix = data_prefix(keyspace, microshard, generation)
            yield from self._scan(engine.data, prefix, DATA, microshard)
            prefix = expiry_prefix(keyspace, microshard, generation)
            yield from self._scan(engine.data, prefix, EXPIRY, microshard)
        yield from self._scan(engine.data, sessions_prefix(group, generation), SESSION, 0)

    def _scan(
        self, family: Family, prefix: bytes, kind: str, microshard: int
    ) -> Iterator[tuple[str, int, bytes, bytes]]:
        length = len(prefix)
        for key, row in self._view.scan(family, prefix, prefix_end(prefix)):
            yield kind, microshard, key[length:], row

    def next_rows(self) -> tuple[list[tuple[str, int, bytes, bytes]], bool]:
        """Return the next chunk's rows, and whether they are the last."""
        rows: list[tuple[str, int, bytes, bytes]] = []
        size = 0
        for row in self._rows:
            rows.append(row)
            size += len(row[2]) + len(row[3])
            if size >= self._chunk_bytes:
                return rows, False
        return rows, True

    def close(self) -> None:
        self._view.close()


class SnapshotStager:
    """Takes one snapshot in, under a new generation."""

    def __init__(
        self, engine: Engine, group: int, keyspace: int, new: list[int], old: list[int], current: AppliedState
    ) -> None:
        """
        Args:
            new: the snapshot's microshards; old: those whose present rows go when it is adopted.
        """
        self._engine = engine
        self._group = group
        self._keyspace = keyspace
        self._new = new
        self._old = old
        self._old_generation = current.generation
        self.generation = current.generation + 1

    def begin(self, batch: Batch) -> None:
        """Drop whatever an unfinished transfer left under the new generation, and mark that another has begun."""
        self._drop(batch, self._new, self.generation)
        batch.put(staging_key(self._group), b"", self._engine.meta)

    def discard_leftovers(self) -> None:
        """At a start: drop what a transfer that the last process did not finish has left."""
        engine = self._engine
        if engine.get(engine.meta, staging_key(self._group)) is not None:
            batch = engine.batch()
            self._drop(batch, self._new, self.generation)
            batch.delete(staging_key(self._group), engine.meta)
            engine.write(batch)

    def stage(self, batch: Batch, rows: list[tuple[str, int, bytes, bytes]]) -> None:
        """Store rows of a chunk where nothing reads them yet."""
        data = self._engine.data
        sessions = sessions_prefix(self._group, self.generation)
        for kind, microshard, key, row in rows:
            if kind == DATA:
                batch.put(data_prefix(self._keyspace, microshard, self.generation) + key, row, data)
            elif kind == EXPIRY:
                batch.put(expiry_prefix(self._keyspace, microshard, self.generation) + key, row, data)
            else:
                batch.put(sessions + key, row, data)

    def adopt(self, batch: Batch, store: GroupLogStore, state: AppliedState) -> None:
        """Make the staged rows the current ones and begin the log anew behind them, all in `batch`."""
        batch.put(applied_state_key(self._group), encode_applied_state(state), self._engine.data)
        batch.delete(staging_key(self._group), self._engine.meta)
        store.restart(batch, state.index, state.term)
        self._drop(batch, self._old, self._old_generation)

    def _drop(self, batch: Batch, microshards: list[int], generation: int) -> None:
        for microshard in microshards:
            for prefix in (
                data_prefix(self._keyspace, microshard, generation),
                expiry_prefix(self._keyspace, microshard, generation),
            ):
                batch.delete_range(prefix, prefix_end(prefix), self._engine.data)
        prefix = sessions_prefix(self._group, generation)
        batch.delete_range(prefix, prefix_end(prefix), self._engine.data)
