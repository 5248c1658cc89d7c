"""Snapshots of a shard: read in bounded chunks from one consistent view, staged under a new generation, adopted at once.

The sender's view holds data, deduplication and the applied position of one instant. The receiver stages what arrives
under a generation that nothing reads yet; one batch then makes it the current one, begins the log anew behind it and
drops the rows there were. A crash before that batch leaves the old state, and rows that `discard_staged` removes.
All of that is logged, unlike what applying writes: the log it replaces could not bring it back.

A shard in a migration has more rows than those of its microshards: its journal and those it has parted with, on the
source, those it has taken so far, on the target. They are part of its snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import msgspec
from shoal.bounds import (
    MAX_BOUND,
    MAX_KEY,
    Checksum,
    Count,
    LogIndex,
    MicroshardNumber,
    Seq,
    ShardId,
    Term,
    Text,
    UnixMs,
    Word,
)
from shoal.protocol.checksum import checksum
from shoal.protocol.comparison import Divergence
from shoal.protocol.migration import EndedMigration
from shoal.shardmap import Ranges, microshards_in, ranges_of

from shoal_server.raft.messages import Membership, SnapshotHeader
from shoal_server.storage.applied_state import AppliedState, Incoming, Outgoing, applied_state_row
from shoal_server.storage.decoding import SHOWN_KEY_BYTES, NotARow, damaged_row
from shoal_server.storage.engine import Batch, Engine
from shoal_server.storage.generations import next_generation
from shoal_server.storage.journal import journal_prefix, split_journal_suffix
from shoal_server.storage.layout import (
    applied_state_key,
    data_prefix,
    expiry_prefix,
    prefix_end,
    row_problem,
    sessions_prefix,
    split_expiry_suffix,
    staging_key,
)
from shoal_server.storage.log_store import GroupLogStore
from shoal_server.storage.replica_failure import drop_failure
from shoal_server.storage.replica_rows import StagedRows, drop_own_rows, drop_rows, put_staged
from shoal_server.storage.session_rows import SessionRows

RowKind: TypeAlias = Literal["d", "x", "s", "j"]
SnapshotRow: TypeAlias = tuple[RowKind, MicroshardNumber, bytes, bytes]
"""(kind, microshard, key without what says keyspace, microshard and generation, value), as stored."""


class SnapshotChunk(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=60):
    """A piece of a snapshot.

    Args:
        header: of which group and position, by whom: what the group's `step` takes of it.
        transfer: the sender's number for this transfer; `number` counts its chunks from 0.
        rows: see `SnapshotRow`.
        checksum: see `checksum`.
        state: on the last chunk, what the rows do not say.
    """

    header: SnapshotHeader
    transfer: Count
    number: Count
    checksum: Checksum
    rows: list[SnapshotRow]
    last: bool
    seq_base: Seq
    membership: Membership
    membership_index: LogIndex
    clock_ms: UnixMs
    ranges: Ranges
    outgoing: Outgoing | None = None
    incoming: Incoming | None = None
    ended: tuple[EndedMigration, ...] = ()
    children: tuple[ShardId, ...] = ()
    compared_index: LogIndex = 0
    cluster_id: Word = ""
    divergence: Divergence | None = None

    @property
    def group(self) -> int:
        return self.header.group

    def state(self, generation: int) -> AppliedState:
        """Return the applied state that the snapshot is of, all its rows under `generation`."""
        return AppliedState(
            index=self.header.index,
            term=self.header.index_term,
            seq_base=self.seq_base,
            generation=generation,
            membership=self.membership,
            membership_index=self.membership_index,
            clock_ms=self.clock_ms,
            ranges=self.ranges,
            outgoing=self.outgoing,
            incoming=self.incoming,
            ended=self.ended,
            children=self.children,
            compared_index=self.compared_index,
            copied_index=self.header.index,
            cluster_id=self.cluster_id,
            divergence=self.divergence,
        )


class SnapshotAck(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=61):
    """Receiver to sender: chunk `number` is staged, and adopted if it was the last; or `problem` says why it ended.

    `needless` ends a transfer, too: the receiver's log has come to the snapshot's position without it.
    """

    group: ShardId
    transfer: Count
    number: Count
    problem: Text = ""
    needless: bool = False


class SnapshotWanted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=66):
    """A replica of `group`, whose rows cannot be relied on, to its leader in `term`: send me a snapshot of what you have.

    It says nothing about the replica's log, which is whole.
    """

    group: ShardId
    term: Term


CHUNK_ROWS = 2048
CHUNK_SEEKS = 256
"""What makes a chunk at the most, besides its bytes: reading, checking and encoding it must not hold up a node."""

DATA: Final = "d"
EXPIRY: Final = "x"
SESSION: Final = "s"
JOURNAL: Final = "j"


_encoder = msgspec.msgpack.Encoder()


def chunk_checksum(chunk: SnapshotChunk) -> int:
    """Return the checksum of all that a chunk says, but for its checksum."""
    return checksum(_encoder.encode(msgspec.structs.replace(chunk, checksum=0)))


class RowChecks:
    """Looks at the rows of one snapshot, in their order: a copy has no row that could not be read."""

    __slots__ = ("_sessions",)

    def __init__(self) -> None:
        self._sessions = SessionRows()

    def check(self, kind: RowKind, suffix: bytes, row: bytes) -> None:
        """
        Raises:
            NotARow: it is no row of this kind.
        """
        if kind == DATA:
            problem = row_problem(row) or (f"its key has {len(suffix)} bytes" if len(suffix) > MAX_KEY else "")
            if problem:
                raise NotARow(problem)
        elif kind == EXPIRY:
            split_expiry_suffix(suffix)
            if row:
                raise NotARow(f"an index row has {len(row)} bytes")
        elif kind == SESSION:
            try:
                self._sessions.take(suffix, row)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                raise NotARow(f"what it keeps are no results: {error}") from error
        else:
            split_journal_suffix(suffix)
            if len(row) > MAX_BOUND:
                raise NotARow(f"a range ends with {len(row)} bytes")


@dataclass(frozen=True, slots=True)
class _Place:
    """Rows of one kind that lie together: what their keys begin with, and of which microshard they are."""

    prefix: bytes
    kind: RowKind
    microshard: int


def rows_size(rows: list[SnapshotRow]) -> int:
    """Return how many bytes the rows of a chunk have."""
    return sum([len(suffix) + len(row) for _, _, suffix, row in rows])


class SnapshotReader:
    """Reads one shard as it is when this is made, chunk by chunk. Close it: what it reads holds back compaction."""

    def __init__(self, engine: Engine, group: int, keyspace: int, state: AppliedState, chunk_bytes: int) -> None:
        """
        Args:
            state: what the engine holds at this moment.
        """
        self.state = state
        self._reader = engine.reader(engine.data, fill_cache=False)
        self._chunk_bytes = chunk_bytes
        self._checks = RowChecks()
        self._places = self._all_places(group, keyspace)
        self._place: _Place | None = next(self._places)
        self._start = b""

    def _all_places(self, group: int, keyspace: int) -> Iterator[_Place]:
        state = self.state
        for microshard, generation in state.generations(state.stored_ranges).items():
            yield _Place(data_prefix(keyspace, microshard, generation), DATA, microshard)
            yield _Place(expiry_prefix(keyspace, microshard, generation), EXPIRY, microshard)
        yield _Place(sessions_prefix(group, state.generation), SESSION, 0)
        yield _Place(journal_prefix(group, state.generation), JOURNAL, 0)

    def next_rows(self) -> tuple[list[SnapshotRow], bool]:
        """Return the next chunk's rows, and whether they are the last.

        A chunk is a bounded piece of work: where there are few rows in many places it has few, or none.

        Raises:
            Damaged: a row cannot be read, or is none.
        """
        rows: list[SnapshotRow] = []
        size = seeks = 0
        while self._place is not None and size < self._chunk_bytes and len(rows) < CHUNK_ROWS and seeks < CHUNK_SEEKS:
            place = self._place
            start, end = self._start or place.prefix, prefix_end(place.prefix)
            piece = self._reader.read(start, end, CHUNK_ROWS - len(rows), self._chunk_bytes - size)
            rows += self._checked(place, piece.rows)
            size += piece.size
            seeks += piece.seeks
            if piece.resume is None:
                self._place, self._start = next(self._places, None), b""
            else:
                self._start = piece.resume
        return rows, self._place is None

    def _checked(self, place: _Place, found: list[tuple[bytes, bytes]]) -> Iterator[SnapshotRow]:
        length, kind = len(place.prefix), place.kind
        for key, row in found:
            suffix = key[length:]
            try:
                self._checks.check(kind, suffix, row)
            except NotARow as error:
                raise damaged_row("data", key, error) from error
            yield kind, place.microshard, suffix, row

    def close(self) -> None:
        self._reader.close()


class SnapshotStager:
    """Takes one snapshot in, under a new generation."""

    def __init__(self, engine: Engine, group: int, keyspace: int) -> None:
        self._engine = engine
        self._group = group
        self._keyspace = keyspace
        self._microshards: list[int] = []
        self._stored: frozenset[int] = frozenset()
        self._given: frozenset[int] = frozenset()
        self._checks = RowChecks()
        self.generation = next_generation(engine)

    def begin(self, batch: Batch, state: AppliedState) -> None:
        """Note that this transfer has begun.

        What an earlier one had staged was abandoned, or dropped when the replica was opened.

        Args:
            state: the snapshot's.
        """
        self._microshards = list(microshards_in(state.stored_ranges))
        self._stored = frozenset(self._microshards)
        self._given = frozenset(() if state.outgoing is None else microshards_in(state.outgoing.ranges))
        put_staged(batch, self._engine, self._group, StagedRows(self._keyspace, self._microshards, self.generation))

    def abandon(self, batch: Batch) -> None:
        """Drop what was staged, some of which may be in `batch` itself: nobody will adopt it."""
        batch.delete(staging_key(self._group), self._engine.meta)
        drop_rows(batch, self._engine, self._keyspace, dict.fromkeys(self._microshards, self.generation))
        drop_own_rows(batch, self._engine, self._group, self.generation)

    def is_of(self, state: AppliedState) -> bool:
        """Say whether the microshards of `state` are those that rows are staged of."""
        return state.stored_ranges == ranges_of(self._microshards)

    def stage(self, batch: Batch, rows: list[SnapshotRow]) -> str:
        """Store rows of a chunk where nothing reads them yet; return "" or why they are no rows of this shard.

        What comes before a bad one may be in `batch` then: the transfer is to be abandoned.
        """
        data = self._engine.data
        for kind, microshard, key, row in rows:
            try:
                self._check(kind, microshard, key, row)
            except NotARow as error:
                place = f"{kind} {microshard} {key[:SHOWN_KEY_BYTES].hex()}"
                return f"row {place} is none of shard {self._group}: {error}"
            batch.put(self._prefix(kind, microshard) + key, row, data)
        return ""

    def _check(self, kind: RowKind, microshard: int, suffix: bytes, row: bytes) -> None:
        if (microshard not in self._stored) if kind in (DATA, EXPIRY) else microshard:
            raise NotARow(f"the snapshot is not of microshard {microshard}")
        self._checks.check(kind, suffix, row)
        if kind == JOURNAL and split_journal_suffix(suffix)[2] not in self._given:
            raise NotARow("it is about a microshard that is not given away")

    def _prefix(self, kind: str, microshard: int) -> bytes:
        if kind == DATA:
            return data_prefix(self._keyspace, microshard, self.generation)
        if kind == EXPIRY:
            return expiry_prefix(self._keyspace, microshard, self.generation)
        if kind == JOURNAL:
            return journal_prefix(self._group, self.generation)
        return sessions_prefix(self._group, self.generation)

    def adopt(
        self,
        batch: Batch,
        store: GroupLogStore,
        state: AppliedState,
        old: AppliedState,
        cleared: Iterable[Mapping[int, int]],
        *,
        keep_log: bool,
    ) -> None:
        """Make the staged rows the current ones and begin the log anew behind them, all in `batch`.

        Args:
            old: what the replica has applied so far, whose rows go.
            cleared: the generations, by microshard, of rows that it has removed, which a crash may bring back.
            keep_log: the log has the snapshot's position, and stays as it is.
        """
        batch.put(applied_state_key(self._group), applied_state_row(state), self._engine.data)
        batch.delete(staging_key(self._group), self._engine.meta)
        if not keep_log:
            store.restart(batch, state.index, state.term)
        drop_failure(batch, self._engine, self._group)
        for generations in (old.generations(old.stored_ranges), *cleared):
            drop_rows(batch, self._engine, self._keyspace, generations)
        drop_own_rows(batch, self._engine, self._group, old.generation)
