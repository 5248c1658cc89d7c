"""Simulated manager processes: the real controller's task on whichever of them believes to lead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import shoal
from shoal.errors import ShoalError
from shoal_server.config import ClusterConfig
from shoal_shardmanager.process.clock import Clock as ManagerClock
from shoal_shardmanager.process.leadership import Leadership, begin_leadership
from shoal_shardmanager.process.store import Deposed, Store

from shoal_chaos.simulation.managers.rows import ManagerRows, RowsClient
from shoal_chaos.simulation.world.events import SECOND, Clock
from shoal_chaos.simulation.world.loop import SimulatedLoop
from shoal_chaos.simulation.world.streams import Streams
from shoal_chaos.simulation.world.world import World

LOOK_SECONDS = 0.2
RETRY_SECONDS = 1.0
UNIX_START = 1_700_000_000


class ManagerProcess:
    """One manager; `leadership` is the controller while it runs it."""

    def __init__(
        self,
        world: World,
        streams: Streams,
        rows: ManagerRows,
        config: ClusterConfig,
        name: str,
        clock: Clock,
        leads: Callable[[], bool],
    ) -> None:
        """
        Args:
            leads: says whether it believes to lead.
        """
        self.name = name
        self.leadership: Leadership | None = None
        self.running = False
        self._world = world
        self._streams = streams
        self._rows = rows
        self._config = config
        self._clock = clock
        self._random = world.random(f"manager {name}")
        self._leads = leads
        self.loop: SimulatedLoop
        self._client: RowsClient
        self._task: asyncio.Task[None]
        self._lives: list[tuple[SimulatedLoop, asyncio.Task[None]]] = []
        self.start()

    def start(self) -> None:
        """Begin a new process."""
        events = self._world.events
        self.running = True
        self.loop = SimulatedLoop(self.name, events, self._clock, self._random, self._streams)
        self._client = RowsClient(self.name, self._rows, events, self._random, self._world.network)
        self._task = self.loop.create_task(self._control(self._client))
        self._lives.append((self.loop, self._task))

    @property
    def loops(self) -> list[SimulatedLoop]:
        """Those of all its lives."""
        return [loop for loop, _ in self._lives]

    def crash(self) -> None:
        """End the process; requests that it has sent are under way all the same."""
        self.running = False
        self.leadership = None
        self._client.closed = True
        self.loop.paused_until = 0
        self._streams.end_all(self.name, noticed=self._random.random() < 0.5)
        self._task.cancel()

    def finish(self) -> None:
        """After the simulation: leave no task behind."""
        self._client.closed = True
        for loop, task in self._lives:
            loop.finish(task)

    async def _control(self, client: RowsClient) -> None:
        while True:
            if self._leads():
                await self._control_once(client)
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(LOOK_SECONDS)

    async def _control_once(self, client: RowsClient) -> None:
        """As `process.Manager` does it."""
        clock = ManagerClock(monotonic=self.loop.time, unix=self._unix)
        running: asyncio.Task[None] | None = None
        try:
            store = Store(cast(shoal.AsyncClient, client), self.name)
            leadership = await begin_leadership(self._config, store, clock)
            self.leadership = leadership
            running = asyncio.create_task(leadership.run())
            while self._leads() and not running.done():  # noqa: ASYNC110 - as the real one looks
                await asyncio.sleep(LOOK_SECONDS)
        except (Deposed, ShoalError):
            return
        finally:
            self.leadership = None if self._client is client else self.leadership
            if running is not None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
        if not running.cancelled() and not isinstance(running.exception(), Deposed | ShoalError):
            running.result()

    def _unix(self) -> float:
        return UNIX_START + self._world.events.now / SECOND


def config_of(cluster: str, nodes: list[str], shards: int, microshards: int) -> ClusterConfig:
    """Return the configuration that managers are given."""
    return ClusterConfig.model_validate(
        {
            "cluster": cluster,
            "nodes": [{"id": node, "address": f"{node}:1", "data": node} for node in nodes],
            "keyspaces": {"default": {"microshards": microshards, "shards": shards}},
        }
    )
