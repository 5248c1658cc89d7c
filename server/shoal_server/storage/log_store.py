"""One group's log and hard state in the engine: what the protocol hands out is stored here, and read back from here."""

from __future__ import annotations

from dataclasses import dataclass

from shoal_server.raft.messages import Entry, HardState
from shoal_server.storage.engine import Batch, Damaged, Engine
from shoal_server.storage.layout import (
    LogStart,
    decode_entry,
    encode_entry,
    encode_log_start,
    load_log_start,
    log_key,
    log_start_key,
)
from shoal_server.storage.promises import load_hard_state, put_hard_state

LAST_INDEX = (1 << 64) - 1


@dataclass(slots=True)
class StoredLog:
    """What a group left on disk."""

    hard_state: HardState
    start: LogStart


def last_stored_entry(engine: Engine, group: int) -> Entry | None:
    """Return the last entry of a log, None where it has none. What is before its beginning is removed.

    Raises:
        Damaged: it cannot be read.
    """
    start, end = log_key(group, 0), log_key(group, LAST_INDEX)
    reader = engine.reader(engine.log)
    while True:
        piece = reader.read(start, end, 1, 1, reverse=True)
        if piece.rows:
            return decode_entry(*piece.rows[0])
        if piece.resume is None:
            return None
        end = piece.resume


class GroupLogStore:
    """Implements `raft.log.LogReader`. A row that should be there and is not is an error, never an empty answer."""

    __slots__ = ("_engine", "_group", "_stored_last")

    def __init__(self, engine: Engine, group: int) -> None:
        self._engine = engine
        self._group = group
        self._stored_last = 0

    def load_ends(self) -> StoredLog:
        """Read where the log begins, and the hard state."""
        engine, group = self._engine, self._group
        return StoredLog(load_hard_state(engine, group), load_log_start(engine, group))

    def load_last_index(self) -> int:
        """Read where the log ends.

        Raises:
            Damaged: that cannot be read.
        """
        engine, group = self._engine, self._group
        start = load_log_start(engine, group)
        last = last_stored_entry(engine, group)
        self._stored_last = start.index if last is None else last.index
        return self._stored_last

    # -- LogReader

    def term(self, index: int) -> int:
        """Return the term of a stored entry.

        Raises:
            Damaged: it is not there, or cannot be read.
        """
        key = log_key(self._group, index)
        row = self._engine.get(self._engine.log, key)
        if row is None:
            raise Damaged("log", f"entry {index} of shard {self._group} is missing from the log")
        return decode_entry(key, row).term

    def entries(self, first: int, end: int, max_bytes: int) -> list[Entry]:
        """Return stored entries from `first` up to, not with, `end`: at least one, then while `max_bytes` last.

        Raises:
            Damaged: one of them is not there, or cannot be read.
        """
        found: list[Entry] = []
        size = 0
        engine = self._engine
        for key, row in engine.scan(engine.log, log_key(self._group, first), log_key(self._group, end)):
            entry = decode_entry(key, row)
            if entry.index != first + len(found):
                break
            size += len(entry.payload)
            if size > max_bytes and found:
                return found
            found.append(entry)
        if not found or found[-1].index != end - 1:
            missing = first + len(found)
            raise Damaged("log", f"entry {missing} of shard {self._group} is missing from the log")
        return found

    # -- writing

    def append(self, batch: Batch, entries: list[Entry]) -> None:
        """Store entries; those stored from the first one's index on are replaced."""
        log, group = self._engine.log, self._group
        last = entries[-1].index
        if last < self._stored_last:
            batch.delete_range(log_key(group, last + 1), log_key(group, self._stored_last + 1), log)
        for entry in entries:
            batch.put(log_key(group, entry.index), encode_entry(entry), log)
        self._stored_last = last

    def save_hard_state(self, batch: Batch, state: HardState) -> None:
        put_hard_state(batch, self._engine, self._group, state)

    def truncate(self, batch: Batch, index: int, term: int) -> None:
        """Forget the entries up to and with (index, term)."""
        engine, group = self._engine, self._group
        batch.delete_range(log_key(group, 0), log_key(group, index + 1), engine.log)
        batch.put(log_start_key(group), encode_log_start(LogStart(index, term)), engine.meta)

    def restart(self, batch: Batch, index: int, term: int) -> None:
        """Forget all entries: the log begins anew behind a snapshot at (index, term)."""
        engine, group = self._engine, self._group
        batch.delete_range(log_key(group, 0), log_key(group, LAST_INDEX), engine.log)
        batch.put(log_start_key(group), encode_log_start(LogStart(index, term)), engine.meta)
        self._stored_last = index
