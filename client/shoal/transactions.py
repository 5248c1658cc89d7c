"""Transactions within one shard: reads are remembered, writes kept back, and all is validated and done in one write."""

from __future__ import annotations

from asyncio import gather
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from random import Random
from time import monotonic
from types import TracebackType
from typing import cast

from msgspec import structs

from shoal.arguments import many_keys, to_bound, to_bytes
from shoal.caller import Caller
from shoal.errors import ConditionFailed, CrossShard, InvalidArgument, TooLarge, TransactionConflict
from shoal.integers import INTEGERS, parse_integer
from shoal.key_sets import microshards_of_range, partition_of_range
from shoal.keys import partition_of
from shoal.operations import delete as delete_of
from shoal.operations import increment as increment_of
from shoal.operations import put as put_of
from shoal.operations import touch as touch_of
from shoal.protocol.digest import RangeDigest
from shoal.protocol.messages import (
    Atomic,
    AtomicOperation,
    Condition,
    Delete,
    Increment,
    Put,
    RangeUnchanged,
    ScanPage,
    SeqEquals,
    Touch,
)
from shoal.results import Duration, Entry, WriteResult
from shoal.routing.backoff import Backoff
from shoal.routing.call_errors import ONE_SHARD_HERE, same_text
from shoal.routing.calls import STRONG_READ, Turns, shown
from shoal.scan_plans import ALL_ROWS, Cursor, check_page_rows, plan
from shoal.scans import AsyncScan, read_page
from shoal.shardmap import Ranges, count_in
from shoal.steps import Fetch, check_key
from shoal.transport.driver import ClientKeyspace

MAX_READS = 10_000
"""The most keys and rows that one transaction may read: what its commit has to validate."""
MAX_READ_BYTES = 15 * 1024 * 1024
"""The most that their keys and values may come to: replicas look at all of it again, and at twice as much at once at most."""

FIRST_RETRY_SECONDS = 0.005
RETRY_CAP_SECONDS = 0.25


class AsyncTransaction:
    """Reads and writes of one shard that take effect together, or not at all; for one task.

        async with db.transaction() as tx:
            stock = int(await tx.get("shop/stock") or 0)
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

    def __init__(self, caller: Caller, timeout: Duration | None) -> None:
        self._caller = caller
        self._timeout = timeout
        self._used = False
        self._deadline: float | None = None
        self._routed: ClientKeyspace | None = None
        self._first: bytes | None = None
        self._microshard = -1
        self._entries: dict[bytes, Entry | None] = {}
        self._ranges: list[_ReadRange] = []
        self._rows = 0
        self._bytes = 0
        self._writes: dict[bytes, list[AtomicOperation]] = {}
        self._values: dict[bytes, bytes | None] = {}
        self._result: WriteResult | None = None

    def __repr__(self) -> str:
        if self._result is not None:
            state = f"committed at {self._result.seq}"
        elif not self._used:
            state = "not begun"
        elif self._routed is None:
            state = "ended"
        else:
            state = f"open, {self._rows} keys and rows read, {len(self._values)} written"
        return f"<shoal.AsyncTransaction {state}, {self._caller}>"

    async def __aenter__(self) -> AsyncTransaction:
        """Find the cluster and the keyspace.

        Raises:
            InvalidArgument: it was used before: what it read and wrote then would be done again.
        """
        if self._used:
            raise InvalidArgument("a transaction is used once; call transaction() for another")
        self._used = True
        if self._timeout is not None:
            self._deadline = self._caller.deadline(self._timeout)
        self._routed = await self._caller.admit(self._due())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self._commit()
        finally:
            self._routed = None

    @property
    def result(self) -> WriteResult | None:
        """The `WriteResult` of the commit; None before it, and where nothing had to be sent."""
        return self._result

    async def get(self, key: bytes | str) -> bytes | None:
        """Return the value of `key` as the transaction sees it, or None where there is none; repeated, the same."""
        self._opened()
        return await self._value(to_bytes("key", key))

    async def get_many(self, keys: Iterable[bytes | str]) -> list[bytes | None]:
        """Return the values of the keys as the transaction sees them, in the order of the keys; None where there is none."""
        self._opened()
        return await gather(*[self._value(to_bytes("key", key)) for key in many_keys(keys)])

    async def exists(self, key: bytes | str) -> bool:
        """Say whether `key` has a value, as the transaction sees it."""
        return await self.get(key) is not None

    async def get_entry(self, key: bytes | str) -> Entry | None:
        """Return the entry of `key` as the cluster has it, whatever the transaction wrote; None where there is none."""
        self._opened()
        return await self._read(to_bytes("key", key))

    def put(self, key: bytes | str, value: bytes | str, *, ttl: Duration | None = None) -> None:
        """Set `key` to `value` when the block ends; `ttl` in seconds, as in the client's `put`."""
        operation = put_of(key, value, ttl)
        self._write(operation, operation.value)

    def delete(self, key: bytes | str) -> None:
        """Remove `key` when the block ends."""
        self._write(delete_of(key), None)

    async def increment(self, key: bytes | str, by: int = 1, *, ttl: Duration | None = None) -> int:
        """Read `key`, add `by` to the decimal integer there when the block ends, as the client does; return the sum.

        Raises:
            InvalidArgument: the value is no decimal integer of 64 bits, or the sum would not be.
        """
        self._opened()
        operation = increment_of(key, by, ttl)
        found = await self._value(operation.key)
        number = 0 if found is None else parse_integer(found)
        if number is None:
            raise InvalidArgument(
                f"the value of {shown(operation.key)} is no decimal integer of 64 bits: {found!r:.40}"
            )
        total = number + by
        if total not in INTEGERS:
            raise InvalidArgument(f"{number} {by:+d} does not fit into 64 bits: key {shown(operation.key)}")
        self._write_more(operation, str(total).encode())
        return total

    async def touch(self, key: bytes | str, ttl: Duration | None = None) -> bool:
        """Read `key`; where it has a value, let it expire when the block ends, as the client does. Return whether it has."""
        self._opened()
        operation = touch_of(key, ttl)
        found = await self._value(operation.key)
        if found is not None:
            self._write_more(operation, found)
        return found is not None

    def scan(
        self,
        prefix: bytes | str = b"",
        *,
        start: bytes | str | None = None,
        end: bytes | str | None = None,
        limit: int | None = None,
        reverse: bool = False,
        page_rows: int = 1000,
    ) -> AsyncScan[tuple[bytes, bytes]]:
        """Return an iterator of `(key, value)` in key order, as the client's `scan` does, with the own writes in it.

        What counts as read is every page of `page_rows` rows that was fetched, whole.

        Raises:
            CrossShard: the range is not within one shard: a prefix that has the keyspace's delimiter is.
        """
        routed = self._opened()
        check_page_rows(page_rows)
        wanted = plan(
            routed.keyspace.name,
            to_bound("prefix", prefix),
            None if start is None else to_bound("start", start),
            None if end is None else to_bound("end", end),
            limit,
            reverse,
            False,
        )
        ranges = microshards_of_range(routed.keyspace, wanted.prefix, wanted.start, wanted.end)
        self._check_within_one_shard(ranges, wanted.start, wanted.end)
        if count_in(ranges) == 1:
            self._pin(ranges[0].first, wanted.start)
        return AsyncScan(_TransactionRows(self, ranges, wanted, page_rows))

    # -- underneath ---------------------------------------------------------------------------------------------------

    def _opened(self) -> ClientKeyspace:
        if self._routed is None:
            raise InvalidArgument("a transaction is used inside its `with` block")
        return self._routed

    def _due(self) -> float:
        """Return the deadline of a call that begins now."""
        return self._caller.deadline(None) if self._deadline is None else self._deadline

    def _pin(self, microshard: int, key: bytes) -> None:
        """Take a key into the transaction, whose keys all have to be of one shard."""
        routed = self._opened()
        shard_queues = routed.shard_queues
        if self._first is None:
            self._first, self._microshard = key, microshard
        elif self._caller.driver.router.one_partition and (
            partition_of(key, routed.delimiter) != partition_of(self._first, routed.delimiter)
        ):
            raise CrossShard(
                f"a transaction is of one shard: keys {shown(self._first)} and {shown(key)} are of two partitions; "
                f"{ONE_SHARD_HERE}; give them a common partition: {same_text(routed.delimiter)}"
            )
        elif shard_queues[microshard] is not shard_queues[self._microshard]:
            raise CrossShard(
                f"a transaction is of one shard: key {shown(self._first)} is in shard "
                f"{shard_queues[self._microshard].shard.id}, key {shown(key)} in shard {shard_queues[microshard].shard.id}; "
                f"give them a common partition, the text up to the delimiter {self._opened().delimiter!r}"
            )

    def _check_within_one_shard(self, ranges: Ranges, start: bytes, end: bytes) -> None:
        routed = self._opened()
        router = self._caller.driver.router
        if router.one_partition and partition_of_range(routed.keyspace, start, end) is None:
            raise CrossShard(
                f"scan from {shown(start)} in a transaction: the range is of several partitions; {ONE_SHARD_HERE}; "
                f"scan a prefix that is or begins with one: {same_text(routed.delimiter)}"
            )
        if len(router.parts_of(routed, ranges)) > 1:
            raise CrossShard(
                f"scan from {shown(start)} in a transaction: the range is in several shards; "
                f"a prefix that has the delimiter {routed.delimiter!r} is in one"
            )

    def _take_key(self, key: bytes) -> None:
        check_key(key, self._caller.driver.router.limits)
        self._pin(self._opened().keyspace.microshard_of(key), key)

    async def _read(self, key: bytes) -> Entry | None:
        if key in self._entries:
            return self._entries[key]
        self._take_key(key)
        self._count(1, len(key))
        entry = cast("Entry | None", await self._caller.run_until(Fetch(key, True), self._due()))
        self._count(0, 0 if entry is None else len(entry.value))
        self._entries.setdefault(key, entry)
        return self._entries[key]

    async def _value(self, key: bytes) -> bytes | None:
        if key in self._values:
            return self._values[key]
        entry = await self._read(key)
        return None if entry is None else entry.value

    def _write(self, operation: Put | Delete, value: bytes | None) -> None:
        """Keep back what makes all that was written to its key before of no account."""
        self._take_key(operation.key)
        self._writes.pop(operation.key, None)
        self._writes[operation.key] = [operation]
        self._values[operation.key] = value

    def _write_more(self, operation: Increment | Touch, value: bytes) -> None:
        """Keep back what changes a key as it is read, or was written; two of a kind in a row become one."""
        operations = self._writes.setdefault(operation.key, [])
        last = operations[-1] if operations else None
        if isinstance(operation, Increment) and isinstance(last, Increment) and last.by + operation.by in INTEGERS:
            operation = Increment(operation.key, last.by + operation.by, last.ttl_ms)
            operations.pop()
        elif isinstance(operation, Touch) and isinstance(last, Touch):
            operations.pop()
        operations.append(operation)
        self._values[operation.key] = value

    def _count(self, rows: int, size: int) -> None:
        self._rows += rows
        self._bytes += size
        if self._rows > MAX_READS:
            raise TooLarge(f"a transaction reads at most {MAX_READS} keys and rows; read less, or in several")
        if self._bytes > MAX_READ_BYTES:
            raise TooLarge(f"a transaction reads at most {MAX_READ_BYTES >> 20} MiB; read less, or in several")

    def _written_in(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        return ((key, value) for key, value in self._values.items() if start <= key and (not end or key < end))

    async def _commit(self) -> None:
        conditions: list[Condition] = [
            SeqEquals(key, entry.seq if entry is not None else 0) for key, entry in self._entries.items()
        ]
        conditions += [each.condition() for each in self._ranges]
        if not self._writes and len(self._entries) + sum([each.pages for each in self._ranges]) < 2:
            return
        atomic = Atomic(conditions, list(chain.from_iterable(self._writes.values())))
        try:
            self._result = cast(WriteResult, await self._caller.run_until(atomic, self._due()))
        except ConditionFailed as failed:
            raise TransactionConflict(
                f"what the transaction read has changed, and nothing was written; do it again, as run() does: {failed}",
                shard=failed.shard,
                request_id=failed.request_id,
            ) from failed


class _ReadRange:
    """What a scan has read so far: [`start`, `end`) (an empty `end`: to the last), each page beside the one before."""

    def __init__(self, ranges: Ranges, start: bytes, end: bytes, *, reverse: bool) -> None:
        self.pages = 0
        self._ranges = ranges
        self._start = start
        self._end = end
        self._reverse = reverse
        self._rows: list[tuple[Sequence[bytes], Sequence[int]]] = []

    def add(self, page: ScanPage, start: bytes, end: bytes) -> None:
        """Take in the next page, of [start, end)."""
        if self._reverse:
            self._start = start
            self._rows.append((page.keys[::-1], page.seqs[::-1]))
        else:
            self._end = end
            self._rows.append((page.keys, page.seqs))
        self.pages += 1

    def condition(self) -> RangeUnchanged:
        """Return that there is nothing else."""
        digest = RangeDigest()
        for keys, seqs in reversed(self._rows) if self._reverse else self._rows:
            digest.add(keys, seqs)
        return RangeUnchanged(self._ranges, self._start, self._end, digest.value())


class _TransactionRows:
    """The rows of a range as a transaction sees them."""

    def __init__(self, tx: AsyncTransaction, ranges: Ranges, wanted: Cursor, page_rows: int) -> None:
        self._tx = tx
        self._ranges = ranges
        self._plan = wanted
        self._page_rows = page_rows
        self._turns = Turns()
        self._ended = False
        self._read: _ReadRange | None = None

    async def chunk(self) -> list[tuple[bytes, bytes]]:
        """Return the next rows, at least one; none at the end."""
        while not self._ended and self._plan.limit:
            at = self._plan
            page = await self._page()
            self._ended = page.resume is None
            if self._ended:
                start, end = at.start, at.end
            elif at.reverse:
                start, end = page.resume or b"", at.end
                self._plan = structs.replace(at, end=start)
            else:
                start, end = at.start, page.resume or b""
                self._plan = structs.replace(at, start=end)
            self._remember(page, start, end)
            rows = self._overlaid(page, self._tx._written_in(start, end))
            if at.limit != ALL_ROWS:
                rows = rows[: at.limit]
                self._plan = structs.replace(self._plan, limit=at.limit - len(rows))
            if rows:
                return rows
        return []

    def _remember(self, page: ScanPage, start: bytes, end: bytes) -> None:
        tx = self._tx
        tx._count(len(page.keys), sum(map(len, page.keys)) + sum(map(len, page.values)))
        if self._read is None:
            self._read = _ReadRange(self._ranges, start, end, reverse=self._plan.reverse)
            tx._ranges.append(self._read)
        self._read.add(page, start, end)

    def cursor(self, last: object, returned: int, *, ended: bool) -> str:  # noqa: ARG002 - the iterator asks so
        """A transaction cannot be continued elsewhere."""
        raise InvalidArgument("a scan in a transaction has no cursor: nobody can go on with it")

    async def _page(self) -> ScanPage:
        tx, at = self._tx, self._plan
        max_rows = self._page_rows if at.limit == ALL_ROWS else min(at.limit, self._page_rows)
        while True:
            tx._check_within_one_shard(self._ranges, at.start, at.end)
            page = await read_page(tx._caller, self._ranges, at, max_rows, STRONG_READ, tx._due(), self._turns)
            if page is not None:
                return page

    def _overlaid(self, page: ScanPage, written: Iterable[tuple[bytes, bytes | None]]) -> list[tuple[bytes, bytes]]:
        rows = dict(zip(page.keys, page.values, strict=True))
        for key, value in written:
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
        return sorted(rows.items(), reverse=self._plan.reverse)


class Attempts:
    """The retries of a transaction, with waits of full jitter, until a deadline."""

    def __init__(self, timeout: float) -> None:
        """
        Args:
            timeout: seconds for all of them.
        """
        self._until = monotonic() + timeout
        self._backoff = Backoff(FIRST_RETRY_SECONDS, RETRY_CAP_SECONDS, Random())
        self._made = 0

    def left(self) -> float:
        """Return the seconds until the deadline."""
        return max(1e-3, self._until - monotonic())

    def wait(self, conflict: TransactionConflict) -> float:
        """Return the seconds to wait after a conflict, which is raised where they end after the deadline."""
        delay = self._backoff.delay(self._made)
        self._made += 1
        if monotonic() + delay >= self._until:
            raise conflict
        return delay
