"""Which rows of a shard expire when: an index in the engine, and in memory a bound on what is due next.

Reads hide an expired row by themselves; the index is for removing it physically, in bounded batches, through the log.
An index row says when to look at a row: soon after it expires, later by a part of its time to live at the most. A row that is
overwritten leaves its index row behind: a purge removes that, and the row only if it has expired by then. However often
a row is written again, its index rows are for few different times: see `when_to_look`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shoal.bounds import MAX_UNIX_MS

from shoal_server.shard.overlay import Overlay
from shoal_server.shard.work import Work
from shoal_server.storage.engine import CHUNK_BYTES, Engine
from shoal_server.storage.layout import (
    expiry_prefix,
    expiry_suffix,
    no_later_than,
    prefix_end,
    row_expiry,
    split_expiry_key,
)

NEVER = 1 << 63
DUE_US = 2_000
"""Of work: so long it is looked for rows that are due, at once."""
_TIMES_BITS = 7
_BEHIND_ALL = b"\xff"


def when_to_look(expiry: int, ttl: int) -> int:
    """Return when to look at a row that expires (Unix milliseconds) after a time to live: then, or later by a 64th of that.

    So a row that is written again and again has no more than 130 index rows of what is left of its time to live, and not one
    for each time.
    """
    step = 1 << max(0, ttl.bit_length() - _TIMES_BITS)
    return min(-(-expiry // step) * step, MAX_UNIX_MS)


class ExpiryIndex:
    """The expiry index of one replica.

    `due_at` is a lower bound on the expiry (Unix milliseconds) of everything in the index, `NEVER` where that is empty:
    it is exact when it was found by looking, and too early where the row it was for is gone. No part of the replicated
    state: only whoever looked raises it, when what was found is removed (`_looked`), and by no more than what was
    written since allows (`_added`).

    `_places`: of each microshard that has any, the place behind its prefix from which on all of its rows are; `_added`: the
    first place of those that were written since somebody looked. To begin there, and not with a time, is to pass over the
    removed rows of no look before: many rows may be for one time.
    """

    __slots__ = ("_added", "_engine", "_keyspace", "_looked", "_places", "_prefixes", "due_at")

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
        self._places: dict[int, bytes] = {}
        self._added: dict[int, bytes] = {}
        self._looked: list[tuple[int, int, bytes]] | None = None
        for microshard, prefix in self._prefixes.items():
            first = next(iter(engine.scan(engine.data, prefix, prefix_end(prefix))), None)
            if first is not None:
                self._places[microshard] = expiry_suffix(*split_expiry_key(first[0]))
        self.due_at = self._bound()

    def _bound(self) -> int:
        return no_later_than(min(self._places.values())) if self._places else NEVER

    def add(self, microshard: int, expiry: int, ttl: int, key: bytes, overlay: Overlay) -> None:
        """Take in a row that is being written, to expire at `expiry` (Unix milliseconds), which is in `ttl` (milliseconds)."""
        expiry = when_to_look(expiry, ttl)
        place = expiry_suffix(expiry, key)
        overlay.rows[self._prefixes[microshard] + place] = b""
        if place < self._places.get(microshard, _BEHIND_ALL):
            self._places[microshard] = place
            self.due_at = min(self.due_at, expiry)
        if place < self._added.get(microshard, _BEHIND_ALL):
            self._added[microshard] = place

    def forget(self, microshards: Iterable[int]) -> None:
        """Have no more to do with microshards that have gone to another shard, index and all."""
        for microshard in microshards:
            self._prefixes.pop(microshard, None)
            self._places.pop(microshard, None)
            self._added.pop(microshard, None)
        self.due_at = self._bound()

    def begin(self, generations: Mapping[int, int]) -> None:
        """Have to do with microshards that have come from another shard, rows and index: `due` will look what is there."""
        for microshard, generation in generations.items():
            self._prefixes[microshard] = expiry_prefix(self._keyspace, microshard, generation)
            self._places[microshard] = b""
        self.due_at = self._bound()

    def due(self, now: int, limit: int) -> list[tuple[int, int, bytes]]:
        """Return at most `limit` index rows that are due at `now`, as (microshard, expiry, key), for `purge` to remove.

        It is a bounded piece of work, which may find nothing yet; `due_at` says whether there may be more.
        """
        found: list[tuple[int, int, bytes]] = []
        work = Work()
        reader = self._engine.reader(self._engine.data)
        for microshard, place in sorted(self._places.items(), key=lambda item: item[1]):
            if no_later_than(place) > now or len(found) >= limit or work.us >= DUE_US:
                break
            prefix = self._prefixes[microshard]
            end = prefix + expiry_suffix(now + 1)
            piece = reader.read(prefix + place, end, limit - len(found), CHUNK_BYTES, keys_only=True)
            work.add(piece)
            found += [(microshard, *split_expiry_key(key)) for key, _ in piece.rows]
            if piece.rows:
                continue
            # Up to there none is due: what is looked at next is behind it.
            if piece.resume is None:
                piece = reader.read(end, prefix_end(prefix), 1, CHUNK_BYTES, keys_only=True)
                work.add(piece)
            following = piece.rows[0][0] if piece.rows else piece.resume
            if following is None:
                del self._places[microshard]
            else:
                self._places[microshard] = following[len(prefix) :]
        reader.close()
        self.due_at = self._bound()
        self._looked = found
        self._added = {}
        return found

    def purge(
        self, rows: list[tuple[int, int, bytes]], data_prefixes: dict[int, bytes], now: int, overlay: Overlay
    ) -> None:
        """Remove index rows that are due at `now`, and the rows they are for where those have expired by then."""
        here = [row for row in rows if row[0] in data_prefixes and row[1] <= now]
        overlay.fetch([data_prefixes[microshard] + key for microshard, _, key in here])
        for microshard, expiry, key in here:
            overlay.rows[self._prefixes[microshard] + expiry_suffix(expiry, key)] = None
            stored = data_prefixes[microshard] + key
            row = overlay.get(stored)
            if row is not None and 0 < row_expiry(row) <= expiry:
                overlay.rows[stored] = None
        if rows == self._looked:
            # Whoever proposed it: what was found by the last look is gone with it.
            if all(expiry <= now for _, expiry, _ in rows):
                self._raise_bound(rows)
            else:
                # The clock was set back meanwhile: what was held back is still to be found.
                self._looked = None

    def _raise_bound(self, removed: list[tuple[int, int, bytes]]) -> None:
        """What `due` found is removed: in each microshard, what was there besides is behind the last of it."""
        last = {microshard: expiry_suffix(expiry, key) + b"\0" for microshard, expiry, key in removed}
        for microshard, place in last.items():
            if microshard in self._prefixes:
                self._places[microshard] = min(place, self._added.get(microshard, _BEHIND_ALL))
        self.due_at = self._bound()
        self._looked = None
