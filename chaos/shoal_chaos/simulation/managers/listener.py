"""Where simulated nodes take connections: of managers, and of the clients of applications."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from shoal.protocol.messages import (
    Answer,
    ChangeMembership,
    DropReplica,
    Failure,
    Hello,
    InstallShardMap,
    Refused,
    TransferLeader,
    Welcome,
)
from shoal_server.certificates import Certificate
from shoal_server.node.memory import Account, MemoryBudget
from shoal_server.node.outbox import PeerMessage
from shoal_server.node.request_frames import Received
from shoal_server.process.connections import Inbound
from shoal_server.process.driver import welcome_of
from shoal_server.process.long_frames import LongFrames

from shoal_chaos.simulation.cluster.node import FIRST_CONNECTION, SimulatedNode
from shoal_chaos.simulation.world.events import SECOND, Clock
from shoal_chaos.simulation.world.loop import SimulatedLoop
from shoal_chaos.simulation.world.streams import Streams
from shoal_chaos.simulation.world.world import World

REPLAY_DELAY_MAX = 20 * SECOND
MEMORY_BYTES = 1 << 30
LATE = (InstallShardMap, ChangeMembership, TransferLeader, DropReplica)
"""Requests that may arrive once more, long after."""


class Listeners:
    """Those of all nodes.

    Args:
        features: what nodes say in their welcomes that they have.

    `replays`: how often a manager's request arrives once more, of 1.
    """

    def __init__(self, world: World, streams: Streams, features: tuple[str, ...]) -> None:
        self.replays = 0.0
        self.world = world
        self.streams = streams
        self.features = features
        self.loop = SimulatedLoop("nodes", world.time, Clock(world.time, 0, 1000), world.random("loop"), streams)
        self._by_node: dict[str, Listener] = {}

    def listen(self, node: SimulatedNode) -> None:
        """Take connections for a node, whenever its process runs."""
        self._by_node[node.name] = listener = Listener(self, node)
        self.streams.listen(node.name, listener.accept)

    def answered(self, node: str, client: int, answers: list[Answer]) -> None:
        self._by_node[node].answered(client, answers)

    def process_ends(self, node: str, *, noticed: bool) -> None:
        self._by_node[node].forget_all()
        self.streams.end_all(node, noticed=noticed)


class Listener:
    """That of one node. Implements `connection_host.ConnectionHost`."""

    max_frame_bytes = 1 << 26
    client_output_bytes = 1 << 26
    secure = False

    def __init__(self, listeners: Listeners, node: SimulatedNode) -> None:
        self._listeners = listeners
        self._node = node
        self._inbound: dict[int, Inbound] = {}
        self._next_connection = FIRST_CONNECTION
        self.memory = MemoryBudget(MEMORY_BYTES)
        self.long_frames = self.peer_frames = LongFrames(listeners.loop)

    def accept(self) -> tuple[asyncio.Protocol, Callable[[Callable[[], None]], None]] | None:
        """Take a connection, if the process runs."""
        node = self._node
        if node.node is None:
            return None
        epoch, events = node.epoch, self._listeners.world.events
        waiting: deque[Callable[[], None]] = deque()

        def run(action: Callable[[], None]) -> None:
            waiting.append(action)
            if len(waiting) == 1:
                go_on()

        def go_on() -> None:
            """Do what waits, in its order, as far as the process runs."""
            while waiting and node.node is not None and node.epoch == epoch:
                if events.now < node.paused_until:
                    events.at(node.paused_until, go_on)
                    return
                waiting[0]()
                waiting.popleft()

        return Inbound(self, self._listeners.loop), run

    def forget_all(self) -> None:
        """The process ends, and its connections with it."""
        self._inbound.clear()

    def answered(self, client: int, answers: list[Answer]) -> None:
        """Send answers, if the connection still is."""
        if client in self._inbound:
            self._inbound[client].send(answers)

    # -- what connections ask of their host

    def welcome(self, version: int) -> Welcome:
        assert self._node.node is not None
        return welcome_of(self._node.node, version, self._listeners.features)

    def check_peer(self, hello: Hello, certificate: Certificate) -> str:  # noqa: ARG002
        return f"peers of {self._node.name} are simulated frame by frame, not {hello.node}"

    def check_client(self, connection: Inbound, hello: Hello) -> Refused | None:  # noqa: ARG002
        return None

    def refused(self, connection: Inbound, reason: str, peer: str, client: int | None) -> None:
        """It is not logged here."""

    def failed(self, failures: list[Failure]) -> None:
        raise AssertionError(f"the managers sent what makes no sense, or asked for more than fits: {failures}")

    def frame_damaged(self) -> None:
        raise AssertionError("connections here damage nothing")

    def client_opened(self, connection: Inbound, certificate: Certificate, priority: str) -> int:  # noqa: ARG002
        self._next_connection += 1
        self._inbound[self._next_connection] = connection
        return self._next_connection

    def client_closed(self, client: int) -> None:
        self._inbound.pop(client, None)
        if self._node.node is not None:
            self._node.node.client_gone(client)

    def client_is_behind(self, client: int, behind: bool) -> None:
        if self._node.node is not None:
            self._node.node.client_is_behind(client, behind)

    def take_frame(self, connection: Inbound, size: int) -> bool:  # noqa: ARG002
        self.memory.add(Account.FRAMES, size)
        return True

    def peer_opened(self, peer: str, connection: Inbound) -> None:  # noqa: ARG002
        raise AssertionError(f"peers have no connections here, {peer} opened one")

    def inbound_opened(self, connection: Inbound) -> None:
        """Nothing is kept of connections that have not said hello."""

    def inbound_closed(self, connection: Inbound) -> None:
        """See `inbound_opened`."""

    def from_client(self, client: int, requests: Sequence[Received], size: int) -> bool:
        self._ask(client, requests, size)
        late: list[Received] = [request for request in requests if isinstance(request, LATE)]
        random = self._node.random
        if late and random.random() < self._listeners.replays:
            # As if a deposed manager had sent the same, and it had been under way until then.
            self._listeners.world.events.after(random.randrange(REPLAY_DELAY_MAX), lambda: self._ask(0, late, 0))
        # Connections here are read from in any case: see `SimulatedTransport.pause_reading`.
        return True

    def _ask(self, client: int, requests: Sequence[Received], size: int) -> None:
        if self._node.node is not None:
            self._node.node.receive_client(client, requests, size)
            self._node.turn_soon()

    def peer_sends(self, peer: str, size: int) -> None:
        raise AssertionError(f"peers have no connections here, {peer} sent {size} bytes")

    def from_peer(self, peer: str, messages: list[PeerMessage]) -> None:
        raise AssertionError(f"peers have no connections here, {peer} sent {len(messages)} messages")
