"""Requests that wait, taken out in turn and by cost: fair between keyspaces, in each between callers, of each between clients.

Deficit round robin (Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round-Robin", 1995), thrice: whoever's turn
it is takes requests until they have cost a quantum. What one costs is known in part only when it has been served, so it is
charged then, and who has taken more than a quantum waits for rounds until that is paid. Costs are in nanoseconds of one core,
estimated or measured. A queue that is empty has nothing saved, and its debt is forgiven as time passes.

Whoever asks now and then comes before those who always wait, once in each of their rounds, and so has no more than they
(as in RFC 8290, 4.2). Pages, each of which may be as much work as thousands of other requests, have rounds of their own: of
what a caller has of a keyspace they have half as long as both wait. So however many connections ask for pages, whoever asks
for a key waits for none of them.

Pure: times are passed in. One client's requests of one keyspace and kind stay in their order.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

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
CALLER_QUANTUM_NS = 400_000
CLIENT_QUANTUM_NS = 400_000
PAGES = frozenset((Scan, ReadPage))
"""Requests of which one may be as much work as thousands of others."""

CallerKey: TypeAlias = bytes | str
"""Whose a connection is: whom its certificate is of (bytes), or else the address that it comes from."""


class Waiting(msgspec.Struct):
    """A request that waits. `arrived` (ns); `size`: its part of the frame that it came in (bytes).

    `paused`: it was taken out before, and goes on. `had`: what its flow had had when it joined it (ns).
    """

    request: Received
    arrived: int
    size: int
    paused: PausedRead | None = None
    had: int = 0


class Share:
    """What a client, a caller, or a keyspace has of the rounds.

    Attributes:
        quantum: what it may cost each time that its turn comes (ns).
        deficit: what is left of that; below 0 it has had more.
        listed: it takes part in the rounds. Since `idle_at` it does not (ns).
        is_new: it comes before those who have been waiting.
        new_from: how far the ring has to have gone for it to be new again.
        plain: how many of its own wait with requests that are no pages.
    """

    __slots__ = ("deficit", "idle_at", "is_new", "listed", "new_from", "plain", "quantum")

    def __init__(self, quantum: int) -> None:
        self.quantum = quantum
        self.deficit = 0
        self.idle_at = 0
        self.listed = False
        self.is_new = False
        self.new_from = 0
        self.plain = 0

    def charge(self, cost: int) -> None:
        """It has had so much (ns)."""
        self.deficit = max(self.deficit - cost, -DEBT_MOST_NS)


S = TypeVar("S", bound=Share)


class Ring(Generic[S]):
    """Those who take part in the rounds: first those who are new, of whom the newest is first, then the others in their order.

    Where hundreds come at once, it is better that some wait for all than that all wait for hundreds; none waits for more than
    a quantum of each. `gone`: how many have been passed.
    """

    __slots__ = ("_new", "_old", "gone")

    def __init__(self) -> None:
        self._new: deque[S] = deque()
        self._old: deque[S] = deque()
        self.gone = 0

    def __bool__(self) -> bool:
        return bool(self._new or self._old)

    def join(self, share: S, now: int) -> None:
        """One takes part from now on.

        It is new where the others have had a round since it was so, and remains so until it has had its due. One whose turn
        was not over when it had nothing left to ask goes on with that turn, behind those who are new. All else comes last. What
        it owes is forgiven as time passes, of which each of those who wait has had a part.
        """
        share.listed = True
        if self.gone < share.new_from and share.deficit > 0:
            (self._new if share.is_new else self._old).appendleft(share)
            return
        others = len(self._new) + len(self._old)
        share.deficit = min(0, share.deficit + (now - share.idle_at) // (1 + others))
        share.is_new = self.gone >= share.new_from and not share.deficit
        share.deficit += share.quantum
        if share.is_new:
            self._new.appendleft(share)
        else:
            self._old.append(share)

    def leave(self, share: S, now: int) -> None:
        """One takes part no more; all others come before it is given anything again."""
        (self._new if share.is_new else self._old).remove(share)
        share.listed = False
        share.idle_at = now
        if self.gone >= share.new_from:
            share.new_from = self.gone + len(self._new) + len(self._old)

    def whose_turn(self) -> S:
        """Go round until somebody has something left, and return who that is; there is somebody."""
        new, old = self._new, self._old
        while True:
            first = new[0] if new else old[0]
            if first.deficit > 0:
                return first
            if new:
                old.append(new.popleft())
                first.is_new = False
            else:
                old.rotate(-1)
            # One that is alone owes nobody anything.
            first.deficit = first.quantum if not new and len(old) == 1 else first.deficit + first.quantum
            self.gone += 1

    def whose_turn_without_pages(self) -> S | None:
        """Likewise, but return the first with something left that has anything but pages; None where there is none."""
        first = self.whose_turn()
        if first.plain:
            return first
        return next((share for share in chain(self._new, self._old) if share.plain and share.deficit > 0), None)


class Flow(Share):
    """What one client has asked of one keyspace: pages, or what is none.

    Attributes:
        waiting: requests that were not taken out yet, since `since` (ns).
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
        self.waiting: deque[Waiting] = deque()
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
        return self.paused.pop(0) if self.paused else self.waiting.popleft()

    def had_since(self, waiting: Waiting) -> int:
        """Return what others of this flow have cost since a request of it joined it (ns): for so long it waited for these."""
        return self.had - waiting.had


class Caller(Share):
    """The flows of one caller in one group: those that take part in its rounds.

    Attributes:
        flows: how many there are, of clients that ask for nothing now, too.
        pages: those with pages; `others`: those with other requests.
        ahead: by how much more pages have cost than the others while both wait (ns): each kind has half.
    """

    __slots__ = ("ahead", "flows", "group", "key", "others", "pages")

    def __init__(self, key: CallerKey, group: FlowGroup) -> None:
        super().__init__(CALLER_QUANTUM_NS)
        self.key = key
        self.group = group
        self.flows = 0
        self.pages: Ring[Flow] = Ring()
        self.others: Ring[Flow] = Ring()
        self.ahead = 0

    def ring_of(self, flow: Flow) -> Ring[Flow]:
        """Return the rounds in which a flow takes part."""
        return self.pages if flow.pages else self.others

    def whose_turn(self) -> Flow:
        """Return the flow whose turn it is; there is one."""
        kind = self.pages if self.pages and (self.ahead <= 0 or not self.others) else self.others
        return kind.whose_turn()

    def account(self, flow: Flow, cost: int) -> None:
        """Note that a request of one of the flows has cost that (ns)."""
        self.charge(cost)
        self.ahead = self.ahead + (cost if flow.pages else -cost) if self.others and self.pages else 0


class FlowGroup(Share):
    """The callers of one keyspace and priority: those who take part in its rounds, and by their keys all that have flows."""

    __slots__ = ("by_key", "callers", "keyspace", "priority")

    def __init__(self, priority: Priority, keyspace: int) -> None:
        super().__init__(QUANTA[priority])
        self.priority = priority
        self.keyspace = keyspace
        self.callers: Ring[Caller] = Ring()
        self.by_key: dict[CallerKey, Caller] = {}


class FairQueue:
    """See the module's first lines.

    Attributes:
        length: how many requests wait, of clients that are blocked, too.
        parked: flows that wait to be unparked.
    """

    __slots__ = ("_by_client", "_groups", "_ready", "length", "parked")

    def __init__(self) -> None:
        self.length = 0
        self._groups: dict[tuple[Priority, int], FlowGroup] = {}
        self._by_client: dict[int, dict[tuple[FlowGroup, bool], Flow]] = {}
        self._ready: Ring[FlowGroup] = Ring()
        self.parked: deque[Flow] = deque()

    @property
    def ready(self) -> bool:
        """Whether `take` has anything: what waits is not all of clients that are blocked."""
        return bool(self._ready)

    def add(
        self,
        client: int,
        priority: Priority,
        keyspace: int,
        waiting: Waiting,
        now: int,
        *,
        blocked: bool,
        caller: CallerKey = "",
    ) -> None:
        """Have a request wait.

        Args:
            blocked: nothing of the client is taken for now.
            caller: whose the client is, always the same; all of whom nothing is known are one.
        """
        group = self._groups.get((priority, keyspace))
        if group is None:
            group = self._groups[priority, keyspace] = FlowGroup(priority, keyspace)
        flows = self._by_client.setdefault(client, {})
        pages = type(waiting.request) in PAGES
        flow = flows.get((group, pages))
        if flow is None:
            whose = group.by_key.get(caller)
            if whose is None:
                whose = group.by_key[caller] = Caller(caller, group)
            whose.flows += 1
            flow = flows[group, pages] = Flow(client, whose, pages=pages)
            flow.blocked = blocked
        if waiting.paused is not None:
            insort(flow.paused, waiting, key=lambda each: each.arrived)
        else:
            if not flow.waiting:
                flow.since = now
            waiting.had = flow.had
            flow.waiting.append(waiting)
        self.length += 1
        if not flow.listed and not flow.blocked and flow.has_turns:
            self._list(flow, now)

    def _list(self, flow: Flow, now: int) -> None:
        caller = flow.caller
        group = caller.group
        caller.ring_of(flow).join(flow, now)
        if not flow.pages:
            caller.plain += 1
            group.plain += 1
        if not caller.listed:
            group.callers.join(caller, now)
            if not group.listed:
                self._ready.join(group, now)

    def _unlist(self, flow: Flow, now: int) -> None:
        caller = flow.caller
        group = caller.group
        caller.ring_of(flow).leave(flow, now)
        if not flow.pages:
            caller.plain -= 1
            group.plain -= 1
        if not caller.others and not caller.pages:
            group.callers.leave(caller, now)
            if not group.callers:
                self._ready.leave(group, now)

    def take(self, now: int, *, pages: bool = True) -> tuple[Flow, Waiting] | None:
        """Take out the request whose turn it is, without `pages` of those that are none; None where there is none.

        `charge` is to follow, before the next one.
        """
        while True:
            flow = self._whose_turn() if pages else self._whose_turn_without_pages()
            if flow is None:
                return None
            waiting = flow.take()
            if not flow.has_turns:
                self._unlist(flow, now)
            if waiting is not None:
                self.length -= 1
                return flow, waiting

    def _whose_turn(self) -> Flow | None:
        return self._ready.whose_turn().callers.whose_turn().whose_turn() if self._ready else None

    def _whose_turn_without_pages(self) -> Flow | None:
        group = self._ready.whose_turn_without_pages() if self._ready else None
        caller = None if group is None else group.callers.whose_turn_without_pages()
        return None if caller is None else caller.others.whose_turn()

    def charge(self, flow: Flow, cost: int) -> None:
        """Say what a request has cost that was taken out of `flow` (ns)."""
        flow.had += cost
        flow.charge(cost)
        caller = flow.caller
        caller.account(flow, cost)
        caller.group.charge(cost)

    def charge_later(self, client: int, keyspace: int, cost: int, *, pages: bool) -> None:
        """Say what a request of a client has cost that was taken out in a turn before, or without having waited (ns).

        Args:
            pages: it was a page.
        """
        for (group, kind), flow in self._by_client.get(client, {}).items():
            if group.keyspace == keyspace and kind == pages:
                self.charge(flow, cost)

    def park(self, flow: Flow, waiting: Waiting, now: int) -> None:
        """Put back a page that was just taken out, and begin nothing of its flow before `unpark`."""
        flow.paused.insert(0, waiting)
        self.length += 1
        flow.parked = True
        self.parked.append(flow)
        if flow.listed and not flow.has_turns:
            self._unlist(flow, now)

    def unpark(self, count: int, now: int) -> None:
        """Let so many flows begin something again: those that have been parked for longest."""
        parked = self.parked
        for _ in range(min(count, len(parked))):
            flow = parked.popleft()
            flow.parked = False
            if flow.has_turns and not flow.blocked and not flow.listed:
                self._list(flow, now)

    def block(self, client: int, now: int, *, blocked: bool) -> None:
        """Take nothing of a client from now on; or take it again."""
        for flow in self._by_client.get(client, {}).values():
            if flow.blocked == blocked:
                continue
            flow.blocked = blocked
            if not blocked:
                if flow.has_turns:
                    self._list(flow, now)
            elif flow.listed:
                self._unlist(flow, now)

    def forget(self, client: int, now: int) -> list[Waiting]:
        """Drop what a client has asked, who is gone; return what that was."""
        self.block(client, now, blocked=True)
        dropped: list[Waiting] = []
        for (group, _), flow in self._by_client.pop(client, {}).items():
            dropped += flow.waiting
            dropped += flow.paused
            if flow.parked:
                self.parked.remove(flow)
            caller = flow.caller
            caller.flows -= 1
            if not caller.flows:
                del group.by_key[caller.key]
        self.length -= len(dropped)
        return dropped
