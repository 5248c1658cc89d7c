"""A mixed load at a fixed rate, whatever the cluster does (an open loop), and how long each call took.

A call that is due is made, whether or not earlier ones are answered; its latency counts from when it was due, so that a
stall is not hidden by calls that were never made.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from shoal import AsyncClient, AsyncTransaction, ShoalError

KEYS = 20_000
VALUE_BYTES = 100
FILL_BATCH = 1_000

MIX = {"put": 0.40, "get": 0.40, "eventual": 0.10, "increment": 0.05, "transaction": 0.05}


@dataclass(frozen=True, slots=True)
class Call:
    """One call: of which kind, when it was due and how long after that it was answered, in seconds."""

    kind: str
    due: float
    seconds: float


@dataclass(slots=True)
class Seen:
    """What became of the calls so far."""

    calls: list[Call] = field(default_factory=list)
    failed: list[tuple[float, str, ShoalError]] = field(default_factory=list)


class SteadyLoad:
    """The load: `rate` calls a second."""

    def __init__(self, db: AsyncClient, rate: float) -> None:
        self.seen = Seen()
        self._db = db
        self._rate = rate
        self._random = Random(0)
        self._value = self._random.randbytes(VALUE_BYTES)
        self._open: set[asyncio.Task[None]] = set()
        self._calls: dict[str, Callable[[], Awaitable[object]]] = {
            "put": lambda: db.put(self._key(), self._value),
            "get": lambda: db.get(self._key()),
            "eventual": lambda: db.get(self._key(), consistency="eventual", max_staleness=5.0),
            "increment": lambda: db.increment(f"{self._random.randrange(KEYS)}/count"),
            "transaction": self._copy,
        }

    async def fill(self) -> None:
        """Write every key once."""
        for first in range(0, KEYS, FILL_BATCH):
            await self._db.put_many({f"{number}/a": self._value for number in range(first, first + FILL_BATCH)})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make calls for the length of an `async with` block, and wait for the last answers."""
        gc.collect()
        gc.freeze()
        pacing = asyncio.create_task(self._pace())
        try:
            yield
        finally:
            pacing.cancel()
            await asyncio.gather(pacing, return_exceptions=True)
            await asyncio.gather(*self._open)
            gc.unfreeze()

    async def _pace(self) -> None:
        kinds, weights = list(MIX), list(MIX.values())
        due = time.monotonic()
        while True:
            while due <= time.monotonic():
                (kind,) = self._random.choices(kinds, weights)
                task = asyncio.create_task(self._call(kind, due))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
                due += 1 / self._rate
            await asyncio.sleep(due - time.monotonic())

    async def _call(self, kind: str, due: float) -> None:
        try:
            await self._calls[kind]()
        except ShoalError as error:
            self.seen.failed.append((due, kind, error))
        else:
            self.seen.calls.append(Call(kind, due, time.monotonic() - due))

    def _key(self) -> str:
        return f"{self._random.randrange(KEYS)}/a"

    async def _copy(self) -> None:
        """Copy a row to another of its partition, in a transaction that is tried again when others were in between."""
        partition = self._random.randrange(KEYS)

        async def copy(tx: AsyncTransaction) -> None:
            tx.put(f"{partition}/b", await tx.get(f"{partition}/a") or self._value)

        await self._db.run(copy)
