"""What all workloads have in common: tasks that make one call after another until they are told to stop."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from math import exp, log
from random import Random
from typing import ClassVar

from shoal import AsyncClient

from shoal_chaos.workloads.recorder import Recorder

PACE_SECONDS = 0.02
"""The mean time between two calls of one task, by default: histories are to be long in time, not to fill the machine."""

PATIENT_SECONDS = 8.0
"""Longer than any failover: such calls end with an answer."""

SHORTEST_SECONDS = 0.001
LONGEST_SECONDS = 0.25
IMPATIENT_SHARE = 0.15

WorkloadStep = Callable[[AsyncClient], Awaitable[None]]


class Workload(ABC):
    """A kind of use, on keys of its own, with a history."""

    name: ClassVar[str]

    def __init__(self, run: str, random: Random) -> None:
        """
        Args:
            run: begins all keys, none of which may be there yet. Without a delimiter.
        """
        self.prefix = f"{run}-{self.name}"
        self.random = random
        self.recorder = Recorder()
        self.impatient_share = IMPATIENT_SHARE
        self.pace_seconds = PACE_SECONDS
        self.stopping = False

    async def run(self, db: AsyncClient, stop: asyncio.Event) -> None:
        """Work until `stop`, and then until the last calls have ended."""
        await self.prepare(db)
        async with asyncio.TaskGroup() as group:
            for step in self.steps():
                group.create_task(self._repeat(step, db))
            await stop.wait()
            self.stopping = True
        await self.finish(db)

    def violations(self) -> list[str]:
        """Return, in words, all that is wrong with what was seen."""
        return [f"{self.name}: {found}" for found in (*self.recorder.violations(), *self.check())]

    @abstractmethod
    def steps(self) -> list[WorkloadStep]:
        """Return what each of the concurrent tasks does, again and again."""

    @abstractmethod
    def check(self) -> Iterator[str]:
        """Yield what the checkers find in the history."""

    async def prepare(self, db: AsyncClient) -> None:  # noqa: B027 - most have nothing to prepare
        """Write what has to be there."""

    async def finish(self, db: AsyncClient) -> None:  # noqa: B027 - most have nothing left to read
        """Read what remained, after all tasks have ended."""

    def be_patient(self) -> None:
        """Have every call wait for its answer: where nothing breaks, none may fail."""
        self.impatient_share = 0.0

    def patience(self) -> float:
        """Return the timeout of a call, in seconds: some give up early, so that outcomes stay unknown."""
        if self.random.random() >= self.impatient_share:
            return PATIENT_SECONDS
        return exp(self.random.uniform(log(SHORTEST_SECONDS), log(LONGEST_SECONDS)))

    async def _repeat(self, step: WorkloadStep, db: AsyncClient) -> None:
        while not self.stopping:
            await step(db)
            await asyncio.sleep(self.random.uniform(0, 2 * self.pace_seconds))
