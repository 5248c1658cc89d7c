"""The application's simulated processes: each runs a coroutine on an event loop of its own, and can be killed."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Coroutine
from random import Random
from typing import Any

from shoal_chaos.application_simulation.process_loop import ProcessLoop
from shoal_chaos.simulation.world.events import SECOND, Clock
from shoal_chaos.simulation.world.streams import Streams
from shoal_chaos.simulation.world.world import World

FOR_EVER = 1 << 62
"""A moment that no simulation comes to, in ns."""


class Process:
    """One process. `task` is what it runs; connections that this leaves open end with it.

    `killed`: it was, before it had ended. `awaited`: somebody has waited for it, and knows what became of it.
    """

    def __init__(
        self,
        world: World,
        streams: Streams,
        random: Random,
        hosts: Container[str],
        name: str,
        main: Coroutine[Any, Any, Any],
    ) -> None:
        """
        Args:
            hosts: whom it can connect to.
            main: what it runs.
        """
        self.name = name
        self.killed = False
        self.awaited = False
        self._streams = streams
        self._waiters: list[asyncio.Future[None]] = []
        # Its clock began at some time, and drifts, as those of nodes do.
        clock = Clock(world.time, random.randrange(1, 1000 * SECOND), 1000 + random.randint(-2, 2))
        self.loop = ProcessLoop(name, world.time, clock, random, streams, hosts)
        self.task: asyncio.Task[Any] = self.loop.create_task(main, name=name)
        self.task.add_done_callback(lambda _: self._ended())

    @property
    def running(self) -> bool:
        return not self.task.done() and not self.killed

    def kill(self) -> None:
        """End the process as SIGKILL would: nothing of it runs any more, and what it has sent is on its way."""
        if self.running:
            self.killed = True
            self.loop.paused_until = FOR_EVER
            self._ended()

    async def wait(self) -> Any:
        """Wait until it has ended, and return what its coroutine has returned; None if it was killed.

        Raises:
            Exception: what its coroutine has raised.
        """
        self.awaited = True
        if self.running:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return None if self.killed else self.task.result()

    def _ended(self) -> None:
        self._streams.end_all(self.name, noticed=True)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def finish(self) -> None:
        """After the simulation: leave no task behind."""
        self.loop.end(self.task, killed=self.killed)
