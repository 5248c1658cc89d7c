"""What one replica holds in memory, in the node's accounts: measured when it may have changed, and booked as far as it has."""

from __future__ import annotations

from shoal_server.node.memory import TIGHT, Account, MemoryBudget
from shoal_server.raft.group import Group
from shoal_server.shard.sessions import SESSION_BYTES

GRAIN_BYTES = 4096
"""Entries and logs that have become less or more by less than this are not booked yet, unless nothing is left of them: each
small write would be booked twice at every replica."""
SESSIONS_LEAST = 64
"""Of a shard, whatever the node holds otherwise."""


class ReplicaMemory:
    """See the module's first line. Sizes are in bytes, as they are booked."""

    __slots__ = ("_over", "budget", "entries", "log_cache", "results")

    def __init__(self, budget: MemoryBudget) -> None:
        self.budget = budget
        self._over = False
        self.entries = 0
        self.log_cache = 0
        self.results = 0

    def note(self, group: Group, commands: int, results: int) -> None:
        """Book what the replica holds now; drop what its log need not have in memory where the node has too much of that.

        Args:
            commands: those that are not proposed yet, or not applied, as they came and decoded.
            results: sessions, and what is remembered of writes.
        """
        leadership, log = group.leadership, group.log
        entries = commands if leadership is None else commands + leadership.uncommitted_bytes
        if self.hold(entries, results, log.cached_bytes):
            group.shrink_cache()
            self.hold(entries, results, log.cached_bytes)

    def hold(self, entries: int, results: int, log_cache: int) -> bool:
        """Say what the replica holds now; return whether the node has more of its logs in memory than it may.

        Args:
            entries: taken here, and not applied. results: sessions, and what is remembered of writes. log_cache: of its
                log in memory.
        """
        by = entries - self.entries
        if by and not (entries and -GRAIN_BYTES < by < GRAIN_BYTES):
            self.budget.change(Account.ENTRIES, by)
            self.entries = entries
        if results != self.results:
            self.budget.change(Account.RESULTS, results - self.results)
            self.results = results
        by = log_cache - self.log_cache
        if (by and not (log_cache and -GRAIN_BYTES < by < GRAIN_BYTES)) or self._over:
            # What others hold does not matter to one that holds what it held when all was well.
            self.budget.change(Account.LOG_CACHE, by)
            self.log_cache = log_cache
            self._over = self.budget.pressure(Account.LOG_CACHE) > 1
        return self._over

    def sessions_allowed(self, most: int, sessions: int) -> int:
        """Return how many sessions an opening here is to allow: fewer than there are, where the node remembers too much.

        Args:
            most: by the settings; sessions: how many the shard has.
        """
        if self.budget.has_room(Account.RESULTS, SESSION_BYTES):
            return most
        return min(most, max(SESSIONS_LEAST, sessions - 1))

    def has_room_for_entry(self, size: int) -> bool:
        """Say whether one more entry may be proposed."""
        return self.budget.has_room(Account.ENTRIES, size)

    def may_keep(self, size: int) -> bool:
        """Say whether what was decoded of an entry may be kept until it is applied: where it is not, it is decoded again."""
        return self.budget.used(Account.ENTRIES) + size <= TIGHT * self.budget.bound(Account.ENTRIES)

    def entry_refusal(self) -> str:
        """Say why no entry may be proposed."""
        return self.budget.refusal(Account.ENTRIES)
