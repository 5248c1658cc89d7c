"""The clients of a simulated cluster, each with a number and a source of chance of its own."""

from __future__ import annotations

from typing import TypeVar

from shoal.shardmap import Routes, ShardMap

from shoal_chaos.simulation.clients.answers import decoding
from shoal_chaos.simulation.clients.client import SimulatedClient
from shoal_chaos.simulation.clients.histories import Histories
from shoal_chaos.simulation.clients.range_client import RangeClient
from shoal_chaos.simulation.cluster.node import client_name
from shoal_chaos.simulation.world.world import World

C = TypeVar("C", bound=SimulatedClient)

FIRST_RANGE_CLIENT = 500
"""The number of the first client of ranges; drivers of migrations have higher ones."""

SLOW_PAUSES = 30
"""So many times longer clients wait between steps where nothing but time is needed."""


class Clients:
    """Those of one run, all on the first keyspace, and what they have seen. `of_keys`, `of_ranges`: what they are about."""

    def __init__(self, world: World, shard_map: ShardMap, *, clients: int, keys: int, range_clients: int = 0) -> None:
        self._world = world
        self._shard_map = shard_map
        self._keys = [f"key-{number}".encode() for number in range(keys)]
        self.histories = Histories({key: [] for key in self._keys})
        self.of_keys: list[SimulatedClient] = []
        self.of_ranges: list[RangeClient] = []
        for number in range(clients):
            self.add(SimulatedClient, f"c{number}")
        for number in range(range_clients):
            self._add_range_client(number)

    @property
    def everybody(self) -> list[SimulatedClient | RangeClient]:
        return [*self.of_keys, *self.of_ranges]

    @property
    def completed(self) -> int:
        """How many steps they have done."""
        return sum(client.completed for client in self.everybody)

    def start(self) -> None:
        for client in self.everybody:
            client.start()

    def slow_down(self) -> None:
        """Have everybody go on, and wait longer between steps."""
        for client in self.everybody:
            client.pauses = SLOW_PAUSES

    def stop(self) -> None:
        """Have everybody end with what it is about."""
        for client in self.everybody:
            client.stopping = True

    def add(self, kind: type[C], name: str) -> C:
        """Make another client of keys, which is still to be started."""
        world, number = self._world, len(self.of_keys)
        client = kind(
            name,
            number,
            world.events,
            world.random(f"client {number}"),
            Routes(self._shard_map),
            self._shard_map.keyspaces[0],
            self._keys,
            self.histories,
            world.sender(client_name(number)),
        )
        world.listen(client_name(number), decoding(client.receive))
        self.of_keys.append(client)
        return client

    def _add_range_client(self, number: int) -> None:
        world, name = self._world, client_name(FIRST_RANGE_CLIENT + number)
        client = RangeClient(
            f"r{number}",
            world.events,
            world.random(f"range client {number}"),
            Routes(self._shard_map),
            self._shard_map.keyspaces[0],
            self.histories,
            world.sender(name),
        )
        world.listen(name, decoding(client.receive))
        self.of_ranges.append(client)
