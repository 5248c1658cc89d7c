"""Who may be connected to a node, and who gives way: pure bookkeeping of places, in which connections are any objects.

Two kinds of places, each with a bound. **Unfinished** connections have not said who they are: in a TLS handshake, or before
their greeting. One that comes always gets in, and where there are too many the oldest gives way, of the address that has the
most: who says nothing takes nobody's place but its own, and who greets at once has long done so.

**Clients** have greeted. Where all places are taken, one that is idle gives way, first those that have never asked anything;
where none is idle for long enough, the newcomer is refused, and may try again. No address alone has all places. A few beyond
the others are for the addresses of the cluster's own machines.

Peers have no places of their own: there is one connection of each node in the map, and whoever is none is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from shoal_server.invariants import invariant

C = TypeVar("C", bound=Hashable)

UNFINISHED_MAX = 512
ADDRESS_PART = 0.75
"""Of all clients' places, so many at the most for one address."""
SHARED_FROM = 16
"""With fewer places than that, an address may have all of them."""
RESERVED_PART = 1 / 64
RESERVED_LEAST = 8
NEWCOMER_IDLE_SECONDS = 1.0
"""Who has not asked anything for so long since it greeted may have to give way."""
IDLE_SECONDS = 10.0
"""Likewise, who has asked something before."""


def reserved_places(clients: int) -> int:
    """Return how many places beyond `clients` are kept for the cluster's own machines."""
    return max(RESERVED_LEAST, int(clients * RESERVED_PART))


class Abortable(Hashable, Protocol):
    """A connection that can be ended at once."""

    def abort(self) -> None:
        """End at once."""
        ...


A = TypeVar("A", bound=Abortable)


class Lingering(Generic[A]):
    """Connections that were refused, and may still read why: as long as nobody else needs their descriptors."""

    def __init__(self) -> None:
        self._since: dict[A, None] = {}

    def __len__(self) -> int:
        return len(self._since)

    def __iter__(self) -> Iterator[A]:
        return iter(self._since)

    def add(self, connection: A) -> None:
        """One has been refused."""
        self._since[connection] = None

    def leave(self, connection: A) -> None:
        """It is gone, if it was one of these."""
        self._since.pop(connection, None)

    def make_room(self) -> None:
        """End the one that has been here for longest."""
        oldest = next(iter(self._since), None)
        if oldest is not None:
            del self._since[oldest]
            oldest.abort()


class OldestGoes(Generic[C]):
    """Connections of which any that comes gets in, and the oldest gives way: those that have not said who they are."""

    def __init__(self, most: int = UNFINISHED_MAX) -> None:
        """`most`: of all; half as many of one address."""
        self.most = most
        self._of_address: dict[str, dict[C, None]] = {}
        self._address_of: dict[C, str] = {}

    def __len__(self) -> int:
        return len(self._address_of)

    def arrive(self, connection: C, address: str) -> C | None:
        """One has come; return the one that has to give way, and has no place any more."""
        invariant(connection not in self._address_of, "a connection comes once")
        same = self._of_address.get(address)
        victim: C | None = None
        if same is not None and len(same) >= max(1, self.most // 2):
            victim = next(iter(same))
        elif len(self._address_of) >= self.most:
            crowded = max(self._of_address, key=lambda each: len(self._of_address[each]))
            victim = next(iter(self._of_address[crowded]))
        if victim is not None:
            self.leave(victim)
        self._of_address.setdefault(address, {})[connection] = None
        self._address_of[connection] = address
        return victim

    def leave(self, connection: C) -> None:
        """It has said who it is, or is gone; whoever has no place is none of these."""
        address = self._address_of.pop(connection, None)
        if address is not None:
            same = self._of_address[address]
            del same[connection]
            if not same:
                del self._of_address[address]


class IdleGoes(Generic[C]):
    """Connections of which one that is idle gives way: those of clients, or streams of calls."""

    def __init__(
        self,
        most: int,
        is_idle: Callable[[C], bool],
        reserved: int = 0,
        called: str = "clients are connected",
        advice: str = "ask another node, or give nodes more places (limits.max_clients)",
    ) -> None:
        """
        Args:
            most: places for everybody.
            is_idle: says whether one that `set_idle` has named still is.
            reserved: places besides, for the cluster's own machines.
            called: what whoever has a place is and does; advice: to who finds none.

        Attributes:
            known: the addresses of the cluster's own machines.
        """
        self.most = most
        self.reserved = reserved
        self.known: frozenset[str] = frozenset()
        self._is_idle = is_idle
        self._called = called
        self._advice = advice
        self._address_of: dict[C, str] = {}
        self._of_address: Counter[str] = Counter()
        self._idle: list[C] = []

    def __len__(self) -> int:
        return len(self._address_of)

    def set_idle(self, idle: Iterable[tuple[C, float, bool]]) -> None:
        """Say which of them ask nothing.

        Args:
            idle: of each how long (seconds), and whether it has ever asked anything.
        """
        may_go = [
            (asked, -seconds, connection)
            for connection, seconds, asked in idle
            if seconds >= (IDLE_SECONDS if asked else NEWCOMER_IDLE_SECONDS)
        ]
        # The first to give way comes last.
        may_go.sort(key=lambda one: one[:2], reverse=True)
        self._idle = [connection for _, _, connection in may_go]

    def arrive(self, connection: C, address: str) -> tuple[str, C | None]:
        """One has come: return "", and who has to give way for it and has no place any more; or why it has none."""
        most = self.most + (self.reserved if address in self.known else 0)
        share = self.most if self.most < SHARED_FROM else int(self.most * ADDRESS_PART)
        victim: C | None = None
        if share < self.most and self._of_address[address] >= share and address not in self.known:
            victim = self._take_idle(address)
            if victim is None:
                return self._full(f"of this address {share} {self._called}, the most that may"), None
        elif len(self._address_of) >= most:
            victim = self._take_idle(None)
            if victim is None:
                taken = len(self._address_of)
                of_own = (
                    f" ({self.most}, and {self.reserved} from the cluster's own machines)" if taken > self.most else ""
                )
                return self._full(f"{taken} {self._called}, the most this node takes{of_own}"), None
        self._address_of[connection] = address
        self._of_address[address] += 1
        return "", victim

    def leave(self, connection: C) -> None:
        """It is gone, or has given way; whoever has no place is none of these."""
        address = self._address_of.pop(connection, None)
        if address is not None:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]

    def _take_idle(self, address: str | None) -> C | None:
        """Take out the one that gives way; None: none is idle for long enough.

        Args:
            address: only of this one; None: of any.
        """
        idle, passed = self._idle, list[C]()
        found: C | None = None
        while idle and found is None:
            connection = idle.pop()
            its = self._address_of.get(connection)
            if its is None or not self._is_idle(connection):
                continue
            if address is None or its == address:
                found = connection
                self.leave(connection)
            else:
                passed.append(connection)
        idle.extend(reversed(passed))
        return found

    def _full(self, what: str) -> str:
        return (
            f"{what}, and none of them has been idle for {IDLE_SECONDS:g} s: try again later or with fewer at once, "
            f"{self._advice}"
        )
