"""A simulated cluster under control: nodes that come and go, managers, and their rows."""

from __future__ import annotations

from asyncio import Protocol as AsyncioProtocol
from collections.abc import Callable
from functools import partial
from typing import ClassVar, cast

import msgspec
from shoal.shardmap import ShardMap
from shoal_server.node.settings import NodeSettings
from shoal_server.process.joining import JOINS, JoinRequest
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

from shoal_chaos.simulation.checks.control_plane import ControlChecks
from shoal_chaos.simulation.cluster.cluster import MICROSHARDS, Cluster
from shoal_chaos.simulation.managers.nodes import ControlledNode
from shoal_chaos.simulation.managers.process import UNIX_START, ManagerProcess, config_of
from shoal_chaos.simulation.managers.rows import Rows
from shoal_chaos.simulation.world.events import SECOND, Clock, derived_random
from shoal_chaos.simulation.world.garbage import Collector
from shoal_chaos.simulation.world.loop import SimulatedLoop
from shoal_chaos.simulation.world.streams import Streams

JOIN_INTERVAL = 3 * SECOND
BELIEF_DELAY_MAX = 3 * SECOND
"""So late a manager may learn that another one leads."""


class ControlledCluster(Cluster):
    """Nodes, clients and managers, from one seed. `features` are what nodes say in their welcomes that they have."""

    node_type = ControlledNode
    features: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        seed: int,
        *,
        nodes: int,
        shards: int,
        clients: int,
        keys: int,
        settings: NodeSettings,
        managers: int,
        tuned: SettingsRow,
    ) -> None:
        self._managers_wanted = managers
        self._tuned = tuned
        self.replays = 0.0
        self.loops: list[SimulatedLoop] = []
        super().__init__(seed, nodes=nodes, shards=shards, clients=clients, keys=keys, settings=settings)

    def _begin_managing(self) -> None:
        names = list(self.nodes)
        self.config = config_of(self.shard_map.cluster, names, len(self.shard_map.shards), MICROSHARDS)
        self.checks = ControlChecks(self)
        self.rows = Rows(self.checks.rows_written)
        self._store_first_rows()
        self.collector = Collector(self.world)
        self.streams = Streams(derived_random(self.seed, "streams"), self.network, self._accept, self.collector)
        self.loop = SimulatedLoop(
            "nodes", self.world, Clock(self.world, 0, 1000), derived_random(self.seed, "loop"), self.streams
        )
        self._belief = derived_random(self.seed, "belief")
        names = [f"m{number}" for number in range(1, self._managers_wanted + 1)]
        self._elections = 0
        self._believed = dict.fromkeys(names, (0, "m1"))
        clocks = derived_random(self.seed, "managers' clocks")
        self.managers = {
            name: ManagerProcess(
                self,
                name,
                Clock(self.events, clocks.randrange(1, 1000 * SECOND), 1000 + clocks.randint(-2, 2)),
                derived_random(self.seed, f"manager {name}"),
            )
            for name in names
        }

    def _store_first_rows(self) -> None:
        keys: dict[str, bytes] = {}
        for row in adopted(self.shard_map, {}, UNIX_START * 1000):
            match row:
                case ShardMap():
                    keys[MAP_KEY] = encode_row(row)
                case SettingsRow():
                    keys[SETTINGS_KEY] = encode_row(self._tuned)
                case CountersRow():
                    keys[COUNTERS_KEY] = encode_row(row)
                case NodeRow():
                    keys[node_key(row.id)] = encode_row(row)
                case PolicyRow():
                    keys[policy_key(row.keyspace)] = encode_row(row)
                case _:
                    raise AssertionError(f"{row} is no first row")
        self.rows.data.update(keys)
        self.checks.rows_written(dict(keys))

    # -- managers

    def believed_leader(self, manager: str) -> str:
        """Return who leads the managers, as this one knows."""
        return self._believed[manager][1]

    def elect(self, manager: str) -> None:
        """Let another manager lead; each learns of it sooner or later, so that two may believe to lead."""
        self._elections += 1
        for name in self._believed:
            self.events.after(
                self._belief.randrange(BELIEF_DELAY_MAX), partial(self._learn, name, (self._elections, manager))
            )

    def _learn(self, name: str, election: tuple[int, str]) -> None:
        self._believed[name] = max(self._believed[name], election)

    def leading(self) -> ManagerProcess | None:
        """Return the manager that runs the controller, as far as anybody outside can know."""
        found = [manager for manager in self.managers.values() if manager.running and manager.leadership is not None]
        return max(
            found, key=lambda manager: manager.leadership.epoch if manager.leadership is not None else 0, default=None
        )

    def finish(self) -> None:
        """After the simulation, however it ended."""
        for manager in self.managers.values():
            manager.finish()
        self.loop.close()

    # -- nodes

    def controlled(self) -> list[ControlledNode]:
        return [cast(ControlledNode, node) for node in self.nodes.values()]

    def add_node(self) -> ControlledNode:
        """Start a node that no map knows, and that asks to join."""
        name = f"n{len(self.nodes) + 1}"
        clock = Clock(self.events, 1 + len(self.nodes) * SECOND, 1000)
        node = ControlledNode(self, name, clock, derived_random(self.seed, f"node {name}"))
        node.joining = True
        self.nodes[name] = node
        node.start()
        self._ask_to_join(node)
        return node

    def _ask_to_join(self, node: ControlledNode) -> None:
        if node.ended or (node.node is not None and node.node.routes.map.version > 0):
            return
        if node.node is not None:
            request = JoinRequest(self.shard_map.cluster, node.name, f"{node.name}:1", "", "", f"{node.name}-1")
            self.rows.data[JOINS + node.name] = msgspec.msgpack.encode(request)
        self.events.after(JOIN_INTERVAL, lambda: self._ask_to_join(node))

    def dropped(self, node: ControlledNode, shard: int) -> None:
        """A node has deleted a replica."""
        self.invariants.forget_replica(node.name, shard)
        self.checks.replica_dropped(node, shard)

    def _accept(self, callee: str) -> tuple[AsyncioProtocol, Callable[[Callable[[], None]], None]] | None:
        return cast(ControlledNode, self.nodes[callee]).accept() if callee in self.nodes else None
