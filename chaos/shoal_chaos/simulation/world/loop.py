"""An asyncio event loop on simulated time: each simulated process has its own, and can be held up by itself."""

from __future__ import annotations

import asyncio
from asyncio import events as asyncio_events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from random import Random
from typing import Any, Protocol, TypeVarTuple

from shoal_chaos.simulation.world.events import MILLISECOND, SECOND, Clock, Events

THREAD_DELAY_MAX = 300 * MILLISECOND

Ts = TypeVarTuple("Ts")


class Dialer(Protocol):
    """Opens connections for a loop's process."""

    def dial(
        self, caller: SimulatedLoop, callee: str, protocol: asyncio.Protocol
    ) -> asyncio.Future[asyncio.Transport]: ...


class SimulatedFuture(asyncio.Future[Any]):
    """A future that goes by its number where others go by their address: sets of them are walked through in an equal request
    in equal runs."""

    def __init__(self, number: int, loop: SimulatedLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class SimulatedTask(asyncio.Task[Any]):
    """A task that goes by its number, as futures do. asyncio itself keeps tasks in sets, such as those of a `TaskGroup`."""

    def __init__(
        self,
        number: int,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        loop: SimulatedLoop,
        **options: Any,
    ) -> None:
        self.number = number
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        return self.number


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs callbacks as events of the simulation; `name` is the process's on the network.

    Args:
        clock: what `time` reads; it may run fast or slow.
    """

    def __init__(self, name: str, events: Events, clock: Clock, random: Random, dialer: Dialer) -> None:
        super().__init__()
        self.name = name
        self.paused_until = 0
        self.failures: list[str] = []
        self.events = events
        self._own_clock = clock
        self._random = random
        self._dialer = dialer
        self._soon: deque[asyncio.Handle] = deque()
        self._made = 0
        self.set_task_factory(self._new_task)
        self.set_exception_handler(self._failed)

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(f"{self.name}: {context['message']}: {context.get('exception')!r}")

    def _next_number(self) -> int:
        self._made += 1
        return self._made

    def _new_task(
        self,
        _loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        **options: Any,
    ) -> SimulatedTask:
        return SimulatedTask(self._next_number(), coro, self, **options)

    # -- what asyncio asks of a loop

    def create_future(self) -> asyncio.Future[Any]:
        return SimulatedFuture(self._next_number(), self)

    def time(self) -> float:
        return self._own_clock.now() / SECOND

    def is_running(self) -> bool:
        return asyncio_events._get_running_loop() is self

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._soon.append(handle)
        self.events.after(0, self._run_next)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        due = int(when * SECOND)
        while due / SECOND < when:
            # No timer is early, be it by a rounding: who then set it again would do so for ever, at one moment.
            due += 1
        self.events.at(self._own_clock.true_time(due), lambda: self._due(handle))
        return handle

    def finish(self, task: asyncio.Task[None]) -> None:
        """After the simulation: let `task` clean up and end, without the time or the network it would need for more."""
        self.paused_until = 0
        task.cancel()
        while self._soon:
            self._run_next()
        self.close()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing is kept of timers but their events, which find them cancelled."""

    def _due(self, handle: asyncio.TimerHandle) -> None:
        if not handle.cancelled() and not self.is_closed():
            self._soon.append(handle)
            self._run_next()

    def _run_next(self) -> None:
        """Run the oldest callback; of a process that is held up, when it goes on."""
        if self.events.now < self.paused_until:
            self.events.at(self.paused_until, self._run_next)
            return
        handle = self._soon.popleft() if self._soon else None
        if handle is None or handle.cancelled():
            return
        outer = asyncio_events._get_running_loop()
        asyncio_events._set_running_loop(self)
        try:
            handle._run()
        finally:
            asyncio_events._set_running_loop(outer)

    def run_in_executor(  # type: ignore[override]
        self, _executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Do it now, and have the answer arrive as late as that of a thread might."""
        future = self.create_future()
        try:
            result = func(*args)
        except Exception as error:  # whatever it is, it belongs to whoever waits
            self.call_later(self._thread_seconds(), self._answer, future, None, error)
        else:
            self.call_later(self._thread_seconds(), self._answer, future, result, None)
        return future

    def _thread_seconds(self) -> float:
        return self._random.randrange(THREAD_DELAY_MAX) / SECOND

    @staticmethod
    def _answer(future: asyncio.Future[Any], result: object, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str, _port: int, **_options: object
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        protocol = protocol_factory()
        return await self._dialer.dial(self, host, protocol), protocol
