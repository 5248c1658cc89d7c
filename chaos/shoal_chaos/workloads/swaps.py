"""Registers are changed by compare_and_set and conditional writes: is each linearizable, refusals included?"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from time import monotonic_ns
from typing import ClassVar

import shoal
from shoal import AsyncClient, ConditionFailed, ShoalError

from shoal_chaos.checkers.linearizability import NEVER, Found, RegisterOperation
from shoal_chaos.workloads.base import Workload, WorkloadStep
from shoal_chaos.workloads.register_pool import RegisterPool

REGISTERS = 2
CLIENTS = 4


class Swaps(Workload):
    """compare_and_set and put_if_absent, which say no more than yes or no, and `write`, which says what it found."""

    name: ClassVar[str] = "swaps"

    def __init__(self, run: str, random: Random) -> None:
        super().__init__(run, random)
        self.registers = RegisterPool(self.prefix, REGISTERS)
        self._known: dict[str, bytes | None] = {}

    def steps(self) -> list[WorkloadStep]:
        return [self._step] * CLIENTS

    def check(self) -> Iterator[str]:
        return self.registers.check()

    async def _step(self, db: AsyncClient) -> None:
        key = self.registers.key(self.random.randrange(REGISTERS))
        kind = self.random.random()
        if kind < 0.3:
            await self._read(db, key)
        elif kind < 0.65:
            await self._compare_and_set(db, key)
        else:
            await self._write_when(db, key)

    async def _read(self, db: AsyncClient, key: str) -> None:
        began = monotonic_ns()
        try:
            value = await db.get(key, timeout=self.patience())
        except ShoalError as error:
            self.recorder.read_failed(error)
        else:
            self._found(key, value, began)

    async def _compare_and_set(self, db: AsyncClient, key: str) -> None:
        expected, value = self._known.get(key), self.recorder.new_value()
        began = monotonic_ns()
        try:
            if expected is None and self.random.random() < 0.5:
                done = await db.put_if_absent(key, value, timeout=self.patience())
            else:
                done = await db.compare_and_set(key, expected, value, timeout=self.patience())
        except ShoalError as error:
            self._failed(error, key, expected, value, began)
            return
        if done:
            self._done(key, expected, value, began)
        else:
            self.recorder.refused("the value was another", value)
            self._known.pop(key, None)
            refusal = RegisterOperation("", False, None, began, monotonic_ns(), Found(expected, equal=False))
            self.registers.add(key, refusal)

    async def _write_when(self, db: AsyncClient, key: str) -> None:
        expected, value = self._known.get(key), self.recorder.new_value()
        condition = shoal.key_absent(key) if expected is None else shoal.value_equals(key, expected)
        began = monotonic_ns()
        try:
            await db.write([shoal.put(key, value)], when=[condition], timeout=self.patience())
        except ConditionFailed as failed:
            self.recorder.refused("its condition did not hold", value)
            if failed.found is None and failed.found_seq:
                self._known.pop(key, None)  # there is a value, which a repeated answer need not show
            else:
                self._found(key, failed.found, began)
        except ShoalError as error:
            self._failed(error, key, expected, value, began)
        else:
            self._done(key, expected, value, began)

    def _found(self, key: str, value: bytes | None, began: int) -> None:
        self.recorder.saw(value)
        self._known[key] = value
        self.registers.add(key, RegisterOperation("", False, value, began, monotonic_ns()))

    def _done(self, key: str, expected: bytes | None, value: bytes, began: int) -> None:
        self.recorder.wrote()
        self._known[key] = value
        self.registers.add(key, RegisterOperation("", True, value, began, monotonic_ns(), Found(expected)))

    def _failed(self, error: ShoalError, key: str, expected: bytes | None, value: bytes, began: int) -> None:
        if self.recorder.failed(error, value):
            self.registers.add(key, RegisterOperation("", True, value, began, NEVER, Found(expected)), unknown=True)
