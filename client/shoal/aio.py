"""The asyncio client. The blocking one is generated from this file by tools/generate_blocking.py."""

# ruff: noqa: ASYNC109 - the timeout is the whole call's, retries included; it ends with an error that says what is known
from __future__ import annotations

from asyncio import CancelledError, sleep
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from ssl import SSLContext
from time import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from msgspec import structs

from shoal import sessions
from shoal.arguments import (
    KEYSPACE_STALENESS,
    check_max_staleness,
    check_timeout,
    many_items,
    many_keys,
    to_bound,
    to_bytes,
    to_max_staleness_ms,
    to_ttl_ms,
)
from shoal.errors import InvalidArgument, ShoalError, TransactionConflict
from shoal.key_sets import microshards_of, prefix_end
from shoal.metrics import Family
from shoal.operations import delete as delete_of
from shoal.operations import increment as increment_of
from shoal.operations import put as put_of
from shoal.operations import touch as touch_of
from shoal.options import check_consistency, parse_url
from shoal.pipelines import AsyncPipeline
from shoal.protocol.messages import DEFAULT_TTL, Atomic, AtomicOperation, Condition, DeleteRange, Put
from shoal.ranges import check_prefix, delete_range
from shoal.results import Consistency, Durability, Entry, WriteResult
from shoal.routing.calls import STRONG_READ, ReadCall, ScanCall, WriteCall
from shoal.scan_plans import check_page_rows, plan, resumed
from shoal.scans import AsyncScan, MergedRows
from shoal.sessions import SessionVector
from shoal.steps import (
    FastWrite,
    Fetch,
    Step,
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
from shoal.transport.driver import Call, Driver, Keyspace, Waiter

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from shoal.tracing import Tracing

T = TypeVar("T")


class AsyncClient:
    """A client of one keyspace of a Shoal cluster, for asyncio. Safe for many tasks of one event loop.

        async with shoal.AsyncClient("shoal://127.0.0.1:7400/default") as db:
            await db.put("greeting", "hello")
            assert await db.get("greeting") == b"hello"

    Keys and values are bytes, or str, which is encoded as UTF-8; what comes back is bytes. Keys have 1 to 4,096 bytes,
    values up to 1 MiB, unless the cluster says otherwise; an empty value is a value.

    Every call takes `timeout`, in seconds: the most it may take in all, redirects and retries included (default: the
    client's). Every call may raise:
        InvalidArgument, TooLarge: the call is wrong, and was not sent.
        Unavailable, Overloaded: surely not done, nobody who could serve it was reached in time, or they turned it away.
        DeadlineExceeded: no answer in time; `maybe_applied` says whether a write may have been done.
        OutcomeUnknown: a write may have been done, and nobody can tell any more.
        KeyspaceNotFound, ProtocolMismatch, Unauthenticated, PermissionDenied: the cluster refused.
        Closed: the client is, or was closed meanwhile; `maybe_applied` as above.
    A cancelled call frees its place; a write that was already sent may be done all the same.

    Reads take `consistency` (default: the client's, which is "strong" unless its URL or session says otherwise):
        "strong": linearizable: the newest value, from the shard's leader.
        "read_your_writes": any replica that has what this session (see `session`) has written and read.
        "eventual": any replica that misses nothing acknowledged `max_staleness` seconds ago or longer.
    and `max_staleness`, in seconds, of the two weak ones (default: the client's, else the keyspace's for "eventual" and
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
        timeout: float | None = None,
        ssl: SSLContext | None = None,
        tracing: bool | TracerProvider = False,
    ) -> None:
        """Nothing is connected before the first call, or `async with`.

        Args:
            url: `shoal://host:port,host:port/keyspace?timeout=2s&max_in_flight=4096`; `shoals://` for TLS. Further
                settings: `consistency=eventual`, `max_staleness=2s`, `region=eu` (of the nodes to prefer for weak reads).
            timeout: default of the calls' timeouts, in seconds; before that of the URL, before 5.
            ssl: the TLS context of a `shoals://` URL, in place of the files that it names (`cafile`, `certfile`,
                `keyfile`); without either, the system's authorities are trusted.
            tracing: a `TracerProvider` of OpenTelemetry, or True for the process's own: every call becomes a span, which
                nodes that trace go on with. Needs `shoal[tracing]`.

        Raises:
            InvalidArgument: the URL, a file that it names or the timeout is wrong, or OpenTelemetry is not installed.
        """
        check_timeout(timeout)
        options = parse_url(url)
        if ssl is not None and not options.tls:
            raise InvalidArgument(f"a TLS context is for a shoals:// URL, not for {url!r}: nothing would be encrypted")
        if timeout is not None:
            options = structs.replace(options, timeout=timeout)
        check_timeout(options.timeout)
        self._tracing = _load_tracing(tracing)
        self._driver = Driver(options, ssl or options.tls_context(), self._tracing)
        self._name = options.keyspace
        self._space: Keyspace | None = None
        self._session_vector: SessionVector | None = None
        self._cluster = ""
        self._set_level(options.consistency, options.max_staleness)
        if self._tracing is not None:
            self._tracing.follow(self)

    async def __aenter__(self) -> AsyncClient:
        """Find the cluster and the keyspace."""
        await self._admit(self._deadline(None))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, also those of `keyspace(...)` clients; open calls end with `Closed`."""
        await self._driver.close()

    def keyspace(self, name: str) -> AsyncClient:
        """Return this client on another keyspace. Both share everything else, and are closed together.

        On a session it returns a new session of that keyspace.
        """
        return self._twin(name, None if self._session_vector is None else SessionVector())

    def collect(self) -> list[Family]:
        """Return the client's metrics, its sessions' and other keyspaces' included, as `prometheus_client` takes them.

        With that library, `REGISTRY.register(client)` is all there is to do. May be called in any thread.
        """
        return self._driver.families()

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
        other = self._twin(self._name, SessionVector())
        other._set_level(consistency, self._max_staleness)
        if token is not None:
            other.merge(token)
        return other

    def token(self) -> str:
        """Return what the session has written and read, as a string to go on from: `session(token)`, in any process.

        It grows with the number of shards touched, to a few kilobytes at most.

        Raises:
            InvalidArgument: this client is no session.
        """
        return sessions.to_token(self._session_vector, self._driver.router.network.cluster or self._cluster, self._name)

    def merge(self, token: str) -> None:
        """Let the session see what another has written and read.

        Raises:
            InvalidArgument: the token is none, or of another cluster or keyspace; or this client is no session.
        """
        known = self._driver.router.network.cluster or self._cluster
        self._cluster = sessions.merge_token(self._session_vector, token, known, self._name) or self._cluster

    # -- one key ------------------------------------------------------------------------------------------------------

    async def put(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        ttl: float | None = None,
        durability: Durability = "quorum",
        timeout: float | None = None,
    ) -> WriteResult:
        """Set `key` to `value`.

        Args:
            ttl: seconds until it expires; 0: never; None: the keyspace's default.
            durability: "quorum" or "fast", as the class says.
        """
        # Written out, as is `get`: through `_run` it would cost a ninth more.
        operation = Put(to_bytes("key", key), to_bytes("value", value), DEFAULT_TTL if ttl is None else to_ttl_ms(ttl))
        if durability != "quorum":
            return cast(WriteResult, await self._run(to_write(operation, durability), timeout))
        driver = self._driver
        size = check_step(operation, driver.router)
        deadline = self._deadline(timeout)
        space = self._space
        if driver.busy or space is None:
            space = await self._admit(deadline)
        call = driver.submit_write(space, operation, size, deadline, self._session_vector)
        waiter: Any = call.waiter
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
        max_staleness: float | None = None,
        timeout: float | None = None,
    ) -> bytes | None:
        """Return the value of `key`, or None where there is none."""
        if consistency is None and max_staleness is None:
            step = Fetch(to_bytes("key", key), False, self._default_staleness_ms)
        else:
            step = self._fetch(key, False, consistency, max_staleness)
        driver = self._driver
        size = check_step(step, driver.router)
        deadline = self._deadline(timeout)
        space = self._space
        if driver.busy or space is None:
            space = await self._admit(deadline)
        call = self._submit_fetch(space, step, size, deadline)
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
        max_staleness: float | None = None,
        timeout: float | None = None,
    ) -> Entry | None:
        """Return the value of `key` with what is known of it (see `Entry`), or None where there is none."""
        return cast("Entry | None", await self._run(self._fetch(key, True, consistency, max_staleness), timeout))

    async def exists(
        self,
        key: bytes | str,
        *,
        consistency: Consistency | None = None,
        max_staleness: float | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Say whether `key` has a value."""
        return is_there(await self._run(self._fetch(key, False, consistency, max_staleness), timeout))

    async def delete(
        self, key: bytes | str, *, durability: Durability = "quorum", timeout: float | None = None
    ) -> WriteResult:
        """Remove `key`; removing what is not there is no error."""
        return cast(WriteResult, await self._run(to_write(delete_of(key), durability), timeout))

    async def ttl(self, key: bytes | str, *, timeout: float | None = None) -> float | None:
        """Return the seconds until `key` expires; None where it never does, or there is no such key.

        They are counted by this process's clock, and as far off as that is from the cluster's.
        """
        entry = await self.get_entry(key, timeout=timeout)
        return None if entry is None or entry.expires_at is None else max(0.0, entry.expires_at - time())

    async def touch(self, key: bytes | str, ttl: float | None = None, *, timeout: float | None = None) -> bool:
        """Let `key` expire `ttl` seconds from now (0: never; None: after the keyspace's default), if it is there.

        Returns:
            Whether it was.
        """
        return was_there(await self._run(touch_of(key, ttl), timeout))

    async def increment(self, key: bytes | str, by: int = 1, *, timeout: float | None = None) -> int:
        """Add `by` to the decimal integer stored under `key` (absent: 0), keep its expiry, and return the sum.

        Raises:
            InvalidArgument: the value is no decimal integer of 64 bits, or the sum would not be.
        """
        return first_result(await self._run(increment_of(key, by), timeout))

    async def put_if_absent(
        self, key: bytes | str, value: bytes | str, *, ttl: float | None = None, timeout: float | None = None
    ) -> bool:
        """Set `key` to `value` (`ttl` as in `put`) unless it has a value; return whether it was set."""
        return held(await self._try(exchange(key, None, value, ttl), timeout))

    async def compare_and_set(
        self,
        key: bytes | str,
        expected: bytes | str | None,
        value: bytes | str,
        *,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Set `key` to `value` (`ttl` as in `put`) if it has the `expected` value; return whether it was set.

        Args:
            expected: None: that there is no value.
        """
        return held(await self._try(exchange(key, expected, value, ttl), timeout))

    async def write(
        self, ops: Iterable[AtomicOperation], *, when: Iterable[Condition] = (), timeout: float | None = None
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
        return cast(WriteResult, await self._run(atomic(ops, when), timeout))

    # -- many keys ----------------------------------------------------------------------------------------------------

    async def get_many(
        self,
        keys: Iterable[bytes | str],
        *,
        consistency: Consistency | None = None,
        max_staleness: float | None = None,
        timeout: float | None = None,
    ) -> list[bytes | None]:
        """Return the values of `keys`, in their order, None where there is none; they are not of one instant.

        Raises:
            ShoalError: some keys failed: the error of the first of them, with all of them in `failed_keys`.
        """
        steps = [self._fetch(key, False, consistency, max_staleness) for key in many_keys(keys)]
        return cast("list[bytes | None]", all_or_raise(steps, await self._run_all(steps, self._deadline(timeout))))

    async def put_many(
        self,
        items: Mapping[bytes, bytes | str] | Mapping[str, bytes | str],
        *,
        ttl: float | None = None,
        durability: Durability = "quorum",
        timeout: float | None = None,
    ) -> list[WriteResult]:
        """Set many keys, one round trip a node, not atomically; return the results in the order of `items`.

        Args:
            ttl: of all of them, as in `put`.

        Raises:
            ShoalError: some keys failed: the error of the first of them, with all of them in `failed_keys`. The other
                keys were set.
        """
        steps = [to_write(put_of(key, value, ttl), durability) for key, value in many_items(items)]
        return cast(list[WriteResult], all_or_raise(steps, await self._run_all(steps, self._deadline(timeout))))

    async def delete_many(
        self, keys: Iterable[bytes | str], *, durability: Durability = "quorum", timeout: float | None = None
    ) -> list[WriteResult]:
        """Remove many keys, one round trip a node, not atomically; return the results in the order of `keys`.

        Raises:
            ShoalError: some keys failed: the error of the first of them, with all of them in `failed_keys`. The other
                keys were removed.
        """
        steps = [to_write(delete_of(key), durability) for key in many_keys(keys)]
        return cast(list[WriteResult], all_or_raise(steps, await self._run_all(steps, self._deadline(timeout))))

    @overload
    def scan(
        self,
        prefix: bytes | str = b"",
        *,
        start: bytes | str | None = None,
        end: bytes | str | None = None,
        limit: int | None = None,
        reverse: bool = False,
        keys_only: Literal[False] = False,
        consistency: Consistency | None = None,
        max_staleness: float | None = None,
        page_rows: int = 1000,
        cursor: str | None = None,
        timeout: float | None = None,
    ) -> AsyncScan[tuple[bytes, bytes]]: ...

    @overload
    def scan(
        self,
        prefix: bytes | str = b"",
        *,
        start: bytes | str | None = None,
        end: bytes | str | None = None,
        limit: int | None = None,
        reverse: bool = False,
        keys_only: Literal[True],
        consistency: Consistency | None = None,
        max_staleness: float | None = None,
        page_rows: int = 1000,
        cursor: str | None = None,
        timeout: float | None = None,
    ) -> AsyncScan[bytes]: ...

    @overload
    def scan(
        self,
        prefix: bytes | str = b"",
        *,
        start: bytes | str | None = None,
        end: bytes | str | None = None,
        limit: int | None = None,
        reverse: bool = False,
        keys_only: bool,
        consistency: Consistency | None = None,
        max_staleness: float | None = None,
        page_rows: int = 1000,
        cursor: str | None = None,
        timeout: float | None = None,
    ) -> AsyncScan[Any]: ...

    def scan(
        self,
        prefix: bytes | str = b"",
        *,
        start: bytes | str | None = None,
        end: bytes | str | None = None,
        limit: int | None = None,
        reverse: bool = False,
        keys_only: bool = False,
        consistency: Consistency | None = None,
        max_staleness: float | None = None,
        page_rows: int = 1000,
        cursor: str | None = None,
        timeout: float | None = None,
    ) -> AsyncScan[Any]:
        """Return an iterator of the rows whose keys begin with `prefix` and are in [start, end), in key order.

        A prefix that has the keyspace's delimiter is looked for in one shard, any other in all, merged. Rows come in
        pages, so memory stays bounded; each page is of one instant, the whole is not.

        Args:
            start: the first key; None: no bound.
            end: the key that ends the range, itself not in it; None or empty: no bound.
            limit: the most rows; None: all.
            reverse: from the last key down.
            keys_only: iterate over keys instead of `(key, value)`.
            page_rows: rows asked of a shard at once; up to two such pages of each shard are in memory.
            cursor: the iterator's `cursor`, to go on behind the row it was at: in place of `prefix`, `start`, `end`,
                `limit` and `reverse`, which it remembers.
            timeout: seconds that each page may take.

        Raises:
            InvalidArgument: an argument is wrong, or the cursor is of another keyspace.
        """
        check_timeout(timeout)
        check_page_rows(page_rows)
        bound = self._max_staleness_ms(consistency, max_staleness)
        if cursor is None:
            wanted = plan(
                self._name,
                to_bound("prefix", prefix),
                None if start is None else to_bound("start", start),
                None if end is None else to_bound("end", end),
                limit,
                reverse,
                keys_only,
            )
        else:
            wanted = resumed(cursor, self._name, keys_only)
        return AsyncScan(MergedRows(self, wanted, page_rows, bound, timeout))

    async def delete_prefix(self, prefix: bytes | str, *, timeout: float | None = None) -> int:
        """Remove all keys that begin with `prefix`; return the number of microshards that this touched.

        Not atomic across shards: after an error, some may have been removed; doing it again does no harm.

        Raises:
            InvalidArgument: the prefix is empty (that is `delete_range("", "")`).
        """
        first = check_prefix(to_bound("prefix", prefix))
        return await delete_range(self, first, prefix_end(first), self._deadline(timeout), first)

    async def delete_range(self, start: bytes | str, end: bytes | str, *, timeout: float | None = None) -> int:
        """Remove all keys in [start, end); return the number of microshards that this touched.

        Not atomic across shards: after an error, some may have been removed; doing it again does no harm.

        Args:
            end: the key that ends the range, itself not in it; empty: to the last key.

        Raises:
            InvalidArgument: the end is before the start.
        """
        return await delete_range(self, to_bound("start", start), to_bound("end", end), self._deadline(timeout), b"")

    def pipeline(self) -> AsyncPipeline:
        """Return an empty pipeline: queue many calls, send them together, get their results in order."""
        return AsyncPipeline(self)

    # -- transactions -------------------------------------------------------------------------------------------------

    def transaction(self, *, timeout: float | None = None) -> AsyncTransaction:
        """Return a transaction, to be used in `async with`: reads and writes of one shard that take effect together.

        Args:
            timeout: seconds for the whole block, commit included; None: no bound on the block, and the client's on each
                of its calls.
        """
        check_timeout(timeout)
        return AsyncTransaction(self, timeout)

    async def run(self, fn: Callable[[AsyncTransaction], Awaitable[T]], *, timeout: float | None = None) -> T:
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

    def _twin(self, name: str, session_vector: SessionVector | None) -> AsyncClient:
        other = AsyncClient.__new__(AsyncClient)
        other._driver = self._driver
        other._name = name
        other._space = None
        other._session_vector = session_vector
        other._cluster = ""
        other._set_level(self._consistency, self._max_staleness)
        other._tracing = self._tracing
        if other._tracing is not None:
            other._tracing.follow(other)
        return other

    def _set_level(self, consistency: Consistency, max_staleness: float | None) -> None:
        self._consistency = check_consistency(consistency)
        if max_staleness is not None:
            check_max_staleness(max_staleness)
        self._max_staleness = max_staleness
        self._default_staleness_ms = self._max_staleness_ms(None, None)

    def _max_staleness_ms(self, consistency: Consistency | None, max_staleness: float | None) -> int:
        return to_max_staleness_ms(
            self._consistency if consistency is None else consistency, max_staleness, self._max_staleness
        )

    def _fetch(
        self, key: bytes | str, whole: bool, consistency: Consistency | None, max_staleness: float | None
    ) -> Fetch:
        return Fetch(to_bytes("key", key), whole, self._max_staleness_ms(consistency, max_staleness))

    def _bound(self, space: Keyspace, max_staleness_ms: int) -> int:
        """Return the bound on staleness as calls carry it."""
        return space.keyspace.max_staleness_ms if max_staleness_ms == KEYSPACE_STALENESS else max_staleness_ms

    def _attempts(self, timeout: float | None) -> Attempts:
        check_timeout(timeout)
        return Attempts(self._driver.timeout if timeout is None else timeout)

    def _deadline(self, timeout: float | None) -> float:
        if timeout is not None:
            check_timeout(timeout)
        return self._driver.deadline(timeout)

    async def _admit(self, deadline: float) -> Keyspace:
        """Wait until a call may be submitted; return the keyspace."""
        driver = self._driver
        if driver.busy:
            await driver.admit(deadline)
        space = self._space
        if space is None:
            space = driver.router.space(self._name)
            assert space is not None, "who is admitted has a shard map"
            sessions.check_cluster(self._cluster, driver.router.network.cluster)
            self._space = space
        return space

    async def _run(self, step: Step, timeout: float | None) -> object:
        """Make one call."""
        return await self._run_until(step, self._deadline(timeout))

    async def _run_until(self, step: Step, deadline: float) -> object:
        """Make one call; return its result."""
        size = check_step(step, self._driver.router)
        space = self._space
        if self._driver.busy or space is None:
            space = await self._admit(deadline)
        return await self._finish(*self._submit(space, step, size, deadline))

    async def _try(self, step: Step, timeout: float | None) -> object:
        """Make one call; return its result, or the error that it ended with."""
        try:
            return await self._run(step, timeout)
        except ShoalError as error:
            return error

    async def _finish(self, call: Call, waiter: Waiter) -> object:
        try:
            return await waiter
        except CancelledError:
            self._driver.forget(call)
            raise

    async def _run_page(self, space: Keyspace, call: ScanCall[Waiter]) -> object:
        """Make the call of a scan's page, of an admitted caller."""
        return await self._finish(call, self._driver.submit(space, call))

    def _submit_fetch(self, space: Keyspace, step: Fetch, size: int, deadline: float) -> ReadCall[Waiter]:
        if step.max_staleness_ms == STRONG_READ:
            return self._driver.submit_read(space, step.key, size, step.whole, deadline, self._session_vector)
        bound = self._bound(space, step.max_staleness_ms)
        return self._driver.submit_weak_read(space, step.key, size, step.whole, deadline, self._session_vector, bound)

    def _submit(self, space: Keyspace, step: Step, size: int, deadline: float) -> tuple[Call, Waiter]:
        driver, session_vector = self._driver, self._session_vector
        call: Call
        if isinstance(step, Fetch):
            call = self._submit_fetch(space, step, size, deadline)
            return call, cast(Waiter, call.waiter)
        if isinstance(step, FastWrite):
            call = WriteCall(None, deadline, size, step.operation, session_vector, True)
        elif isinstance(step, Atomic):
            call = WriteCall(None, deadline, size, step, session_vector, False, microshards_of(step, space.keyspace))
        elif isinstance(step, DeleteRange):
            call = WriteCall(None, deadline, size, step, session_vector)
        else:
            call = driver.submit_write(space, step, size, deadline, session_vector)
            return call, cast(Waiter, call.waiter)
        return call, driver.submit(space, call)

    async def _run_all(self, steps: Sequence[Step], deadline: float) -> list[object]:
        """Make many calls at once, as far as the bound on open calls allows; return results and errors in order."""
        driver = self._driver
        sizes = [check_step(step, driver.router) for step in steps]
        calls: list[tuple[Call, Waiter]] = []
        results: list[object] = []
        try:
            for step, size in zip(steps, sizes, strict=True):
                space = self._space
                if driver.busy or space is None:
                    try:
                        space = await self._admit(deadline)
                    except ShoalError as error:
                        results = [error] * (len(steps) - len(calls))
                        break
                calls.append(self._submit(space, step, size, deadline))
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
