"""Which way into the cluster a connection's calls take: few, so that each may have connections to all nodes. Pure.

Whoever shares a way shares its queues, at this node and at those that serve. Nodes are fair between connections, so callers
that take different ways wait for each other no longer than those who are connected to nodes by themselves.
"""

from __future__ import annotations

from collections import Counter

from shoal_server.invariants import invariant

LANES = 16
LANES_OF_CALLER = 12
"""So many at the most are for connections of one caller: others find one where it is not."""

Key = bytes | str
"""Whose a connection is: whom its certificate is of, or else where it comes from."""


class Lanes:
    """See the module's first lines."""

    def __init__(self) -> None:
        self._used = [0] * LANES
        self._of_caller: dict[Key, Counter[int]] = {}

    def enter(self, caller: Key) -> int:
        """A connection has come: return its lane, of those where fewest are the first."""
        own = self._of_caller.setdefault(caller, Counter())
        among = own if len(own) >= LANES_OF_CALLER else range(LANES)
        lane = min(among, key=lambda each: (self._used[each], each))
        self._used[lane] += 1
        own[lane] += 1
        return lane

    def leave(self, caller: Key, lane: int) -> None:
        """A connection is gone."""
        own = self._of_caller[caller]
        invariant(own[lane] > 0, "who leaves a lane has entered it")
        self._used[lane] -= 1
        own[lane] -= 1
        if not own[lane]:
            del own[lane]
            if not own:
                del self._of_caller[caller]
