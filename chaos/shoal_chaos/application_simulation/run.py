"""Runs an application once, in a simulation: equal seeds and plans of faults give equal runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias
from zlib import crc32

from shoal_chaos.application_simulation.blocking_clients import no_blocking_clients
from shoal_chaos.application_simulation.errors import RunOver, TimeStoodStill, TookTooLong
from shoal_chaos.application_simulation.faults import Fault
from shoal_chaos.application_simulation.injector import Injector
from shoal_chaos.application_simulation.processes import Process
from shoal_chaos.application_simulation.scene import ApplicationScene
from shoal_chaos.application_simulation.shape import Shape
from shoal_chaos.application_simulation.simulation import Simulation
from shoal_chaos.application_simulation.sources import simulated_sources
from shoal_chaos.simulation.checks.rows import compare_rows
from shoal_chaos.simulation.invariants import Violation
from shoal_chaos.simulation.managers.process import UNIX_START
from shoal_chaos.simulation.world.events import SECOND
from shoal_chaos.simulation.world.garbage import collecting_when_told
from shoal_chaos.simulation.world.logs import logging_from

APPLICATION = "app"
"""The name of the process that runs the application's coroutine."""

Application: TypeAlias = Callable[[Simulation], Coroutine[Any, Any, Any]]


@dataclass(slots=True)
class ApplicationOutcome:
    """What became of a run.

    Args:
        failure: what the application raised, or what is wrong with the cluster.
        seconds: of simulated time that it took.
        trace: a hash of every frame between nodes, and when: equal runs have equal ones.
        story: the faults as they happened, a line each, and errors that nobody has handled.
    """

    result: Any = None
    failure: BaseException | None = None
    seconds: float = 0.0
    trace: int = 0
    story: list[str] = field(default_factory=list)


def run_once(
    application: Application, seed: int, faults: Sequence[Fault], shape: Shape, seconds_max: float
) -> ApplicationOutcome:
    """Run `application` on a new cluster.

    Args:
        faults: happen at their times after the start.
        seconds_max: of simulated time, after which it has failed.

    Raises:
        ValueError: a fault is about a process that there is not.
        TypeError: `application` returns no coroutine.
    """
    with logging_from(logging.CRITICAL), collecting_when_told(), no_blocking_clients():
        scene = ApplicationScene(seed, shape)
        injector = Injector(scene, scene.random("faults' chances"))
        simulation = Simulation(scene, injector)
        main: Process | None = None
        try:
            with simulated_sources(
                scene.random("the process"), lambda: simulation.now, lambda: UNIX_START + simulation.now
            ):
                main = simulation.process(APPLICATION, partial(application, simulation))
                simulation.inject(*faults)
                failure = _failure(scene, main, round(seconds_max * SECOND))
                seconds = simulation.now
        finally:
            scene.finish()
    unseen = [error for process in scene.processes.values() for error in process.loop.unseen]
    if unseen and failure is None:
        failure = unseen[0]
    elif unseen and isinstance(failure, TookTooLong):
        failure.__cause__ = unseen[0]
    unhandled = [line for process in scene.processes.values() for line in process.loop.failures]
    result = main.task.result() if failure is None else None
    trace = crc32(repr((scene.time.now, result)).encode(), scene.world.trace)
    return ApplicationOutcome(result, failure, seconds, trace, [*injector.story, *unhandled])


def _failure(scene: ApplicationScene, main: Process, until: int) -> BaseException | None:
    """Let things happen until the application has ended; return what went wrong."""
    events, cluster = scene.time, scene.managed.cluster
    try:
        while not main.task.done():
            if events.now > until:
                return TookTooLong(f"the application had not ended after {until / SECOND:g} simulated seconds")
            events.step()
        compare_rows(cluster.nodes.values(), cluster.invariants)
    except (Violation, TimeStoodStill) as failure:
        return failure
    except RunOver as over:
        return over.failure
    broken = [line for loop in scene.managed.managers.loops for line in loop.failures]
    if broken:
        return Violation("\n".join(broken))
    if main.task.cancelled():
        return asyncio.CancelledError("the application has cancelled itself")
    for process in scene.processes.values():
        if process.task.done() and not process.task.cancelled() and (process is main or not process.awaited):
            error = process.task.exception()
            if error is not None:
                return error
    return None
