"""Keys that expire: is any visible after its time, or gone before it?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random
from time import monotonic_ns, time
from typing import ClassVar

from shoal import AsyncClient, ShoalError

from shoal_chaos.checkers.expirations import Lifetime, Look, find_violations
from shoal_chaos.workloads.base import Workload, WorkloadStep

CLIENTS = 4
TTL_SECONDS = (0.2, 1.5)
TOUCH_SHARE = 0.3
PACE_SECONDS = 0.05
WATCHED_NS = 500_000_000
"""How long a key is read on after it must be gone."""

ALLOWANCE_NS = 20_000_000
"""For clocks of one machine: durations are told by one of them, and expiries by another, in whole milliseconds."""


class Expiry(Workload):
    """One new key after another is written, perhaps touched, and read at all levels until it is gone, and a bit on."""

    name: ClassVar[str] = "expiry"

    def __init__(self, run: str, random: Random) -> None:
        super().__init__(run, random)
        self.looks: list[Look] = []
        self.allowance_ns = ALLOWANCE_NS
        self._keys = 0

    def allow_clocks(self, tolerance_ms: int) -> None:
        """Let clocks be wrong: whoever stamps a row and whoever looks at it may each be off by the tolerance."""
        self.allowance_ns = ALLOWANCE_NS + 2 * tolerance_ms * 1_000_000

    def steps(self) -> list[WorkloadStep]:
        return [self._step] * CLIENTS

    def check(self) -> Iterator[str]:
        for found in find_violations(self.looks, self.allowance_ns):
            yield found.sentence

    async def _step(self, db: AsyncClient) -> None:
        self._keys += 1
        key, value, ttl = f"{self.prefix}-{self._keys}", self.recorder.new_value(), self.random.uniform(*TTL_SECONDS)
        began = monotonic_ns()
        try:
            await db.put(key, value, ttl=ttl, timeout=self.patience())
        except ShoalError as error:
            self.recorder.failed(error, value)
            return
        self.recorder.wrote()
        life: Lifetime | None = Lifetime(began + _ns(ttl), monotonic_ns() + _ns(ttl))
        touch_at = began + _ns(ttl / 2) if self.random.random() < TOUCH_SHARE else None
        while life is not None and monotonic_ns() < life.latest + WATCHED_NS and not self.stopping:
            if touch_at is not None and monotonic_ns() > touch_at:
                touch_at = None
                life = await self._touch(db, key, life)
            else:
                await self._read(db, key, value, life)
            await asyncio.sleep(self.random.uniform(0, 2 * PACE_SECONDS))

    async def _touch(self, db: AsyncClient, key: str, life: Lifetime) -> Lifetime | None:
        """Let the key live on; return until when, None where that is not known any more."""
        ttl = self.random.uniform(*TTL_SECONDS)
        began = monotonic_ns()
        try:
            there = await db.touch(key, ttl, timeout=self.patience())
        except ShoalError as error:
            return None if self.recorder.failed(error) else life
        now = monotonic_ns()
        self.recorder.wrote()
        self.looks.append(Look(key, "touch", there, False, life, began, now))
        return Lifetime(began + _ns(ttl), now + _ns(ttl)) if there else life

    async def _read(self, db: AsyncClient, key: str, value: bytes, life: Lifetime) -> None:
        began, wall = monotonic_ns(), time()
        how = self.random.choice(["strong", "eventual", "exists", "scan", "transaction"])
        try:
            expires_at: float | None = None
            if how == "exists":
                there = await db.exists(key, timeout=self.patience())
            elif how == "scan":
                rows = [row async for row in db.scan(start=key, limit=1, timeout=self.patience())]
                there = rows == [(key.encode(), value)]
            elif how == "transaction":
                async with db.transaction(timeout=self.patience()) as tx:
                    there = await tx.get(key) is not None
            else:
                level = how if how == "eventual" else "strong"
                entry = await (
                    db.get_entry(key, timeout=self.patience())
                    if level == "strong"
                    else db.get_entry(key, consistency="eventual", max_staleness=5, timeout=self.patience())
                )
                there = entry is not None
                if entry is not None:
                    self.recorder.saw(entry.value)
                    expires_at = entry.expires_at
        except ShoalError as error:
            self.recorder.read_failed(error)
            return
        self.recorder.done += 1
        self.looks.append(Look(key, how, there, how == "eventual", life, began, monotonic_ns()))
        if expires_at is not None and wall > expires_at + self.allowance_ns / 1e9:
            self.recorder.complain(
                f"A read ({how}) at {wall:.3f} returned {key}, which it says expired at {expires_at:.3f}."
            )


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
