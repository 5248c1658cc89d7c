"""The asyncio client. The blocking one is generated from this file by tools/generate_blocking.py."""

# ruff: noqa: ASYNC109 - the timeout is the whole call's, retries included; it ends with an error that says what is known
from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ssl import SSLContext, create_default_context
from types import TracebackType
from typing import Any, TypeAlias, TypeVar, cast

from msgspec import structs

from shoal.arguments import Fetch, check_step, check_timeout, to_bytes
from shoal.core import Call, Core, Keyspace, Waiter
from shoal.errors import ShoalError
from shoal.options import parse_url
from shoal.protocol.messages import Delete, Operation, Put
from shoal.results import Entry, WriteResult

Step: TypeAlias = Operation | Fetch
Result: TypeAlias = WriteResult | bytes | Entry | bool | None
R = TypeVar("R")


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
    """

    def __init__(self, url: str, *, timeout: float | None = None, ssl: SSLContext | None = None) -> None:
        """Nothing is connected before the first call, or `async with`.

        Args:
            url: `shoal://host:port,host:port/keyspace?timeout=2s&max_in_flight=4096`; `shoals://` for TLS.
            timeout: default of the calls' timeouts, in seconds; before that of the URL, before 5.
            ssl: the TLS context of a `shoals://` URL; without one, the system's authorities are trusted.

        Raises:
            InvalidArgument: the URL or the timeout is wrong.
        """
        check_timeout(timeout)
        options = parse_url(url)
        if timeout is not None:
            options = structs.replace(options, timeout=timeout)
        self._core = Core(options, (ssl or create_default_context()) if options.tls else None)
        self._name = options.keyspace
        self._space: Keyspace | None = None

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
        await self._core.close()

    def keyspace(self, name: str) -> AsyncClient:
        """Return this client on another keyspace. Both share everything else, and are closed together."""
        other = AsyncClient.__new__(AsyncClient)
        other._core = self._core
        other._name = name
        other._space = None
        return other

    # -- one key ------------------------------------------------------------------------------------------------------

    async def put(self, key: bytes | str, value: bytes | str, *, timeout: float | None = None) -> WriteResult:
        """Set `key` to `value`; it is on disk at a majority of the shard's voters when this returns."""
        # Written out, as is `get`: through `_run` it would cost a ninth more.
        operation = Put(to_bytes("key", key), to_bytes("value", value))
        core = self._core
        size = check_step(operation, core.router)
        deadline = self._deadline(timeout)
        space = self._space
        if core.busy or space is None:
            space = await self._admit(deadline)
        call = core.submit_write(space, operation, size, deadline)
        waiter: Any = call.waiter
        try:
            result: WriteResult = await waiter
            return result
        except CancelledError:
            core.forget(call)
            raise

    async def get(self, key: bytes | str, *, timeout: float | None = None) -> bytes | None:
        """Return the newest value of `key` (linearizable), or None where there is none."""
        core = self._core
        step = Fetch(to_bytes("key", key))
        size = check_step(step, core.router)
        deadline = self._deadline(timeout)
        space = self._space
        if core.busy or space is None:
            space = await self._admit(deadline)
        call = core.submit_read(space, step.key, size, False, deadline)
        waiter: Any = call.waiter
        try:
            value: bytes | None = await waiter
            return value
        except CancelledError:
            core.forget(call)
            raise

    async def get_entry(self, key: bytes | str, *, timeout: float | None = None) -> Entry | None:
        """Return the newest value of `key` with its sequence number and who served it, or None where there is none."""
        return cast("Entry | None", await self._run(Fetch(to_bytes("key", key), True), timeout))

    async def delete(self, key: bytes | str, *, timeout: float | None = None) -> WriteResult:
        """Remove `key`; removing what is not there is no error."""
        return cast(WriteResult, await self._run(Delete(to_bytes("key", key)), timeout))

    async def exists(self, key: bytes | str, *, timeout: float | None = None) -> bool:
        """Say whether `key` has a value (linearizable)."""
        return await self._run(Fetch(to_bytes("key", key)), timeout) is not None

    # -- many keys ----------------------------------------------------------------------------------------------------

    async def get_many(self, keys: Iterable[bytes | str], *, timeout: float | None = None) -> list[bytes | None]:
        """Return the values of `keys`, in their order, None where there is none; each is the newest at some instant.

        Raises:
            ShoalError: some keys failed: the error of the first of them, with all of them in `failed_keys`.
        """
        steps = [Fetch(to_bytes("key", key)) for key in keys]
        return cast("list[bytes | None]", _all_or_raise(steps, await self._run_all(steps, self._deadline(timeout))))

    async def put_many(
        self, items: Mapping[bytes, bytes | str] | Mapping[str, bytes | str], *, timeout: float | None = None
    ) -> list[WriteResult]:
        """Set many keys, one round trip a node, not atomically; return the results in the order of `items`.

        Raises:
            ShoalError: some keys failed: the error of the first of them, with all of them in `failed_keys`. The other
                keys were set.
        """
        steps = [Put(to_bytes("key", key), to_bytes("value", value)) for key, value in items.items()]
        return cast(list[WriteResult], _all_or_raise(steps, await self._run_all(steps, self._deadline(timeout))))

    async def delete_many(self, keys: Iterable[bytes | str], *, timeout: float | None = None) -> list[WriteResult]:
        """Remove many keys, one round trip a node, not atomically; return the results in the order of `keys`.

        Raises:
            ShoalError: some keys failed: the error of the first of them, with all of them in `failed_keys`. The other
                keys were removed.
        """
        steps = [Delete(to_bytes("key", key)) for key in keys]
        return cast(list[WriteResult], _all_or_raise(steps, await self._run_all(steps, self._deadline(timeout))))

    def pipeline(self) -> AsyncPipeline:
        """Return an empty pipeline: queue many calls, send them together, get their results in order."""
        return AsyncPipeline(self)

    # -- underneath ---------------------------------------------------------------------------------------------------

    def _deadline(self, timeout: float | None) -> float:
        if timeout is not None:
            check_timeout(timeout)
        return self._core.deadline(timeout)

    async def _admit(self, deadline: float) -> Keyspace:
        """Wait until a call may be submitted; return the keyspace."""
        core = self._core
        if core.busy:
            await core.admit(deadline)
        space = self._space
        if space is None:
            space = core.router.space(self._name)
            assert space is not None, "who is admitted has a shard map"
            self._space = space
        return space

    async def _run(self, step: Step, timeout: float | None) -> object:
        """Make one call."""
        size = check_step(step, self._core.router)
        deadline = self._deadline(timeout)
        space = self._space
        if self._core.busy or space is None:
            space = await self._admit(deadline)
        call = self._submit(space, step, size, deadline)
        try:
            return await cast(Waiter, call.waiter)
        except CancelledError:
            self._core.forget(call)
            raise

    def _submit(self, space: Keyspace, step: Step, size: int, deadline: float) -> Call:
        if type(step) is Fetch:
            return self._core.submit_read(space, step.key, size, step.whole, deadline)
        return self._core.submit_write(space, cast(Operation, step), size, deadline)

    async def _run_all(self, steps: Sequence[Step], deadline: float) -> list[object]:
        """Make many calls at once, as far as the bound on open calls allows; return results and errors in order."""
        core = self._core
        sizes = [check_step(step, core.router) for step in steps]
        calls: list[tuple[Call, Waiter]] = []
        results: list[object] = []
        try:
            for step, size in zip(steps, sizes, strict=True):
                space = self._space
                if core.busy or space is None:
                    try:
                        space = await self._admit(deadline)
                    except ShoalError as error:
                        results = [error] * (len(steps) - len(calls))
                        break
                call = self._submit(space, step, size, deadline)
                calls.append((call, cast(Waiter, call.waiter)))
            not_sent, results = results, []
            for _, waiter in calls:
                try:
                    results.append(await waiter)
                except ShoalError as error:
                    results.append(error)
        except CancelledError:
            for call, waiter in calls:
                core.forget(call)
                if not waiter.cancel() and not waiter.cancelled():
                    waiter.exception()  # or asyncio would report that nobody asked for it
            raise
        return results + not_sent

    async def _run_in_order(self, steps: Sequence[Step], deadline: float) -> list[object]:
        """Make many calls, those on one key one after the other."""
        results: list[object] = []
        for stage in _stages(steps):
            results += await self._run_all(stage, deadline)
        return results


class AsyncPipeline:
    """Calls that are queued and then sent together: the way to make many calls at the price of few.

        pipeline = db.pipeline()
        for key in keys:
            pipeline.put(key, value)
        results = await pipeline.execute()

    Not a transaction: each call succeeds or fails alone, and others' writes may come in between. Calls on one key take
    effect in the order they were queued; calls on different keys in any.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._steps: list[Step] = []
        self._exists: set[int] = set()

    def __len__(self) -> int:
        return len(self._steps)

    def put(self, key: bytes | str, value: bytes | str) -> AsyncPipeline:
        """Queue a `put`; its result will be a `WriteResult`."""
        self._steps.append(Put(to_bytes("key", key), to_bytes("value", value)))
        return self

    def get(self, key: bytes | str) -> AsyncPipeline:
        """Queue a `get`; its result will be the value or None."""
        self._steps.append(Fetch(to_bytes("key", key)))
        return self

    def get_entry(self, key: bytes | str) -> AsyncPipeline:
        """Queue a `get_entry`; its result will be an `Entry` or None."""
        self._steps.append(Fetch(to_bytes("key", key), True))
        return self

    def delete(self, key: bytes | str) -> AsyncPipeline:
        """Queue a `delete`; its result will be a `WriteResult`."""
        self._steps.append(Delete(to_bytes("key", key)))
        return self

    def exists(self, key: bytes | str) -> AsyncPipeline:
        """Queue an `exists`; its result will be a bool."""
        self._exists.add(len(self._steps))
        self._steps.append(Fetch(to_bytes("key", key)))
        return self

    async def execute(self, *, timeout: float | None = None, raise_on_error: bool = True) -> list[Result | ShoalError]:
        """Send what is queued, return the results in its order, and leave the pipeline empty.

        Args:
            timeout: seconds for the whole pipeline.
            raise_on_error: raise the first error, once all calls are over; otherwise errors stand among the results.

        Raises:
            ShoalError: some calls failed: the error of the first of them, with all their keys in `failed_keys`.
        """
        deadline = self._client._deadline(timeout)
        steps, self._steps = self._steps, []
        exists, self._exists = self._exists, set()
        results = cast("list[Result | ShoalError]", await self._client._run_in_order(steps, deadline))
        for at in exists:
            if not isinstance(results[at], ShoalError):
                results[at] = results[at] is not None
        if raise_on_error:
            _all_or_raise(steps, results)
        return results


def _stages(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    """Cut steps into runs that may be done in any order: in each, a key that is written is named once."""
    first = 0
    written: set[bytes] = set()
    read: set[bytes] = set()
    for at, step in enumerate(steps):
        key = step.key
        if key in written or (type(step) is not Fetch and key in read):
            yield steps[first:at]
            first = at
            written.clear()
            read.clear()
        (read if type(step) is Fetch else written).add(key)
    yield steps[first:]


def _all_or_raise(steps: Sequence[Step], results: list[R]) -> list[R]:
    failed = [(step.key, result) for step, result in zip(steps, results, strict=True) if isinstance(result, ShoalError)]
    if not failed:
        return results
    first = failed[0][1]
    error = type(first)(
        f"{len(failed)} of {len(steps)} keys failed; the first: {first}",
        maybe_applied=any(each.maybe_applied for _, each in failed),
        retry_after=first.retry_after,
        shard=first.shard,
        request_id=first.request_id,
    )
    error.failed_keys = tuple(dict.fromkeys(key for key, _ in failed))
    raise error from first
