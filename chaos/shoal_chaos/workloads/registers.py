"""Registers are written, deleted and strongly read by many: is each of them linearizable?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from time import monotonic_ns
from typing import ClassVar

from shoal import AsyncClient, ShoalError

from shoal_chaos.checkers.linearizability import NEVER, RegisterOperation
from shoal_chaos.workloads.base import PATIENT_SECONDS, Workload, WorkloadStep
from shoal_chaos.workloads.register_pool import RegisterPool

REGISTERS = 3
CLIENTS = 6
STRANGERS = 3
STRANGER_SECONDS = 1.0


class Registers(Workload):
    """put, delete, get, get_entry and get_many; the reads also by clients that have only just come.

    A client that knows the cluster turns away from a node that is silent, and no longer asks a leader that was stopped when
    that goes on. A stranger that knows only this node does.
    """

    name: ClassVar[str] = "registers"

    def __init__(self, run: str, random: Random, urls: Sequence[str] = ()) -> None:
        """
        Args:
            urls: of single nodes, for clients that know no other; none: no such clients.
        """
        super().__init__(run, random)
        self.registers = RegisterPool(self.prefix, REGISTERS)
        self._urls = urls
        self._stranger_seconds = STRANGER_SECONDS

    def be_patient(self) -> None:
        super().be_patient()
        self._stranger_seconds = PATIENT_SECONDS

    def steps(self) -> list[WorkloadStep]:
        strangers = STRANGERS if self._urls else 0
        return [*[self._step] * CLIENTS, *[self._read_as_stranger] * strangers]

    def check(self) -> Iterator[str]:
        return self.registers.check()

    async def _step(self, db: AsyncClient) -> None:
        key = self.registers.key(self.random.randrange(REGISTERS))
        kind = self.random.random()
        if kind < 0.4:
            await self._write(db, key, self.recorder.new_value())
        elif kind < 0.45:
            await self._write(db, key, None)
        else:
            await self._read(db, key, self.patience())

    async def _read_as_stranger(self, db: AsyncClient) -> None:  # noqa: ARG002 - on a connection of its own
        key = self.registers.key(self.random.randrange(REGISTERS))
        try:
            async with AsyncClient(self.random.choice(self._urls), timeout=self._stranger_seconds) as stranger:
                await self._read(stranger, key, self._stranger_seconds)
        except ShoalError as error:
            self.recorder.read_failed(error)

    async def _write(self, db: AsyncClient, key: str, value: bytes | None) -> None:
        began = monotonic_ns()
        try:
            if value is None:
                await db.delete(key, timeout=self.patience())
            else:
                await db.put(key, value, timeout=self.patience())
        except ShoalError as error:
            if self.recorder.failed(error, *([] if value is None else [value])):
                self.registers.add(key, RegisterOperation("", True, value, began, NEVER), unknown=True)
        else:
            self.recorder.wrote()
            self.registers.add(key, RegisterOperation("", True, value, began, monotonic_ns()))

    async def _read(self, db: AsyncClient, key: str, timeout: float) -> None:  # noqa: ASYNC109 - the call's
        began = monotonic_ns()
        kind = self.random.randrange(3)
        try:
            if kind == 0:
                value = await db.get(key, timeout=timeout)
            elif kind == 1:
                entry = await db.get_entry(key, timeout=timeout)
                value = None if entry is None else entry.value
                if entry is not None and entry.staleness != 0:
                    self.recorder.complain(f"A strong read of {key!r} says that it is stale: {entry}.")
            else:
                (value,) = await db.get_many([key], timeout=timeout)
        except ShoalError as error:
            self.recorder.read_failed(error)
        else:
            self.recorder.saw(value)
            self.registers.add(key, RegisterOperation("", False, value, began, monotonic_ns()))
