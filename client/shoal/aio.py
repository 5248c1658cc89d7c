"""The asyncio client. The blocking one is generated from this file by tools/generate_blocking.py."""

# ruff: noqa: ASYNC109 - the timeout is the whole call's, retries included; it ends with an error that says what is known
from __future__ import annotations

from asyncio import CancelledError, sleep
from collections.abc import Awaitable, Callable, Iterable, Mapping
from math import inf
from ssl import SSLContext
from time import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from msgspec import structs

from shoal.arguments import (
    many_items,
    many_keys,
    to_bytes,
    to_timeout,
    to_ttl_ms,
)
from shoal.caller import Caller
from shoal.errors import InvalidArgument, TransactionConflict
from shoal.metrics import Family
from shoal.operations import delete as delete_of
from shoal.operations import increment as increment_of
from shoal.operations import put as put_of
from shoal.operations import touch as touch_of
from shoal.options import check_priority, parse_url
from shoal.pipelines import AsyncPipeline
from shoal.priorities import PriorityName
from shoal.protocol.messages import DEFAULT_TTL, AtomicOperation, Condition, Put
from shoal.range_calls import AsyncRangeCalls
from shoal.results import Consistency, Durability, Duration, Entry, WriteResult
from shoal.routing.calls import WriteCall
from shoal.steps import (
    Fetch,
    all_or_raise,
    atomic,
    check_step,
    exchange,
    first_result,
    held,
    is_there,
    to_write,
    was_there,
)
from shoal.transactions import AsyncTransaction, Attempts
from shoal.transport.driver import Driver, Waiter

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from shoal.tracing import Tracing

T = TypeVar("T")


class AsyncClient(AsyncRangeCalls):
    """A client of one keyspace of a Shoal cluster, for asyncio. Safe for many tasks of one event loop.

        async with shoal.AsyncClient("shoal://127.0.0.1:7400/default") as db:
            await db.put("greeting", "hello")
            assert await db.get("greeting") == b"hello"

    Keys and values are bytes, or str, which is encoded as UTF-8; what comes back is bytes. Keys have 1 to 4,096 bytes,
    values up to 1 MiB, unless the cluster says otherwise; an empty value is a value.

    Times are numbers of seconds, or `timedelta`s. Every call takes `timeout`: the most it may take in all, redirects and
    retries included (default: the client's). Every call may raise:
        InvalidArgument, TooLarge: the call is wrong, and was not sent.
        Unavailable: surely not done: nobody who could serve it was reached in time.
        Overloaded: surely not done: it was turned away until its deadline, or by this client itself, which asks a node that
            turns much away for less; `reason` says what there is too much of.
        DeadlineExceeded: no answer in time; `maybe_applied` says whether a write may have been done.
        OutcomeUnknown: a write may have been done, and nobody can tell any more.
        KeyspaceNotFound, ProtocolMismatch, Unauthenticated, PermissionDenied: the cluster refused.
        Closed: the client is, or was closed meanwhile; `maybe_applied` as above.
    A cancelled call frees its place; a write that was already sent may be done all the same.

    Reads take `consistency` (default: the client's, which is "strong" unless its URL or session says otherwise):
        "strong": linearizable: the newest value, from the shard's leader.
        "read_your_writes": any replica that has what this session (see `session`) has written and read.
        "eventual": any replica that misses nothing acknowledged `max_staleness` seconds ago or longer.
    and `max_staleness` of the two weak ones (default: the client's, else the keyspace's for "eventual" and
    none for "read_your_writes"). Where no replica serves a weak read, the leader does; where that is not reached
    either, a read with a bound on staleness may raise:
        TooStale: the replicas that were reached lack too much.
    Writes take `durability`: "quorum" (default), on disk at a majority of the shard's voters when the call returns; or
    "fast", queued at the leader, and lost if that fails before a majority has it.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: Duration | None = None,
        ssl: SSLContext | None = None,
        tracing: bool | TracerProvider = False,
        priority: PriorityName | None = None,
    ) -> None:
        """Nothing is connected before the first call, or `async with`.

        Args:
            url: `shoal://host:port,host:port/keyspace?timeout=2s&max_in_flight=4096`; `shoals://` for TLS. Further
                settings: `consistency=eventual`, `max_staleness=2s`, `region=eu` (of the nodes to prefer for weak reads),
                `priority=batch`.
            timeout: default of the calls' timeouts; before that of the URL, before 5.
            ssl: the TLS context of a `shoals://` URL, in place of the files that it names (`cafile`, `certfile`,
                `keyfile`); without either, the system's authorities are trusted.
            tracing: a `TracerProvider` of OpenTelemetry, or True for the process's own: every call becomes a span, which
                nodes that trace go on with. Needs `shoal[tracing]`.
            priority: what gives way last where a node is too busy for all: "interactive" (somebody waits for the answer),
                before "batch" (it may take minutes more), before "background" (nobody waits). Before that of the URL,
                before "interactive".

        Raises:
            InvalidArgument: the URL, a file that it names, the timeout or the priority is wrong, or OpenTelemetry is not
                installed.
        """
        options = parse_url(url)
        if ssl is not None and not options.tls:
            raise InvalidArgument(f"a TLS context is for a shoals:// URL, not for {url!r}: nothing would be encrypted")
        if timeout is not None:
            options = structs.replace(options, timeout=to_timeout(timeout))
        if priority is not None:
            options = structs.replace(options, priority=check_priority(priority))
        self._tracing = _load_tracing(tracing)
        driver = Driver(options, ssl or options.tls_context(), self._tracing)
        self._caller = Caller(driver, options.keyspace, options.consistency, options.max_staleness)
        if self._tracing is not None:
            self._tracing.follow(self, self._caller)

    async def __aenter__(self) -> AsyncClient:
        """Find the cluster and the keyspace."""
        await self._caller.admit(self._caller.deadline(None))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<shoal.AsyncClient {self._caller}>"

    async def aclose(self) -> None:
        """Do as `close` does: the name that `contextlib.aclosing` and others look for."""
        await self.close()

    async def close(self) -> None:
        """Close the connections, also those of `keyspace(...)` clients; open calls end with `Closed`."""
        await self._caller.driver.close()

    def keyspace(self, name: str) -> AsyncClient:
        """Return this client on another keyspace. Both share everything else, and are closed together.

        On a session it returns a new session of that keyspace.
        """
        return self._twin(self._caller.on_keyspace(name))

    def collect(self) -> list[Family]:
        """Return the client's metrics, its sessions' and other keyspaces' included, as `prometheus_client` takes them.

        With that library, `REGISTRY.register(client)` is all there is to do. May be called in any thread.
        """
        return self._caller.driver.families()

    # -- sessions -----------------------------------------------------------------------------------------------------

    def session(self, token: str | None = None, *, consistency: Consistency = "read_your_writes") -> AsyncClient:
        """Return this client with a memory: its weak reads see what it has written, and never less than it has read.

        Both share everything else, and are closed together.

        Args:
            token: of another session, whose writes and reads this one is to see as well.
            consistency: of its reads that name none.

        Raises:
            InvalidArgument: the token is none, or of another cluster or keyspace.
        """
        other = self._twin(self._caller.in_session(consistency))
        if token is not None:
            other.merge(token)
        return other

    def token(self) -> str:
        """Return what the session has written and read, as a string to go on from: `session(token)`, in any process.

        It grows with the number of shards touched, to a few kilobytes at most.

        Raises:
            InvalidArgument: this client is no session.
        """
        return self._caller.token()

    def merge(self, token: str) -> None:
        """Let the session see what another has written and read.

        Raises:
            InvalidArgument: the token is none, or of another cluster or keyspace; or this client is no session.
        """
        self._caller.merge(token)

    # -- one key ------------------------------------------------------------------------------------------------------

    async def put(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        ttl: Duration | None = None,
        durability: Durability = "quorum",
        timeout: Duration | None = None,
    ) -> WriteResult:
        """Set `key` to `value`.

        Args:
            ttl: seconds until it expires; 0: never; None: the keyspace's default.
            durability: "quorum" or "fast", as the class says.
        """
        # Written out, as is `get`: through `Caller.run` it would cost a ninth more.
        operation = Put(to_bytes("key", key), to_bytes("value", value), DEFAULT_TTL if ttl is None else to_ttl_ms(ttl))
        caller = self._caller
        if durability != "quorum":
            return cast(WriteResult, await caller.run(to_write(operation, durability), timeout))
        driver = caller.driver
        size = check_step(operation, driver.router.limits)
        deadline = caller.deadline(timeout)
        routed = caller.routed
        if driver.busy or routed is None:
            routed = await caller.admit(deadline)
        waiter: Any = driver.open_call()
        call: WriteCall[Waiter] = WriteCall(waiter, deadline, size, operation, caller.session_vector)
        driver.router.write(routed, call)
        try:
            result: WriteResult = await waiter
            return result
        except CancelledError:
            driver.forget(call)
            raise

    async def get(
        self,
        key: bytes | str,
        *,
        consistency: Consistency | None = None,
        max_staleness: Duration | None = None,
        timeout: Duration | None = None,
    ) -> bytes | None:
        """Return the value of `key`, or None where there is none."""
        caller = self._caller
        if consistency is None and max_staleness is None:
            step = Fetch(to_bytes("key", key), False, caller.default_staleness_ms)
        else:
            step = caller.fetch(key, False, consistency, max_staleness)
        driver = caller.driver
        size = check_step(step, driver.router.limits)
        deadline = caller.deadline(timeout)
        routed = caller.routed
        if driver.busy or routed is None:
            routed = await caller.admit(deadline)
        call = caller.submit_fetch(routed, step, size, deadline)
        waiter: Any = call.waiter
        try:
            value: bytes | None = await waiter
            return value
        except CancelledError:
            driver.forget(call)
            raise

    async def get_entry(
        self,
        key: bytes | str,
        *,
        consistency: Consistency | None = None,
        max_staleness: Duration | None = None,
        timeout: Duration | None = None,
    ) -> Entry | None:
        """Return the value of `key` with what is known of it (see `Entry`), or None where there is none."""
        return cast(
            "Entry | None", await self._caller.run(self._caller.fetch(key, True, consistency, max_staleness), timeout)
        )

    async def exists(
        self,
        key: bytes | str,
        *,
        consistency: Consistency | None = None,
        max_staleness: Duration | None = None,
        timeout: Duration | None = None,
    ) -> bool:
        """Say whether `key` has a value."""
        return is_there(await self._caller.run(self._caller.fetch(key, False, consistency, max_staleness), timeout))

    async def delete(
        self, key: bytes | str, *, durability: Durability = "quorum", timeout: Duration | None = None
    ) -> WriteResult:
        """Remove `key`; removing what is not there is no error."""
        return cast(WriteResult, await self._caller.run(to_write(delete_of(key), durability), timeout))

    async def ttl(self, key: bytes | str, *, timeout: Duration | None = None) -> float | None:
        """Return the seconds until `key` expires; infinity where it never does, None where there is no such key.

        They are counted by this process's clock, and as far off as that is from the cluster's.
        """
        entry = await self.get_entry(key, timeout=timeout)
        if entry is None:
            return None
        return inf if entry.expires_at is None else max(0.0, entry.expires_at - time())

    async def touch(self, key: bytes | str, ttl: Duration | None = None, *, timeout: Duration | None = None) -> bool:
        """Let `key` expire `ttl` seconds from now (0: never; None: after the keyspace's default), if it is there.

        Returns:
            Whether it was.
        """
        return was_there(await self._caller.run(touch_of(key, ttl), timeout))

    async def increment(
        self, key: bytes | str, by: int = 1, *, ttl: Duration | None = None, timeout: Duration | None = None
    ) -> int:
        """Add `by` to the decimal integer stored under `key` (absent: 0), and return the sum.

        Args:
            ttl: of a counter that begins with this call: seconds until it expires; 0: never; None: the keyspace's default.
                One that is there keeps its expiry.

        Raises:
            InvalidArgument: the value is no decimal integer of 64 bits, or the sum would not be.
        """
        return first_result(await self._caller.run(increment_of(key, by, ttl), timeout))

    async def put_if_absent(
        self, key: bytes | str, value: bytes | str, *, ttl: Duration | None = None, timeout: Duration | None = None
    ) -> bool:
        """Set `key` to `value` (`ttl` as in `put`) unless it has a value; return whether it was set."""
        return held(await self._caller.attempt(exchange(key, None, value, ttl), timeout))

    async def compare_and_set(
        self,
        key: bytes | str,
        expected: bytes | str | None,
        value: bytes | str,
        *,
        ttl: Duration | None = None,
        timeout: Duration | None = None,
    ) -> bool:
        """Set `key` to `value` (`ttl` as in `put`) if it has the `expected` value; return whether it was set.

        Args:
            expected: None: that there is no value.
        """
        return held(await self._caller.attempt(exchange(key, expected, value, ttl), timeout))

    async def write(
        self, ops: Iterable[AtomicOperation], *, when: Iterable[Condition] = (), timeout: Duration | None = None
    ) -> WriteResult:
        """Do all of `ops` in one step, if all of the conditions `when` hold, or nothing.

            await db.write([shoal.put("a/1", "x"), shoal.increment("a/n")], when=[shoal.key_absent("a/1")])

        Args:
            ops: made by `shoal.put`, `shoal.delete`, `shoal.increment` and `shoal.touch`.
            when: made by `shoal.key_present`, `shoal.key_absent`, `shoal.value_equals`, `shoal.value_equals_or_absent`
                and `shoal.seq_equals`.

        Returns:
            The sequence number, with the `results` of the increments and touches in order.

        Raises:
            ConditionFailed: a condition did not hold: `condition` is the first such, `found` and `found_seq` what there is.
            CrossShard: the keys are of several shards; nothing was sent. Keys with a common partition (the text up to
                the keyspace's delimiter) are of one.
            InvalidArgument: there is nothing to do, or an increment met what is no integer.
        """
        return cast(WriteResult, await self._caller.run(atomic(ops, when), timeout))

    # -- many keys ----------------------------------------------------------------------------------------------------

    async def get_many(
        self,
        keys: Iterable[bytes | str],
        *,
        consistency: Consistency | None = None,
        max_staleness: Duration | None = None,
        timeout: Duration | None = None,
    ) -> list[bytes | None]:
        """Return the values of `keys`, in their order, None where there is none; they are not of one instant.

        Raises:
            ShoalError: some keys failed: the error of the first of them, with all of them in `failed_keys`.
        """
        caller = self._caller
        steps = [caller.fetch(key, False, consistency, max_staleness) for key in many_keys(keys)]
        return cast("list[bytes | None]", all_or_raise(steps, await caller.run_all(steps, caller.deadline(timeout))))

    async def put_many(
        self,
        items: Mapping[bytes, bytes | str] | Mapping[str, bytes | str],
        *,
        ttl: Duration | None = None,
        durability: Durability = "quorum",
        timeout: Duration | None = None,
    ) -> list[WriteResult]:
        """Set many keys, one round trip a node, not atomically; return the results in the order of `items`.

        Args:
            ttl: of all of them, as in `put`.

        Raises:
            ShoalError: some keys failed: the error of the first of them, with all of them in `failed_keys`. The other
                keys were set.
        """
        caller = self._caller
        steps = [to_write(put_of(key, value, ttl), durability) for key, value in many_items(items)]
        return cast(list[WriteResult], all_or_raise(steps, await caller.run_all(steps, caller.deadline(timeout))))

    async def delete_many(
        self, keys: Iterable[bytes | str], *, durability: Durability = "quorum", timeout: Duration | None = None
    ) -> list[WriteResult]:
        """Remove many keys, one round trip a node, not atomically; return the results in the order of `keys`.

        Raises:
            ShoalError: some keys failed: the error of the first of them, with all of them in `failed_keys`. The other
                keys were removed.
        """
        caller = self._caller
        steps = [to_write(delete_of(key), durability) for key in many_keys(keys)]
        return cast(list[WriteResult], all_or_raise(steps, await caller.run_all(steps, caller.deadline(timeout))))

    def pipeline(self) -> AsyncPipeline:
        """Return an empty pipeline: queue many calls, send them together, get their results in order."""
        return AsyncPipeline(self._caller)

    # -- transactions -------------------------------------------------------------------------------------------------

    def transaction(self, *, timeout: Duration | None = None) -> AsyncTransaction:
        """Return a transaction, to be used in `async with`: reads and writes of one shard that take effect together.

        Args:
            timeout: seconds for the whole block, commit included; None: no bound on the block, and the client's on each
                of its calls.
        """
        return AsyncTransaction(self._caller, None if timeout is None else to_timeout(timeout))

    async def run(self, fn: Callable[[AsyncTransaction], Awaitable[T]], *, timeout: Duration | None = None) -> T:
        """Call `fn` with a transaction, commit, and return its result; again, as often as others got in between.

        So `fn` should do nothing but read and write in the transaction.

        Args:
            timeout: seconds for all attempts; None: the client's.

        Raises:
            TransactionConflict: others got in between until the deadline.
        """
        attempts = self._attempts(timeout)
        while True:
            try:
                async with self.transaction(timeout=attempts.left()) as tx:
                    return await fn(tx)
            except TransactionConflict as conflict:
                await sleep(attempts.wait(conflict))

    # -- underneath ---------------------------------------------------------------------------------------------------

    def _twin(self, caller: Caller) -> AsyncClient:
        other = AsyncClient.__new__(AsyncClient)
        other._caller = caller
        other._tracing = self._tracing
        if other._tracing is not None:
            other._tracing.follow(other, caller)
        return other

    def _attempts(self, timeout: Duration | None) -> Attempts:
        return Attempts(self._caller.driver.timeout if timeout is None else to_timeout(timeout))


def _load_tracing(given: bool | TracerProvider) -> Tracing | None:
    """Return what makes spans of calls, with OpenTelemetry, which nothing else loads; None where none are asked for."""
    if given is False:
        return None
    try:
        from shoal.tracing import Tracing
    except ImportError as error:
        raise InvalidArgument(f"tracing needs OpenTelemetry ({error}): pip install 'shoal[tracing]'") from error
    if given is not True and not hasattr(given, "get_tracer"):
        raise InvalidArgument(f"tracing is True, False or a TracerProvider of OpenTelemetry, not {given!r:.80}")
    return Tracing(None if given is True else given)
