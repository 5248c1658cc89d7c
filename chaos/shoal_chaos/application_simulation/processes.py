"""The application's simulated processes: each runs a coroutine on an event loop of its own, and can be killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVarTuple

from shoal_chaos.control_simulation.loop import SimulatedLoop
from shoal_chaos.simulation.events import SECOND, Clock

if TYPE_CHECKING:
    from shoal_chaos.application_simulation.cluster import ApplicationCluster

FOR_EVER = 1 << 62
"""A moment that no simulation comes to, in ns."""
TICK_SECONDS = 2e-9
"""More than the clock's nanoseconds and the float of seconds differ by."""

Ts = TypeVarTuple("Ts")


class ProcessLoop(SimulatedLoop):
    """The event loop of a process. No timer is early, be it by a rounding: who then set it again would do so for ever."""

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when + TICK_SECONDS, callback, *args, context=context)


class Process:
    """One process. `task` is what it runs; connections that this leaves open end with it.

    `killed`: it was, before it had ended. `awaited`: somebody has waited for it, and knows what became of it.
    """

    def __init__(self, cluster: ApplicationCluster, name: str, main: Coroutine[Any, Any, Any]) -> None:
        random = cluster.derived(f"process {name}")
        self.name = name
        self.killed = False
        self.awaited = False
        self._streams = cluster.streams
        self._waiters: list[asyncio.Future[None]] = []
        # Its clock began at some time, and drifts, as those of nodes do.
        clock = Clock(cluster.events, random.randrange(1, 1000 * SECOND), 1000 + random.randint(-2, 2))
        self.loop = ProcessLoop(name, cluster.events, clock, random, cluster.streams)
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
        for task in sorted(asyncio.all_tasks(self.loop), key=hash):
            task.cancel()
        self.loop.finish(self.task)
