"""One writer and one reader for each shard, without pause: what they see of a failover, and what was promised to them.

A writer gives every write a key of its own, so that afterwards each acknowledged one can be looked for. A reader reads
the newest acknowledged key: a strong read must find it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from shoal import AsyncClient
from shoal.errors import ShoalError
from shoal.shardmap import Keyspace, Routes, Shard

PAUSE_SECONDS = 0.005
"""Between two calls of one probe: enough load to see a failover, and on a small machine room for one to happen."""


@dataclass(slots=True)
class Outage:
    """What one shard's probes saw after a moment: seconds until the first call begun after it succeeded."""

    began: float
    first_write_seconds: float | None = None
    first_read_seconds: float | None = None

    @property
    def over(self) -> bool:
        return self.first_write_seconds is not None and self.first_read_seconds is not None


@dataclass(slots=True)
class Probe:
    """The writer and the reader of one shard."""

    shard: int
    partition: str
    acknowledged: dict[bytes, bytes] = field(default_factory=dict)
    uncertain: dict[bytes, bytes] = field(default_factory=dict)
    errors: list[ShoalError] = field(default_factory=list)
    lost_reads: list[bytes] = field(default_factory=list)
    outage: Outage | None = None
    _newest: bytes | None = None

    async def write_for_ever(self, db: AsyncClient) -> None:
        number = 0
        while True:
            number += 1
            key, value = f"{self.partition}{number:08d}".encode(), f"value {number} of shard {self.shard}".encode()
            outage, began = self.outage, time.monotonic()
            try:
                await db.put(key, value)
            except ShoalError as error:
                self.errors.append(error)
                if error.maybe_applied:
                    self.uncertain[key] = value
            else:
                self.acknowledged[key] = value
                self._newest = key
                if outage is not None and outage.first_write_seconds is None and began >= outage.began:
                    outage.first_write_seconds = time.monotonic() - outage.began
            await asyncio.sleep(PAUSE_SECONDS)

    async def read_for_ever(self, db: AsyncClient) -> None:
        while True:
            key = self._newest
            if key is not None:
                outage, began = self.outage, time.monotonic()
                try:
                    value = await db.get(key)
                except ShoalError as error:
                    self.errors.append(error)
                else:
                    if value != self.acknowledged[key]:
                        self.lost_reads.append(key)
                    if outage is not None and outage.first_read_seconds is None and began >= outage.began:
                        outage.first_read_seconds = time.monotonic() - outage.began
            await asyncio.sleep(PAUSE_SECONDS)


class Probes:
    """The probes of all shards of a keyspace, running between `start` and `stop`."""

    def __init__(self, routes: Routes, keyspace: Keyspace) -> None:
        self.all = [
            Probe(shard.id, partition_in(routes, keyspace, shard))
            for shard in routes.map.shards
            if shard.keyspace == keyspace.id
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, db: AsyncClient) -> None:
        for probe in self.all:
            self._tasks += [asyncio.create_task(probe.write_for_ever(db)), asyncio.create_task(probe.read_for_ever(db))]

    async def stop(self) -> None:
        """Stop between two calls or in the middle of one; a write that was cut off counts as never promised."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def check_running(self) -> None:
        """Raise what ended a probe, if one has ended: probes run until they are stopped."""
        for task in self._tasks:
            if task.done():
                task.result()

    def begin_outage(self) -> None:
        """Watch from now on for each shard's first write and first read."""
        now = time.monotonic()
        for probe in self.all:
            probe.outage = Outage(now)

    @property
    def outage_over(self) -> bool:
        """Whether every shard has been written to and read from since the outage began."""
        return all(probe.outage is not None and probe.outage.over for probe in self.all)

    @property
    def acknowledged(self) -> list[tuple[bytes, bytes]]:
        """Every write that was acknowledged."""
        return [row for probe in self.all for row in probe.acknowledged.items()]

    @property
    def errors(self) -> list[ShoalError]:
        """Every error that a call ended with."""
        return [error for probe in self.all for error in probe.errors]

    @property
    def lost_reads(self) -> list[bytes]:
        """Keys that were acknowledged, and then not found by a strong read."""
        return [key for probe in self.all for key in probe.lost_reads]


def partition_in(routes: Routes, keyspace: Keyspace, shard: Shard) -> str:
    """Return a partition, with its delimiter, that belongs to `shard`."""
    number = 0
    while True:
        partition = f"probe:{number}{keyspace.delimiter.decode()}"
        if routes.shard_of(keyspace, partition.encode()) == shard.id:
            return partition
        number += 1
