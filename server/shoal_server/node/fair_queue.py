"""Requests that wait, taken out in turn and by cost: fair between keyspaces, in each between callers, of each between clients.

Deficit round robin (Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round-Robin", 1995), thrice: whoever's turn
it is takes requests until they have cost a quantum. What one costs is known in part only when it has been served, so it is
charged then, and who has taken more than a quantum waits for rounds until that is paid. Costs are in nanoseconds of one core,
estimated or measured. A queue that is empty has nothing saved, and its debt is forgiven as time passes.

Whoever asks now and then comes before those who always wait, once in each of their rounds, and so has no more than they
(as in RFC 8290, 4.2; fair_ring.py). To come anew is no way around that: what a caller has had is remembered when its last
connection is gone, and a new connection stands where one of the same caller stood that left. Nor is it to ask for many things:
a caller has one share, divided among the keyspaces and priorities in which it waits. Pages, each of which may be as much
work as thousands of other requests, have rounds of their own: of what a caller has of a keyspace they have half as long as
both wait. So however many connections ask for pages, whoever asks for a key waits for none of them.

Pure: times are passed in. One client's requests of one keyspace and kind stay in their order.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict, deque

from shoal.priorities import Priority

from shoal_server.node.deadlines import Deadlines
from shoal_server.node.fair_ring import MILLISECOND, Ring
from shoal_server.node.fair_shares import (
    PAGES,
    QUANTA,
    REMEMBERED_NS,
    Asker,
    Caller,
    CallerKey,
    Flow,
    FlowGroup,
    Waiting,
)
from shoal_server.node.lateness import deadline_of

CALLERS_REMEMBERED = 1024
"""Of whom no connection is left, at the most: the last ones that went."""
BEHIND_NS = 250 * MILLISECOND
"""So often it is looked whether one may be told by now that its request is late, who does not read its answers."""


class FairQueue:
    """See the module's first lines.

    Attributes:
        length: how many requests wait, of clients that are blocked, too.
        parked: flows that wait to be unparked.
    """

    __slots__ = ("_added", "_askers", "_by_client", "_deadlines", "_gone", "_groups", "_ready", "length", "parked")

    def __init__(self) -> None:
        self.length = 0
        self._added = 0
        self._groups: dict[tuple[Priority, int], FlowGroup] = {}
        self._by_client: dict[int, dict[tuple[FlowGroup, bool], Flow]] = {}
        self._askers: dict[CallerKey, Asker] = {}
        self._ready: Ring[FlowGroup] = Ring(max(QUANTA.values()))
        self._deadlines: Deadlines[tuple[Flow, Waiting]] = Deadlines()
        self._gone: OrderedDict[Caller, None] = OrderedDict()
        """Those without flows, the first that went first."""
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
            whose = self._caller(group, caller)
            flow = flows[group, pages] = Flow(client, whose, pages=pages)
            whose.came(flow, now)
            flow.blocked = blocked
        self._added += 1
        waiting.number = self._added
        if waiting.paused is not None:
            insort(flow.paused, waiting, key=lambda each: each.arrived)
        else:
            if not flow.waiting:
                flow.since = now
            waiting.had = flow.had
            flow.waiting[waiting.number] = waiting
        self._note(flow, waiting)
        if not flow.listed and not flow.blocked and flow.has_turns:
            self._list(flow, now)

    def _caller(self, group: FlowGroup, key: CallerKey) -> Caller:
        """Return the caller of that key, who is to have one more flow in a group."""
        caller = group.by_key.get(key)
        if caller is None:
            asker = self._askers.get(key)
            if asker is None:
                asker = self._askers[key] = Asker()
            asker.known += 1
            caller = group.by_key[key] = Caller(key, group, asker)
        else:
            self._gone.pop(caller, None)
        return caller

    def _drop_gone(self, now: int) -> None:
        """Remember no more callers than there may be that have gone, and none for too long."""
        gone = self._gone
        while gone:
            caller = next(iter(gone))
            if len(gone) <= CALLERS_REMEMBERED and now - caller.left_at < REMEMBERED_NS:
                break
            del gone[caller], caller.group.by_key[caller.key]
            caller.asker.known -= 1
            if not caller.asker.known:
                del self._askers[caller.key]

    def _note(self, flow: Flow, waiting: Waiting) -> None:
        """One more waits in a flow."""
        self.length += 1
        due = deadline_of(waiting.request, waiting.arrived)
        if due is not None:
            self._deadlines.note(waiting.number, due, (flow, waiting))

    def _list(self, flow: Flow, now: int) -> None:
        caller = flow.caller
        group = caller.group
        caller.ring_of(flow).join(flow, now, idle_at=flow.idle_at, new_from=flow.new_from)
        if not flow.pages:
            caller.plain += 1
            group.plain += 1
        if not caller.listed:
            asker = caller.asker
            # One that is served somewhere is not idle, wherever it was before.
            idle_at = now if asker.waits else asker.idle_at
            asker.begin(group.priority)
            group.callers.join(caller, now, idle_at=max(idle_at, caller.idle_at), new_from=caller.new_from)
            if not group.listed:
                idle_at = max(idle_at, group.idle_at) if group.left_by is asker else group.idle_at
                self._ready.join(group, now, idle_at=idle_at, new_from=max(group.new_from, asker.new_from))

    def _unlist(self, flow: Flow, now: int) -> None:
        caller = flow.caller
        group = caller.group
        caller.ring_of(flow).leave(flow, now)
        if not flow.pages:
            caller.plain -= 1
            group.plain -= 1
        if not caller.others and not caller.pages:
            asker = caller.asker
            group.callers.leave(caller, now)
            asker.end(group.priority, now)
            if not group.callers:
                self._ready.leave(group, now)
                group.left_by = asker
                asker.new_from = max(asker.new_from, group.new_from)

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
                self._removed(waiting)
                return flow, waiting

    def _removed(self, waiting: Waiting) -> None:
        """One waits no more."""
        self._deadlines.forget(waiting.number)
        self.length -= 1

    def take_late(self, now: int, most: int) -> list[tuple[Flow, Waiting]]:
        """Take out those whose callers wait no more, whosever turn it is: so many at the most, and so in a bounded time.

        Those whose client reads no answers now are left.
        """
        late: list[tuple[Flow, Waiting]] = []
        for flow, waiting in self._deadlines.take_due(now, most):
            if flow.blocked:
                self._deadlines.note(waiting.number, now + BEHIND_NS, (flow, waiting))
            else:
                flow.remove(waiting)
                self._removed(waiting)
                if flow.listed and not flow.has_turns:
                    self._unlist(flow, now)
                late.append((flow, waiting))
        return late

    def _whose_turn(self) -> Flow | None:
        return self._ready.whose_turn().callers.whose_turn().whose_turn() if self._ready else None

    def _whose_turn_without_pages(self) -> Flow | None:
        group = self._ready.whose_turn_without_pages() if self._ready else None
        caller = None if group is None else group.callers.whose_turn_without_pages()
        return None if caller is None else caller.others.whose_turn()

    def charge(self, flow: Flow, cost: int) -> None:
        """Say what a request has cost that was taken out of `flow` (ns)."""
        flow.had += cost
        caller = flow.caller
        group = caller.group
        caller.account(flow, cost)
        group.callers.charge(caller, cost)
        self._ready.charge(group, cost)

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
        self._note(flow, waiting)
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
        for flow in self._by_client.pop(client, {}).values():
            dropped += flow.waiting.values()
            dropped += flow.paused
            if flow.parked:
                self.parked.remove(flow)
            caller = flow.caller
            caller.left(flow, now)
            if not caller.flows:
                self._gone[caller] = None
        for waiting in dropped:
            self._deadlines.forget(waiting.number)
        self.length -= len(dropped)
        self._drop_gone(now)
        return dropped
