"""The calls of a client that are about ranges of keys. The blocking ones are generated from this file, too."""

# ruff: noqa: ASYNC109 - the timeout is the whole call's, retries included; it ends with an error that says what is known
from __future__ import annotations

from typing import Any, Literal, overload

from shoal.arguments import check_timeout, to_bound
from shoal.caller import Caller
from shoal.key_sets import prefix_end
from shoal.ranges import check_prefix, delete_range
from shoal.results import Consistency
from shoal.scan_plans import check_page_rows, plan, resumed
from shoal.scans import AsyncScan, MergedRows


class AsyncRangeCalls:
    """Scans and deletions of ranges: a part of `AsyncClient`."""

    _caller: Caller

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
        bound = self._caller.max_staleness_ms(consistency, max_staleness)
        if cursor is None:
            wanted = plan(
                self._caller.keyspace,
                to_bound("prefix", prefix),
                None if start is None else to_bound("start", start),
                None if end is None else to_bound("end", end),
                limit,
                reverse,
                keys_only,
            )
        else:
            wanted = resumed(cursor, self._caller.keyspace, keys_only)
        return AsyncScan(MergedRows(self._caller, wanted, page_rows, bound, timeout))

    async def delete_prefix(self, prefix: bytes | str, *, timeout: float | None = None) -> int:
        """Remove all keys that begin with `prefix`; return the number of microshards that this touched.

        Not atomic across shards: after an error, some may have been removed; doing it again does no harm.

        Raises:
            InvalidArgument: the prefix is empty (that is `delete_range("", "")`).
        """
        first = check_prefix(to_bound("prefix", prefix))
        return await delete_range(self._caller, first, prefix_end(first), self._caller.deadline(timeout), first)

    async def delete_range(self, start: bytes | str, end: bytes | str, *, timeout: float | None = None) -> int:
        """Remove all keys in [start, end); return the number of microshards that this touched.

        Not atomic across shards: after an error, some may have been removed; doing it again does no harm.

        Args:
            end: the key that ends the range, itself not in it; empty: to the last key.

        Raises:
            InvalidArgument: the end is before the start.
        """
        first, last = to_bound("start", start), to_bound("end", end)
        return await delete_range(self._caller, first, last, self._caller.deadline(timeout), b"")
