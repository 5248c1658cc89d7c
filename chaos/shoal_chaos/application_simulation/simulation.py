"""What an application's test sees of its simulation: clients, processes, faults, and the time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import shoal

from shoal_chaos.application_simulation.coroutines import begun
from shoal_chaos.application_simulation.faults import Fault
from shoal_chaos.application_simulation.injector import Injector
from shoal_chaos.application_simulation.processes import Process
from shoal_chaos.application_simulation.scene import ApplicationScene
from shoal_chaos.simulation.world.events import SECOND


class Simulation:
    """One run. `random` is for the test's own choices: it draws the same whenever the seed is the same."""

    def __init__(self, scene: ApplicationScene, injector: Injector) -> None:
        self.seed = scene.world.seed
        self.random: Random = scene.random("test")
        self._scene = scene
        self._injector = injector

    @property
    def now(self) -> float:
        """Seconds since the run began, of true time, which no clock of the simulation has exactly."""
        return self._scene.time.now / SECOND

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes' names, which are host names of the simulated network, too."""
        return tuple(self._scene.nodes)

    @property
    def managers(self) -> tuple[str, ...]:
        """The shard managers' names."""
        return tuple(self._scene.managers)

    def url(self, keyspace: str = "", **settings: str) -> str:
        """Return the URL for clients of a keyspace (default: the first), with settings such as `consistency="eventual"`."""
        hosts = ",".join(f"{name}:1" for name in self.nodes)
        query = "&".join(f"{name}={value}" for name, value in settings.items())
        return f"shoal://{hosts}/{keyspace or self._scene.shape.keyspaces[0]}" + (f"?{query}" if query else "")

    def client(self, keyspace: str = "", **settings: str) -> shoal.AsyncClient:
        """Return a client, the real one: `async with sim.client(timeout="2s") as db`. It belongs to one process."""
        return shoal.AsyncClient(self.url(keyspace, **settings))

    # -- processes

    def process(self, name: str, main: Callable[[], Coroutine[Any, Any, Any]]) -> Process:
        """Begin a further process of the application, which has its own event loop and clients, and can be killed.

        What it raises fails the run, unless somebody waits for it. Those that still run at the end are killed.

        Raises:
            ValueError: there is or was one of that name.
            TypeError: `main` returns no coroutine.
        """
        scene = self._scene
        if name in scene.names():
            raise ValueError(f"there is a process {name!r} already")
        chance = scene.random(f"process {name}")
        process = Process(scene.world, scene.managed.streams, chance, scene.nodes, name, begun(main))
        scene.processes[name] = process
        self._injector.refresh()
        return process

    # -- faults

    def inject(self, *faults: Fault) -> None:
        """Let faults happen, each `at` seconds from now.

        Raises:
            ValueError: one is about a process that there is not.
        """
        for fault in faults:
            self._injector.inject(fault)

    def heal(self) -> None:
        """End all faults that have begun; those of the plan that are still to come do come."""
        self._injector.heal()

    def leader_of(self, key: bytes | str, keyspace: str = "") -> str | None:
        """Return the node that leads the shard of a key at the moment, or None."""
        name = keyspace or self._scene.shape.keyspaces[0]
        return self._scene.leader_of(name, key.encode() if isinstance(key, str) else key)
