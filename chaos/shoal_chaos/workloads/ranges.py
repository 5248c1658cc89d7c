"""Rows of one writer that come in numbers, are deleted by ranges, and are read as a whole: are those there that should be?

Each task has rows that nobody else writes, so it knows at any moment which of them there are. Some are of one partition, and
are deleted by several ranges at once that begin or end together; some are spread over all shards. After a call of unknown
outcome it turns to other rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from random import Random
from typing import ClassVar

from shoal import AsyncClient, ShoalError

from shoal_chaos.workloads.base import PATIENT_SECONDS, Workload, WorkloadStep

TASKS = 2
ROWS = 40
PAGE_ROWS = 15
TRANSACTION_SHARE = 0.3


class _ExpectedRows:
    """The rows of a prefix that a task takes to be there."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.there: dict[bytes, bytes] = {}
        self.number = 0

    def turn_to_others(self, taken: int) -> None:
        self.number = taken
        self.there = {}

    def key(self, at: int) -> str:
        """A key of the present prefix; keys are in the order of their numbers."""
        return f"{self.stem}{at:03}"

    @property
    def stem(self) -> str:
        place, delimiter = self.prefix.removesuffix("/"), "/" if self.prefix.endswith("/") else "-"
        return f"{place}-{self.number}{delimiter}"


class Ranges(Workload):
    """put_many, delete_range and delete_prefix, several at once, and then scans, in transactions too."""

    name: ClassVar[str] = "ranges"

    def __init__(self, run: str, random: Random) -> None:
        super().__init__(run, random)
        self._taken = 0
        self._rows = [
            _ExpectedRows(f"{self.prefix}-{task}-{kind}") for task in range(TASKS) for kind in ("partition/", "spread")
        ]
        for rows in self._rows:
            self._turn_to_others(rows)

    def steps(self) -> list[WorkloadStep]:
        return [self._step_of(rows) for rows in self._rows]

    async def finish(self, db: AsyncClient) -> None:
        for rows in self._rows:
            await self._look(db, rows, PATIENT_SECONDS)

    def check(self) -> Iterator[str]:
        yield from ()

    def _turn_to_others(self, rows: _ExpectedRows) -> None:
        self._taken += 1
        rows.turn_to_others(self._taken)

    def _step_of(self, rows: _ExpectedRows) -> WorkloadStep:
        async def step(db: AsyncClient) -> None:
            chance = self.random.random()
            if chance < 0.3:
                await self._fill(db, rows)
            elif chance < 0.6:
                await self._clear(db, rows)
            else:
                await self._look(db, rows, self.patience())

        return step

    async def _fill(self, db: AsyncClient, rows: _ExpectedRows) -> None:
        value = self.recorder.new_value()
        keys = [rows.key(at).encode() for at in self.random.sample(range(ROWS), ROWS // 2)]
        try:
            await db.put_many(dict.fromkeys(keys, value), timeout=self.patience())
        except ShoalError as error:
            # Not atomic over shards: some of the keys may have it.
            self.recorder.failed(error)
            self._turn_to_others(rows)
            return
        self.recorder.wrote()
        rows.there.update(dict.fromkeys(keys, value))

    async def _clear(self, db: AsyncClient, rows: _ExpectedRows) -> None:
        """Delete several ranges at once: they travel together, and become one entry of each shard's log."""
        end = rows.stem[:-1] + chr(ord(rows.stem[-1]) + 1)
        spans = [(rows.key(first), self.random.choice([rows.key(last), end])) for first, last in self._spans()]
        calls = [db.delete_range(start, stop, timeout=self.patience()) for start, stop in spans]
        failed = [each for each in await asyncio.gather(*calls, return_exceptions=True) if isinstance(each, Exception)]
        for error in failed:
            if not isinstance(error, ShoalError):
                raise error
            self.recorder.failed(error)
        if failed:
            self._turn_to_others(rows)
            return
        self.recorder.wrote()
        for key in list(rows.there):
            if any(start.encode() <= key < stop.encode() for start, stop in spans):
                del rows.there[key]

    def _spans(self) -> list[tuple[int, int]]:
        shared = self.random.randrange(ROWS // 2)
        starts = [self.random.choice([shared, shared, self.random.randrange(ROWS - 1)]) for _ in range(3)]
        return [(start, self.random.randrange(start + 1, ROWS + 1)) for start in starts[: self.random.choice([1, 3])]]

    async def _look(self, db: AsyncClient, rows: _ExpectedRows, seconds: float) -> None:
        whole = rows.prefix.endswith("/") and self.random.random() < TRANSACTION_SHARE
        try:
            found = [row async for row in self._read(db, rows, seconds, whole)]
        except ShoalError as error:
            self.recorder.read_failed(error)
            return
        self.recorder.saw(*[value for _, value in found])
        if found != sorted(rows.there.items()):
            lost = sorted(rows.there.items() - set(found))
            strange = sorted(set(found) - rows.there.items())
            doubled = " Some are there twice." if len(found) > len(set(found)) else ""
            self.recorder.complain(
                f"Rows of {rows.stem!r}: {lost} are missing, and {strange} are there that are deleted or of another value."
                f"{doubled}"
            )
            self._turn_to_others(rows)

    async def _read(
        self, db: AsyncClient, rows: _ExpectedRows, seconds: float, whole: bool
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        if not whole:
            async for row in db.scan(rows.stem, page_rows=PAGE_ROWS, timeout=seconds):
                yield row
            return
        async with db.transaction(timeout=seconds) as tx:
            async for row in tx.scan(rows.stem, page_rows=PAGE_ROWS):
                yield row
