"""Simulated connections: bytes in order, late, or held up while the way is cut; broken when a process ends."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random

from shoal_chaos.simulation.world.events import MILLISECOND, SECOND, Events
from shoal_chaos.simulation.world.garbage import Collector
from shoal_chaos.simulation.world.loop import SimulatedLoop
from shoal_chaos.simulation.world.network import Network

RESEND = 200 * MILLISECOND
"""What is lost, or finds the way cut, is sent again after so long, as TCP does."""

Runner = Callable[[Callable[[], None]], None]
"""How a process has something done: at once, or when it is no longer held up; never once it has ended."""
Acceptor = Callable[[], tuple[asyncio.Protocol, Runner] | None]
"""How a process takes a connection, with which protocol; None: it does not run."""


class SimulatedSocket:
    """What is below a connection, as far as anybody sets it up."""

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """What the system would do of itself, such as looking whether the other end is there, is not simulated."""


class SimulatedTransport(asyncio.Transport):
    """One end of a connection. What was written before `close` still arrives."""

    def __init__(
        self, streams: Streams, events: Events, owner: str, other: str, protocol: asyncio.Protocol, run: Runner
    ) -> None:
        super().__init__({"socket": SimulatedSocket(), "peername": (other, 1)})
        self.owner = owner
        self.other = other
        self.peer: SimulatedTransport
        self._streams = streams
        self._events = events
        self._protocol = protocol
        self._run = run
        self._closing = False
        self._lost = False
        self._on_way: deque[tuple[int, bytes | None]] = deque()
        self._last_arrival = 0

    # -- what protocols ask of a transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self._send(bytes(data))

    def close(self) -> None:
        if not self._closing:
            if self._streams.collector.at_work:
                self._streams.left_open.append(f"nobody has closed a connection of {self.owner} with {self.other}")
            self._closing = True
            self._send(None)
            self._lose(None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is held back here: what is written is on its way."""

    def pause_reading(self) -> None:
        """Readers here are quick, and what they are sent is short."""

    def resume_reading(self) -> None:
        """See `pause_reading`."""

    # -- the way

    def _send(self, item: bytes | None) -> None:
        events = self._events
        self._last_arrival = max(self._last_arrival, events.now + self._streams.delay())
        self._on_way.append((self._last_arrival, item))
        events.at(self._last_arrival, self._pump)

    def _pump(self) -> None:
        events = self._events
        while self._on_way and self._on_way[0][0] <= events.now:
            if not self._streams.network.connected(self.owner, self.other):
                events.after(RESEND, self._pump)
                return
            item = self._on_way.popleft()[1]
            if item is None:
                self.peer._lose(None)
            else:
                self.peer._receive(item)

    def _receive(self, data: bytes) -> None:
        self._run(lambda: None if self._lost else self._protocol.data_received(data))

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._streams.forget(self)
            self._run(lambda: self._protocol.connection_lost(error))

    def end(self, *, noticed: bool) -> None:
        """The process of this end is no more; what it wrote is on its way. `noticed`: the other end is told."""
        self._closing = self._lost = True
        self._streams.forget(self)
        if noticed:
            peer = self.peer
            self._events.after(self._streams.delay(), lambda: peer._lose(ConnectionResetError("the process has ended")))


class Streams:
    """All connections. What one carries takes its time by the events of whoever has opened it.

    `left_open`: what was closed by nobody but the collector of garbage.
    """

    def __init__(
        self,
        random: Random,
        network: Network,
        collector: Collector,
    ) -> None:
        self.left_open: list[str] = []
        self.collector = collector
        self.network = network
        self._random = random
        self._listeners: dict[str, Acceptor] = {}
        self._open: list[SimulatedTransport] = []

    def listen(self, name: str, accept: Acceptor) -> None:
        """Have connections to `name` taken by what `accept` returns, if anything."""
        self._listeners[name] = accept

    def delay(self) -> int:
        """Return how long a piece takes now."""
        conditions, random = self.network.conditions, self._random
        delay = random.randint(conditions.delay_min, conditions.delay_max)
        while random.random() < conditions.loss:
            delay += RESEND
        return delay

    def forget(self, transport: SimulatedTransport) -> None:
        """A transport is no longer open."""
        if transport in self._open:
            self._open.remove(transport)

    def end_all(self, owner: str, *, noticed: bool) -> None:
        """A process ends, and its ends of connections with it."""
        for transport in [transport for transport in self._open if transport.owner == owner]:
            transport.end(noticed=noticed)

    def dial(self, caller: SimulatedLoop, callee: str, protocol: asyncio.Protocol) -> asyncio.Future[asyncio.Transport]:
        """Connect; whoever is cut off waits until he gives up."""
        future: asyncio.Future[asyncio.Transport] = caller.create_future()
        caller.events.after(self.delay(), lambda: self._knock(caller, callee, protocol, future))
        return future

    def _knock(
        self,
        caller: SimulatedLoop,
        callee: str,
        protocol: asyncio.Protocol,
        future: asyncio.Future[asyncio.Transport],
    ) -> None:
        if future.done():
            return
        if not (self.network.connected(caller.name, callee) and self.network.connected(callee, caller.name)):
            caller.events.after(SECOND, lambda: self._knock(caller, callee, protocol, future))
            return
        listener = self._listeners.get(callee)
        accepted = None if listener is None else listener()
        if accepted is None:
            future.set_exception(ConnectionRefusedError(f"nobody listens at {callee}"))
            return
        protocol_there, run = accepted
        events = caller.events
        near = SimulatedTransport(self, events, caller.name, callee, protocol, lambda action: _soon(caller, action))
        far = SimulatedTransport(self, events, callee, caller.name, protocol_there, run)
        near.peer, far.peer = far, near
        self._open += [near, far]
        run(lambda: protocol_there.connection_made(far))
        events.after(self.delay(), lambda: self._established(caller, near, protocol, future))

    @staticmethod
    def _established(
        caller: SimulatedLoop,
        near: SimulatedTransport,
        protocol: asyncio.Protocol,
        future: asyncio.Future[asyncio.Transport],
    ) -> None:
        if future.done():
            near.close()
            return
        _soon(caller, lambda: protocol.connection_made(near))
        future.set_result(near)


def _soon(loop: SimulatedLoop, action: Callable[[], None]) -> None:
    loop.call_soon(action)
