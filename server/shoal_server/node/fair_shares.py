"""Who waits for a node's turns, and what each has of them: keyspaces, in each their callers, and of each the connections.

A caller that waits in several keyspaces, or with several priorities, has one share in all, divided among these. What a caller
has had, and each of its connections, is remembered when it has gone.

Pure: times are passed in.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from shoal.priorities import Priority
from shoal.protocol.messages import ReadPage, Scan

from shoal_server.node.fair_ring import MILLISECOND, Ring, Share
from shoal_server.node.request_frames import Received

if TYPE_CHECKING:
    from shoal_server.node.paused_reads import PausedRead

CONTROL = -1
"""In place of a keyspace: what is of none."""

QUANTA: dict[Priority, int] = {
    Priority.INTERACTIVE: 1_600_000,
    Priority.BATCH: 400_000,
    Priority.BACKGROUND: 100_000,
}
"""What a keyspace may cost each time that its turn comes, by the priority of the connections: their shares of a busy node."""
CALLER_QUANTUM_NS = 400_000
CLIENT_QUANTUM_NS = 400_000
PAGES = frozenset((Scan, ReadPage))
"""Requests of which one may be as much work as thousands of others."""
REMEMBERED_NS = 10_000 * MILLISECOND
"""For so long it is known where those stood who have left."""
STANDINGS_REMEMBERED = 64
"""Of connections of a caller that are gone, for each keyspace, priority and kind: those that had most."""

CallerKey: TypeAlias = bytes | str
"""Whose a connection is: whom its certificate is of (bytes), or else the address that it comes from."""


class Waiting(msgspec.Struct):
    """A request that waits. `arrived` (ns); `size`: its part of the frame that it came in (bytes).

    `paused`: it was taken out before, and goes on. `had`: what its flow had had when it joined it (ns). `number`: its own in
    the queue.
    """

    request: Received
    arrived: int
    size: int
    paused: PausedRead | None = None
    had: int = 0
    number: int = 0


class Asker:
    """A caller over all that it asks.

    Attributes:
        known: in how many groups it is known.
        part: what it has of the rounds of each group in which it waits: of one alone all, of several together no more than of
            the one of the highest priority.
        waits: in how many groups it does. Since `idle_at` in none (ns).
        new_from: how far the rounds of the groups have to have gone for one of its own to be new.
    """

    __slots__ = ("_waits_in", "idle_at", "known", "new_from", "part", "waits")

    def __init__(self) -> None:
        self.known = 0
        self.part = 1.0
        self.waits = 0
        self.idle_at = 0
        self.new_from = 0
        self._waits_in = dict.fromkeys(Priority, 0)

    def begin(self, priority: Priority) -> None:
        """It waits in one more group."""
        self.waits += 1
        self._count(priority, 1)

    def end(self, priority: Priority, now: int) -> None:
        """It waits in one group less."""
        self.waits -= 1
        self.idle_at = now
        self._count(priority, -1)

    def _count(self, priority: Priority, change: int) -> None:
        self._waits_in[priority] += change
        if self.waits <= 1:
            self.part = 1.0
            return
        quanta = [(QUANTA[each], groups) for each, groups in self._waits_in.items() if groups]
        self.part = max(quanta)[0] / sum(quantum * groups for quantum, groups in quanta)


class Flow(Share):
    """What one client has asked of one keyspace: pages, or what is none.

    Attributes:
        waiting: requests that were not taken out yet, by their numbers, since `since` (ns).
        paused: those that were, and go on: first those that arrived first, and before those that wait.
        had: what its requests have cost so far (ns).
        parked: what is next can only be begun when somebody else's is done; until then only what was begun goes on.
        caller: of whose flows it is one.
    """

    __slots__ = ("blocked", "caller", "client", "had", "pages", "parked", "paused", "since", "waiting")

    def __init__(self, client: int, caller: Caller, *, pages: bool) -> None:
        super().__init__(CLIENT_QUANTUM_NS)
        self.client = client
        self.caller = caller
        self.pages = pages
        self.waiting: OrderedDict[int, Waiting] = OrderedDict()
        self.paused: list[Waiting] = []
        self.had = 0
        self.since = 0
        self.blocked = False
        self.parked = False

    def _next_begun(self) -> int | None:
        """Return where the first of the paused is that was begun and goes on: it may have let go of what it had."""
        for at, each in enumerate(self.paused):
            if each.paused is not None and each.paused.is_begun:
                return at
        return None

    @property
    def has_turns(self) -> bool:
        """Whether anything waits that may be taken out."""
        if self.parked:
            return self._next_begun() is not None
        return bool(self.waiting or self.paused)

    def take(self) -> Waiting | None:
        """Take out what is next: what was begun before all else. None where there is none that may be."""
        begun = self._next_begun() if self.paused else None
        if begun is not None:
            return self.paused.pop(begun)
        if self.parked:
            return None
        return self.paused.pop(0) if self.paused else self.waiting.popitem(last=False)[1]

    def remove(self, waiting: Waiting) -> None:
        """Take out one that waits, wherever it does."""
        if self.waiting.pop(waiting.number, None) is None:
            self.paused = [each for each in self.paused if each is not waiting]

    def had_since(self, waiting: Waiting) -> int:
        """Return what others of this flow have cost since a request of it joined it (ns): for so long it waited for these."""
        return self.had - waiting.had


class Caller(Share):
    """The flows of one caller in one group: those that take part in its rounds.

    Attributes:
        asker: the same caller, over all groups.
        flows: how many there are, of clients that ask for nothing now, too. Since `left_at` there is none (ns).
        pages: those with pages; `others`: those with other requests.
        ahead: by how much more pages have cost than the others while both wait (ns): each kind has half.
    """

    __slots__ = ("_left", "ahead", "asker", "flows", "group", "key", "left_at", "others", "pages")

    def __init__(self, key: CallerKey, group: FlowGroup, asker: Asker) -> None:
        super().__init__(CALLER_QUANTUM_NS)
        self.key = key
        self.group = group
        self.asker = asker
        self.flows = 0
        self.left_at = 0
        self.pages: Ring[Flow] = Ring(CLIENT_QUANTUM_NS)
        self.others: Ring[Flow] = Ring(CLIENT_QUANTUM_NS)
        self.ahead = 0
        self._left: dict[bool, list[Share]] = {True: [], False: []}

    @property
    def due(self) -> int:
        return max(1, int(self.quantum * self.asker.part))

    def ring_of(self, flow: Flow) -> Ring[Flow]:
        """Return the rounds in which a flow takes part."""
        return self.pages if flow.pages else self.others

    def whose_turn(self) -> Flow:
        """Return the flow whose turn it is; there is one."""
        kind = self.pages if self.pages and (self.ahead <= 0 or not self.others) else self.others
        return kind.whose_turn()

    def account(self, flow: Flow, cost: int) -> None:
        """Note that a request of one of the flows has cost that (ns)."""
        pages = flow.pages
        (self.pages if pages else self.others).charge(flow, cost)
        self.ahead = self.ahead + (cost if pages else -cost) if self.pages and self.others else 0

    def came(self, flow: Flow, now: int) -> None:
        """One of its clients has its first request here: it stands where one stood that has left, the one that had most."""
        self.flows += 1
        left = self._left[flow.pages] = [each for each in self._left[flow.pages] if now - each.idle_at < REMEMBERED_NS]
        if left:
            worst = min(left, key=_standing)
            left.remove(worst)
            flow.follow(worst)

    def left(self, flow: Flow, now: int) -> None:
        """A client has gone."""
        self.flows -= 1
        self.left_at = now
        standing = Share(flow.quantum)
        standing.follow(flow)
        left = self._left[flow.pages]
        left.append(standing)
        if len(left) > STANDINGS_REMEMBERED:
            left.remove(max(left, key=_standing))


def _standing(share: Share) -> tuple[int, int]:
    return min(share.deficit, 0), -share.new_from


class FlowGroup(Share):
    """The callers of one keyspace and priority: those who take part in its rounds, and by their keys all that are known.

    `left_by`: who was the last to take part in them.
    """

    __slots__ = ("by_key", "callers", "keyspace", "left_by", "priority")

    def __init__(self, priority: Priority, keyspace: int) -> None:
        super().__init__(QUANTA[priority])
        self.priority = priority
        self.keyspace = keyspace
        self.callers: Ring[Caller] = Ring(CALLER_QUANTUM_NS)
        self.by_key: dict[CallerKey, Caller] = {}
        self.left_by: Asker | None = None

    @property
    def due(self) -> int:
        """As much as its callers have there together, and no more than a keyspace has."""
        part = 0.0
        for caller in self.callers:
            part += caller.asker.part
            if part >= 1:
                return self.quantum
        return max(1, int(self.quantum * part))
