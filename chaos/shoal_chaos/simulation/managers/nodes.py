"""Simulated nodes that a manager controls: they listen for connections, join, are emptied, and end for good."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, cast

from shoal.protocol.messages import (
    Answer,
    ChangeMembership,
    DropReplica,
    Failure,
    Hello,
    InstallShardMap,
    Request,
    TransferLeader,
    Welcome,
)
from shoal.shardmap import NodeAddress, ShardMap
from shoal_server.certificates import Certificate
from shoal_server.node.core import Node
from shoal_server.node.outbox import PeerMessage
from shoal_server.process.connections import Inbound
from shoal_server.process.driver import welcome_of
from shoal_server.storage.replica_rows import is_stored

from shoal_chaos.simulation.cluster.cluster import SimulatedNode
from shoal_chaos.simulation.world.events import SECOND

if TYPE_CHECKING:
    from shoal_chaos.simulation.managers.cluster import ControlledCluster

FIRST_CONNECTION = 1 << 20
"""Clients below this are the simulated ones."""
REPLAY_DELAY_MAX = 20 * SECOND
LATE = (InstallShardMap, ChangeMembership, TransferLeader, DropReplica)
"""Requests that may arrive once more, long after."""


class WatchedNode(Node):
    """The real core, which says what it deletes."""

    dropped: Callable[[int], None]

    def forget_replica(self, shard_id: int) -> None:
        super().forget_replica(shard_id)
        self.dropped(shard_id)


class ControlledNode(SimulatedNode):
    """A node as the manager sees one. Implements `connections.Host`."""

    core_type = WatchedNode
    max_frame_bytes = 1 << 26
    client_output_bytes = 1 << 26
    secure = False

    joining = False
    ended = False
    """It never comes back: its machine is gone, or it was removed and its process ended."""

    def __init__(self, cluster: ControlledCluster, name: str, clock: Any, random: Random) -> None:
        super().__init__(cluster, name, clock, random)
        self._inbound: dict[int, Inbound] = {}
        self._next_connection = FIRST_CONNECTION
        self._linked: set[str] = set()

    @property
    def cluster(self) -> ControlledCluster:
        return cast("ControlledCluster", self._cluster)

    # -- life

    def start(self) -> None:
        if self.ended:
            return
        super().start()
        assert isinstance(self.node, WatchedNode)
        self.node.dropped = lambda shard: self.cluster.dropped(self, shard)

    def crash(self) -> None:
        self._inbound.clear()
        self._linked.clear()
        self.cluster.streams.end_all(self.name, noticed=self._random.random() < 0.7)
        super().crash()

    def start_again(self) -> None:
        """Begin a new process, unless one runs."""
        if self.node is None:
            self.start()

    def end(self) -> None:
        """Go for good."""
        self.ended = True
        if self.node is not None:
            self.crash()

    def holds(self, shard: int) -> bool:
        """Say whether it has a replica, be it that its process is down at the moment."""
        if self.ended:
            return False
        return shard in self.node.replicas if self.node is not None else is_stored(self.engine, shard)

    def _first_map(self) -> ShardMap:
        if self.joining:
            return ShardMap(0, self.cluster.shard_map.cluster, (NodeAddress(self.name, f"{self.name}:1"),), (), ())
        return self.cluster.shard_map

    def _open_others(self, shard_map: ShardMap) -> None:
        """Replicas come by the manager's maps alone."""

    def _connect(self, node: Node) -> None:
        self._link(node)
        for other in self.cluster.nodes.values():
            if other is not self and other.node is not None and self.name in other.node.peers:
                other.node.peer_connected(self.name)
                other.turn_soon()

    def _link(self, node: Node) -> None:
        """Connect with the peers that the map names and that run."""
        for peer in node.peers:
            other = self.cluster.nodes.get(peer)
            if peer not in self._linked and other is not None and other.node is not None:
                self._linked.add(peer)
                node.peer_connected(peer)

    def _take_turn(self, node: Node, now: int) -> None:
        super()._take_turn(node, now)
        self.cluster.checks.check_node(self)
        if not self._linked.issuperset(node.peers):
            self._link(node)

    # -- connections

    def accept(self) -> tuple[asyncio.Protocol, Callable[[Callable[[], None]], None]] | None:
        """Take a connection, if the process runs."""
        if self.node is None:
            return None
        epoch, events = self.epoch, self.cluster.events
        waiting: deque[Callable[[], None]] = deque()

        def run(action: Callable[[], None]) -> None:
            waiting.append(action)
            if len(waiting) == 1:
                go_on()

        def go_on() -> None:
            """Do what waits, in its request, as far as the process runs."""
            while waiting and self.node is not None and self.epoch == epoch:
                if events.now < self.paused_until:
                    events.at(self.paused_until, go_on)
                    return
                waiting[0]()
                waiting.popleft()

        return Inbound(self, self.cluster.loop), run

    def welcome(self, version: int) -> Welcome:
        assert self.node is not None
        return welcome_of(self.node, version, self.cluster.features)

    def check_peer(self, hello: Hello, certificate: Certificate) -> str:  # noqa: ARG002
        return f"peers of {self.name} are simulated frame by frame, not {hello.node}"

    def check_client(self, hello: Hello) -> str:  # noqa: ARG002
        return ""

    def refused(self, connection: Inbound, reason: str, peer: str, client: int | None) -> None:
        """It is not logged here."""

    def malformed(self, failures: list[Failure]) -> None:
        raise AssertionError(f"the managers sent what makes no sense: {failures}")

    def frame_damaged(self) -> None:
        raise AssertionError("connections here damage nothing")

    def client_opened(self, connection: Inbound, certificate: Certificate) -> int:  # noqa: ARG002
        self._next_connection += 1
        self._inbound[self._next_connection] = connection
        return self._next_connection

    def client_closed(self, client: int) -> None:
        self._inbound.pop(client, None)
        if self.node is not None:
            self.node.client_gone(client)

    def peer_opened(self, peer: str, connection: Inbound) -> None:  # noqa: ARG002
        raise AssertionError(f"peers have no connections here, {peer} opened one")

    def inbound_opened(self, connection: Inbound) -> None:
        """Nothing is kept of connections that have not said hello."""

    def inbound_closed(self, connection: Inbound) -> None:
        """See `inbound_opened`."""

    def from_client(self, client: int, requests: list[Request]) -> None:
        self._ask(client, requests)
        late: list[Request] = [request for request in requests if isinstance(request, LATE)]
        if late and self._random.random() < self.cluster.replays:
            # As if a deposed manager had sent the same, and it had been under way until then.
            self.cluster.events.after(self._random.randrange(REPLAY_DELAY_MAX), lambda: self._ask(0, late))

    def _ask(self, client: int, requests: list[Request]) -> None:
        if self.node is not None:
            self.node.receive_client(client, requests)
            self.turn_soon()

    def from_peer(self, peer: str, messages: list[PeerMessage]) -> None:
        raise AssertionError(f"peers have no connections here, {peer} sent {len(messages)} messages")

    def _say(self, to_peers: dict[str, list[Any]], to_clients: dict[int, list[Answer]]) -> None:
        framed = (
            {client: said for client, said in to_clients.items() if client < FIRST_CONNECTION} if to_clients else {}
        )
        super()._say(to_peers, framed)
        for client, answers in to_clients.items():
            if client >= FIRST_CONNECTION and client in self._inbound:
                self._inbound[client].send(answers)
