"""A group's log as the protocol sees it: a tail in memory over what is stored, and the marks that move along it.

Positions, in order: `first_index` (what is before it was cut off, behind a snapshot or because it is applied) <=
`applied_index` <= `commit_index` <= `last_index`. `persisted_index` says how far the log is known to be on this node's
disk; `_handed` how far it was given to the caller for storing.
"""

from __future__ import annotations

from typing import Protocol

from shoal_server.invariants import invariant
from shoal_server.raft.messages import Entry

ENTRY_OVERHEAD_BYTES = 32


class LogReader(Protocol):
    """What of the log is stored: read when an entry is not in memory any more."""

    def entries(self, first: int, end: int, max_bytes: int) -> list[Entry]:
        """Return the entries from `first` up to, not with, `end`: at least one, then while `max_bytes` last."""
        ...

    def term(self, index: int) -> int:
        """Return the term of a stored entry."""
        ...


class Log:
    """See the module's first lines. `truncated_index`, `truncated_term`: the position just before the first entry."""

    __slots__ = (
        "_cached",
        "_first_cached",
        "_handed",
        "_reader",
        "applied_index",
        "cached_bytes",
        "commit_index",
        "last_index",
        "last_term",
        "persisted_index",
        "truncated_index",
        "truncated_term",
    )

    def __init__(
        self, reader: LogReader, *, truncated_index: int, truncated_term: int, last_index: int, applied_index: int
    ) -> None:
        invariant(truncated_index <= applied_index <= last_index, "what is applied is in the log, or was cut off it")
        self._reader = reader
        self.truncated_index = truncated_index
        self.truncated_term = truncated_term
        self.last_index = last_index
        self.last_term = truncated_term if last_index == truncated_index else reader.term(last_index)
        self.applied_index = applied_index
        self.commit_index = applied_index
        self.persisted_index = last_index
        self._handed = last_index
        self._cached: list[Entry] = []
        self._first_cached = last_index + 1
        self.cached_bytes = 0

    @property
    def first_index(self) -> int:
        return self.truncated_index + 1

    @property
    def has_unhanded(self) -> bool:
        return self._handed < self.last_index

    def term(self, index: int) -> int:
        """Return the term of the entry at `index`, from `truncated_index` to `last_index`."""
        if index >= self._first_cached:
            return self._cached[index - self._first_cached].term
        if index == self.truncated_index:
            return self.truncated_term
        invariant(self.truncated_index < index <= self.last_index, "a term is asked for only of an entry that is there")
        return self._reader.term(index)

    def matches(self, index: int, term: int) -> bool:
        """Say whether the log has an entry (index, term), or is known to have had it."""
        if index == self.last_index:
            return term == self.last_term
        return self.truncated_index <= index < self.last_index and self.term(index) == term

    def entries(self, first: int, end: int, max_bytes: int) -> list[Entry]:
        """Return entries from `first` up to, not with, `end`: at least one, then while `max_bytes` last."""
        invariant(self.truncated_index < first < end <= self.last_index + 1, "entries asked for are in the log")
        if first < self._first_cached:
            return self._reader.entries(first, min(end, self._first_cached), max_bytes)
        start = first - self._first_cached
        found = self._cached[start : end - self._first_cached]
        size = 0
        for count, entry in enumerate(found):
            size += len(entry.payload)
            if size > max_bytes and count:
                return found[:count]
        return found

    def stored_entries(self, first: int, end: int, max_bytes: int) -> list[Entry]:
        """Return entries, as `entries` does, from where they are stored: those in memory are not what they were."""
        return self._reader.entries(first, end, max_bytes)

    def append(self, entries: list[Entry]) -> None:
        """Add entries behind the last one."""
        invariant(entries[0].index == self.last_index + 1, "entries are appended without a gap")
        invariant(entries[0].term >= self.last_term, "terms in a log never fall")
        self._cached.extend(entries)
        for entry in entries:
            self.cached_bytes += len(entry.payload) + ENTRY_OVERHEAD_BYTES
        self.last_index = entries[-1].index
        self.last_term = entries[-1].term

    def truncate_from(self, index: int) -> None:
        """Drop the entries from `index` on, which conflict with the leader's."""
        invariant(index > self.commit_index, "a committed entry is never dropped")
        if index >= self._first_cached:
            dropped = self._cached[index - self._first_cached :]
            del self._cached[index - self._first_cached :]
            self.cached_bytes -= sum(len(entry.payload) + ENTRY_OVERHEAD_BYTES for entry in dropped)
        else:
            self._cached.clear()
            self.cached_bytes = 0
            self._first_cached = index
        self.last_index = index - 1
        self.last_term = self.term(index - 1)
        self.persisted_index = min(self.persisted_index, index - 1)
        self._handed = min(self._handed, index - 1)

    def take_unhanded(self) -> list[Entry]:
        """Return the entries not yet given out for storing; from now on they count as given."""
        start = self._handed + 1 - self._first_cached
        invariant(start >= 0, "an entry is not evicted before it is stored")
        self._handed = self.last_index
        return self._cached[start:]

    def persisted(self, index: int, term: int) -> bool:
        """Take note that everything up to (index, term) is on disk; False where the log has changed since."""
        if index <= self.persisted_index or not self.matches(index, term):
            return False
        self.persisted_index = index
        return True

    def first_index_of_term(self, index: int, floor: int) -> int:
        """Return the first index, but none before `floor`, of the entries that share the term of the one at `index`."""
        term = self.term(index)
        while index > floor and self.term(index - 1) == term:
            index -= 1
        return index

    def last_index_up_to_term(self, index: int, term: int) -> int:
        """Return the last index at or before `index` whose term is `term` or less."""
        index = min(index, self.last_index)
        while index > self.truncated_index and self.term(index) > term:
            index -= 1
        return index

    def applied(self, index: int) -> None:
        invariant(self.applied_index <= index <= self.commit_index, "only committed entries are applied, in order")
        self.applied_index = index

    def shrink(self, max_bytes: int, *, unapplied: bool = False) -> None:
        """Drop applied and stored entries from memory, oldest first, while more than `max_bytes` are held.

        Args:
            unapplied: those that are only stored, too: they are read back when they are applied.
        """
        bound = self.persisted_index if unapplied else min(self.applied_index, self.persisted_index)
        count = 0
        for entry in self._cached:
            if self.cached_bytes <= max_bytes or entry.index > bound:
                break
            self.cached_bytes -= len(entry.payload) + ENTRY_OVERHEAD_BYTES
            count += 1
        if count:
            del self._cached[:count]
            self._first_cached += count

    def compact(self, index: int) -> None:
        """Forget the entries up to and with `index`."""
        invariant(index <= min(self.applied_index, self.persisted_index), "only applied and stored entries are cut off")
        if index <= self.truncated_index:
            return
        self.truncated_term = self.term(index)
        self.truncated_index = index
        if self._first_cached <= index:
            count = index + 1 - self._first_cached
            for entry in self._cached[:count]:
                self.cached_bytes -= len(entry.payload) + ENTRY_OVERHEAD_BYTES
            del self._cached[:count]
            self._first_cached = index + 1

    def rebase(self, index: int) -> None:
        """What is applied is a snapshot at `index` from now on, be that before what was; entries behind it stay."""
        invariant(self.truncated_index <= index <= self.last_index, "the log has the snapshot's position")
        self.applied_index = index
        self.commit_index = max(self.commit_index, index)

    def restart(self, index: int, term: int) -> None:
        """Begin anew behind a snapshot at (index, term)."""
        invariant(index >= self.commit_index, "a snapshot only moves a replica forward")
        self._cached.clear()
        self.cached_bytes = 0
        self._first_cached = index + 1
        self.truncated_index = self.last_index = index
        self.truncated_term = self.last_term = term
        self.commit_index = self.applied_index = self.persisted_index = self._handed = index
