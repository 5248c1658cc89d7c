"""Counters are incremented by many, alone and in pairs: was every increment applied exactly once?"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from time import monotonic_ns
from typing import ClassVar

import shoal
from shoal import AsyncClient, ShoalError

from shoal_chaos.checkers.counters import Increment, find_violations
from shoal_chaos.workloads.base import PATIENT_SECONDS, Workload, WorkloadStep

CLIENTS = 4


class Counting(Workload):
    """Two counters that only rise, one that also falls, and a pair in one shard that always agrees."""

    name: ClassVar[str] = "counters"

    def __init__(self, run: str, random: Random) -> None:
        super().__init__(run, random)
        self._rising = [f"{self.prefix}-0", f"{self.prefix}-1"]
        self._any = f"{self.prefix}-2"
        self._pair_prefix = f"{self.prefix}-pair/"
        self._pair = [f"{self._pair_prefix}a", f"{self._pair_prefix}b"]
        self.histories: dict[str, list[Increment]] = {key: [] for key in (*self._rising, self._any, *self._pair)}
        self._final: dict[str, int] = {}

    def steps(self) -> list[WorkloadStep]:
        return [self._step] * CLIENTS

    async def finish(self, db: AsyncClient) -> None:
        for key in self.histories:
            self._final[key] = int(await db.get(key, timeout=PATIENT_SECONDS) or 0)

    def check(self) -> Iterator[str]:
        for key, history in self.histories.items():
            for found in find_violations(history, self._final.get(key)):
                yield f"{key}: {found.sentence}"

    async def _step(self, db: AsyncClient) -> None:
        kind = self.random.random()
        if kind < 0.5:
            await self._increment(db, self.random.choice(self._rising), self.random.randint(1, 5))
        elif kind < 0.7:
            await self._increment(db, self._any, self.random.choice([-3, -2, -1, 1, 2, 3]))
        elif kind < 0.85:
            await self._increment_pair(db, self.random.randint(1, 5))
        else:
            await self._compare_pair(db)

    async def _increment(self, db: AsyncClient, key: str, by: int) -> None:
        began = monotonic_ns()
        try:
            value = await db.increment(key, by, timeout=self.patience())
        except ShoalError as error:
            self._failed(error, [key], by, began)
        else:
            self._done([key], by, [value], began)

    async def _increment_pair(self, db: AsyncClient, by: int) -> None:
        began = monotonic_ns()
        try:
            result = await db.write([shoal.increment(key, by) for key in self._pair], timeout=self.patience())
        except ShoalError as error:
            self._failed(error, self._pair, by, began)
            return
        self._done(self._pair, by, result.results, began)
        if len(set(result.results)) != 1:
            self.recorder.complain(f"Two counters that are only incremented together returned {result.results}.")

    async def _compare_pair(self, db: AsyncClient) -> None:
        try:
            values = [value async for _, value in db.scan(self._pair_prefix, timeout=self.patience())]
        except ShoalError as error:
            self.recorder.read_failed(error)
            return
        self.recorder.done += 1
        if values and (len(values) != 2 or values[0] != values[1]):
            self.recorder.complain(f"One page showed two counters that are only incremented together as {values}.")

    def _done(self, keys: list[str], by: int, values: list[int] | tuple[int, ...], began: int) -> None:
        self.recorder.wrote()
        for key, value in zip(keys, values, strict=True):
            self.histories[key].append(Increment(by, value, began, monotonic_ns()))

    def _failed(self, error: ShoalError, keys: list[str], by: int, began: int) -> None:
        if self.recorder.failed(error):
            for key in keys:
                self.histories[key].append(Increment(by, None, began, None))
