"""Weak reads with bounds on their staleness: is any value older than was asked for, or than the answer said?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from time import monotonic_ns
from typing import ClassVar

from shoal import AsyncClient, ShoalError

from shoal_chaos.checkers.staleness import AcknowledgedWrite, BoundedRead, find_violations
from shoal_chaos.workloads.base import Workload, WorkloadStep

KEYS = 4
WRITERS = 2
READERS = 2
BOUNDS_SECONDS = (0.05, 0.5, 5.0)


class Staleness(Workload):
    """Keys that are never deleted are read with each of three bounds, through all clients."""

    name: ClassVar[str] = "staleness"

    def __init__(self, run: str, random: Random, clients: Sequence[AsyncClient]) -> None:
        """
        Args:
            clients: to read through: each may prefer other replicas.
        """
        super().__init__(run, random)
        self.writes: list[AcknowledgedWrite] = []
        self.reads: list[BoundedRead] = []
        self.weakly_served: Counter[str] = Counter()
        self._clients = clients

    def steps(self) -> list[WorkloadStep]:
        return [self._write] * WRITERS + [self._reader(bound) for bound in BOUNDS_SECONDS] * READERS

    def check(self) -> Iterator[str]:
        for found in find_violations(self.writes, self.reads):
            yield found.sentence

    def _any_key(self) -> str:
        return f"{self.prefix}-{self.random.randrange(KEYS)}"

    async def _write(self, db: AsyncClient) -> None:
        key, value = self._any_key(), self.recorder.new_value()
        try:
            result = await db.put(key, value, timeout=self.patience())
        except ShoalError as error:
            self.recorder.failed(error, value)
            return
        self.recorder.wrote()
        self.writes.append(AcknowledgedWrite(key.encode(), result.seq, monotonic_ns()))

    def _reader(self, bound: float) -> WorkloadStep:
        async def read(db: AsyncClient) -> None:  # noqa: ARG001 - reads go through all clients
            await self._read(bound)

        return read

    async def _read(self, bound: float) -> None:
        key, client = self._any_key(), self.random.choice(self._clients)
        began = monotonic_ns()
        try:
            entry = await client.get_entry(key, consistency="eventual", max_staleness=bound, timeout=self.patience())
        except ShoalError as error:
            self.recorder.read_failed(error)
            return
        now = monotonic_ns()
        if entry is None:
            self.recorder.saw(None)
            # Nothing is deleted here, so whoever shows nothing has applied no write of this key.
            self.reads.append(BoundedRead(key.encode(), 0, 0, began, now, round(bound * 1e9)))
            return
        self.recorder.saw(entry.value)
        if entry.staleness:
            self.weakly_served[entry.served_by] += 1
        if entry.staleness > bound:
            self.recorder.complain(f"At most {bound} s of staleness were asked for, and {entry} was returned.")
        said = round(entry.staleness * 1e9)
        self.reads.append(BoundedRead(key.encode(), entry.seq, entry.seq, began, now, said))
