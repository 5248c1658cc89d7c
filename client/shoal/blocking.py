"""The blocking client. Generated from the asyncio one by tools/generate_blocking.py: change that, not this."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ssl import SSLContext
from time import sleep
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from shoal.aio import AsyncClient
from shoal.errors import ShoalError, TransactionConflict
from shoal.metrics import Family
from shoal.pipelines import AsyncPipeline, Result
from shoal.priorities import PriorityName
from shoal.protocol.messages import AtomicOperation, Condition
from shoal.results import Consistency, Durability, Duration, Entry, WriteResult
from shoal.scans import Scan
from shoal.transactions import AsyncTransaction
from shoal.transport.portal import Portal

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

T = TypeVar("T")


class Client:
    """A client of one keyspace of a Shoal cluster. Safe for many threads.

        with shoal.Client("shoal://127.0.0.1:7400/default") as db:
            db.put("greeting", "hello")
            assert db.get("greeting") == b"hello"

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
    An interrupted call frees its place; a write that was already sent may be done all the same.

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
        """Nothing is connected before the first call, or `with`.

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
        self._inner = AsyncClient(url, timeout=timeout, ssl=ssl, tracing=tracing, priority=priority)
        self._portal = Portal(self._inner.close)

    def __enter__(self) -> Client:
        """Find the cluster and the keyspace."""
        try:
            self._portal.call(self._inner.__aenter__)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._inner).replace("shoal.AsyncClient", "shoal.Client", 1)

    def close(self) -> None:
        """Close the connections, also those of `keyspace(...)` clients; open calls end with `Closed`."""
        self._portal.close()

    def keyspace(self, name: str) -> Client:
        """Return this client on another keyspace. Both share everything else, and are closed together.

        On a session it returns a new session of that keyspace.
        """
        other = Client.__new__(Client)
        other._inner = self._inner.keyspace(name)
        other._portal = self._portal
        return other

    def collect(self) -> list[Family]:
        """Return the client's metrics, its sessions' and other keyspaces' included, as `prometheus_client` takes them.

        With that library, `REGISTRY.register(client)` is all there is to do. May be called in any thread.
        """
        return self._inner.collect()

    def session(self, token: str | None = None, *, consistency: Consistency = "read_your_writes") -> Client:
        """Return this client with a memory: its weak reads see what it has written, and never less than it has read.

        Both share everything else, and are closed together.

        Args:
            token: of another session, whose writes and reads this one is to see as well.
            consistency: of its reads that name none.

        Raises:
            InvalidArgument: the token is none, or of another cluster or keyspace.
        """
        other = Client.__new__(Client)
        other._inner = self._inner.session(token, consistency=consistency)
        other._portal = self._portal
        return other

    def token(self) -> str:
        """Return what the session has written and read, as a string to go on from: `session(token)`, in any process.

        It grows with the number of shards touched, to a few kilobytes at most.

        Raises:
            InvalidArgument: this client is no session.
        """
        return self._portal.run(self._inner.token)

    def merge(self, token: str) -> None:
        """Let the session see what another has written and read.

        Raises:
            InvalidArgument: the token is none, or of another cluster or keyspace; or this client is no session.
        """
        self._portal.run(self._inner.merge, token)

    def put(
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
        return self._portal.call(self._inner.put, key, value, ttl=ttl, durability=durability, timeout=timeout)

    def get(
        self,
        key: bytes | str,
        *,
        consistency: Consistency | None = None,
        max_staleness: Duration | None = None,
        timeout: Duration | None = None,
    ) -> bytes | None:
        """Return the value of `key`, or None where there is none."""
        return self._portal.call(
            self._inner.get, key, consistency=consistency, max_staleness=max_staleness, timeout=timeout
        )

    def get_entry(
        self,
        key: bytes | str,
        *,
        consistency: Consistency | None = None,
        max_staleness: Duration | None = None,
        timeout: Duration | None = None,
    ) -> Entry | None:
        """Return the value of `key` with what is known of it (see `Entry`), or None where there is none."""
        return self._portal.call(
            self._inner.get_entry, key, consistency=consistency, max_staleness=max_staleness, timeout=timeout
        )

    def exists(
        self,
        key: bytes | str,
        *,
        consistency: Consistency | None = None,
        max_staleness: Duration | None = None,
        timeout: Duration | None = None,
    ) -> bool:
        """Say whether `key` has a value."""
        return self._portal.call(
            self._inner.exists, key, consistency=consistency, max_staleness=max_staleness, timeout=timeout
        )

    def delete(
        self, key: bytes | str, *, durability: Durability = "quorum", timeout: Duration | None = None
    ) -> WriteResult:
        """Remove `key`; removing what is not there is no error."""
        return self._portal.call(self._inner.delete, key, durability=durability, timeout=timeout)

    def ttl(self, key: bytes | str, *, timeout: Duration | None = None) -> float | None:
        """Return the seconds until `key` expires; infinity where it never does, None where there is no such key.

        They are counted by this process's clock, and as far off as that is from the cluster's.
        """
        return self._portal.call(self._inner.ttl, key, timeout=timeout)

    def touch(self, key: bytes | str, ttl: Duration | None = None, *, timeout: Duration | None = None) -> bool:
        """Let `key` expire `ttl` seconds from now (0: never; None: after the keyspace's default), if it is there.

        Returns:
            Whether it was.
        """
        return self._portal.call(self._inner.touch, key, ttl, timeout=timeout)

    def increment(
        self, key: bytes | str, by: int = 1, *, ttl: Duration | None = None, timeout: Duration | None = None
    ) -> int:
        """Add `by` to the decimal integer stored under `key` (absent: 0), and return the sum.

        Args:
            ttl: of a counter that begins with this call: seconds until it expires; 0: never; None: the keyspace's default.
                One that is there keeps its expiry.

        Raises:
            InvalidArgument: the value is no decimal integer of 64 bits, or the sum would not be.
        """
        return self._portal.call(self._inner.increment, key, by, ttl=ttl, timeout=timeout)

    def put_if_absent(
        self, key: bytes | str, value: bytes | str, *, ttl: Duration | None = None, timeout: Duration | None = None
    ) -> bool:
        """Set `key` to `value` (`ttl` as in `put`) unless it has a value; return whether it was set."""
        return self._portal.call(self._inner.put_if_absent, key, value, ttl=ttl, timeout=timeout)

    def compare_and_set(
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
        return self._portal.call(self._inner.compare_and_set, key, expected, value, ttl=ttl, timeout=timeout)

    def write(
        self, ops: Iterable[AtomicOperation], *, when: Iterable[Condition] = (), timeout: Duration | None = None
    ) -> WriteResult:
        """Do all of `ops` in one step, if all of the conditions `when` hold, or nothing.

            db.write([shoal.put("a/1", "x"), shoal.increment("a/n")], when=[shoal.key_absent("a/1")])

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
        return self._portal.call(self._inner.write, ops, when=when, timeout=timeout)

    def get_many(
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
        return self._portal.call(
            self._inner.get_many, keys, consistency=consistency, max_staleness=max_staleness, timeout=timeout
        )

    def put_many(
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
        return self._portal.call(self._inner.put_many, items, ttl=ttl, durability=durability, timeout=timeout)

    def delete_many(
        self, keys: Iterable[bytes | str], *, durability: Durability = "quorum", timeout: Duration | None = None
    ) -> list[WriteResult]:
        """Remove many keys, one round trip a node, not atomically; return the results in the order of `keys`.

        Raises:
            ShoalError: some keys failed: the error of the first of them, with all of them in `failed_keys`. The other
                keys were removed.
        """
        return self._portal.call(self._inner.delete_many, keys, durability=durability, timeout=timeout)

    def pipeline(self) -> Pipeline:
        """Return an empty pipeline: queue many calls, send them together, get their results in order."""
        return Pipeline(self._inner.pipeline(), self._portal)

    def transaction(self, *, timeout: Duration | None = None) -> Transaction:
        """Return a transaction, to be used in `with`: reads and writes of one shard that take effect together.

        Args:
            timeout: seconds for the whole block, commit included; None: no bound on the block, and the client's on each
                of its calls.
        """
        return Transaction(self._inner.transaction(timeout=timeout), self._portal)

    def run(self, fn: Callable[[Transaction], T], *, timeout: Duration | None = None) -> T:
        """Call `fn` with a transaction, commit, and return its result; again, as often as others got in between.

        So `fn` should do nothing but read and write in the transaction.

        Args:
            timeout: seconds for all attempts; None: the client's.

        Raises:
            TransactionConflict: others got in between until the deadline.
        """
        attempts = self._inner._attempts(timeout)
        while True:
            try:
                with self.transaction(timeout=attempts.left()) as tx:
                    return fn(tx)
            except TransactionConflict as conflict:
                sleep(attempts.wait(conflict))

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
        max_staleness: Duration | None = None,
        page_rows: int = 1000,
        cursor: str | None = None,
        timeout: Duration | None = None,
    ) -> Scan[tuple[bytes, bytes]]: ...

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
        max_staleness: Duration | None = None,
        page_rows: int = 1000,
        cursor: str | None = None,
        timeout: Duration | None = None,
    ) -> Scan[bytes]: ...

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
        max_staleness: Duration | None = None,
        page_rows: int = 1000,
        cursor: str | None = None,
        timeout: Duration | None = None,
    ) -> Scan[Any]: ...

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
        max_staleness: Duration | None = None,
        page_rows: int = 1000,
        cursor: str | None = None,
        timeout: Duration | None = None,
    ) -> Scan[Any]:
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
        return Scan(
            self._inner.scan(
                prefix,
                start=start,
                end=end,
                limit=limit,
                reverse=reverse,
                keys_only=keys_only,
                consistency=consistency,
                max_staleness=max_staleness,
                page_rows=page_rows,
                cursor=cursor,
                timeout=timeout,
            ),
            self._portal,
        )

    def delete_prefix(self, prefix: bytes | str, *, timeout: Duration | None = None) -> int:
        """Remove all keys that begin with `prefix`; return the number of microshards that this touched.

        Not atomic across shards: after an error, some may have been removed; doing it again does no harm.

        Raises:
            InvalidArgument: the prefix is empty (that is `delete_range("", "")`).
        """
        return self._portal.call(self._inner.delete_prefix, prefix, timeout=timeout)

    def delete_range(self, start: bytes | str, end: bytes | str, *, timeout: Duration | None = None) -> int:
        """Remove all keys in [start, end); return the number of microshards that this touched.

        Not atomic across shards: after an error, some may have been removed; doing it again does no harm.

        Args:
            end: the key that ends the range, itself not in it; empty: to the last key.

        Raises:
            InvalidArgument: the end is before the start.
        """
        return self._portal.call(self._inner.delete_range, start, end, timeout=timeout)


class Pipeline:
    """Calls that are queued and then sent together: the way to make many calls at the price of few.

        pipeline = db.pipeline()
        for key in keys:
            pipeline.put(key, value)
        results = pipeline.execute()

    Not a transaction: each call succeeds or fails alone, and others' writes may come in between. Calls on one key take
    effect in the order they were queued; calls on different keys in any. Arguments are those of the client's methods;
    wrong ones are refused when they are queued.
    """

    def __init__(self, inner: AsyncPipeline, portal: Portal) -> None:
        self._inner = inner
        self._portal = portal

    def __repr__(self) -> str:
        return repr(self._inner).replace("shoal.AsyncPipeline", "shoal.Pipeline", 1)

    def __len__(self) -> int:
        return len(self._inner)

    def put(
        self, key: bytes | str, value: bytes | str, *, ttl: Duration | None = None, durability: Durability = "quorum"
    ) -> Pipeline:
        """Queue a `put`; its result will be a `WriteResult`."""
        self._inner.put(key, value, ttl=ttl, durability=durability)
        return self

    def get(
        self, key: bytes | str, *, consistency: Consistency | None = None, max_staleness: Duration | None = None
    ) -> Pipeline:
        """Queue a `get`; its result will be the value or None."""
        self._inner.get(key, consistency=consistency, max_staleness=max_staleness)
        return self

    def get_entry(
        self, key: bytes | str, *, consistency: Consistency | None = None, max_staleness: Duration | None = None
    ) -> Pipeline:
        """Queue a `get_entry`; its result will be an `Entry` or None."""
        self._inner.get_entry(key, consistency=consistency, max_staleness=max_staleness)
        return self

    def exists(
        self, key: bytes | str, *, consistency: Consistency | None = None, max_staleness: Duration | None = None
    ) -> Pipeline:
        """Queue an `exists`; its result will be a bool."""
        self._inner.exists(key, consistency=consistency, max_staleness=max_staleness)
        return self

    def delete(self, key: bytes | str, *, durability: Durability = "quorum") -> Pipeline:
        """Queue a `delete`; its result will be a `WriteResult`."""
        self._inner.delete(key, durability=durability)
        return self

    def touch(self, key: bytes | str, ttl: Duration | None = None) -> Pipeline:
        """Queue a `touch`; its result will be a bool."""
        self._inner.touch(key, ttl)
        return self

    def increment(self, key: bytes | str, by: int = 1, *, ttl: Duration | None = None) -> Pipeline:
        """Queue an `increment`; its result will be the sum."""
        self._inner.increment(key, by, ttl=ttl)
        return self

    def put_if_absent(self, key: bytes | str, value: bytes | str, *, ttl: Duration | None = None) -> Pipeline:
        """Queue a `put_if_absent`; its result will be a bool."""
        self._inner.put_if_absent(key, value, ttl=ttl)
        return self

    def compare_and_set(
        self, key: bytes | str, expected: bytes | str | None, value: bytes | str, *, ttl: Duration | None = None
    ) -> Pipeline:
        """Queue a `compare_and_set`; its result will be a bool."""
        self._inner.compare_and_set(key, expected, value, ttl=ttl)
        return self

    def write(self, ops: Iterable[AtomicOperation], *, when: Iterable[Condition] = ()) -> Pipeline:
        """Queue a `write`; its result will be a `WriteResult`."""
        self._inner.write(ops, when=when)
        return self

    def execute(self, *, timeout: Duration | None = None, raise_on_error: bool = True) -> list[Result | ShoalError]:
        """Send what is queued, return the results in its order, and leave the pipeline empty.

        Args:
            timeout: seconds for the whole pipeline.
            raise_on_error: raise the first error, once all calls are over; otherwise errors stand among the results.

        Raises:
            ShoalError: some calls failed: the error of the first of them, with all their keys in `failed_keys`.
        """
        return self._portal.call(self._inner.execute, timeout=timeout, raise_on_error=raise_on_error)


class Transaction:
    """Reads and writes of one shard that take effect together, or not at all; for one thread.

        with db.transaction() as tx:
            stock = int(tx.get("shop/stock") or 0)
            tx.put("shop/stock", str(stock - 1))

    Reads are strong, and see what the transaction has written. Writes are kept back until the block ends; then all that
    was read is compared with what there is, and everything written, in one step. An exception in the block discards it.
    The keys have to be of one shard, so let them share a partition (the text up to the keyspace's delimiter).

    Errors, besides those of every call:
        CrossShard: a key belongs to another shard than those before; nothing was written. An embedded or simulated
            database says so where it is of another partition: in a cluster, that alone is certain.
        TooLarge: more than 10,000 keys and rows were read, or more than 15 MiB of them.
        TransactionConflict: at the end of the block: what was read has changed; nothing was written. Do it again, as
            `run` does.
    `result` is the `WriteResult` of the commit; None before it, and where there was nothing to write or to validate.
    """

    def __init__(self, inner: AsyncTransaction, portal: Portal) -> None:
        self._inner = inner
        self._portal = portal

    def __repr__(self) -> str:
        return repr(self._inner).replace("shoal.AsyncTransaction", "shoal.Transaction", 1)

    def __enter__(self) -> Transaction:
        """Find the cluster and the keyspace.

        Raises:
            InvalidArgument: it was used before: what it read and wrote then would be done again.
        """
        self._portal.call(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._portal.call(self._inner.__aexit__, kind, error, traceback)

    @property
    def result(self) -> WriteResult | None:
        """The `WriteResult` of the commit; None before it, and where nothing had to be sent."""
        return self._inner.result

    def get(self, key: bytes | str) -> bytes | None:
        """Return the value of `key` as the transaction sees it, or None where there is none; repeated, the same."""
        return self._portal.call(self._inner.get, key)

    def get_many(self, keys: Iterable[bytes | str]) -> list[bytes | None]:
        """Return the values of the keys as the transaction sees them, in the order of the keys; None where there is none."""
        return self._portal.call(self._inner.get_many, keys)

    def exists(self, key: bytes | str) -> bool:
        """Say whether `key` has a value, as the transaction sees it."""
        return self._portal.call(self._inner.exists, key)

    def get_entry(self, key: bytes | str) -> Entry | None:
        """Return the entry of `key` as the cluster has it, whatever the transaction wrote; None where there is none."""
        return self._portal.call(self._inner.get_entry, key)

    def put(self, key: bytes | str, value: bytes | str, *, ttl: Duration | None = None) -> None:
        """Set `key` to `value` when the block ends; `ttl` in seconds, as in the client's `put`."""
        self._inner.put(key, value, ttl=ttl)

    def delete(self, key: bytes | str) -> None:
        """Remove `key` when the block ends."""
        self._inner.delete(key)

    def increment(self, key: bytes | str, by: int = 1, *, ttl: Duration | None = None) -> int:
        """Read `key`, add `by` to the decimal integer there when the block ends, as the client does; return the sum.

        Raises:
            InvalidArgument: the value is no decimal integer of 64 bits, or the sum would not be.
        """
        return self._portal.call(self._inner.increment, key, by, ttl=ttl)

    def touch(self, key: bytes | str, ttl: Duration | None = None) -> bool:
        """Read `key`; where it has a value, let it expire when the block ends, as the client does. Return whether it has."""
        return self._portal.call(self._inner.touch, key, ttl)

    def scan(
        self,
        prefix: bytes | str = b"",
        *,
        start: bytes | str | None = None,
        end: bytes | str | None = None,
        limit: int | None = None,
        reverse: bool = False,
        page_rows: int = 1000,
    ) -> Scan[tuple[bytes, bytes]]:
        """Return an iterator of `(key, value)` in key order, as the client's `scan` does, with the own writes in it.

        What counts as read is every page of `page_rows` rows that was fetched, whole.

        Raises:
            CrossShard: the range is not within one shard: a prefix that has the keyspace's delimiter is.
        """
        return Scan(
            self._inner.scan(prefix, start=start, end=end, limit=limit, reverse=reverse, page_rows=page_rows),
            self._portal,
        )
