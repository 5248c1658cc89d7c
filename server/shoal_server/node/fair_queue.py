"""Requests that wait, taken out in turn and by cost: first fair between keyspaces, and in each between its clients.

Deficit round robin (Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round-Robin", 1995), twice: whoever's turn
it is takes requests until they have cost a quantum. What one costs is known in part only when it has been served, so it is
charged then, and who has taken more than a quantum waits for rounds until that is paid. Costs are in nanoseconds of one core,
estimated or measured. A queue that is empty has nothing saved, and its debt is forgiven as time passes.

Pure: times are passed in. One client's requests of one keyspace stay in their order.
"""

from __future__ import annotations

from collections import deque

import msgspec
from shoal.priorities import Priority
from shoal.protocol.messages import Request

from shoal_server.invariants import invariant

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


class Waiting(msgspec.Struct, gc=False):
    """A request that waits. `arrived` (ns); `size`: its part of the frame that it came in (bytes)."""

    request: Request
    arrived: int
    size: int


class Flow:
    """What one client has asked of one keyspace.

    Attributes:
        since: when it became other than empty (ns).
        group: of which it is one.
    """

    __slots__ = ("blocked", "client", "debt_at", "deficit", "group", "listed", "since", "waiting")

    def __init__(self, client: int, group: FlowGroup) -> None:
        self.client = client
        self.group = group
        self.waiting: deque[Waiting] = deque()
        self.deficit = 0
        self.debt_at = 0
        self.since = 0
        self.listed = False
        self.blocked = False


class FlowGroup:
    """The flows of one keyspace and priority. `listed` ones take part in the rounds."""

    __slots__ = ("debt_at", "deficit", "flows", "keyspace", "listed", "priority", "quantum")

    def __init__(self, priority: Priority, keyspace: int) -> None:
        self.priority = priority
        self.keyspace = keyspace
        self.quantum = QUANTA[priority]
        self.flows: deque[Flow] = deque()
        self.deficit = 0
        self.debt_at = 0
        self.listed = False


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
        if not flow.waiting:
            flow.since = now
        flow.waiting.append(waiting)
        self.length += 1
        if not flow.listed and not flow.blocked:
            self._list(flow, now)

    def _list(self, flow: Flow, now: int) -> None:
        group = flow.group
        flow.listed = True
        flow.deficit = min(0, flow.deficit + now - flow.debt_at)
        group.flows.append(flow)
        if not group.listed:
            group.listed = True
            group.deficit = min(0, group.deficit + now - group.debt_at)
            self._ready.append(group)

    def take(self, now: int) -> tuple[Flow, Waiting] | None:
        """Take out the request whose turn it is; `charge` is to follow, before the next one. None: there is none."""
        ready = self._ready
        if not ready:
            return None
        group = ready[0]
        while group.deficit <= 0:
            # One that is alone owes nobody anything.
            group.deficit = group.deficit + group.quantum if len(ready) > 1 else group.quantum
            ready.rotate(-1)
            group = ready[0]
        flows = group.flows
        flow = flows[0]
        while flow.deficit <= 0:
            flow.deficit = flow.deficit + CLIENT_QUANTUM_NS if len(flows) > 1 else CLIENT_QUANTUM_NS
            flows.rotate(-1)
            flow = flows[0]
        waiting = flow.waiting.popleft()
        self.length -= 1
        if not flow.waiting:
            self._unlist(flow, now)
        return flow, waiting

    def _unlist(self, flow: Flow, now: int) -> None:
        group = flow.group
        invariant(group.flows[0] is flow, "it is its turn")
        group.flows.popleft()
        flow.listed = False
        flow.debt_at = now
        if not group.flows:
            self._ready.remove(group)
            group.listed = False
            group.debt_at = now

    def charge(self, flow: Flow, cost: int) -> None:
        """Say what a request has cost that was taken out of `flow` (ns)."""
        flow.deficit = max(flow.deficit - cost, -DEBT_MOST_NS)
        group = flow.group
        group.deficit = max(group.deficit - cost, -DEBT_MOST_NS)

    def charge_later(self, client: int, keyspace: int, cost: int) -> None:
        """Say what a request of a client has cost that was taken out in a turn before, or without having waited (ns)."""
        for group, flow in self._by_client.get(client, {}).items():
            if group.keyspace == keyspace:
                self.charge(flow, cost)

    def block(self, client: int, now: int, *, blocked: bool) -> None:
        """Take nothing of a client from now on; or take it again."""
        for group, flow in self._by_client.get(client, {}).items():
            if flow.blocked == blocked:
                continue
            flow.blocked = blocked
            if not blocked:
                if flow.waiting:
                    self._list(flow, now)
            elif flow.listed:
                group.flows.remove(flow)
                group.flows.appendleft(flow)
                self._unlist(flow, now)

    def forget(self, client: int, now: int) -> None:
        """Drop what a client has asked, who is gone."""
        self.block(client, now, blocked=True)
        for flow in self._by_client.pop(client, {}).values():
            self.length -= len(flow.waiting)

    def clients(self) -> dict[int, int]:
        """Return how many requests of each client wait, of those of whom any do."""
        waiting = {
            client: sum(len(flow.waiting) for flow in flows.values()) for client, flows in self._by_client.items()
        }
        return {client: count for client, count in waiting.items() if count}
