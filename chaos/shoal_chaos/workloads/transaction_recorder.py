"""Transactions through the public client, recorded with every version that they read and wrote.

A value says which transaction wrote it: `b"17 off"`. Rows of a scan carry no sequence number, so each is also read by its key;
the commit validates both, and what both saw is then the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from time import monotonic_ns

from shoal import AsyncClient, AsyncTransaction, ShoalError, TransactionConflict

from shoal_chaos.checkers import dirty_reads
from shoal_chaos.checkers.dirty_reads import ReadValue, TransactionOutcome, WrittenValue
from shoal_chaos.checkers.serializability import RangeRead, Transaction, find_violation
from shoal_chaos.workloads.recorder import Recorder


def payload_of(value: bytes) -> bytes:
    """Return what a value says beside who wrote it."""
    return value.partition(b" ")[2]


class RecordedTransaction:
    """What one transaction reads and writes; the payloads of values, not the values."""

    def __init__(self, number: int, tx: AsyncTransaction, recorder: Recorder) -> None:
        self.number = number
        self.tx = tx
        self.reads: dict[bytes, int] = {}
        self.ranges: list[RangeRead] = []
        self.writes: dict[bytes, bytes] = {}
        self.deletes: set[bytes] = set()
        self.seen: dict[bytes, bytes] = {}
        self.differences: list[str] = []
        self._recorder = recorder

    async def get(self, key: bytes) -> bytes | None:
        """Read one key, which the transaction must not have written yet."""
        entry = await self.tx.get_entry(key)
        self.reads[key] = 0 if entry is None else entry.seq
        if entry is None:
            return None
        self.seen[key] = entry.value
        return payload_of(entry.value)

    async def get_all(self, prefix: bytes) -> dict[bytes, bytes]:
        """Read all keys with a prefix, none of which the transaction may have written yet."""
        rows = {key: value async for key, value in self.tx.scan(prefix)}
        contents: dict[bytes, int] = {}
        for key, value in rows.items():
            entry = await self.tx.get_entry(key)
            contents[key] = 0 if entry is None else entry.seq
            if entry is None or entry.value != value:
                self.differences.append(f"{key!r} was {value!r} in a scan, and then {entry}")
        self.seen.update(rows)
        self.ranges.append(RangeRead(prefix, prefix[:-1] + bytes([prefix[-1] + 1]), contents))
        return {key: payload_of(value) for key, value in rows.items()}

    def put(self, key: bytes, payload: bytes) -> None:
        value = b"%d %s" % (self.number, payload)
        self._recorder.attempting(value)
        self.tx.put(key, value)
        self.writes[key] = value

    def delete(self, key: bytes) -> None:
        self.tx.delete(key)
        self.deletes.add(key)


Body = Callable[[RecordedTransaction], Awaitable[None]]


class TransactionRecorder:
    """The transactions of one workload."""

    def __init__(self, recorder: Recorder) -> None:
        self.transactions: list[Transaction] = []
        self._recorder = recorder
        self._attempts = 0
        self._maybe_deleted: set[bytes] = set()
        self._written: dict[bytes, list[WrittenValue]] = {}
        self._read: list[ReadValue] = []

    async def attempt(self, db: AsyncClient, body: Body, timeout: float) -> bool:  # noqa: ASYNC109 - the block's
        """Run one transaction; return whether it was committed."""
        self._attempts += 1
        began = monotonic_ns()
        tx = db.transaction(timeout=timeout)
        recorded = RecordedTransaction(self._attempts, tx, self._recorder)
        try:
            async with tx:
                await body(recorded)
        except TransactionConflict as conflict:
            self._recorder.failed(conflict, *recorded.writes.values())
            self._note_written(recorded, "aborted")
            return False
        except ShoalError as error:
            unknown = self._recorder.failed(error, *recorded.writes.values())
            if unknown:
                self._maybe_deleted |= recorded.deletes
            self._note_written(recorded, "unknown" if unknown else "aborted")
            return False
        self._committed(recorded, began)
        return True

    async def commit(self, db: AsyncClient, body: Body, timeout: float) -> None:  # noqa: ASYNC109 - each attempt's
        """Run one transaction until it is committed."""
        committed = False
        while not committed:
            committed = await self.attempt(db, body, timeout)

    def check(self) -> Iterator[str]:
        """Yield the dirty reads, and a cycle, if there is one."""
        for dirty in dirty_reads.find_violations(self._written, self._read):
            yield dirty.sentence
        cycle = find_violation(self.transactions, strict=True, maybe_deleted=self._maybe_deleted)
        if cycle is not None:
            yield str(cycle)

    def _note_written(self, recorded: RecordedTransaction, outcome: TransactionOutcome) -> None:
        for key, value in recorded.writes.items():
            self._written.setdefault(key, []).append(WrittenValue(recorded.number, value, True, outcome))

    def _committed(self, recorded: RecordedTransaction, began: int) -> None:
        self._recorder.saw(*recorded.seen.values())
        self._note_written(recorded, "committed")
        self._read.extend(ReadValue(recorded.number, key, value) for key, value in recorded.seen.items())
        for difference in recorded.differences:
            self._recorder.complain(f"T{recorded.number} was committed, though {difference}.")
        result = recorded.tx.result
        seqs = [*recorded.reads.values(), *(seq for each in recorded.ranges for seq in each.contents.values())]
        self.transactions.append(
            Transaction(
                recorded.number,
                max(seqs, default=0) if result is None else result.seq,
                began,
                monotonic_ns(),
                recorded.reads,
                recorded.ranges,
                frozenset(recorded.writes),
                frozenset(recorded.deletes),
            )
        )
