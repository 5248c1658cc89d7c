"""Lists grow in transactions that read several of them: is there an anomaly, a lost element, or one that is there twice?"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from time import monotonic_ns
from typing import ClassVar

from shoal import AsyncClient, AsyncTransaction, ShoalError

from shoal_chaos.checkers.list_append import (
    Append,
    ListTransaction,
    Operation,
    ReadList,
    TransactionOutcome,
    find_violations,
)
from shoal_chaos.workloads.base import PATIENT_SECONDS, Workload, WorkloadStep

CLIENTS = 4
GROUPS = 2
"""The lists of a group are in one shard."""
LISTS = 3
MOST_APPENDS = 60
"""After so many, a list is replaced by a new one."""
MOST_OPERATIONS = 4
READ_SHARE = 0.3


class AppendLists(Workload):
    """A list is one value: its elements, and a transaction appends by reading it and writing all of it."""

    name: ClassVar[str] = "append-lists"

    def __init__(self, run: str, random: Random) -> None:
        super().__init__(run, random)
        self.transactions: list[ListTransaction] = []
        self._appends: dict[str, int] = {}
        self._lists = [[self._new_list(group) for _ in range(LISTS)] for group in range(GROUPS)]
        self._elements = 0
        self._clients = 0

    def steps(self) -> list[WorkloadStep]:
        return [self._client() for _ in range(CLIENTS)]

    async def finish(self, db: AsyncClient) -> None:
        for key in list(self._appends):
            await self._read_one(db, "last", key, PATIENT_SECONDS)

    def check(self) -> Iterator[str]:
        for found in find_violations(self.transactions):
            yield str(found)

    def _client(self) -> WorkloadStep:
        self._clients += 1
        session = f"c{self._clients}"

        async def step(db: AsyncClient) -> None:
            lists = self.random.choice(self._lists)
            if self.random.random() < READ_SHARE:
                await self._read_one(db, session, self.random.choice(lists), self.patience())
            else:
                await self._transaction(db, session, lists)

        return step

    async def _read_one(self, db: AsyncClient, session: str, key: str, timeout: float) -> None:  # noqa: ASYNC109
        began = monotonic_ns()
        try:
            value = await db.get(key, timeout=timeout)
        except ShoalError as error:
            self.recorder.read_failed(error)
            return
        self.recorder.done += 1
        self._record(session, [ReadList(key.encode(), _decode(value))], "committed", began, monotonic_ns())

    async def _transaction(self, db: AsyncClient, session: str, lists: list[str]) -> None:
        operations: list[Operation] = []
        began = monotonic_ns()
        tx = db.transaction(timeout=self.patience())
        try:
            async with tx:
                for _ in range(self.random.randint(1, MOST_OPERATIONS)):
                    await self._operate(tx, lists, operations)
        except ShoalError as error:
            outcome: TransactionOutcome = "unknown" if self.recorder.failed(error) else "aborted"
            self._record(session, operations, outcome, began, None)
        else:
            self.recorder.wrote()
            self._record(session, operations, "committed", began, monotonic_ns())

    async def _operate(self, tx: AsyncTransaction, lists: list[str], operations: list[Operation]) -> None:
        place = self.random.randrange(LISTS)
        key = lists[place]
        elements = _decode(await tx.get(key))
        operations.append(ReadList(key.encode(), elements))
        if self.random.random() < READ_SHARE:
            return
        self._elements += 1
        operations.append(Append(key.encode(), self._elements))
        tx.put(key, _encode((*elements, self._elements)))
        self._appends[key] += 1
        if self._appends[key] >= MOST_APPENDS and lists[place] == key:
            lists[place] = self._new_list(self._lists.index(lists))

    def _record(
        self, session: str, operations: list[Operation], outcome: TransactionOutcome, began: int, completed: int | None
    ) -> None:
        number = len(self.transactions) + 1
        self.transactions.append(ListTransaction(number, session, operations, outcome, began, completed))

    def _new_list(self, group: int) -> str:
        key = f"{self.prefix}{group}/{len(self._appends)}"
        self._appends[key] = 0
        return key


def _encode(elements: tuple[int, ...]) -> bytes:
    return b" ".join(b"%d" % element for element in elements)


def _decode(value: bytes | None) -> tuple[int, ...]:
    return () if value is None else tuple(int(element) for element in value.split())
