"""The calls of a client that are about ranges of keys: scans, and deletions, of which this is the doing, too.

A range is in one microshard where it fixes one, else in all, shard by shard. The blocking calls are generated from this
file, as those of aio.py.
"""

# ruff: noqa: ASYNC109 - the timeout is the whole call's, retries included; it ends with an error that says what is known
from __future__ import annotations

from typing import Any, Literal, overload

from shoal.arguments import to_bound, to_timeout
from shoal.caller import Caller
from shoal.errors import Internal, InvalidArgument, OutcomeUnknown, Overloaded, ShoalError, Unavailable, said_again
from shoal.key_sets import microshards_of_range, prefix_end
from shoal.protocol.messages import DeleteRange
from shoal.results import Consistency, Duration
from shoal.routing.call_errors import ShardChanged
from shoal.scan_plans import check_page_rows, plan, resumed
from shoal.scans import AsyncScan, MergedRows
from shoal.shardmap import count_in, microshards_in, parts_of_at_most, ranges_of
from shoal.steps import first_result
from shoal.write_costs import microshards_at_once


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
        max_staleness: Duration | None = None,
        page_rows: int = 1000,
        cursor: str | None = None,
        timeout: Duration | None = None,
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
        max_staleness: Duration | None = None,
        page_rows: int = 1000,
        cursor: str | None = None,
        timeout: Duration | None = None,
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
        max_staleness: Duration | None = None,
        page_rows: int = 1000,
        cursor: str | None = None,
        timeout: Duration | None = None,
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
        max_staleness: Duration | None = None,
        page_rows: int = 1000,
        cursor: str | None = None,
        timeout: Duration | None = None,
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
        page_timeout = None if timeout is None else to_timeout(timeout)
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
        return AsyncScan(MergedRows(self._caller, wanted, page_rows, bound, page_timeout))

    async def delete_prefix(self, prefix: bytes | str, *, timeout: Duration | None = None) -> int:
        """Remove all keys that begin with `prefix`; return the number of microshards that this touched.

        Not atomic across shards: after an error, some may have been removed; doing it again does no harm.

        Raises:
            InvalidArgument: the prefix is empty (that is `delete_range("", "")`).
        """
        first = _check_prefix(to_bound("prefix", prefix))
        return await _delete_range(self._caller, first, prefix_end(first), self._caller.deadline(timeout), first)

    async def delete_range(self, start: bytes | str, end: bytes | str, *, timeout: Duration | None = None) -> int:
        """Remove all keys in [start, end); return the number of microshards that this touched.

        Not atomic across shards: after an error, some may have been removed; doing it again does no harm.

        Args:
            end: the key that ends the range, itself not in it; empty: to the last key.

        Raises:
            InvalidArgument: the end is before the start.
        """
        first, last = to_bound("start", start), to_bound("end", end)
        return await _delete_range(self._caller, first, last, self._caller.deadline(timeout), b"")


def _check_prefix(prefix: bytes) -> bytes:
    """Return the prefix.

    Raises:
        InvalidArgument: it is empty, and would mean all keys.
    """
    if not prefix:
        raise InvalidArgument(
            'an empty prefix would delete every key of the keyspace: say delete_range("", "") for that'
        )
    return prefix


async def _delete_range(caller: Caller, start: bytes, end: bytes, deadline: float, prefix: bytes) -> int:
    """Delete the keys of [start, end), an empty `end` for the last; return the number of microshards.

    Each deletion says which microshards it is for, so that it is done in all of them or in none. Those of a shard that
    has given some of its microshards away since, or of whose deletion nobody knows any more, are deleted in again.

    Args:
        prefix: of all keys in the range, where there is one.
    """
    if end and end < start:
        raise InvalidArgument(f"a range runs from its start up to its end, not from {start!r} down to {end!r}")
    if start == end and end:
        return 0
    routed = await caller.admit(deadline)
    wanted = left = microshards_of_range(routed.keyspace, prefix, start, end)
    touched = False
    at_once = microshards_at_once(start, end)
    while left:
        steps = [
            DeleteRange(some, start, end)
            for part in caller.parts_of(routed, left)
            for some in parts_of_at_most(at_once, part.ranges)
        ]
        results = await caller.run_all(steps, deadline)
        again: list[DeleteRange] = []
        failed: list[ShoalError] = []
        for step, result in zip(steps, results, strict=True):
            if isinstance(result, ShardChanged | OutcomeUnknown):
                again.append(step)
            elif isinstance(result, ShoalError):
                failed.append(result)
            elif first_result(result) != count_in(step.ranges):
                raise Internal(f"a shard deleted in {first_result(result)} microshards of {count_in(step.ranges)}")
            touched = touched or not isinstance(result, ShoalError) or result.maybe_applied
        if failed:
            raise _failure(failed, len(steps), touched)
        left = ranges_of(microshard for step in again for microshard in microshards_in(step.ranges))
    return count_in(wanted)


def _failure(failed: list[ShoalError], parts: int, touched: bool) -> ShoalError:
    """Return the error of a deletion of which some parts were not done; `touched`: some rows may be gone."""
    first = failed[0]
    if parts == 1 and first.maybe_applied == touched:
        return first
    message = (
        f"{len(failed)} of {parts} parts of the range were not deleted, each of a shard; the first: {first}; "
        "to delete it again does no harm"
    )
    error: ShoalError
    if touched and isinstance(first, Unavailable | Overloaded):
        # Those two say that surely nothing was done.
        error = OutcomeUnknown(message, retry_after=first.retry_after, shard=first.shard, request_id=first.request_id)
    else:
        error = said_again(first, message, maybe_applied=touched)
    error.__cause__ = first
    return error
