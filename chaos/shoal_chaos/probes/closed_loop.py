"""One writer and one reader for each shard, each making call after call: what they see of an event, and what was promised.

A writer gives every write a key of its own, so that afterwards each acknowledged one can be looked for. A reader reads the
newest acknowledged key: a strong read must find it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from shoal import AsyncClient, ShoalError
from shoal.shardmap import Keyspace, Routes

from shoal_chaos.probes.partitions import partitions_of_shards

PAUSE_SECONDS = 0.005
"""Between two calls of one probe: enough load to see a failover, and on a small machine room for one to happen."""


@dataclass(frozen=True, slots=True)
class Call:
    """When a call began and ended, on the monotonic clock, in seconds."""

    began: float
    ended: float


@dataclass(slots=True)
class Calls:
    """The calls of one writer or reader since `forget`, and all errors that others ended with."""

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
    """The writer and the reader of one shard. `lost_reads`: acknowledged keys that a strong read did not find."""

    shard: int
    partition: str
    pause_seconds: float
    writes: Calls = field(default_factory=Calls)
    reads: Calls = field(default_factory=Calls)
    acknowledged: dict[bytes, bytes] = field(default_factory=dict)
    lost_reads: list[bytes] = field(default_factory=list)
    _newest: bytes | None = None

    async def write_for_ever(self, db: AsyncClient) -> None:
        number = 0
        while True:
            number += 1
            key, value = f"{self.partition}{number:08d}".encode(), f"value {number} of shard {self.shard}".encode()
            began = time.monotonic()
            try:
                await db.put(key, value)
            except ShoalError as error:
                self.writes.failed.append(error)
            else:
                self.writes.done.append(Call(began, time.monotonic()))
                self.acknowledged[key] = value
                self._newest = key
            await asyncio.sleep(self.pause_seconds)

    async def read_for_ever(self, db: AsyncClient) -> None:
        while True:
            key, began = self._newest, time.monotonic()
            if key is not None:
                try:
                    value = await db.get(key)
                except ShoalError as error:
                    self.reads.failed.append(error)
                else:
                    self.reads.done.append(Call(began, time.monotonic()))
                    if value != self.acknowledged[key]:
                        self.lost_reads.append(key)
            await asyncio.sleep(self.pause_seconds)


class ClosedLoopProbes:
    """The probes of all shards of a keyspace."""

    def __init__(self, routes: Routes, keyspace: Keyspace, pause_seconds: float = PAUSE_SECONDS) -> None:
        """
        Args:
            pause_seconds: between two calls of one probe: what a probe can miss of an outage.
        """
        partitions = partitions_of_shards(routes, keyspace, "probe")
        self.all = [ShardProbe(shard, partition, pause_seconds) for shard, partition in partitions.items()]
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def running(self, db: AsyncClient) -> AsyncIterator[None]:
        """Write and read for the length of an `async with` block; a write that its end cuts off was never promised."""
        for probe in self.all:
            self._tasks += [asyncio.create_task(probe.write_for_ever(db)), asyncio.create_task(probe.read_for_ever(db))]
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks.clear()

    def forget(self) -> None:
        """Begin anew with the calls that were seen; failures, and what was promised, are kept."""
        for calls in self._calls:
            calls.done.clear()

    def back_after(self, moment: float) -> bool:
        """Whether every shard has been written to and read from again by calls that began after `moment`."""
        self.check_running()
        return all(calls.back_after(moment) is not None for calls in self._calls)

    def check_running(self) -> None:
        """Raise what ended a probe, if one has ended: probes run until they are stopped."""
        for task in self._tasks:
            if task.done():
                task.result()

    @property
    def _calls(self) -> list[Calls]:
        return [calls for probe in self.all for calls in (probe.writes, probe.reads)]

    @property
    def failed(self) -> list[ShoalError]:
        """Every error that a call ended with."""
        return [error for calls in self._calls for error in calls.failed]

    @property
    def acknowledged(self) -> list[tuple[bytes, bytes]]:
        """Every write that was acknowledged."""
        return [row for probe in self.all for row in probe.acknowledged.items()]

    @property
    def lost_reads(self) -> list[bytes]:
        """Keys that were acknowledged, and then not found by a strong read."""
        return [key for probe in self.all for key in probe.lost_reads]
