"""Requests that wait, taken out in turn and by cost: first fair between keyspaces, and in each between its clients.

Deficit round robin (Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round-Robin", 1995), twice: whoever's turn
it is takes requests until they have cost a quantum. What one costs is known in part only when it has been served, so it is
charged then, and who has taken more than a quantum waits for rounds until that is paid. Costs are in nanoseconds of one core,
estimated or measured. A queue that is empty has nothing saved, and its debt is forgiven as time passes.

Pure: times are passed in. One client's requests of one keyspace stay in their order.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import TYPE_CHECKING, TypeVar

import msgspec
from shoal.priorities import Priority
from shoal.protocol.messages import Request

if TYPE_CHECKING:
    from shoal_server.node.paused_reads import PausedRead

MILLISECOND = 1_000_000
DEBT_MOST_NS = 50 * MILLISECOND
"""Of one that has taken more than its due: the longest piece of work there is is far shorter."""
CONTROL = -1
"""In place of a keyspace: what is of none."""

QUANTA: dict[Priority, int] = {
    Priority.INTERACTIVE: 1_600_000,
    Priority.BATCH: 400_000,
    Priority.BACKGROUND: 100_000,
}
"""What a keyspace may cost each time that its turn comes, by the priority of the connections: their shares of a busy node."""
CLIENT_QUANTUM_NS = 400_000


class Waiting(msgspec.Struct):
    """A request that waits. `arrived` (ns); `size`: its part of the frame that it came in (bytes).

    `paused`: it was taken out before, and goes on.
    """

    request: Request
    arrived: int
    size: int
    paused: PausedRead | None = None


class Share:
    """What a client, or a keyspace, has of the rounds.

    Attributes:
        quantum: what it may cost each time that its turn comes (ns).
        deficit: what is left of that; below 0 it has had more.
        listed: it takes part in the rounds. Since `idle_at` it does not (ns).
    """

    __slots__ = ("deficit", "idle_at", "listed", "quantum")

    def __init__(self, quantum: int) -> None:
        self.quantum = quantum
        self.deficit = 0
        self.idle_at = 0
        self.listed = False

    def join(self, now: int) -> None:
        """Take part from now on, with nothing saved, and with a debt as far as no time has forgiven it."""
        self.listed = True
        self.deficit = min(0, self.deficit + now - self.idle_at)

    def leave(self, now: int) -> None:
        """Take part no more."""
        self.listed = False
        self.idle_at = now

    def charge(self, cost: int) -> None:
        """It has had so much (ns)."""
        self.deficit = max(self.deficit - cost, -DEBT_MOST_NS)


class Flow(Share):
    """What one client has asked of one keyspace.

    Attributes:
        waiting: requests that were not taken out yet, since `since` (ns).
        paused: those that were, and go on: first those that arrived first.
        ahead: by how much more these have cost than the others while both wait (ns): each kind has half.
        group: of which it is one.
    """

    __slots__ = ("ahead", "blocked", "client", "group", "paused", "since", "waiting")

    def __init__(self, client: int, group: FlowGroup) -> None:
        super().__init__(CLIENT_QUANTUM_NS)
        self.client = client
        self.group = group
        self.waiting: deque[Waiting] = deque()
        self.paused: list[Waiting] = []
        self.ahead = 0
        self.since = 0
        self.blocked = False

    def next(self) -> Waiting:
        """Take out what is next."""
        if self.paused and (self.ahead <= 0 or not self.waiting):
            return self.paused.pop(0)
        return self.waiting.popleft()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self.waiting and not self.paused


class FlowGroup(Share):
    """The flows of one keyspace and priority: those that take part in its rounds."""

    __slots__ = ("flows", "keyspace", "priority")

    def __init__(self, priority: Priority, keyspace: int) -> None:
        super().__init__(QUANTA[priority])
        self.priority = priority
        self.keyspace = keyspace
        self.flows: deque[Flow] = deque()


S = TypeVar("S", bound=Share)


def whose_turn(ring: deque[S]) -> S:
    """Go round until somebody has something left, and return who that is: the first of the ring then."""
    first = ring[0]
    while first.deficit <= 0:
        # One that is alone owes nobody anything.
        first.deficit = first.deficit + first.quantum if len(ring) > 1 else first.quantum
        ring.rotate(-1)
        first = ring[0]
    return first


class FairQueue:
    """See the module's first lines. `length`: how many requests wait, of clients that are blocked, too."""

    __slots__ = ("_by_client", "_groups", "_ready", "length")

    def __init__(self) -> None:
        self.length = 0
        self._groups: dict[tuple[Priority, int], FlowGroup] = {}
        self._by_client: dict[int, dict[FlowGroup, Flow]] = {}
        self._ready: deque[FlowGroup] = deque()

    @property
    def ready(self) -> bool:
        """Whether `take` has anything: what waits is not all of clients that are blocked."""
        return bool(self._ready)

    def add(self, client: int, priority: Priority, keyspace: int, waiting: Waiting, now: int, *, blocked: bool) -> None:
        """Have a request wait.

        Args:
            blocked: nothing of the client is taken for now.
        """
        group = self._groups.get((priority, keyspace))
        if group is None:
            group = self._groups[priority, keyspace] = FlowGroup(priority, keyspace)
        flows = self._by_client.setdefault(client, {})
        flow = flows.get(group)
        if flow is None:
            flow = flows[group] = Flow(client, group)
            flow.blocked = blocked
        if waiting.paused is not None:
            insort(flow.paused, waiting, key=lambda each: each.arrived)
        else:
            if not flow.waiting:
                flow.since = now
            flow.waiting.append(waiting)
        self.length += 1
        if not flow.listed and not flow.blocked:
            self._list(flow, now)

    def _list(self, flow: Flow, now: int) -> None:
        group = flow.group
        flow.join(now)
        group.flows.append(flow)
        if not group.listed:
            group.join(now)
            self._ready.append(group)

    def take(self, now: int) -> tuple[Flow, Waiting] | None:
        """Take out the request whose turn it is; `charge` is to follow, before the next one. None: there is none."""
        if not self._ready:
            return None
        flow = whose_turn(whose_turn(self._ready).flows)
        waiting = flow.next()
        self.length -= 1
        if flow.is_empty:
            self._unlist(flow, now)
        return flow, waiting

    def _unlist(self, flow: Flow, now: int) -> None:
        group = flow.group
        group.flows.remove(flow)
        flow.leave(now)
        if not group.flows:
            self._ready.remove(group)
            group.leave(now)

    def charge(self, flow: Flow, cost: int, *, paused: bool = False) -> None:
        """Say what a request has cost that was taken out of `flow` (ns).

        Args:
            paused: it was one that goes on.
        """
        flow.charge(cost)
        flow.group.charge(cost)
        flow.ahead = flow.ahead + (cost if paused else -cost) if flow.paused and flow.waiting else 0

    def charge_later(self, client: int, keyspace: int, cost: int) -> None:
        """Say what a request of a client has cost that was taken out in a turn before, or without having waited (ns)."""
        for group, flow in self._by_client.get(client, {}).items():
            if group.keyspace == keyspace:
                flow.charge(cost)
                group.charge(cost)

    def block(self, client: int, now: int, *, blocked: bool) -> None:
        """Take nothing of a client from now on; or take it again."""
        for flow in self._by_client.get(client, {}).values():
            if flow.blocked == blocked:
                continue
            flow.blocked = blocked
            if not blocked:
                if not flow.is_empty:
                    self._list(flow, now)
            elif flow.listed:
                self._unlist(flow, now)

    def forget(self, client: int, now: int) -> list[Waiting]:
        """Drop what a client has asked, who is gone; return what that was."""
        self.block(client, now, blocked=True)
        dropped: list[Waiting] = []
        for flow in self._by_client.pop(client, {}).values():
            dropped += flow.waiting
            dropped += flow.paused
        self.length -= len(dropped)
        return dropped
