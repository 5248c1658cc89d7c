"""The client's engine: drives the router with asyncio's sockets, clock and futures.

Everything submitted in one turn of the event loop is flushed together, by one callback at its end. There is one timer
for all deadlines, retries and health checks. Open calls are bounded; further callers queue up, in order.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections import deque
from collections.abc import Callable
from itertools import repeat
from random import Random
from ssl import SSLContext
from typing import Any, Protocol, TypeAlias
from weakref import WeakValueDictionary

from shoal.errors import Closed, DeadlineExceeded, ErrorCode, ShoalError
from shoal.metrics import Family, gauge
from shoal.options import Options
from shoal.priorities import Priority
from shoal.protocol.messages import Answer, Welcome
from shoal.results import Entry
from shoal.routing.calls import NEVER, AnyCall
from shoal.routing.overload import Overload
from shoal.routing.router import RoutedKeyspace, Router
from shoal.routing.shard_queue import AttemptTracer
from shoal.transport.connection import Connection
from shoal.transport.embedded import EmbeddedConnection
from shoal.transport.forks import end_without_last_rites, follow_forks, leave_alone
from shoal.transport.standard_streams import keep_standard_streams

Waiter: TypeAlias = "asyncio.Future[Any]"
"""What a call's caller awaits: a `WriteResult` of a write; of a read the value or, where asked for, the `Entry`; of a
scan the `ScanPage`."""

log = logging.getLogger("shoal")
"""What happens to connections (as INFO where one is lost, else DEBUG) and to attempts (DEBUG). It has no keys and no values."""

QUEUED_LOOK_SECONDS = 1e-6
"""For each caller that waits to be admitted, so long passes between looks at all of them: some 20 times what a look takes."""
CLOSED = "the client is closed; make a new one"

ClientKeyspace: TypeAlias = RoutedKeyspace[Waiter]
AnyConnection: TypeAlias = Connection | EmbeddedConnection
Call: TypeAlias = AnyCall[Waiter]


class CallTracer(AttemptTracer, Protocol):
    """Makes spans of calls, and of the attempts to serve them: there is none unless tracing is asked for (see tracing.py)."""

    def waiters(self, loop: asyncio.AbstractEventLoop) -> Callable[[], Waiter]:
        """Return what makes the waiters of calls."""
        ...


class KeyspaceFollower(Protocol):
    """Whoever keeps how a keyspace is routed: it is to forget it where the driver begins anew."""

    routed: ClientKeyspace | None


class Driver:
    """One per client object; belongs to the event loop it is first used in.

    `busy`: a caller may not submit before it was admitted: the cluster is not found yet, or the bound is reached, or
    the client is closed. It is the one thing that the fast path has to look at.
    """

    def __init__(self, options: Options, tls: SSLContext | None, tracer: CallTracer | None = None) -> None:
        keep_standard_streams()
        self._options = options
        self._timeout = options.timeout
        self._tls = tls
        self._tracer = tracer
        self._closed: str = ""
        self._keyspace_followers: WeakValueDictionary[int, KeyspaceFollower] = WeakValueDictionary()
        self._begin()
        follow_forks(self)

    def __str__(self) -> str:
        """Return whom it talks to, in words."""
        embedded = self._options.embedded
        if embedded is not None:
            where = (
                f"the embedded database in {embedded.folder!r}" if embedded.folder else "an embedded database in memory"
            )
        else:
            where = ", ".join(self._options.seeds)
        return f"{where} (closed)" if self._closed else where

    def _begin(self) -> None:
        """Know nothing of a cluster, nor of an event loop."""
        options = self._options
        self.busy = True
        self.router: Router[Waiter] = Router(options.seeds, Random(), options.region, self._tracer)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open = 0
        self._granted = 0
        self._queue: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._queue_due = NEVER
        self._connections: dict[str, AnyConnection] = {}
        embedded = options.embedded
        self._embedded = None if embedded is None else EmbeddedConnection(self, embedded, options.keyspace)
        self._connecting: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._now = 0.0
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER

    def forked(self) -> None:
        """In a child: begin anew, with sessions of its own; the parent goes on with what there was.

        A database in the parent's process is out of reach: calls say so.
        """
        if self._embedded is not None and self._embedded.is_open and not self._closed:
            self._closed = (
                "an embedded database belongs to the process that opened it, which this one was forked from: open it in the "
                "child alone, or another folder"
            )
            end_without_last_rites()
        for connection in self._connections.values():
            connection.forked()
        leave_alone(
            (self.router, self._loop, self._queue, self._connections, self._embedded, self._connecting, self._timer)
        )
        self._begin()
        for follower in [each() for each in self._keyspace_followers.valuerefs()]:
            if follower is not None:
                follower.routed = None

    def follow_keyspace(self, follower: KeyspaceFollower) -> None:
        """Have `follower.routed` set to None wherever the driver begins anew."""
        self._keyspace_followers[id(follower)] = follower

    # -- calls --------------------------------------------------------------------------------------------------------

    def open_call(self) -> Waiter:
        """Take a place for a call of an admitted caller, who gives it to the router next; return the waiter for it."""
        if not self._flushing:
            self._flush_soon()
        self._open = count = self._open + 1
        if count >= self._options.max_in_flight:
            self.busy = True
        return self._create_future()

    def forget(self, call: Call) -> None:
        """The caller left (its task was cancelled): free its place; unsent, the call goes nowhere."""
        if call.waiter is not None:
            call.waiter = None
            self._release(1)

    def families(self) -> list[Family]:
        """Return what was counted, and what is open. For any thread."""
        routes = self.router.routes
        version = 0 if routes is None else routes.map.version
        limit = self._options.max_in_flight
        return [
            *self.router.counters.families(),
            gauge("shoal_client_calls_open", "Calls under way", self._open),
            gauge("shoal_client_calls_limit", "How many may be, before further ones wait", limit),
            gauge("shoal_client_calls_waiting", "Calls that wait until they may begin", len(self._queue)),
            gauge("shoal_client_connections", "Connections there are, or are being made", len(self._connections)),
            gauge("shoal_client_map_version", "Of the shard map that the client routes by", version),
        ]

    @property
    def timeout(self) -> float:
        """Seconds that a call may take which names no timeout."""
        return self._timeout

    def deadline(self, timeout: float | None) -> float:
        """Return the deadline of a call that begins now, on the event loop's clock."""
        now = self._now if self._flushing else self._time()
        return now + (self._timeout if timeout is None else timeout)

    def late(self, deadline: float, calls: int) -> ShoalError | None:
        """Return the error of so many calls that are still to be sent, if their deadline has passed."""
        if self._running_loop().time() < deadline:
            return None
        error = DeadlineExceeded(
            f"{calls} calls were still to be sent at the deadline, so they were not sent, and not done: send less at once, or "
            "give it more time"
        )
        self.router.counters.failed(error.code, calls)
        return error

    async def admit(self, deadline: float) -> None:
        """Wait until the caller may submit one call, which it has to do before it awaits anything else.

        Raises:
            Closed: the client is closed.
            Unavailable: no node was found before the deadline.
            DeadlineExceeded: too many calls were open until the deadline.
        """
        loop = self._running_loop()
        if self._closed:
            raise Closed(self._closed)
        if self.router.routes is None:
            self._flush_soon()
        elif not self._queue and self._open + self._granted < self._options.max_in_flight:
            return
        granted: asyncio.Future[None] = loop.create_future()
        self._queue.append((deadline, granted))
        self.busy = True
        self._queue_due = min(self._queue_due, deadline)
        self._arm(deadline)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self._granted -= 1
                self._grant()
            raise
        self._granted -= 1
        self._update_busy()

    def abandoned(self) -> None:
        """Nobody can make calls any more, and nobody has closed it: warn, and close it where its event loop still runs.

        For finalizers: it waits for nothing, in whatever thread it is.
        """
        loop = self._loop
        if self._closed or loop is None:
            return
        warnings.warn(
            "unclosed shoal.AsyncClient: close it, or use it by `async with`",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )
        try:
            loop.call_soon_threadsafe(self._close_soon, loop)
        except RuntimeError:
            return  # the loop is closed, and the connections with it

    def _close_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        self._closing = loop.create_task(self.close())

    async def close(self) -> None:
        """End every open call with `Closed`, and every connection. Closing twice does nothing more."""
        if self._closed:
            return
        self._closed = CLOSED
        self.busy = True
        if self._timer is not None:
            self._timer.cancel()
        self.router.close()
        self._deliver()
        while self._queue:
            _, granted = self._queue.popleft()
            if not granted.done():
                granted.set_exception(Closed("the client was closed before the call was sent"))
        for connection in list(self._connections.values()):
            connection.end("the client was closed")
        for task in self._connecting:
            task.cancel()
        if self._embedded is not None:
            await self._embedded.close()
        await asyncio.gather(*self._connecting, return_exceptions=True)

    # -- admission ----------------------------------------------------------------------------------------------------

    def _release(self, count: int) -> None:
        self._open -= count
        if self.busy:
            self._grant()

    def _grant(self) -> None:
        """Give free places to those who queue, the first first."""
        queue = self._queue
        if self.router.routes is not None:
            while queue and self._open + self._granted < self._options.max_in_flight:
                _, granted = queue.popleft()
                if not granted.done():
                    granted.set_result(None)
                    self._granted += 1
        self._update_busy()

    def _update_busy(self) -> None:
        self.busy = (
            bool(self._closed)
            or self.router.routes is None
            or bool(self._queue)
            or self._open + self._granted >= self._options.max_in_flight
        )

    def _look_after_queue(self, now: float) -> None:
        """Turn away those in the queue whose deadline passed, and have a turn at the next deadline.

        To look at all of them takes the longer the more there are, so that is then done the more seldom.
        """
        if self._queue_due <= now:
            for deadline, granted in self._queue:
                if deadline <= now and not granted.done():
                    error = self._not_admitted()
                    self.router.counters.failed(error.code)
                    granted.set_exception(error)
            self._queue = deque(entry for entry in self._queue if not entry[1].done())
            due = min((deadline for deadline, _ in self._queue), default=NEVER)
            self._queue_due = max(due, now + len(self._queue) * QUEUED_LOOK_SECONDS)
            self._update_busy()
        self._arm(self._queue_due)

    def _not_admitted(self) -> ShoalError:
        if self.router.routes is None:
            return self.router.network.discovery_error()
        return DeadlineExceeded(
            f"{self._open} calls of this client were open until the deadline of one more, which was not sent: "
            f"the bound is max_in_flight={self._options.max_in_flight}"
        )

    # -- the turn -----------------------------------------------------------------------------------------------------

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            self._create_future = loop.create_future if self._tracer is None else self._tracer.waiters(loop)
        elif self._loop is not loop:
            raise RuntimeError("a shoal.AsyncClient belongs to the event loop it was first used in; make one per loop")
        return loop

    def _flush_soon(self) -> None:
        """Have `_flush` called once the callbacks that are ready now have run."""
        loop = self._loop
        if loop is not None and not self._flushing:
            self._flushing = True
            self._now = loop.time()
            loop.call_soon(self._flush)

    def _flush(self) -> None:
        loop = self._loop
        self._flushing = False
        if self._closed or loop is None:
            return
        now = loop.time()
        if now >= self.router.next_check:
            self._look_for_progress(now)
        if self._queue and self.router.routes is None:
            self._arm(self.router.network.discover(now))
        turn = self.router.turn(now)
        if self.router.notes:
            self._log_attempts()
        self._deliver()
        for link, requests in turn.frames:
            self._connections[link.address].send(requests, link.max_frame_bytes)
        for address in turn.connects:
            self._connect(loop, address)
        for address, reason, refusal, overload in turn.disconnects:
            connection = self._connections.get(address)
            if connection is not None:
                connection.end(reason, refusal, overload)
        self._arm(turn.wake_at)
        if self._queue:
            self._look_after_queue(now)

    def _log_attempts(self) -> None:
        notes = self.router.notes
        while notes:
            attempt = notes.popleft()
            log.debug(
                "%s did not serve a request of shard %d: %s%s",
                attempt.link,
                attempt.shard,
                attempt.code,
                f"; it names {attempt.leader} as the leader" if attempt.leader else "",
            )

    def _look_for_progress(self, now: float) -> None:
        """Before the router looks for nodes that hang: tell it of those that have been taking what was sent."""
        for address, connection in self._connections.items():
            if connection.progressed():
                self.router.link_alive(address, now)

    def _arm(self, at: float) -> None:
        """Have a turn at `at`, unless one is due before; a timer that is too early does no harm."""
        if at < self._timer_at and self._loop is not None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = NEVER
        self._flush_soon()

    def _deliver(self) -> None:
        """Tell the callers of calls that are over."""
        outcomes = self.router.take_outcomes()
        if outcomes is None:
            return
        over = len(outcomes.failed)
        counters = self.router.counters
        for calls, result, ranges in outcomes.written:
            counters.calls_written += len(calls)
            for call in calls:
                waiter = call.waiter
                if waiter is not None:
                    call.waiter = None
                    over += 1
                    if call.session_vector is not None:
                        call.session_vector.note(ranges, result.seq)
                    if not waiter.done():
                        waiter.set_result(result)
        for gets, rows, ranges in outcomes.read:
            counters.calls_read += len(gets)
            for get, value, seq, expiry in zip(gets, rows.values, rows.seqs, rows.expiries or repeat(0), strict=False):
                waiter = get.waiter
                if waiter is not None:
                    get.waiter = None
                    over += 1
                    if get.session_vector is not None:
                        get.session_vector.note(ranges, rows.seq)
                    if not waiter.done():
                        if get.whole and value is not None:
                            expires_at = expiry / 1000 if expiry else None
                            waiter.set_result(Entry(value, seq, expires_at, rows.staleness_ms / 1000, rows.served_by))
                        else:
                            waiter.set_result(value)
        for scan, page, ranges in outcomes.scanned:
            counters.calls_scanned += 1
            waiter = scan.waiter
            if waiter is not None:
                scan.waiter = None
                over += 1
                if scan.session_vector is not None:
                    scan.session_vector.note(ranges, page.seq)
                if not waiter.done():
                    waiter.set_result(page)
        for waiter, error in outcomes.failed:
            counters.failed(error.code)
            if not waiter.done():
                waiter.set_exception(error)
        self._release(over)

    # -- connections --------------------------------------------------------------------------------------------------

    def _connect(self, loop: asyncio.AbstractEventLoop, address: str) -> None:
        connection = self._embedded or Connection(self, address, self._options.priority or Priority.INTERACTIVE)
        self._connections[address] = connection
        task = loop.create_task(connection.connect(self._tls))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def connection_up(self, connection: AnyConnection, welcome: Welcome) -> None:
        self.router.counters.connections_made += 1
        log.debug("connected to %s of cluster %s at %s", welcome.node, welcome.cluster, connection.address)
        self.router.link_up(connection.address, welcome, self._time())
        self._grant()
        self._flush_soon()

    def connection_down(
        self, connection: AnyConnection, reason: str, refusal: ErrorCode | None, overload: Overload
    ) -> None:
        if self._connections.get(connection.address) is connection:
            del self._connections[connection.address]
        if self._closed:
            return
        self.router.counters.connections_lost += 1
        log.info("no connection to %s: %s", connection.address, reason)
        self.router.link_down(connection.address, reason, refusal, self._time(), overload)
        if self.router.routes is None and self.router.network.discovery_is_hopeless():
            while self._queue:
                _, granted = self._queue.popleft()
                if not granted.done():
                    granted.set_exception(self._not_admitted())
        self._deliver()
        self._flush_soon()

    def turn_away(self, error: ShoalError) -> None:
        """Tell those who wait for the embedded database that it cannot be opened; the next call tries anew."""
        while self._queue:
            _, granted = self._queue.popleft()
            if not granted.done():
                granted.set_exception(type(error)(str(error)))

    def connection_alive(self, connection: Connection) -> None:
        self.router.link_alive(connection.address, self._time())

    def connection_paused(self, connection: Connection) -> None:
        self.router.link_paused(connection.address)

    def connection_resumed(self, connection: Connection) -> None:
        self.router.link_resumed(connection.address)
        self._flush_soon()

    def answered(self, connection: AnyConnection, answers: list[Answer]) -> None:
        # The callers come first: what they submit on waking then leaves with the flush that is scheduled behind them.
        self.router.receive(connection.address, answers, self._time())
        self._deliver()
        self._flush_soon()

    def _time(self) -> float:
        return self._running_loop().time()
