"""One writer and one reader for each shard, in closed loops, and what they saw of an event: when calls began and ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from shoal import AsyncClient, ShoalError
from shoal.shardmap import Routes
from shoal_chaos.demo.probes import partition_in

PAUSE_SECONDS = 0.003
"""Between two calls of one probe: what a probe can miss of an outage."""

KEYS = 50


@dataclass(frozen=True, slots=True)
class Call:
    """When a call began and ended, on the monotonic clock, in seconds."""

    began: float
    ended: float


@dataclass(slots=True)
class Calls:
    """The calls of one writer or reader since `forget`."""

    done: list[Call] = field(default_factory=list)
    failed: list[ShoalError] = field(default_factory=list)

    def back_after(self, moment: float) -> float | None:
        """Return the seconds from `moment` until the first call that began after it was answered; None: not yet."""
        return next((call.ended - moment for call in self.done if call.began >= moment), None)

    def longest(self, since: float, until: float) -> float:
        """Return the seconds that the longest call took of those that were open at any time between two moments."""
        return max(call.ended - call.began for call in self.done if call.ended > since and call.began < until)


@dataclass(slots=True)
class ShardProbe:
    """The writer and the reader of one shard."""

    shard: int
    partition: str
    writes: Calls = field(default_factory=Calls)
    reads: Calls = field(default_factory=Calls)


class Probes:
    """The probes of all shards of the keyspace `default`."""

    def __init__(self, routes: Routes) -> None:
        keyspace = routes.keyspaces_by_name["default"]
        shards = [shard for shard in routes.map.shards if shard.keyspace == keyspace.id]
        self.all = [ShardProbe(shard.id, partition_in(routes, keyspace, shard)) for shard in shards]
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def running(self, db: AsyncClient) -> AsyncIterator[None]:
        """Write and read for the length of an `async with` block."""
        for probe in self.all:
            keys = [f"{probe.partition}{number}" for number in range(KEYS)]
            self._tasks.append(asyncio.create_task(_repeat(probe.writes, lambda key: db.put(key, key), keys)))
            self._tasks.append(asyncio.create_task(_repeat(probe.reads, db.get, keys)))
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def forget(self) -> None:
        """Begin anew with what was seen; failures are kept."""
        for probe in self.all:
            probe.writes.done.clear()
            probe.reads.done.clear()

    def back_after(self, moment: float) -> bool:
        """Whether every shard has been written to and read from again by calls that began after `moment`."""
        for task in self._tasks:
            if task.done():
                task.result()
        return all(calls.back_after(moment) is not None for probe in self.all for calls in (probe.writes, probe.reads))

    @property
    def failed(self) -> list[ShoalError]:
        """All errors that calls ended with."""
        return [error for probe in self.all for calls in (probe.writes, probe.reads) for error in calls.failed]


async def _repeat(calls: Calls, call: Callable[[str], Awaitable[object]], keys: list[str]) -> None:
    number = 0
    while True:
        number += 1
        began = time.monotonic()
        try:
            await call(keys[number % len(keys)])
        except ShoalError as error:
            calls.failed.append(error)
        else:
            calls.done.append(Call(began, time.monotonic()))
        await asyncio.sleep(PAUSE_SECONDS)
