"""The blocking client. Generated from aio.py by tools/generate_blocking.py: change that, not this."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ssl import SSLContext
from types import TracebackType

from shoal.aio import AsyncClient, AsyncPipeline, Result
from shoal.errors import ShoalError
from shoal.portal import Portal
from shoal.results import Entry, WriteResult


class Client:
    """A client of one keyspace of a Shoal cluster. Safe for many threads.

        with shoal.Client("shoal://127.0.0.1:7400/default") as db:
            db.put("greeting", "hello")
            assert db.get("greeting") == b"hello"

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
    An interrupted call frees its place; a write that was already sent may be done all the same.
    """

    def __init__(self, url: str, *, timeout: float | None = None, ssl: SSLContext | None = None) -> None:
        """Nothing is connected before the first call, or `with`.

        Args:
            url: `shoal://host:port,host:port/keyspace?timeout=2s&max_in_flight=4096`; `shoals://` for TLS.
            timeout: default of the calls' timeouts, in seconds; before that of the URL, before 5.
            ssl: the TLS context of a `shoals://` URL; without one, the system's authorities are trusted.

        Raises:
            InvalidArgument: the URL or the timeout is wrong.
        """
        self._inner = AsyncClient(url, timeout=timeout, ssl=ssl)
        self._portal = Portal()

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

    def close(self) -> None:
        """Close the connections, also those of `keyspace(...)` clients; open calls end with `Closed`."""
        self._portal.close(self._inner.close)

    def keyspace(self, name: str) -> Client:
        """Return this client on another keyspace. Both share everything else, and are closed together."""
        other = Client.__new__(Client)
        other._inner = self._inner.keyspace(name)
        other._portal = self._portal
        return other

    def put(self, key: bytes | str, value: bytes | str, *, timeout: float | None = None) -> WriteResult:
        """Set `key` to `value`; it is on disk at a majority of the shard's voters when this returns."""
        return self._portal.call(self._inner.put, key, value, timeout=timeout)

    def get(self, key: bytes | str, *, timeout: float | None = None) -> bytes | None:
        """Return the newest value of `key` (linearizable), or None where there is none."""
        return self._portal.call(self._inner.get, key, timeout=timeout)

    def get_entry(self, key: bytes | str, *, timeout: float | None = None) -> Entry | None:
        """Return the newest value of `key` with its sequence number and who served it, or None where there is none."""
        return self._portal.call(self._inner.get_entry, key, timeout=timeout)

    def delete(self, key: bytes | str, *, timeout: float | None = None) -> WriteResult:
        """Remove `key`; removing what is not there is no error."""
        return self._portal.call(self._inner.delete, key, timeout=timeout)

    def exists(self, key: bytes | str, *, timeout: float | None = None) -> bool:
        """Say whether `key` has a value (linearizable)."""
        return self._portal.call(self._inner.exists, key, timeout=timeout)

    def get_many(self, keys: Iterable[bytes | str], *, timeout: float | None = None) -> list[bytes | None]:
        """Return the values of `keys`, in their order, None where there is none; each is the newest at some instant.

        Raises:
            ShoalError: some keys failed: the error of the first of them, with all of them in `failed_keys`.
        """
        return self._portal.call(self._inner.get_many, keys, timeout=timeout)

    def put_many(
        self, items: Mapping[bytes, bytes | str] | Mapping[str, bytes | str], *, timeout: float | None = None
    ) -> list[WriteResult]:
        """Set many keys, one round trip a node, not atomically; return the results in the order of `items`.

        Raises:
            ShoalError: some keys failed: the error of the first of them, with all of them in `failed_keys`. The other
                keys were set.
        """
        return self._portal.call(self._inner.put_many, items, timeout=timeout)

    def delete_many(self, keys: Iterable[bytes | str], *, timeout: float | None = None) -> list[WriteResult]:
        """Remove many keys, one round trip a node, not atomically; return the results in the order of `keys`.

        Raises:
            ShoalError: some keys failed: the error of the first of them, with all of them in `failed_keys`. The other
                keys were removed.
        """
        return self._portal.call(self._inner.delete_many, keys, timeout=timeout)

    def pipeline(self) -> Pipeline:
        """Return an empty pipeline: queue many calls, send them together, get their results in order."""
        return Pipeline(self._inner.pipeline(), self._portal)


class Pipeline:
    """Calls that are queued and then sent together: the way to make many calls at the price of few.

        pipeline = db.pipeline()
        for key in keys:
            pipeline.put(key, value)
        results = pipeline.execute()

    Not a transaction: each call succeeds or fails alone, and others' writes may come in between. Calls on one key take
    effect in the order they were queued; calls on different keys in any.
    """

    def __init__(self, inner: AsyncPipeline, portal: Portal) -> None:
        self._inner = inner
        self._portal = portal

    def __len__(self) -> int:
        return len(self._inner)

    def put(self, key: bytes | str, value: bytes | str) -> Pipeline:
        """Queue a `put`; its result will be a `WriteResult`."""
        self._inner.put(key, value)
        return self

    def get(self, key: bytes | str) -> Pipeline:
        """Queue a `get`; its result will be the value or None."""
        self._inner.get(key)
        return self

    def get_entry(self, key: bytes | str) -> Pipeline:
        """Queue a `get_entry`; its result will be an `Entry` or None."""
        self._inner.get_entry(key)
        return self

    def delete(self, key: bytes | str) -> Pipeline:
        """Queue a `delete`; its result will be a `WriteResult`."""
        self._inner.delete(key)
        return self

    def exists(self, key: bytes | str) -> Pipeline:
        """Queue an `exists`; its result will be a bool."""
        self._inner.exists(key)
        return self

    def execute(self, *, timeout: float | None = None, raise_on_error: bool = True) -> list[Result | ShoalError]:
        """Send what is queued, return the results in its order, and leave the pipeline empty.

        Args:
            timeout: seconds for the whole pipeline.
            raise_on_error: raise the first error, once all calls are over; otherwise errors stand among the results.

        Raises:
            ShoalError: some calls failed: the error of the first of them, with all their keys in `failed_keys`.
        """
        return self._portal.call(self._inner.execute, timeout=timeout, raise_on_error=raise_on_error)
