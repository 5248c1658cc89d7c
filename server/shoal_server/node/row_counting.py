"""Counts the rows of a node's replicas in the background, a few at a time, so that nobody who writes has to.

RocksDB knows the sizes of its files, not of a microshard in them; and to know whether a write adds a row or replaces
one, it would have to read. So the rows are counted: once after the start of the process, and from then on those of the
microshards that have changed, in passes. A step counts few rows, of few bytes, and takes well under a millisecond; where rows
are large it ends with the first that is more than that. Steps are far apart, and so are passes. What does not change costs
nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from shoal_server.node.pace import Pace
from shoal_server.node.replica import Replica
from shoal_server.storage.engine import Damaged, Engine
from shoal_server.storage.layout import prefix_end

STEP_ROWS = 256
FIRST_STEP_ROWS = 1024
"""Of a replica that has not been counted yet."""
LOOK_ROWS = 100
"""To begin a microshard costs about as much as so many rows."""
STEP_BYTES = 128 * 1024
ROW_BYTES = STEP_BYTES // STEP_ROWS
"""A row of more counts as so many."""
STEP_INTERVAL_NS = 20_000_000
REST_NS = 5_000_000_000
"""The least time between two passes; after a longer pass it is as long as that took."""


class RowCounting:
    """Counts the rows of `replicas`, which the node adds to and takes from as it likes."""

    def __init__(self, engine: Engine, replicas: Mapping[int, Replica], pace: Pace, now: int) -> None:
        self.due_at = now
        self._pace = pace
        self._engine = engine
        self._replicas = replicas
        self._pass: deque[tuple[Replica, int]] = deque()
        self._in_pass: list[Replica] = []
        self._began_at = now
        self._start = b""
        self._keys = 0
        self._bytes = 0

    def step(self, now: int) -> tuple[Replica, Damaged] | None:
        """Do a little of what is due at `now`, and set `due_at` anew; return whose rows cannot be read, and why."""
        if not self._pass:
            self._begin_pass(now)
        budget = 0
        if self._pass:
            budget = STEP_ROWS if self._pass[0][0].counts.complete else FIRST_STEP_ROWS
        damaged: tuple[Replica, Damaged] | None = None
        while budget > 0 and self._pass and damaged is None:
            try:
                budget -= self._count(budget)
            except Damaged as error:
                damaged = self._pass[0][0], error
                self._next()
        if self._pass:
            self.due_at = now + self._pace.pause(STEP_INTERVAL_NS, now)
        else:
            for replica in self._in_pass:
                replica.counts.complete = replica.counts.has_counted(replica.machine.prefixes)
            self._in_pass = []
            self.due_at = now + max(REST_NS, now - self._began_at)
        return damaged

    def _begin_pass(self, now: int) -> None:
        self._began_at = now
        for replica in self._replicas.values():
            replica.counts.keep_only(replica.machine.prefixes)
            changed = replica.machine.traffic.take_changed()
            if changed:
                self._in_pass.append(replica)
                self._pass.extend((replica, microshard) for microshard in sorted(changed))

    def _count(self, budget: int) -> int:
        """Count on in the first microshard of the pass; return what that cost, in rows."""
        replica, microshard = self._pass[0]
        shard = replica.shard.id
        prefix = replica.machine.prefixes.get(microshard)
        gone = self._replicas.get(shard) is not replica or replica.failure is not None
        if prefix is None or gone or not (self._start or prefix).startswith(prefix):
            # It has gone, or its rows have been replaced by others, which another pass will count.
            self._next()
            return 1
        engine = self._engine
        reader = engine.reader(engine.data, fill_cache=False)
        piece = reader.read(self._start or prefix, prefix_end(prefix), budget, STEP_BYTES)
        reader.close()
        self._keys += len(piece.rows)
        self._bytes += piece.size
        if piece.resume is None:
            replica.counts.put(microshard, self._keys, self._bytes)
            self._next()
        else:
            self._start = piece.resume
        return LOOK_ROWS * piece.seeks + max(len(piece.rows), piece.size // ROW_BYTES)

    def _next(self) -> None:
        self._pass.popleft()
        self._start = b""
        self._keys = self._bytes = 0
