"""Which rows of a shard expire when: an index in the engine, and in memory a bound on what is due next.

Reads hide an expired row by themselves; the index is for removing it physically, in bounded batches, through the log.
A row that is overwritten leaves its index row behind: a purge removes that, and the row only if it still expires then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shoal_server.shard.overlay import Overlay
from shoal_server.storage.engine import Engine
from shoal_server.storage.layout import (
    expiry_prefix,
    expiry_suffix,
    prefix_end,
    row_expiry,
    split_expiry_key,
)

NEVER = 1 << 63


class ExpiryIndex:
    """The expiry index of one replica.

    `due_at` is a lower bound on the expiry (Unix milliseconds) of everything in the index, `NEVER` where that is empty:
    it is exact when it was found by looking, and too early where the row it was for is gone. No part of the replicated
    state: only whoever looked raises it, when what was found is removed (`_looked`), and by no more than what was
    written since allows (`_added`).
    """

    __slots__ = ("_added", "_earliest", "_engine", "_keyspace", "_looked", "_prefixes", "due_at")

    def __init__(self, engine: Engine, keyspace: int, generations: Mapping[int, int]) -> None:
        """Look up what is stored.

        Args:
            generations: of the rows of each of the replica's microshards.
        """
        self._engine = engine
        self._keyspace = keyspace
        self._prefixes = {
            microshard: expiry_prefix(keyspace, microshard, generation)
            for microshard, generation in generations.items()
        }
        self._earliest: dict[int, int] = {}
        self._added: dict[int, int] = {}
        self._looked: list[tuple[int, int, bytes]] | None = None
        for microshard in self._prefixes:
            self._look(microshard, 0)
        self.due_at = self._bound()

    def _look(self, microshard: int, since: int) -> None:
        """Find the earliest row of a microshard, none of whose rows expires before `since`."""
        prefix = self._prefixes[microshard]
        start, end = prefix + expiry_suffix(since), prefix_end(prefix)
        first = next(iter(self._engine.scan(self._engine.data, start, end)), None)
        if first is None:
            self._earliest.pop(microshard, None)
        else:
            self._earliest[microshard] = split_expiry_key(first[0])[0]

    def _bound(self) -> int:
        return min(self._earliest.values(), default=NEVER)

    def add(self, microshard: int, expiry: int, key: bytes, overlay: Overlay) -> None:
        """Take in a row that is being written."""
        overlay.rows[self._prefixes[microshard] + expiry_suffix(expiry, key)] = b""
        if expiry < self._earliest.get(microshard, NEVER):
            self._earliest[microshard] = expiry
            self.due_at = min(self.due_at, expiry)
        if expiry < self._added.get(microshard, NEVER):
            self._added[microshard] = expiry

    def forget(self, microshards: Iterable[int]) -> None:
        """Have no more to do with microshards that have gone to another shard, index and all."""
        for microshard in microshards:
            for known in (self._prefixes, self._earliest, self._added):
                known.pop(microshard, None)
        self.due_at = self._bound()

    def begin(self, generations: Mapping[int, int]) -> None:
        """Have to do with microshards that have come from another shard, rows and index: `due` will look what is there."""
        for microshard, generation in generations.items():
            self._prefixes[microshard] = expiry_prefix(self._keyspace, microshard, generation)
            self._earliest[microshard] = 0
        self.due_at = self._bound()

    def due(self, now: int, limit: int) -> list[tuple[int, int, bytes]]:
        """Return at most `limit` index rows that are due at `now`, as (microshard, expiry, key), for `purge` to remove."""
        found: list[tuple[int, int, bytes]] = []
        for microshard, earliest in sorted(self._earliest.items(), key=lambda item: item[1]):
            if earliest > now or len(found) >= limit:
                break
            prefix = self._prefixes[microshard]
            start, end = prefix + expiry_suffix(earliest), prefix + expiry_suffix(now + 1)
            before = len(found)
            for key, _ in self._engine.scan(self._engine.data, start, end):
                found.append((microshard, *split_expiry_key(key)))
                if len(found) >= limit:
                    break
            if len(found) == before:
                self._look(microshard, earliest)
        self.due_at = self._bound()
        self._looked = found
        self._added = {}
        return found

    def purge(
        self, rows: list[tuple[int, int, bytes]], data_prefixes: dict[int, bytes], now: int, overlay: Overlay
    ) -> None:
        """Remove index rows that are due at `now`, and the rows they are for where those still expire then."""
        here = [row for row in rows if row[0] in data_prefixes and row[1] <= now]
        overlay.fetch([data_prefixes[microshard] + key for microshard, _, key in here])
        for microshard, expiry, key in here:
            overlay.rows[self._prefixes[microshard] + expiry_suffix(expiry, key)] = None
            stored = data_prefixes[microshard] + key
            row = overlay.get(stored)
            if row is not None and row_expiry(row) == expiry:
                overlay.rows[stored] = None
        if rows == self._looked:
            # Whoever proposed it: what was found by the last look is gone with it.
            if all(expiry <= now for _, expiry, _ in rows):
                self._raise_bound(rows)
            else:
                # The clock was set back meanwhile: what was held back is still to be found.
                self._looked = None

    def _raise_bound(self, removed: list[tuple[int, int, bytes]]) -> None:
        """What `due` found is removed: in each microshard, what was there besides expires no earlier than the last of it."""
        for microshard, last in {microshard: expiry for microshard, expiry, _ in removed}.items():
            if microshard in self._prefixes:
                self._earliest[microshard] = min(last, self._added.get(microshard, NEVER))
        self.due_at = self._bound()
        self._looked = None
