"""Requests that wait, taken out in turn and by cost: first fair between keyspaces, and in each between its clients.

Deficit round robin (Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round-Robin", 1995), twice: whoever's turn
it is takes requests until they have cost a quantum. What one costs is known in part only when it has been served, so it is
charged then, and who has taken more than a quantum waits for rounds until that is paid. Costs are in nanoseconds of one core,
estimated or measured. A queue that is empty has nothing saved, and its debt is forgiven as time passes.

Whoever asks now and then comes before those who always wait, once in each of their rounds, and so has no more than they
(as in RFC 8290, 4.2).

Pure: times are passed in. One client's requests of one keyspace stay in their order.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
from shoal.priorities import Priority
from shoal.protocol.messages import ReadPage, Scan

from shoal_server.node.request_frames import Received

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
PAGES = (Scan, ReadPage)
"""Requests of which one may be as much work as thousands of others."""


class Waiting(msgspec.Struct):
    """A request that waits. `arrived` (ns); `size`: its part of the frame that it came in (bytes).

    `paused`: it was taken out before, and goes on.
    """

    request: Received
    arrived: int
    size: int
    paused: PausedRead | None = None


class Share:
    """What a client, or a keyspace, has of the rounds.

    Attributes:
        quantum: what it may cost each time that its turn comes (ns).
        deficit: what is left of that; below 0 it has had more.
        listed: it takes part in the rounds. Since `idle_at` it does not (ns).
        new_from: how far the ring has to have gone for it to come first again.
    """

    __slots__ = ("deficit", "idle_at", "listed", "new_from", "quantum")

    def __init__(self, quantum: int) -> None:
        self.quantum = quantum
        self.deficit = 0
        self.idle_at = 0
        self.listed = False
        self.new_from = 0

    def charge(self, cost: int) -> None:
        """It has had so much (ns)."""
        self.deficit = max(self.deficit - cost, -DEBT_MOST_NS)


S = TypeVar("S", bound=Share)


class Ring(Generic[S]):
    """Those who take part in the rounds, whoever's turn it is first. `gone`: how many have been passed."""

    __slots__ = ("_shares", "gone")

    def __init__(self) -> None:
        self._shares: deque[S] = deque()
        self.gone = 0

    def __bool__(self) -> bool:
        return bool(self._shares)

    def join(self, share: S, now: int) -> None:
        """One takes part from now on: first, as long as it has had less than its due in this round of the others.

        A debt is owed as far as no time has forgiven it.
        """
        share.listed = True
        if self.gone < share.new_from and share.deficit > 0:
            self._shares.appendleft(share)
            return
        share.deficit = min(0, share.deficit + now - share.idle_at)
        if self.gone >= share.new_from and not share.deficit:
            share.deficit = share.quantum
            self._shares.appendleft(share)
        else:
            self._shares.append(share)

    def leave(self, share: S, now: int) -> None:
        """One takes part no more; all others come before it is given anything again."""
        self._shares.remove(share)
        share.listed = False
        share.idle_at = now
        if self.gone >= share.new_from:
            share.new_from = self.gone + len(self._shares)

    def whose_turn(self) -> S:
        """Go round until somebody has something left, and return who that is: the first of the ring then."""
        shares = self._shares
        first = shares[0]
        while first.deficit <= 0:
            # One that is alone owes nobody anything.
            first.deficit = first.deficit + first.quantum if len(shares) > 1 else first.quantum
            shares.rotate(-1)
            self.gone += 1
            first = shares[0]
        return first


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

    def next(self, *, pages: bool) -> Waiting | None:
        """Take out what is next; without `pages` None where that would be one."""
        waiting = self.waiting
        if self.paused and (self.ahead <= 0 or not waiting) and pages:
            return self.paused.pop(0)
        if waiting and (pages or type(waiting[0].request) not in PAGES):
            return waiting.popleft()
        return None

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
        self.flows: Ring[Flow] = Ring()


class FairQueue:
    """See the module's first lines. `length`: how many requests wait, of clients that are blocked, too."""

    __slots__ = ("_by_client", "_groups", "_ready", "length")

    def __init__(self) -> None:
        self.length = 0
        self._groups: dict[tuple[Priority, int], FlowGroup] = {}
        self._by_client: dict[int, dict[FlowGroup, Flow]] = {}
        self._ready: Ring[FlowGroup] = Ring()

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
        group.flows.join(flow, now)
        if not group.listed:
            self._ready.join(group, now)

    def take(self, now: int, *, pages: bool = True) -> tuple[Flow, Waiting] | None:
        """Take out the request whose turn it is; `charge` is to follow, before the next one.

        None: there is none, or without `pages` it is the turn of one.
        """
        if not self._ready:
            return None
        flow = self._ready.whose_turn().flows.whose_turn()
        waiting = flow.next(pages=pages)
        if waiting is None:
            return None
        self.length -= 1
        if flow.is_empty:
            self._unlist(flow, now)
        return flow, waiting

    def _unlist(self, flow: Flow, now: int) -> None:
        group = flow.group
        group.flows.leave(flow, now)
        if not group.flows:
            self._ready.leave(group, now)

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
