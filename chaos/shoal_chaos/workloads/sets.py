"""Sets of rows only grow, spread over all shards, and are scanned: is every row that was added in every later scan?"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from time import monotonic_ns
from typing import ClassVar

from shoal import AsyncClient, ShoalError

from shoal_chaos.checkers.sets import Addition, SetRead, find_violations
from shoal_chaos.workloads.base import PATIENT_SECONDS, Workload, WorkloadStep

CLIENTS = 3
SCAN_SHARE = 0.3
MOST_ELEMENTS = 150
"""After so many, a set is replaced by a new one."""
PAGE_ROWS = 20


class Sets(Workload):
    """put and put_if_absent of new rows, and scans in short pages; each row is a partition of its own."""

    name: ClassVar[str] = "sets"

    def __init__(self, run: str, random: Random) -> None:
        super().__init__(run, random)
        self.additions: list[list[Addition]] = [[]]
        self.reads: list[list[SetRead]] = [[]]

    def steps(self) -> list[WorkloadStep]:
        return [self._step] * CLIENTS

    async def finish(self, db: AsyncClient) -> None:
        for number in range(len(self.additions)):
            await self._scan(db, number, PATIENT_SECONDS)

    def check(self) -> Iterator[str]:
        for number, (additions, reads) in enumerate(zip(self.additions, self.reads, strict=True)):
            for found in find_violations(additions, reads):
                yield f"set {number}: {found.sentence}"

    async def _step(self, db: AsyncClient) -> None:
        if len(self.additions[-1]) >= MOST_ELEMENTS:
            self.additions.append([])
            self.reads.append([])
        number = len(self.additions) - 1
        if self.random.random() < SCAN_SHARE:
            await self._scan(db, number, self.patience())
        else:
            await self._add(db, number)

    async def _add(self, db: AsyncClient, number: int) -> None:
        element = self.recorder.new_value()
        key = self._prefix_of(number) + element
        began = monotonic_ns()
        try:
            if self.random.random() < 0.5:
                await db.put(key, element, timeout=self.patience())
            elif not await db.put_if_absent(key, element, timeout=self.patience()):
                self.recorder.complain(f"{element!r} was refused as already there, and had never been added.")
        except ShoalError as error:
            if self.recorder.failed(error, element):
                self.additions[number].append(Addition(element, began, None))
        else:
            self.recorder.wrote()
            self.additions[number].append(Addition(element, began, monotonic_ns()))

    async def _scan(self, db: AsyncClient, number: int, timeout: float) -> None:  # noqa: ASYNC109 - each page's
        began = monotonic_ns()
        try:
            rows = db.scan(self._prefix_of(number), page_rows=PAGE_ROWS, timeout=timeout)
            elements = [value async for _, value in rows]
        except ShoalError as error:
            self.recorder.read_failed(error)
            return
        self.recorder.saw(*elements)
        self.reads[number].append(SetRead(elements, began, monotonic_ns()))

    def _prefix_of(self, number: int) -> bytes:
        return f"{self.prefix}-{number}-".encode()
