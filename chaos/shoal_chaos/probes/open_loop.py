"""A light, steady load on every shard: what each of them answers, when, and how late.

Calls are due at fixed times and are made whether or not earlier ones were answered (an open loop); latency counts from when
a call was due. Every write has a key of its own, so that each acknowledged one can be looked for afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from shoal import AsyncClient, ShoalError
from shoal.shardmap import Routes, ShardMap

from shoal_chaos.probes.partitions import partitions_of_shards

INTERVAL_SECONDS = 0.1
"""Between two calls of a shard; every other one is a write."""

TIMEOUT_SECONDS = 1.0
"""A call that waits longer than this counts as not answered."""

READ_BACK_SECONDS = 30.0
READ_BACK_KEYS = 500


@dataclass(frozen=True, slots=True)
class Sample:
    """One call of a probe: when it was due on the monotonic clock, and after how long it ended; `error` "": well."""

    shard: int
    write: bool
    due: float
    seconds: float
    error: str = ""


class OpenLoopProbes:
    """A probe for each shard that a keyspace has at the beginning; its keys stay together wherever they may move."""

    def __init__(self, db: AsyncClient, shard_map: ShardMap, keyspace: str, run: str) -> None:
        """
        Args:
            run: begins all keys.
        """
        self.samples: list[Sample] = []
        routes = Routes(shard_map)
        self.partitions = partitions_of_shards(routes, routes.keyspaces_by_name[keyspace], f"{run}-probe")
        self._db = db
        self._acknowledged: dict[bytes, bytes] = {}
        self._open: set[asyncio.Task[None]] = set()
        self._number = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make calls for the length of an `async with` block, and wait for the last answers."""
        pacing = asyncio.create_task(self._pace())
        try:
            yield
        finally:
            pacing.cancel()
            await asyncio.gather(pacing, return_exceptions=True)
            await asyncio.gather(*self._open)

    async def lost(self) -> list[str]:
        """Read all acknowledged writes again; return, in words, those that are not there as written."""
        keys = list(self._acknowledged)
        lost: list[str] = []
        for first in range(0, len(keys), READ_BACK_KEYS):
            part = keys[first : first + READ_BACK_KEYS]
            found = await self._db.get_many(part, timeout=READ_BACK_SECONDS)
            lost += [
                f"the write of {self._acknowledged[key]!r} to {key!r} was acknowledged, and {value!r} is there"
                for key, value in zip(part, found, strict=True)
                if value != self._acknowledged[key]
            ]
        return lost

    @property
    def acknowledged(self) -> int:
        """How many writes were acknowledged."""
        return len(self._acknowledged)

    async def _pace(self) -> None:
        due = time.monotonic()
        step = INTERVAL_SECONDS / len(self.partitions)
        while True:
            for shard, partition in self.partitions.items():
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                task = asyncio.create_task(self._call(shard, partition, due))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
                due += step
            self._number += 1

    async def _call(self, shard: int, partition: str, due: float) -> None:
        write, error = self._number % 2 == 0, ""
        key = f"{partition}{self._number}".encode()
        value = b"value of " + key
        try:
            if write:
                await self._db.put(key, value, timeout=TIMEOUT_SECONDS)
                self._acknowledged[key] = value
            else:
                await self._db.get(key, timeout=TIMEOUT_SECONDS)
        except ShoalError as failure:
            error = type(failure).__name__
        self.samples.append(Sample(shard, write, due, time.monotonic() - due, error))
