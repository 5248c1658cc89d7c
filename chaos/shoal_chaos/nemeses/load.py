"""Load spikes: many callers at once, with nothing to say but much of it."""

from __future__ import annotations

import asyncio
from random import Random
from typing import ClassVar

from shoal import AsyncClient, ShoalError

from shoal_chaos.nemeses.base import Disturbance, Target

KEYS = 1_000
VALUE = b"x" * 100
TIMEOUT_SECONDS = 5.0


class LoadSpike(Disturbance):
    """A client of its own, and callers that write and read without pause."""

    name: ClassVar[str] = "load-spike"

    def __init__(self, callers: int) -> None:
        self._callers = callers
        self._tasks: list[asyncio.Task[None]] = []
        self._db: AsyncClient | None = None
        self._calls = 0

    async def start(self, cluster: Target, random: Random) -> str:
        self._db = AsyncClient(cluster.url, timeout=TIMEOUT_SECONDS)
        await self._db.__aenter__()
        self._tasks = [
            asyncio.create_task(self._call(self._db, Random(random.getrandbits(64)))) for _ in range(self._callers)
        ]
        return f"{self._callers} callers more, without pause"

    async def heal(self, cluster: Target) -> None:  # noqa: ARG002 - they know where it is
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._db is not None:
            await self._db.close()

    async def _call(self, db: AsyncClient, random: Random) -> None:
        while True:
            key = f"spike-{random.randrange(KEYS)}"
            try:
                if random.random() < 0.5:
                    await db.put(key, VALUE)
                else:
                    await db.get(key)
            except ShoalError:
                await asyncio.sleep(0.01)  # What it is told does not matter; what others are told meanwhile does.
