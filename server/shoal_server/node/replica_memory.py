"""What one replica holds in memory, in the node's accounts: measured when it may have changed, and booked as far as it has."""

from __future__ import annotations

from shoal_server.node.memory import Account, MemoryBudget


class ReplicaMemory:
    """See the module's first line. Sizes are in bytes."""

    __slots__ = ("_budget", "_entries", "_log_cache", "_over", "_results")

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._entries = 0
        self._log_cache = 0
        self._over = False
        self._results = 0

    def hold(self, entries: int, results: int, log_cache: int) -> bool:
        """Say what the replica holds now; return whether the node has more of its logs in memory than it may.

        Args:
            entries: taken here, and not committed. results: remembered of writes. log_cache: of its log in memory.
        """
        if entries != self._entries:
            self._budget.change(Account.ENTRIES, entries - self._entries)
            self._entries = entries
        if results != self._results:
            self._budget.change(Account.RESULTS, results - self._results)
            self._results = results
        if log_cache != self._log_cache or self._over:
            # What others hold does not matter to one that holds what it held when all was well.
            self._budget.change(Account.LOG_CACHE, log_cache - self._log_cache)
            self._log_cache = log_cache
            self._over = self._budget.pressure(Account.LOG_CACHE) > 1
        return self._over

    def has_room_for_entry(self, size: int) -> bool:
        """Say whether one more entry may be proposed."""
        return self._budget.has_room(Account.ENTRIES, size)

    def entry_refusal(self) -> str:
        """Say why no entry may be proposed."""
        return self._budget.refusal(Account.ENTRIES)
