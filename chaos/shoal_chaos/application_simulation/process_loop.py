"""The event loop of an application's process: what it refuses, and what it notices of tasks that nobody waits for."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Container, Coroutine, Generator
from random import Random
from types import FrameType
from typing import Any, TypeVarTuple
from weakref import WeakSet

from shoal_chaos.application_simulation.errors import NotSimulated, RunOver, TimeStoodStill
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND, Clock, Events
from shoal_chaos.simulation.world.loop import Dialer, SimulatedLoop, SimulatedTask

STEPS_MAX = 500_000
"""A process that takes more in a simulated millisecond waits for nothing: a real one would need seconds for them."""

Ts = TypeVarTuple("Ts")


class ProcessLoop(SimulatedLoop):
    """See the module's first line.

    Args:
        hosts: whom connections can be made to.

    `unseen`: what was raised where nobody waits for it.
    """

    def __init__(
        self, name: str, events: Events, clock: Clock, random: Random, dialer: Dialer, hosts: Container[str]
    ) -> None:
        super().__init__(name, events, clock, random, dialer)
        self.unseen: list[BaseException] = []
        self._hosts = hosts
        self._tasks: WeakSet[SimulatedTask] = WeakSet()
        self._cleaning_up = False
        self._steps = 0
        self._counted_from = 0

    def end_run(self, failure: BaseException) -> None:
        """Let the run end with a failure, now, whatever the application makes of it."""

        def end() -> None:
            raise RunOver(failure)

        self.unseen.append(failure)
        self.events.after(0, end)

    # -- addresses that are not simulated

    async def create_connection(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        host: str | None = None,
        port: int | None = None,
        **options: object,
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        if host is None or port is None or host not in self._hosts:
            refusal = NotSimulated(
                f"the process {self.name!r} was about to connect to {host}:{port}, which is not part of the simulation, "
                f"so it was not done; a client of the simulated cluster is `sim.client()`, its URL `sim.url()`; "
                f"in the place of other services a test needs code of its own"
            )
            self.end_run(refusal)
            raise refusal
        return await super().create_connection(protocol_factory, host, port, **options)

    # -- steps without end

    def _run_next(self) -> None:
        self._steps += 1
        if self._steps > STEPS_MAX:
            self._look_at_the_time()
        super()._run_next()

    def _look_at_the_time(self) -> None:
        """Fail if time has not gone on, once it is a task's turn that can be told of; else count anew."""
        if self.events.now - self._counted_from >= MILLISECOND:
            self._steps, self._counted_from = 0, self.events.now
            return
        callback = getattr(self._soon[0], "_callback", None) if self._soon else None
        task = getattr(callback, "__self__", None)
        if not isinstance(task, asyncio.Task) and self._steps < 2 * STEPS_MAX:
            return
        failure = TimeStoodStill(
            f"the process {self.name!r} took {STEPS_MAX:,} steps in less than a simulated millisecond, until "
            f"{self.events.now / SECOND:.3f} s, and would go on: it looks again and again, without waiting, as "
            f"`while not done: await asyncio.sleep(0)` does; time goes on in a simulation only while everybody waits, so "
            f"wait for what is to happen (an asyncio.Event, a queue, a task), or sleep for a while between looks"
        )
        if isinstance(task, asyncio.Task):
            failure.add_note(f"The task {task.get_name()!r} was about to go on here:\n{_place(task)}")
        raise failure

    # -- failures that nobody waits for

    def _new_task(
        self,
        _loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        **options: Any,
    ) -> SimulatedTask:
        task = super()._new_task(_loop, coro, **options)
        self._tasks.add(task)
        return task

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if self._cleaning_up:
            return
        super()._failed(_loop, context)
        error = context.get("exception")
        if error is not None:
            task = context.get("future")
            name = f", task {task.get_name()!r}" if isinstance(task, asyncio.Task) else ""
            error.add_note(f"Nobody waits for what raised this: {context['message']} (process {self.name!r}{name})")
            self.unseen.append(error)

    def end(self, task: asyncio.Task[None], *, killed: bool) -> None:
        """After the simulation: leave no task behind, and notice those that have failed and that nobody looks at even now.

        Args:
            task: what the process runs; whoever began that looks at it.
            killed: the process was. What its tasks' failures would have led to nobody can tell.
        """
        failed = [] if killed else [other for other in self._tasks if other is not task and _failed_unseen(other)]
        self._clean_up(task)
        self._cleaning_up = False
        for other in sorted(failed, key=hash):
            if _failed_unseen(other):
                context = {
                    "message": "Task exception was never retrieved",
                    "exception": other.exception(),
                    "future": other,
                }
                self.call_exception_handler(context)
        # What was raised while cleaning up may be complained about only later, when it is collected.
        self._cleaning_up = True

    def _clean_up(self, task: asyncio.Task[None]) -> None:
        """Cancel all tasks. What they raise then does not count: there is neither time nor the network that they may need."""
        self._cleaning_up = True
        for other in sorted(asyncio.all_tasks(self), key=hash):
            other.cancel()
        self._steps, self._counted_from = 0, self.events.now
        try:
            self.finish(task)
        except TimeStoodStill:
            # It goes on however often it is cancelled, which only a process does that has failed for the same reason.
            self._soon.clear()
            self.close()


def _failed_unseen(task: SimulatedTask) -> bool:
    """Say whether a task has raised something that asyncio would complain about if the task was forgotten now."""
    return task.done() and task._log_traceback


def _place(task: asyncio.Task[Any]) -> str:
    """Return where a task stands, as in a traceback."""
    frames: list[FrameType] = []
    awaited: Any = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        frames.append(frame)
        awaited = awaited.cr_await
    return "".join(traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames).format())
