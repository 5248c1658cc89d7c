"""The addresses a client may talk to: who is connected, healthy, hanging, due for another attempt. No sockets here.

Links are known by address. Seeds (the addresses of the URL) stay for ever; nodes come from the shard map. A connection
is identified by who answers on it, so a node reached through a seed is used by that way as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, NamedTuple

from shoal.errors import BY_CODE, ErrorCode, Overloaded, ShoalError, Unavailable
from shoal.protocol.messages import TRACES_FEATURE, GetShardMap, Ping, Request, TracedRequest, Welcome
from shoal.routing.backoff import Backoff
from shoal.routing.calls import NEVER, W
from shoal.routing.links import HANG_SECONDS, PING_SECONDS, Link, LinkState, MapFetch, Probe
from shoal.routing.overload import NO_OVERLOAD, Overload
from shoal.routing.shard_queue import AnyRequest, InFlightRequest
from shoal.shardmap import Routes

LOOK_SECONDS = 0.5
"""For so long at the most a call waits for whether the client's own cluster is back, where another one was found."""
_NO_USE_TRYING = frozenset((ErrorCode.PROTOCOL_MISMATCH, ErrorCode.UNAUTHENTICATED, ErrorCode.PERMISSION_DENIED))


class Disconnect(NamedTuple):
    """A connection to be ended, and why; `refusal` names what another attempt may not change. `overload`: see there."""

    address: str
    reason: str
    refusal: ErrorCode | None = None
    overload: Overload = NO_OVERLOAD


class Network(Generic[W]):
    """See the module's first lines. `connects` and `disconnects` are for the driver, which takes them out.

    `cluster` is the one that answered first, by its name and its id, which no other cluster has; the client belongs to it.
    `estranged`: "" or why nobody of it is to be expected any more: another one has taken its addresses.
    """

    def __init__(self, seeds: tuple[str, ...], backoff: Backoff, crowded: Backoff) -> None:
        """
        Args:
            backoff: of attempts to connect; `crowded`: of those to nodes that have no place.
        """
        self.seeds = seeds
        self.cluster = ""
        self.estranged = ""
        self._verdict_is_new = False
        self._asking_until: float | None = None
        self.connects: list[str] = []
        self.disconnects: list[Disconnect] = []
        self._backoff = backoff
        self._crowded = crowded
        self._links: dict[str, Link[W]] = {address: Link(address) for address in seeds}
        self._by_node: dict[str, Link[W]] = {}
        self._sending: dict[Link[W], None] = {}
        self._requests = 0
        self._fetching_map = False

    # -- who is where -------------------------------------------------------------------------------------------------

    def link(self, address: str) -> Link[W]:
        return self._links[address]

    def link_of(self, node: str, routes: Routes) -> Link[W] | None:
        """Return the link to `node`: the one it answers on, else that of its address; None for an unknown node."""
        link = self._by_node.get(node)
        if link is not None:
            return link
        known = routes.nodes.get(node)
        if known is None:
            return None
        link = self._links.get(known.address)
        if link is None:
            link = self._links[known.address] = Link(known.address)
        return link

    @property
    def links(self) -> Iterable[Link[W]]:
        return self._links.values()

    def may_reach(self, node: str, routes: Routes) -> bool:
        """Say whether `node` is connected, or nothing is known against it."""
        link = self.link_of(node, routes)
        return link is not None and (link.state is LinkState.UP or link.fresh)

    def connect(self, link: Link[W]) -> None:
        """Ask the driver to connect; it answers by `up` or `down`."""
        if link.state is LinkState.DOWN:
            link.state = LinkState.CONNECTING
            self.connects.append(link.address)

    def connect_if_due(self, link: Link[W], now: float) -> None:
        if link.state is LinkState.DOWN and now >= link.retry_at:
            self.connect(link)

    def discover(self, now: float) -> float:
        """Connect to every seed that is due; return when the next one is."""
        due = NEVER
        for address in self.seeds:
            link = self._links[address]
            self.connect_if_due(link, now)
            if link.state is LinkState.DOWN:
                due = min(due, link.retry_at)
        return due

    def discovery_error(self) -> ShoalError:
        """Say why no node was found so far."""
        links = [self._links[address] for address in self.seeds]
        reasons = "; ".join(f"{link.address}: {link.reason or 'no answer yet'}" for link in links)
        crowded = next((link for link in links if link.refusal is ErrorCode.OVERLOADED), None)
        if crowded is not None:
            return Overloaded(
                f"no node of the cluster had a place for this client ({reasons}); try again later, or from fewer clients",
                retry_after=crowded.overload.retry_after,
                reason=crowded.overload.reason,
            )
        refusal = links[0].refusal
        kind = BY_CODE[refusal] if refusal is not None and self.discovery_is_hopeless() else Unavailable
        advice = "; check the addresses and that the nodes run" if kind is Unavailable else ""
        return kind(f"no node of the cluster could be reached ({reasons}){advice}")

    def discovery_is_hopeless(self) -> bool:
        """All seeds answered, and refused for reasons that another attempt will not change."""
        return all(self._links[address].refusal in _NO_USE_TRYING for address in self.seeds)

    # -- events -------------------------------------------------------------------------------------------------------

    def up(self, address: str, welcome: Welcome, now: float) -> Link[W] | None:
        """A node welcomed us at `address`; returns its link, or None where it is not of our cluster."""
        link = self._links[address]
        if not welcome.cluster_id:
            reason = "it does not know yet which cluster it is of: that is being founded, or has not let it in"
            self.disconnects.append(Disconnect(address, reason, ErrorCode.UNAVAILABLE))
            return None
        cluster = f"{welcome.cluster} (id {welcome.cluster_id})"
        if self.cluster and cluster != self.cluster:
            link.stranger = cluster
            reason = f"it belongs to another cluster, {cluster}, this client to {self.cluster}"
            self.disconnects.append(Disconnect(address, reason, ErrorCode.PROTOCOL_MISMATCH))
            return None
        self.cluster = cluster
        self.estranged = ""
        self._verdict_is_new, self._asking_until = False, None
        link.stranger = ""
        link.state = LinkState.UP
        link.node = welcome.node
        link.failures = 0
        link.reason = ""
        link.refusal = None
        link.paused = False
        link.pinged = False
        link.quiet_since = now
        link.max_frame_bytes = welcome.max_frame_bytes
        link.takes_traces = TRACES_FEATURE in welcome.features
        self._by_node.setdefault(welcome.node, link)
        return link

    def down(
        self, address: str, reason: str, refusal: ErrorCode | None, now: float, overload: Overload
    ) -> list[AnyRequest[W]]:
        """A connection ended or did not come about; returns what was unanswered on it, in the order it was sent."""
        link = self._links[address]
        if self._by_node.get(link.node) is link:
            del self._by_node[link.node]
        link.state = LinkState.DOWN
        link.reason = reason
        link.refusal = refusal
        link.overload = overload
        backoff = self._crowded if refusal is ErrorCode.OVERLOADED else self._backoff
        link.retry_at = now + max(backoff.delay(link.failures), backoff.stretched(overload.retry_after or 0.0))
        link.failures += 1
        link.outgoing = []
        link.throttles.clear()
        link.refuses = False
        self._sending.pop(link, None)
        pending, link.pending = link.pending, {}
        lost: list[AnyRequest[W]] = []
        for waiting in pending.values():
            if isinstance(waiting, InFlightRequest):
                lost.append(waiting)
            elif isinstance(waiting, MapFetch):
                self._fetching_map = False
        self._judge_strangers()
        return lost

    def _judge_strangers(self) -> None:
        """See whether another cluster has taken the place of the client's own.

        One address that another cluster answers on says nothing of the rest: most must, and nobody be left of whom more can
        be expected than of those.
        """
        links = self._links.values()
        strangers = [link for link in links if link.stranger]
        if 2 * len(strangers) <= len(links) or any(link.state is LinkState.UP or link.fresh for link in links):
            return
        others = ", ".join(sorted({link.stranger for link in strangers}))
        self.estranged = (
            f"another cluster answers at the addresses of this client: {others}; it belongs to {self.cluster}, which was "
            "made anew or restored from a copy, or its addresses were given away. Nothing was read or written there: make "
            "a new client to use it"
        )
        self._verdict_is_new = self._asking_until is None or not self._is_connecting()

    def _is_connecting(self) -> bool:
        return any(link.state is LinkState.CONNECTING for link in self._links.values())

    def look_for_own(self, now: float, *, anybody_waits: bool) -> float:
        """See whether the client's own cluster is back, for calls that wait; return until when they are to wait for it.

        An answer that is before `now` says that they have nothing to wait for: they came before the verdict, or it was
        found again, or nobody is due to be asked.
        """
        if self._verdict_is_new:
            self._verdict_is_new, self._asking_until = False, None
            return -NEVER
        if not anybody_waits:
            return -NEVER
        if self._asking_until is None:
            asked = len(self.connects)
            for link in self._links.values():
                self.connect_if_due(link, now)
            if len(self.connects) == asked:
                return -NEVER
            self._asking_until = now + LOOK_SECONDS
        until = self._asking_until
        if now >= until:
            self._asking_until = None
        return until

    def give_up(
        self, link: Link[W], reason: str, refusal: ErrorCode | None = None, overload: Overload = NO_OVERLOAD
    ) -> None:
        """Have the driver end a connection; `down` follows."""
        self.disconnects.append(Disconnect(link.address, reason, refusal, overload))

    # -- requests -----------------------------------------------------------------------------------------------------

    def next_request_id(self) -> int:
        self._requests += 1
        return self._requests

    def send(self, link: Link[W], message: Request, owed: AnyRequest[W] | MapFetch | Probe, now: float) -> None:
        """Put a request into the link's next frame, and remember what its answer is for."""
        if not link.pending:
            link.quiet_since = now
        link.pending[message.request] = owed
        link.outgoing.append(message)
        self._sending[link] = None

    def take_orders(self) -> tuple[list[str], list[Disconnect]]:
        """Take out where to connect, and which connections to end."""
        if not self.connects and not self.disconnects:
            return [], []
        orders = self.connects, self.disconnects
        self.connects, self.disconnects = [], []
        return orders

    def take_outgoing(self) -> list[tuple[Link[W], list[TracedRequest]]]:
        """Take out the requests of this turn, per link."""
        if not self._sending:
            return []
        frames = []
        for link in self._sending:
            frames.append((link, link.outgoing))
            link.outgoing = []
        self._sending = {}
        return frames

    def fetch_map(self, link: Link[W], now: float) -> None:
        """Ask for the shard map, unless somebody is being asked already."""
        if not self._fetching_map and link.state is LinkState.UP:
            self._fetching_map = True
            self.send(link, GetShardMap(self.next_request_id()), MapFetch(), now)

    def map_fetched(self) -> None:
        self._fetching_map = False

    # -- time ---------------------------------------------------------------------------------------------------------

    def check(self, now: float) -> float:
        """Ping nodes that owe answers and are silent, give up those that hang; return when to look again."""
        due = NEVER
        for link in self._links.values():
            if link.state is not LinkState.UP or not link.pending:
                continue
            quiet = now - link.quiet_since
            if quiet >= HANG_SECONDS and link.pinged:
                self.give_up(link, f"{link} hangs: silent for {quiet:.1f} s in spite of a ping")
                continue
            if quiet >= PING_SECONDS and not link.pinged:
                # However late this look comes, the node has the rest of the time to answer the ping.
                link.pinged = True
                link.quiet_since = now - PING_SECONDS
                self.send(link, Ping(self.next_request_id()), Probe(), now)
            due = min(due, link.due)
        return due

    def heard(self, link: Link[W], now: float) -> None:
        """Something arrived: the node is alive."""
        link.quiet_since = now
        link.pinged = False
