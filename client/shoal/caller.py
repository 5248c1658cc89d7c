"""Making calls for one client object: on its keyspace, at its level of consistency, in its session.

What `AsyncClient` keeps from its users, and its pipelines, scans, transactions and deletions of ranges need. One driver
makes the calls of all the client's sessions and keyspaces; each of those has a caller.
"""

# ruff: noqa: ASYNC109 - the timeout is the whole call's, retries included; it ends with an error that says what is known
from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Sequence
from typing import cast

from shoal import sessions
from shoal.arguments import KEYSPACE_STALENESS, to_bytes, to_max_staleness, to_max_staleness_ms, to_timeout
from shoal.errors import ShoalError
from shoal.key_sets import microshards_of
from shoal.options import check_consistency
from shoal.protocol.messages import Atomic, DeleteRange
from shoal.results import Consistency, Duration
from shoal.routing.calls import STRONG_READ, ReadCall, ScanCall, WriteCall
from shoal.sessions import SessionVector
from shoal.shardmap import Ranges, ShardPart
from shoal.steps import FastWrite, Fetch, Step, check_step
from shoal.transport.driver import Call, ClientKeyspace, Driver, Waiter


class Lease:
    """Held by every caller of a driver: with the last of them goes whoever could have closed it."""

    __slots__ = ("_driver",)

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __del__(self) -> None:
        self._driver.abandoned()


class Caller:
    """See the module's first lines.

    `routed` is the keyspace as it is routed, None before the first call; `session_vector` what the session has seen, None
    where there is no session. `default_staleness_ms` is of reads that name no level, as `Fetch` has it.
    """

    def __init__(
        self,
        driver: Driver,
        keyspace: str,
        consistency: Consistency,
        max_staleness: Duration | None,
        session_vector: SessionVector | None = None,
        lease: Lease | None = None,
    ) -> None:
        """
        Args:
            keyspace: its name.
            lease: of the callers that share the driver; None: there are no others.
            consistency: of reads that name none.
            max_staleness: of weak reads that name none; None: the keyspace's.

        Raises:
            InvalidArgument: there is no such consistency, or the staleness is not positive.
        """
        self.driver = driver
        self._lease = lease or Lease(driver)
        driver.follow_keyspace(self)
        self.keyspace = keyspace
        self.routed: ClientKeyspace | None = None
        self.session_vector = session_vector
        self._consistency = check_consistency(consistency)
        self._max_staleness = None if max_staleness is None else to_max_staleness(max_staleness)
        self.default_staleness_ms = self.max_staleness_ms(None, None)
        self._cluster = ""

    def __str__(self) -> str:
        """Return where it calls, and as what, in words: no settings of its URL, which may be secret."""
        session = f", session, {self._consistency} reads" if self.session_vector is not None else ""
        return f"on keyspace {self.keyspace!r} of {self.driver}{session}"

    def on_keyspace(self, keyspace: str) -> Caller:
        """Return a caller on another keyspace; of a session, with a new one of that keyspace."""
        session_vector = None if self.session_vector is None else SessionVector()
        return Caller(self.driver, keyspace, self._consistency, self._max_staleness, session_vector, self._lease)

    def in_session(self, consistency: Consistency) -> Caller:
        """Return a caller in a new session of the same keyspace.

        Raises:
            InvalidArgument: there is no such consistency.
        """
        return Caller(self.driver, self.keyspace, consistency, self._max_staleness, SessionVector(), self._lease)

    # -- the session --------------------------------------------------------------------------------------------------

    def token(self) -> str:
        """Return the session's token.

        Raises:
            InvalidArgument: there is no session.
        """
        cluster = self.driver.router.network.cluster or self._cluster
        return sessions.to_token(self.session_vector, cluster, self.keyspace)

    def merge(self, token: str) -> None:
        """Let the session see what another has written and read.

        Raises:
            InvalidArgument: the token is none, or of another cluster or keyspace; or there is no session.
        """
        known = self.driver.router.network.cluster or self._cluster
        self._cluster = sessions.merge_token(self.session_vector, token, known, self.keyspace) or self._cluster

    # -- what calls are made of ---------------------------------------------------------------------------------------

    def fetch(
        self, key: bytes | str, whole: bool, consistency: Consistency | None, max_staleness: Duration | None
    ) -> Fetch:
        """Return the step that reads `key`; `whole`: its entry, not only its value.

        Raises:
            InvalidArgument: an argument is wrong.
        """
        return Fetch(to_bytes("key", key), whole, self.max_staleness_ms(consistency, max_staleness))

    def max_staleness_ms(self, consistency: Consistency | None, max_staleness: Duration | None) -> int:
        """Return the bound on a read's staleness, as `Fetch` has it; None: the caller's.

        Raises:
            InvalidArgument: an argument is wrong.
        """
        level = self._consistency if consistency is None else consistency
        return to_max_staleness_ms(level, max_staleness, self._max_staleness)

    def bound(self, routed: ClientKeyspace, max_staleness_ms: int) -> int:
        """Return the bound on staleness as calls carry it."""
        return routed.keyspace.max_staleness_ms if max_staleness_ms == KEYSPACE_STALENESS else max_staleness_ms

    def deadline(self, timeout: Duration | None) -> float:
        """Return the deadline of a call that begins now, on the event loop's clock.

        Args:
            timeout: None: the client's.

        Raises:
            InvalidArgument: it is not positive.
        """
        return self.driver.deadline(None if timeout is None else to_timeout(timeout))

    def parts_of(self, routed: ClientKeyspace, ranges: Ranges) -> list[ShardPart]:
        """Return which shards have these microshards, and which of them each has, by the present map."""
        return self.driver.router.parts_of(routed, ranges)

    # -- calls --------------------------------------------------------------------------------------------------------

    async def admit(self, deadline: float) -> ClientKeyspace:
        """Wait until a call may be submitted, which has to be done before anything else is awaited; return the keyspace.

        Raises:
            KeyspaceNotFound: there is none of that name.
            InvalidArgument: the session is of another cluster.
            ShoalError: as `Driver.admit`.
        """
        driver = self.driver
        if driver.busy:
            await driver.admit(deadline)
        routed = self.routed
        if routed is None:
            routed = driver.router.routed(self.keyspace)
            assert routed is not None, "who is admitted has a shard map"
            sessions.check_cluster(self._cluster, driver.router.network.cluster)
            self.routed = routed
        return routed

    async def run(self, step: Step, timeout: Duration | None) -> object:
        """Make one call; return its result."""
        return await self.run_until(step, self.deadline(timeout))

    async def run_until(self, step: Step, deadline: float) -> object:
        """Make one call; return its result."""
        driver = self.driver
        size = check_step(step, driver.router.limits)
        routed = self.routed
        if driver.busy or routed is None:
            routed = await self.admit(deadline)
        return await self._finish(*self._submit(routed, step, size, deadline))

    async def attempt(self, step: Step, timeout: Duration | None) -> object:
        """Make one call; return its result, or the error that it ended with."""
        try:
            return await self.run(step, timeout)
        except ShoalError as error:
            return error

    async def run_page(self, routed: ClientKeyspace, call: ScanCall[Waiter]) -> object:
        """Make the call of a scan's page, of an admitted caller."""
        waiter = call.waiter = self.driver.open_call()
        self.driver.router.submit(routed, call)
        return await self._finish(call, waiter)

    async def run_all(self, steps: Sequence[Step], deadline: float) -> list[object]:
        """Make many calls at once, as far as the bound on open calls allows; return results and errors in order."""
        driver = self.driver
        late = driver.late(deadline, len(steps))
        if late is not None:
            return [late] * len(steps)
        sizes = [check_step(step, driver.router.limits) for step in steps]
        calls: list[tuple[Call, Waiter]] = []
        results: list[object] = []
        try:
            for step, size in zip(steps, sizes, strict=True):
                routed = self.routed
                if driver.busy or routed is None:
                    try:
                        routed = await self.admit(deadline)
                    except ShoalError as error:
                        results = [error] * (len(steps) - len(calls))
                        break
                call, waiter = self._submit(routed, step, size, deadline)
                if not isinstance(call, ScanCall):
                    call.together = True
                calls.append((call, waiter))
            not_sent, results = results, []
            for _, waiter in calls:
                try:
                    results.append(await waiter)
                except ShoalError as error:
                    results.append(error)
        except CancelledError:
            for call, waiter in calls:
                driver.forget(call)
                if not waiter.cancel() and not waiter.cancelled():
                    waiter.exception()  # or asyncio would report that nobody asked for it
            raise
        return results + not_sent

    def submit_fetch(self, routed: ClientKeyspace, step: Fetch, size: int, deadline: float) -> ReadCall[Waiter]:
        """Submit a read of an admitted caller."""
        driver = self.driver
        waiter = driver.open_call()
        call: ReadCall[Waiter]
        if step.max_staleness_ms == STRONG_READ:
            call = ReadCall(waiter, deadline, size, step.key, step.whole, self.session_vector)
            driver.router.read(routed, call)
        else:
            bound = self.bound(routed, step.max_staleness_ms)
            call = ReadCall(waiter, deadline, size, step.key, step.whole, self.session_vector, bound)
            driver.router.weak_read(routed, call)
        return call

    def _submit(self, routed: ClientKeyspace, step: Step, size: int, deadline: float) -> tuple[Call, Waiter]:
        if isinstance(step, Fetch):
            fetch = self.submit_fetch(routed, step, size, deadline)
            return fetch, cast(Waiter, fetch.waiter)
        driver, session_vector = self.driver, self.session_vector
        waiter = driver.open_call()
        call: WriteCall[Waiter]
        if isinstance(step, FastWrite):
            call = WriteCall(waiter, deadline, size, step.operation, session_vector, True)
        elif isinstance(step, Atomic):
            call = WriteCall(waiter, deadline, size, step, session_vector, False, microshards_of(step, routed.keyspace))
        else:
            call = WriteCall(waiter, deadline, size, step, session_vector)
            if not isinstance(step, DeleteRange):
                driver.router.write(routed, call)
                return call, waiter
        driver.router.submit(routed, call)
        return call, waiter

    async def _finish(self, call: Call, waiter: Waiter) -> object:
        try:
            return await waiter
        except CancelledError:
            self.driver.forget(call)
            raise
