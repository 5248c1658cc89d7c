"""A process that has more memory than it should."""

from __future__ import annotations

import asyncio

import structlog
from shoal_server.node.memory import SQUEEZED_LEAST, Account, MemoryBudget
from shoal_server.process.machine import resident_bytes
from shoal_server.process.memory_watch import TRIM_ANYWAY_SECONDS, TRIM_BYTES, TRIM_SECONDS, MemoryWatch, trim

MIB = 1 << 20


class Process:
    """A process whose memory, and whose time, are said here."""

    def __init__(self, most: int = 1000 * MIB) -> None:
        self.memory = MemoryBudget(500 * MIB)
        self.resident = 100 * MIB
        self.now = 0.0
        self.in_use = 100 * MIB
        self.watch = MemoryWatch(
            self.memory,
            most,
            resident=lambda: self.resident,
            clock=lambda: self.now,
            give_back=self._give_back,
        )

    def _give_back(self) -> None:
        self.resident = self.in_use

    async def look(self, seconds: float = 1.0) -> None:
        self.now += seconds
        self.watch.look()
        if self.watch._trimming is not None:
            await self.watch._trimming


async def test_what_is_free_after_a_spike_is_given_back():
    process = Process()
    await process.look()
    process.resident = 100 * MIB + TRIM_BYTES
    await process.look()
    assert (process.watch.trims, process.watch.resident) == (1, 100 * MIB)


async def test_what_was_held_at_the_peak_is_given_back_when_it_is_held_no_more():
    process = Process()
    process.memory.add(Account.ANSWERS, 300 * MIB)
    process.resident = process.in_use = 400 * MIB
    for _ in range(5):
        await process.look()
    process.memory.give_back(Account.ANSWERS, 300 * MIB)
    process.in_use = 100 * MIB
    await process.look()
    assert process.watch.resident == 100 * MIB


async def test_little_is_not_worth_it():
    process = Process()
    for _ in range(10):
        process.resident = 100 * MIB + TRIM_BYTES - 1
        await process.look()
    assert process.watch.trims == 0


async def test_what_is_in_use_is_not_tried_again_and_again():
    process = Process()
    process.resident = process.in_use = 400 * MIB
    for _ in range(20):
        await process.look()
    assert process.watch.trims == 1
    await process.look(TRIM_ANYWAY_SECONDS)
    assert process.watch.trims == 2
    process.resident += TRIM_BYTES
    await process.look(TRIM_SECONDS)
    await process.look(TRIM_SECONDS)
    assert process.watch.trims == 3


async def test_a_process_above_its_bound_holds_less_until_it_has_room():
    process = Process(most=200 * MIB)
    process.resident = process.in_use = 300 * MIB
    with structlog.testing.capture_logs() as logs:
        await process.look()
        assert process.memory.squeezed == 0.8
        for _ in range(20):
            await process.look()
        assert process.memory.squeezed == SQUEEZED_LEAST
        process.resident = process.in_use = 190 * MIB
        await process.look()
        assert process.memory.squeezed == SQUEEZED_LEAST
        process.resident = process.in_use = 100 * MIB
        for _ in range(20):
            await process.look()
        assert process.memory.squeezed == 1.0
    assert [entry["event"] for entry in logs] == ["memory_over", "memory_within"]


async def test_the_system_gets_back_what_lies_between_what_is_used():
    blocks = [bytes(20_000) for _ in range(6_000)]
    kept = blocks[::200]
    full = resident_bytes()
    del blocks
    assert trim()
    await asyncio.sleep(0)
    assert resident_bytes() < full - 80 * MIB
    assert len(kept) == 30
