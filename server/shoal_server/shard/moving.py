"""What the target of a migration lacks, read at its source: the scan of all rows first, then the journal of changes.

The scan may take long, and sees the rows of one key early and of another late. That is mended by what follows it: every
key that was changed behind the first page of the scan is in the journal, and is read again. Rows are read as they are
now, so a key that was changed twice is sent as it is last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
from shoal.bounds import MAX_BOUND
from shoal.protocol.migration import ClearedRange, MigrationCursor, MovedRow

from shoal_server.storage.applied_state import AppliedState, Outgoing
from shoal_server.storage.decoding import damaged_row
from shoal_server.storage.engine import Engine
from shoal_server.storage.journal import CLEARED, journal_prefix, journal_start, split_journal_key
from shoal_server.storage.layout import data_prefix, prefix_end, whole_row

MAX_MOVED_ROWS = 2048
"""In one page: reading it, and storing it, must not hold up a node."""

_MICROSHARD_BYTES = 4


def journal_resumption(cursor: MigrationCursor) -> bytes:
    """Return what comes, behind the journal's prefix, before all that is still to be read; the scan must be over."""
    return cursor.after + b"\x00" if cursor.after else journal_start(cursor.mark)


def journal_place(cursor: MigrationCursor) -> bytes:
    """Return where in the journal all begins that is still to be read, or the last that is not."""
    return cursor.after if cursor.scanned and cursor.after else journal_start(cursor.mark)


def can_be_read(cursor: MigrationCursor, outgoing: Outgoing) -> bool:
    """Say whether the journal still has all that is to be read of it from `cursor` on."""
    # From before the beginning, all rows are read anew as they are now.
    return cursor.mark < 0 or journal_place(cursor) >= outgoing.forgotten


@dataclass(slots=True)
class MovingPage:
    """What one `MovingRows` answers; see there."""

    cursor: MigrationCursor
    cleared: list[ClearedRange] = field(default_factory=list)
    rows: list[MovedRow] = field(default_factory=list)
    done: bool = False


class MovingReader:
    """Reads a page of what a source is to give, as applied now and written to the engine.

    Args:
        state: the source's, which has `outgoing`.
    """

    __slots__ = ("_engine", "_group", "_keyspace", "_max_bytes", "_outgoing", "_state")

    def __init__(
        self, engine: Engine, group: int, keyspace: int, state: AppliedState, outgoing: Outgoing, max_bytes: int
    ) -> None:
        self._engine = engine
        self._group = group
        self._keyspace = keyspace
        self._state = state
        self._outgoing = outgoing
        self._max_bytes = max_bytes

    def read(self, cursor: MigrationCursor) -> MovingPage:
        """Return what follows `cursor`, which is not beyond what is applied here."""
        return self._journal(cursor) if cursor.scanned else self._scan(cursor)

    def _scan(self, cursor: MigrationCursor) -> MovingPage:
        # What was changed behind the first page is read again after the scan.
        mark = self._state.index if cursor.mark < 0 else cursor.mark
        page = MovingPage(self._from(cursor, mark=mark))
        size = 0
        for microshard, key, row in self._rows_behind(cursor.after):
            page.rows.append((microshard, key, row))
            size += len(key) + len(row)
            if size >= self._max_bytes or len(page.rows) >= MAX_MOVED_ROWS:
                after = microshard.to_bytes(_MICROSHARD_BYTES, "big") + key
                page.cursor = msgspec.structs.replace(page.cursor, after=after)
                return page
        page.cursor = msgspec.structs.replace(page.cursor, scanned=True, after=b"")
        return page

    def _from(self, cursor: MigrationCursor, *, mark: int) -> MigrationCursor:
        return msgspec.structs.replace(cursor, mark=mark, seq=self._state.seq, ranges=self._outgoing.ranges)

    def _rows_behind(self, after: bytes) -> Iterator[tuple[int, bytes, bytes]]:
        engine = self._engine
        first = int.from_bytes(after[:_MICROSHARD_BYTES], "big")
        for microshard, generation in self._state.generations(self._outgoing.ranges).items():
            if after and microshard < first:
                continue
            prefix = data_prefix(self._keyspace, microshard, generation)
            start = prefix + after[_MICROSHARD_BYTES:] + b"\x00" if after and microshard == first else prefix
            for key, row in engine.scan(engine.data, start, prefix_end(prefix)):
                yield microshard, key[len(prefix) :], whole_row(key, row)

    def _journal(self, cursor: MigrationCursor) -> MovingPage:
        engine, state = self._engine, self._state
        prefix = journal_prefix(self._group, state.generation)
        start = prefix + journal_resumption(cursor)
        generations = state.generations(self._outgoing.ranges)
        prefixes = {each: data_prefix(self._keyspace, each, generation) for each, generation in generations.items()}
        page = MovingPage(self._from(cursor, mark=cursor.mark))
        seen: set[tuple[int, bytes]] = set()
        size = 0
        for row_key, end in engine.scan(engine.data, start, prefix_end(prefix)):
            suffix = row_key[len(prefix) :]
            _, kind, microshard, key = split_journal_key(row_key)
            if microshard not in prefixes or len(end) > MAX_BOUND:
                raise damaged_row("data", row_key, f"it is of microshard {microshard}, up to {len(end)} bytes")
            if kind == CLEARED:
                page.cleared.append((microshard, key, end))
                size += len(key) + len(end)
            elif (microshard, key) not in seen:
                seen.add((microshard, key))
                stored = prefixes[microshard] + key
                row = engine.get(engine.data, stored)
                if row is not None:
                    whole_row(stored, row)
                page.rows.append((microshard, key, row))
                size += len(key) + len(row or b"")
            if size >= self._max_bytes or len(page.rows) + len(page.cleared) >= MAX_MOVED_ROWS:
                page.cursor = msgspec.structs.replace(page.cursor, after=suffix)
                return page
        page.done = True
        page.cursor = msgspec.structs.replace(page.cursor, mark=state.index, after=b"", complete=self._outgoing.sealed)
        return page
