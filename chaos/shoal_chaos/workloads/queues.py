"""Queues of rows, filled and emptied in transactions: is everything taken once, in order, and nothing lost?"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from time import monotonic_ns
from typing import ClassVar

from shoal import AsyncClient, ShoalError

from shoal_chaos.checkers.queues import Put, Take, find_violations
from shoal_chaos.workloads.base import PATIENT_SECONDS, Workload, WorkloadStep

QUEUES = 2
PRODUCERS = 2
CONSUMERS = 2


class Queues(Workload):
    """A queue is a counter of what was ever put, and a row for each element that is still there."""

    name: ClassVar[str] = "queues"

    def __init__(self, run: str, random: Random) -> None:
        super().__init__(run, random)
        self.puts: list[list[Put]] = [[] for _ in range(QUEUES)]
        self.takes: list[list[Take]] = [[] for _ in range(QUEUES)]
        self._left: list[list[bytes]] = []

    def steps(self) -> list[WorkloadStep]:
        return [*[self._put] * PRODUCERS, *[self._take] * CONSUMERS]

    async def finish(self, db: AsyncClient) -> None:
        for queue in range(QUEUES):
            rows = db.scan(self._rows_of(queue), timeout=PATIENT_SECONDS)
            self._left.append([element async for _, element in rows])

    def check(self) -> Iterator[str]:
        left: list[list[bytes]] | list[None] = self._left or [None] * QUEUES
        for queue, history in enumerate(zip(self.puts, self.takes, left, strict=True)):
            for found in find_violations(*history):
                yield f"queue {queue}: {found.sentence}"

    async def _put(self, db: AsyncClient) -> None:
        queue, element = self.random.randrange(QUEUES), self.recorder.new_value()
        counter = f"{self.prefix}{queue}/count"
        began = monotonic_ns()
        try:
            async with db.transaction(timeout=self.patience()) as tx:
                number = int(await tx.get(counter) or 0) + 1
                tx.put(counter, b"%d" % number)
                tx.put(f"{self._rows_of(queue)}{number:09d}", element)
        except ShoalError as error:
            if self.recorder.failed(error, element):
                self.puts[queue].append(Put(element, began, None))
        else:
            self.recorder.wrote()
            self.puts[queue].append(Put(element, began, monotonic_ns()))

    async def _take(self, db: AsyncClient) -> None:
        queue = self.random.randrange(QUEUES)
        element: bytes | None = None
        began = monotonic_ns()
        try:
            async with db.transaction(timeout=self.patience()) as tx:
                async for key, value in tx.scan(self._rows_of(queue), limit=1, page_rows=1):
                    element = value
                    tx.delete(key)
        except ShoalError as error:
            if self.recorder.failed(error) and element is not None:
                self.takes[queue].append(Take(element, began, None))
        else:
            self.recorder.saw(element)
            self.takes[queue].append(Take(element, began, monotonic_ns()))

    def _rows_of(self, queue: int) -> str:
        return f"{self.prefix}{queue}/row-"
