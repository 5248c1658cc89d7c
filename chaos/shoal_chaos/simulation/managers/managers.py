"""The managers of a simulated cluster: their processes, and which of them each believes to lead."""

from __future__ import annotations

from functools import partial

from shoal.shardmap import ShardMap
from shoal_shardmanager.control.controller import adopted
from shoal_shardmanager.control.rows import (
    COUNTERS_KEY,
    MAP_KEY,
    SETTINGS_KEY,
    CountersRow,
    NodeRow,
    PolicyRow,
    SettingsRow,
    encode_row,
    node_key,
    policy_key,
)

from shoal_chaos.simulation.cluster.cluster import MICROSHARDS, Cluster
from shoal_chaos.simulation.managers.process import UNIX_START, ManagerProcess, config_of
from shoal_chaos.simulation.managers.rows import ManagerRows
from shoal_chaos.simulation.world.events import SECOND, Clock
from shoal_chaos.simulation.world.loop import SimulatedLoop
from shoal_chaos.simulation.world.streams import Streams

BELIEF_DELAY_MAX = 3 * SECOND
"""So late a manager may learn that another one leads."""


class Managers:
    """Those of one cluster. `processes`: by name, those that run and those that do not."""

    def __init__(self, cluster: Cluster, streams: Streams, rows: ManagerRows, count: int) -> None:
        world, shard_map = cluster.world, cluster.shard_map
        config = config_of(shard_map.cluster, list(cluster.nodes), len(shard_map.shards), MICROSHARDS)
        self._events = world.events
        self._belief = world.random("belief")
        self._elections = 0
        names = [f"m{number}" for number in range(1, count + 1)]
        self._believed = dict.fromkeys(names, (0, "m1"))
        clocks = world.random("managers' clocks")
        self.processes = {
            name: ManagerProcess(
                world,
                streams,
                rows,
                config,
                name,
                Clock(world.events, clocks.randrange(1, 1000 * SECOND), 1000 + clocks.randint(-2, 2)),
                partial(self._believes_to_lead, name),
            )
            for name in names
        }

    @property
    def loops(self) -> list[SimulatedLoop]:
        """Those of all processes that there have been."""
        return [loop for process in self.processes.values() for loop in process.loops]

    def elect(self, manager: str) -> None:
        """Let another manager lead; each learns of it sooner or later, so that two may believe to lead."""
        self._elections += 1
        for name in self._believed:
            self._events.after(
                self._belief.randrange(BELIEF_DELAY_MAX), partial(self._learn, name, (self._elections, manager))
            )

    def _learn(self, name: str, election: tuple[int, str]) -> None:
        self._believed[name] = max(self._believed[name], election)

    def _believes_to_lead(self, manager: str) -> bool:
        return self._believed[manager][1] == manager

    def leading(self) -> ManagerProcess | None:
        """Return the manager that runs the controller, as far as anybody outside can know."""
        found = [manager for manager in self.processes.values() if manager.running and manager.leadership is not None]
        return max(
            found, key=lambda manager: manager.leadership.epoch if manager.leadership is not None else 0, default=None
        )

    def finish(self) -> None:
        """After the simulation, however it ended."""
        for manager in self.processes.values():
            manager.finish()


def first_rows(shard_map: ShardMap, settings: SettingsRow) -> dict[str, bytes]:
    """Return what the managers of a new cluster have stored, by key: a map, settings, and what follows from the map."""
    keys: dict[str, bytes] = {}
    for row in adopted(shard_map, {}, UNIX_START * 1000, {}):
        match row:
            case ShardMap():
                keys[MAP_KEY] = encode_row(row)
            case SettingsRow():
                keys[SETTINGS_KEY] = encode_row(settings)
            case CountersRow():
                keys[COUNTERS_KEY] = encode_row(row)
            case NodeRow():
                keys[node_key(row.id)] = encode_row(row)
            case PolicyRow():
                keys[policy_key(row.keyspace)] = encode_row(row)
            case _:
                raise AssertionError(f"{row} is no first row")
    return keys
