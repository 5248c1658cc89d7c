"""Everybody who is connected to a node: lets them in or not, and carries what they say to the core, and its answers back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Protocol

from shoal.errors import ErrorCode
from shoal.priorities import OverloadReason, Priority
from shoal.protocol.messages import TRACES_FEATURE, Answer, Failure, Hello, Refused, Welcome

from shoal_server.certificates import Certificate, identity_of
from shoal_server.node.core import Node
from shoal_server.node.fair_shares import CONTROL
from shoal_server.node.memory import Account
from shoal_server.node.outbox import PeerMessage
from shoal_server.node.overload import priority_of
from shoal_server.node.request_frames import Received
from shoal_server.observe.refusal_log import RefusalLog
from shoal_server.places import UNFINISHED_MAX, IdleGoes, Lingering, OldestGoes, reserved_places
from shoal_server.process.connection_watch import ConnectionWatch
from shoal_server.process.connections import GIVE_WAY_SECONDS, Inbound
from shoal_server.process.driver import welcome_of
from shoal_server.process.giving_way import RETRY_MS, giving_way, much
from shoal_server.process.identities import PeerIdentities
from shoal_server.process.long_frames import LongFrames

if TYPE_CHECKING:
    from shoal_server.observe.tracing import NodeTracing

PLACE_BYTES = 16 * 1024
"""What a connection takes of this process and of the system, as long as nothing is said on it."""
TLS_PLACE_BYTES = 128 * 1024
"""Likewise over TLS."""
UNFINISHED_NEEDED = (
    "others have come, and of all who have not greeted yet this connection has waited longest: greet at once"
)
CLIENT_NEEDED = (
    "all places are taken, and of all clients this one has asked nothing for longest: connect again when needed"
)


class Unfinishing(Hashable, Protocol):
    """A connection that has not said who it is: in a handshake, or before its greeting."""

    @property
    def host_address(self) -> str:
        """Where it comes from."""
        ...

    def give_way(self, message: str) -> None:
        """End, since somebody else needs the place."""
        ...


class Reception:
    """See the module's first line. Implements `connection_host.ConnectionHost`.

    Attributes:
        clients: those that are connected, by number.
        unfinished, places: who has which place.
        watch: looks at all connections.
        gave_way: how many gave their places up for another one.
    """

    def __init__(
        self,
        node: Node,
        identities: PeerIdentities,
        refusals: RefusalLog,
        tracing: NodeTracing | None,
        loop: asyncio.AbstractEventLoop,
        *,
        secure: bool,
        unfinished: int = UNFINISHED_MAX,
        connections: int = 1 << 20,
        schedule_turn: Callable[[], None],
        peer_is_there: Callable[[str], None],
        peer_sends: Callable[[str, int], None],
    ) -> None:
        """
        Args:
            unfinished: places for connections that have not said who they are.
            connections: that may be open at once, with those that were refused and may still read why.
            schedule_turn: called when something has come in.
            peer_is_there: told of a peer that has connected here.
            peer_sends: told of the bytes that come of one.
        """
        limits = node.settings.limits
        self.max_frame_bytes = limits.max_frame_bytes
        self.client_output_bytes = limits.client_output_bytes
        self.memory = node.memory
        self.secure = secure
        self.clients: dict[int, Inbound] = {}
        self.gave_way = 0
        self.unfinished: OldestGoes[Unfinishing] = OldestGoes(unfinished)
        self.places: IdleGoes[Inbound] = IdleGoes(
            limits.clients, lambda client: self.watch.is_idle(client), reserved_places(limits.clients)
        )
        self._inbound: set[Inbound] = set()
        self._lingering: Lingering[Inbound] = Lingering()
        self._connections_max = connections
        self.watch = ConnectionWatch(
            self._inbound, self.places, node.memory, loop.time, limits.client_stall_ns / 1e9, limits.max_frame_bytes
        )
        self._node = node
        self._identities = identities
        self._refusals = refusals
        self._tracing = tracing
        self._loop = loop
        self.long_frames = LongFrames(loop)
        self.peer_frames = LongFrames(loop)
        self._schedule_turn = schedule_turn
        self._peer_is_there = peer_is_there
        self._peer_sends = peer_sends
        self._next_client = 1
        self._place_bytes = TLS_PLACE_BYTES if secure else PLACE_BYTES

    def made(self) -> Inbound:
        """Return the protocol of a connection that is being accepted."""
        return Inbound(self, self._loop, None if self._tracing is None else self._tracing.take)

    def has_room(self, beginning: int) -> bool:
        """Say whether one more may be accepted besides so many that are just beginning; where not, make room.

        Those who have places are fewer, so that there are some who were refused, and still there.
        """
        if len(self._inbound) + beginning < self._connections_max:
            return True
        self._lingering.make_room()
        return False

    def arrived(self, connection: Unfinishing) -> None:
        """Somebody has come who has not said yet who it is."""
        victim = self.unfinished.arrive(connection, connection.host_address)
        if victim is not None:
            self.gave_way += 1
            victim.give_way(UNFINISHED_NEEDED)

    def know(self, hosts: frozenset[str]) -> None:
        """Take these addresses for those of the cluster's own machines."""
        self.places.known = hosts

    def address_of(self, client: int) -> str:
        """Return where a client's connection comes from, "" where there is none."""
        connection = self.clients.get(client)
        return "" if connection is None else connection.address

    def send(self, to_clients: dict[int, list[Answer]]) -> None:
        """Send a turn's answers."""
        clients = self.clients
        for client, answers in to_clients.items():
            connection = clients.get(client)
            if connection is not None:
                connection.send(answers)
        if self._tracing is not None:
            self._tracing.answered(to_clients, self._node.counters.take_timed())

    def resume(self, clients: list[int]) -> None:
        """Receive more of clients again."""
        for client in clients:
            connection = self.clients.get(client)
            if connection is not None:
                connection.resume_reading()

    def cut_off(self, peer: str, reason: str) -> None:
        """End a peer's connections to this node; it dials again, and its groups send again what was lost."""
        for connection in list(self._inbound):
            if connection.peer == peer:
                connection.refuse(ErrorCode.UNAVAILABLE, reason)

    def close(self) -> None:
        """End all connections."""
        for connection in list(self._inbound):
            connection.close()

    # -- what connections need

    def welcome(self, version: int) -> Welcome:
        return welcome_of(self._node, version, () if self._tracing is None else (TRACES_FEATURE,))

    def check_peer(self, hello: Hello, certificate: Certificate) -> str:
        return self._identities.check_dialling(hello, certificate, secure=self.secure)

    def check_client(self, connection: Inbound, hello: Hello) -> Refused | None:
        cluster = self._node.identity.cluster
        if hello.cluster and hello.cluster != cluster:
            return Refused(
                ErrorCode.PROTOCOL_MISMATCH.value, f"this node belongs to cluster {cluster!r}, not {hello.cluster!r}"
            )
        problem, victim = self.places.arrive(connection, connection.host_address)
        if victim is not None:
            self.gave_way += 1
            victim.give_way(CLIENT_NEEDED)
        if problem:
            self._count_refused(OverloadReason.CONNECTION, hello.priority)
            return Refused(ErrorCode.OVERLOADED.value, problem, OverloadReason.CONNECTION.value, RETRY_MS)
        return None

    def _count_refused(self, reason: OverloadReason, priority: str = Priority.INTERACTIVE.value) -> None:
        self._node.overload.refused(reason, priority_of(priority), CONTROL)

    def refused(self, connection: Inbound, reason: str, peer: str, client: int | None) -> None:
        self._lingering.add(connection)
        self._refusals.take(connection.address, reason, peer=peer, client=client)

    def failed(self, failures: list[Failure]) -> None:
        self._node.counters.failed([ErrorCode(failure.code) for failure in failures])

    def frame_damaged(self) -> None:
        self._node.counters.frames_damaged += 1

    def inbound_opened(self, connection: Inbound) -> None:
        self._inbound.add(connection)
        self.arrived(connection)
        if self.memory.take(Account.CONNECTIONS, self._place_bytes):
            connection.place_bytes = self._place_bytes
        else:
            self._count_refused(OverloadReason.CONNECTION)
            connection.refuse(
                ErrorCode.OVERLOADED,
                f"there is no room for another connection: {self.memory.refusal(Account.CONNECTIONS)}",
                GIVE_WAY_SECONDS,
                reason=OverloadReason.CONNECTION,
                retry_after_ms=RETRY_MS,
            )

    def inbound_closed(self, connection: Inbound) -> None:
        self._inbound.discard(connection)
        self._lingering.leave(connection)
        self.unfinished.leave(connection)
        self.places.leave(connection)
        self.memory.give_back(Account.CONNECTIONS, connection.place_bytes)

    def client_opened(self, connection: Inbound, certificate: Certificate, priority: str) -> int:
        self.unfinished.leave(connection)
        client = self._next_client
        self._next_client += 1
        self.clients[client] = connection
        self._node.client_connected(client, identity_of(certificate), priority, connection.host_address)
        return client

    def client_closed(self, client: int) -> None:
        del self.clients[client]
        self._node.client_gone(client)
        if self._tracing is not None:
            self._tracing.client_gone(client)

    def client_is_behind(self, client: int, behind: bool) -> None:
        self._node.client_is_behind(client, behind)
        if not behind:
            # What the core has kept back for it can go on.
            self._schedule_turn()

    def peer_opened(self, peer: str, connection: Inbound) -> None:
        self.unfinished.leave(connection)
        # What is still to be read from an earlier one is older than what comes now, and would be taken for newer.
        for earlier in list(self._inbound):
            if earlier is not connection and earlier.peer == peer:
                earlier.close()
        self._peer_is_there(peer)

    def from_client(self, client: int, requests: Sequence[Received], size: int) -> bool:
        more = self._node.receive_client(client, requests, size)
        self._schedule_turn()
        return more

    def peer_sends(self, peer: str, size: int) -> None:
        self._peer_sends(peer, size)

    def from_peer(self, peer: str, messages: list[PeerMessage]) -> None:
        self._node.receive_peer(peer, messages)
        self._schedule_turn()

    def take_frame(self, connection: Inbound, size: int) -> bool:
        memory, account = self.memory, Account.FRAMES
        if memory.take(account, size):
            return True
        now = self._loop.time()
        frames = [frame for each in self._inbound if (frame := each.half_frame(now)) is not None]
        for slow, besides in giving_way(frames, much(memory.bound(account), self.max_frame_bytes)):
            self._count_refused(OverloadReason.MEMORY)
            words = f"a frame comes too slowly{besides}: {memory.refusal(account)}"
            slow.refuse(ErrorCode.OVERLOADED, words, reason=OverloadReason.MEMORY, retry_after_ms=RETRY_MS)
            if slow is connection:
                return False
            if memory.take(account, size):
                return True
        self._count_refused(OverloadReason.MEMORY)
        words = f"too many frames come at once: {memory.refusal(account)}"
        connection.refuse(ErrorCode.OVERLOADED, words, reason=OverloadReason.MEMORY, retry_after_ms=RETRY_MS)
        return False
