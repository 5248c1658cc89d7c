"""The door of the API: listens, lets callers in, and lets on to gRPC what there is room for, in turn.

gRPC listens at a socket that only this process can reach. It has no bounds of its own on what calls that were given up cost,
nor on what it holds of messages that have not come to their end, and it takes calls in the order in which they come, whoever
sends them. Here each connection is read frame by frame (`requests.py`), and waits in its turn: for room in the account of
messages, for one more call that may be given up, or only for others to have had theirs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from shoal_server.api.front.connections import CallerConnection
from shoal_server.api.front.lanes import Lanes
from shoal_server.api.front.requests import CALL_NAME, Wait
from shoal_server.api.front.resets import Resets
from shoal_server.certificates import Certificates, host_of
from shoal_server.grpc_places import Caller
from shoal_server.listener import Listener
from shoal_server.node.memory import Account, MemoryBudget
from shoal_server.places import UNFINISHED_MAX, IdleGoes, Lingering, OldestGoes
from shoal_server.secure_listener import Handshake, SecureListener

log = structlog.get_logger("shoal.api")

AGAIN_SECONDS = 0.01
"""After so long it is looked whether those who wait for room, or to give up a call, may go on."""
LOOK_SECONDS = 1.0
RESETTING_MAX = 32
"""So many connections wait to give up calls, or to begin where their address has given up too many; the oldest gives way."""
RESETTING_SECONDS = 5.0
"""Likewise, who has waited for that ever since."""
LINGERING_MAX = 64
"""So many refused connections may still read why."""
ENDING_SECONDS = 2.0
"""So long may callers read what they were told last when the node ends."""
SMALL_BYTES = 64 * 1024
SMALL_PART = 0.75
"""What is left of the account is for messages that are no longer than that."""
SLOW_SECONDS = 2.0
SLOW_BYTES = 1 << 20
"""Where others wait for room, a message gives way that has taken so long, and has come at less a second."""


class Front:
    """See the module's first lines. Implements `connections.Host`.

    For one event loop; nobody else touches the account of messages.
    """

    def __init__(
        self,
        listen: str,
        certificates: Certificates | None,
        memory: MemoryBudget,
        *,
        message_most: int,
        callers: int,
        refused: Callable[[str, str], None],
        make_room: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """
        Args:
            listen: the address to listen at.
            certificates: of the process; None: connections are plain.
            message_most: gRPC refuses a message that is longer (bytes).
            callers: how many connections there may be.
            refused: told the address of whom no connection came about with, and why.
            make_room: called where messages wait for room, and none comes that is slow.
        """
        self.message_most = message_most
        self.connections: dict[int, CallerConnection] = {}
        self.places: IdleGoes[CallerConnection] = IdleGoes(
            callers, lambda each: not each.requests.calls, called="callers are connected", advice="or ask another node"
        )
        self.gave_way = 0
        self._handshakes: OldestGoes[Handshake] = OldestGoes(min(UNFINISHED_MAX, callers))
        self._refused = refused
        self._lingering_max = min(LINGERING_MAX, callers)
        self._make_room = make_room
        self._listen = listen
        self._certificates = certificates
        self._memory = memory
        self._loop = loop
        self._resets = Resets(loop.time())
        self._folder = TemporaryDirectory(prefix="shoal-api-")
        self._line: deque[CallerConnection] = deque()
        self._lingering: Lingering[CallerConnection] = Lingering()
        self._resetting: dict[CallerConnection, float] = {}
        self._again: asyncio.Handle | None = None
        self._room_missed_at: float | None = None
        self._lanes = Lanes()
        self._next = 1
        self._listener: Listener | None = None
        self._open = 0
        self._looking: asyncio.Task[None] | None = None
        self._empty: asyncio.Future[None] | None = None

    @property
    def path(self) -> str:
        """Where gRPC is to listen."""
        return str(Path(self._folder.name) / "grpc")

    @property
    def now(self) -> float:
        """Seconds, monotonic."""
        return self._loop.time()

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: nothing can listen at the address.
        """
        host, port = host_of(self._listen), int(self._listen.rpartition(":")[2])
        self._listener = (
            Listener(self._made, self._refused, self._ended, self.has_room)
            if self._certificates is None
            else SecureListener(
                self._certificates,
                self._made,
                self._refused,
                self._ended,
                self.has_room,
                handshakes=self._handshakes.most,
                began=self._shakes_hands,
                ended=self._handshakes.leave,
            )
        )
        await self._listener.start(host, port)
        self._looking = asyncio.create_task(self._look_again_and_again())

    async def close_door(self) -> None:
        """Let nobody in any more; who is connected remains so."""
        if self._listener is not None:
            await self._listener.close()

    async def close(self) -> None:
        """End all connections, once gRPC has ended: each when it has read what it was told last, which it has some time for."""
        if self._looking is not None:
            self._looking.cancel()
        if self._again is not None:
            self._again.cancel()
        for connection in list(self.connections.values()):
            connection.node_ends()
        if self.connections or self._lingering:
            self._empty = self._loop.create_future()
            with suppress(TimeoutError):
                async with asyncio.timeout(ENDING_SECONDS):
                    await self._empty
        for connection in (*self.connections.values(), *self._lingering):
            connection.abort()
        with suppress(OSError):
            self._folder.cleanup()

    def caller(self, metadata: Sequence[tuple[str, str | bytes]]) -> Caller:
        """Return whose a call is, by what came with it."""
        # A caller's own come before.
        name = next((str(value) for key, value in reversed(metadata) if key == CALL_NAME), "0.0")
        number, _, stream = name.partition(".")
        connection = self.connections.get(int(number))
        if connection is None:
            return Caller("", 0, lambda _: None)
        requests, call = connection.requests, int(stream)
        return Caller(connection.host_address, connection.lane, lambda size: requests.done_with(call, size))

    # -- connections

    def has_room(self, beginning: int) -> bool:
        """Say whether one more may be accepted besides so many that are just beginning; where not, make room."""
        if self._open + beginning < self.places.most + self._lingering_max:
            return True
        self._lingering.make_room()
        return False

    def _made(self) -> CallerConnection:
        self._next += 1
        return CallerConnection(self, self._next)

    def _shakes_hands(self, handshake: Handshake) -> None:
        victim = self._handshakes.arrive(handshake, handshake.host_address)
        if victim is not None:
            self.gave_way += 1
            victim.give_way("others have come, and of all handshakes this one has taken longest")

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.critical("api_listens_no_more", exc_info=task.exception())

    def came(self, connection: CallerConnection) -> None:
        """One has connected."""
        self._open += 1
        connection.idle_since = self.now
        problem, victim = self.places.arrive(connection, connection.host_address)
        if victim is not None:
            self.gave_way += 1
            victim.give_way("all places are taken, and of all callers this one has called nothing for longest")
        if problem:
            connection.refuse(problem)
            return
        self.connections[connection.number] = connection
        connection.lane = self._lanes.enter(connection.key)
        if self._resets.owes(connection.host_address, self.now):
            connection.requests.waits_for = Wait.RESET
            self.wait(connection)
        else:
            connection.open()

    def went(self, connection: CallerConnection, given_up: int) -> None:
        """One is gone, with so many calls under way."""
        self._open -= 1
        self.places.leave(connection)
        self._resetting.pop(connection, None)
        self._lingering.leave(connection)
        if self.connections.pop(connection.number, None) is not None:
            self._lanes.leave(connection.key, connection.lane)
            self._resets.charge(connection.host_address, given_up, self.now)
        if self._empty is not None and not (self.connections or self._lingering or self._empty.done()):
            self._empty.set_result(None)

    def may_linger(self, connection: CallerConnection) -> bool:
        """Say whether a connection that is refused may stay to read why."""
        if len(self._lingering) >= self._lingering_max:
            return False
        self._lingering.add(connection)
        return True

    # -- what they wait for

    def may_reset(self, connection: CallerConnection) -> bool:
        """Say whether a connection may give up a call; if so, it has."""
        return self._resets.may(connection.host_address, self.now)

    def take(self, size: int) -> bool:
        """Take room for a message, or say that there is none."""
        memory, account = self._memory, Account.CALLS
        if (
            size > SMALL_BYTES
            and memory.used(account)
            and memory.used(account) + size > SMALL_PART * memory.bound(account)
        ):
            memory.refused[account] += 1
            return False
        return memory.take(account, size)

    def give_back(self, size: int) -> None:
        """A message is gone."""
        self._memory.give_back(Account.CALLS, size)

    def wait(self, connection: CallerConnection) -> None:
        """Have a connection go on in its turn."""
        why = connection.requests.waits_for
        if not connection.in_line:
            connection.in_line = True
            self._line.append(connection)
        if why is Wait.RESET and connection not in self._resetting:
            self._resetting[connection] = self.now
            if len(self._resetting) > RESETTING_MAX:
                self._give_up_too_many(next(iter(self._resetting)))
        if self._again is None:
            self._have_turns(soon=why is Wait.TURN)

    def _give_up_too_many(self, connection: CallerConnection) -> None:
        self._resetting.pop(connection, None)
        self.gave_way += 1
        connection.give_way("too many calls were begun here and given up at once")

    def _have_turns(self, *, soon: bool) -> None:
        loop = self._loop
        self._again = loop.call_soon(self._turns) if soon else loop.call_later(AGAIN_SECONDS, self._turns)

    def _turns(self) -> None:
        """Give each of those who wait a turn."""
        self._again = None
        line, self._line = self._line, deque()
        missed, now = False, self.now
        waits: list[CallerConnection] = []
        for connection in line:
            connection.in_line = False
            if connection.number not in self.connections:
                continue
            requests, address = connection.requests, connection.host_address
            if requests.waits_for is Wait.RESET and not self._may_try(connection, address, now):
                # It stays before those that have had something.
                connection.in_line = True
                waits.append(connection)
            elif connection.is_open:
                connection.go_on()
            else:
                requests.waits_for = Wait.NOTHING
                connection.open()
            if requests.waits_for is not Wait.RESET:
                self._resetting.pop(connection, None)
            missed = missed or requests.waits_for is Wait.ROOM
        self._line.extendleft(reversed(waits))
        if not missed:
            self._room_missed_at = None
        elif self._room_missed_at is None:
            self._room_missed_at = now
        if self._line and self._again is None:
            self._have_turns(soon=any(each.requests.waits_for is Wait.TURN for each in self._line))

    def _may_try(self, connection: CallerConnection, address: str, now: float) -> bool:
        resets = self._resets
        return resets.could(address, now) if connection.is_open else not resets.owes(address, now)

    # -- time

    async def _look_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """See who is idle, and whose message keeps others waiting."""
        now = self.now
        idle: list[tuple[CallerConnection, float, bool]] = []
        for connection in self.connections.values():
            if connection.requests.calls:
                connection.has_called = True
                connection.idle_since = now
            idle.append((connection, now - connection.idle_since, connection.has_called))
        self.places.set_idle(idle)
        for connection, since in list(self._resetting.items()):
            if now - since >= RESETTING_SECONDS:
                self._give_up_too_many(connection)
        if self._room_missed_at is not None and now - self._room_missed_at >= SLOW_SECONDS:
            self._end_slowest(now)

    def _end_slowest(self, now: float) -> None:
        """End the connection whose message comes slowest, if that is slow."""
        slowest, least = None, float(SLOW_BYTES)
        for connection in self.connections.values():
            for incoming in connection.requests.coming.values():
                took = now - incoming.since
                if took >= SLOW_SECONDS and (incoming.size - incoming.left) / took < least:
                    slowest, least = connection, (incoming.size - incoming.left) / took
        if slowest is None:
            self._make_room()
        else:
            self.gave_way += 1
            slowest.give_way("others wait for room, and of all messages one of this connection comes slowest")
