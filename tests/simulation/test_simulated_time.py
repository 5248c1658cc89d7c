"""Timers of simulated event loops: never early, whatever floats make of nanoseconds and clocks of true time."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from shoal_chaos.simulation.world.events import SECOND, Clock, Events
from shoal_chaos.simulation.world.loop import SimulatedLoop


def nobody(*_: Any) -> Any:
    raise AssertionError("nothing is connected here")


@pytest.mark.parametrize("seed", range(20))
def test_a_timer_is_never_early_so_that_who_waits_for_the_rest_waits_no_second_time(seed: int) -> None:
    random = Random(seed)
    events = Events()
    clock = Clock(events, random.randrange(10**15), random.randrange(990, 1011))
    loop = SimulatedLoop("m1", events, clock, Random(0), nobody)
    early: list[float] = []
    waits = 0

    async def wait_until_a_moment() -> None:
        nonlocal waits
        until = loop.time() + random.random() * 10
        while loop.time() < until:
            waits += 1
            await asyncio.sleep(until - loop.time())
            early.extend([until] if loop.time() < until else [])

    for _ in range(200):
        events.after(random.randrange(SECOND), lambda: loop.create_task(wait_until_a_moment()))
    for _ in range(20_000):
        if not events.pending:
            break
        events.step()
    assert not events.pending, "somebody waits for ever"
    assert (waits, early) == (200, [])
