"""Locks that expire: does nobody else get one while its holder may count on it?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from time import monotonic_ns
from typing import ClassVar

import shoal
from shoal import AsyncClient, ConditionFailed, ShoalError

from shoal_chaos.workloads.base import Workload, WorkloadStep

CLIENTS = 4
LOCKS = 2
TTL_SECONDS = 0.4
RELEASE_SHARE = 0.6
ALLOWANCE_NS = 20_000_000
"""As in expiry.py."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A lock was surely its holder's from `since` to `until`, nanoseconds of the history's clock."""

    lock: str
    holder: bytes
    since: int
    until: int


class Locks(Workload):
    """put_if_absent with a TTL; a holder lets go before its time, or lets it run out."""

    name: ClassVar[str] = "locks"

    def __init__(self, run: str, random: Random) -> None:
        super().__init__(run, random)
        self.holds: list[Hold] = []
        self.ttl_seconds = TTL_SECONDS
        self.allowance_ns = ALLOWANCE_NS

    def allow_clocks(self, tolerance_ms: int) -> None:
        """Let clocks be wrong, as in expiry.py: a lock is surely its holder's for that much less, so it is taken for longer."""
        self.allowance_ns = ALLOWANCE_NS + 2 * tolerance_ms * 1_000_000
        self.ttl_seconds = TTL_SECONDS + 2 * tolerance_ms / 1000

    def steps(self) -> list[WorkloadStep]:
        return [self._step] * CLIENTS

    def check(self) -> Iterator[str]:
        by_lock: dict[str, list[Hold]] = {}
        for hold in self.holds:
            by_lock.setdefault(hold.lock, []).append(hold)
        for holds in by_lock.values():
            for one, other in pairwise(sorted(holds, key=lambda hold: hold.since)):
                if other.since < one.until:
                    yield f"two held {one.lock} at once: {one} and {other}"

    async def _step(self, db: AsyncClient) -> None:
        lock, holder = f"{self.prefix}-{self.random.randrange(LOCKS)}", self.recorder.new_value()
        began = monotonic_ns()
        try:
            mine = await db.put_if_absent(lock, holder, ttl=self.ttl_seconds, timeout=self.patience())
        except ShoalError as error:
            self.recorder.failed(error, holder)
            return
        if not mine:
            self.recorder.refused("somebody had it", holder)
            return
        self.recorder.wrote()
        since, until = monotonic_ns(), began + int(self.ttl_seconds * 1e9) - self.allowance_ns
        # Let go a little before or after the time is up, or somewhere in between.
        releasing = self.random.random() < RELEASE_SHARE
        released = since + int(self.random.uniform(0, 1.1 * self.ttl_seconds) * 1e9) if releasing else until
        while monotonic_ns() < min(released, until) and not self.stopping:
            await self._look(db, lock, holder, until)
            await asyncio.sleep(self.random.uniform(0, 0.1))
        ended = min(until, monotonic_ns())
        if ended > since:
            self.holds.append(Hold(lock, holder, since, ended))
        if releasing:
            await self._release(db, lock, holder)

    async def _look(self, db: AsyncClient, lock: str, holder: bytes, until: int) -> None:
        try:
            found = await db.get(lock, timeout=self.patience())
        except ShoalError as error:
            self.recorder.read_failed(error)
            return
        self.recorder.saw(found)
        if found != holder and monotonic_ns() < until:
            self.recorder.complain(f"{lock} is {holder!r}'s, but a strong read found {found!r}.")

    async def _release(self, db: AsyncClient, lock: str, holder: bytes) -> None:
        try:
            await db.write([shoal.delete(lock)], when=[shoal.value_equals(lock, holder)], timeout=self.patience())
        except ConditionFailed as failed:
            self.recorder.saw(failed.found)
        except ShoalError as error:
            self.recorder.failed(error)
