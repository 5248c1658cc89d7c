"""A simulated cluster for applications: nodes and managers as elsewhere, and the processes of the application."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

import msgspec
from shoal.protocol.messages import ONE_PARTITION_FEATURE
from shoal.shardmap import Keyspace, MicroshardRange, Shard, ShardMap
from shoal_server.node.settings import NodeSettings
from shoal_shardmanager.control.rows import SettingsRow

from shoal_chaos.application_simulation.processes import Process
from shoal_chaos.application_simulation.quiescence import Rest
from shoal_chaos.simulation.cluster.cluster import MICROSHARDS
from shoal_chaos.simulation.managers.cluster import ControlledCluster
from shoal_chaos.simulation.managers.nodes import ControlledNode
from shoal_chaos.simulation.world.events import Events
from shoal_chaos.simulation.world.standstill import World

REPLICAS = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """What a simulated cluster is like.

    Args:
        shards: of each keyspace.
        keyspaces: their names; the first is that of clients which name none.
        max_staleness: of eventual reads that name none, in seconds.
        default_ttl: of writes that name none, in seconds; 0: they never expire.
    """

    nodes: int = 3
    shards: int = 2
    managers: int = 1
    keyspaces: tuple[str, ...] = ("default",)
    max_staleness: float = 5.0
    default_ttl: float = 0.0

    def __post_init__(self) -> None:
        if self.nodes < REPLICAS or not 1 <= self.shards <= MICROSHARDS or self.managers < 0 or not self.keyspaces:
            raise ValueError(
                f"a simulated cluster has at least {REPLICAS} nodes, 1 to {MICROSHARDS} shards a keyspace, "
                f"and a keyspace, not as in {self}"
            )


class ApplicationCluster(ControlledCluster):
    """Nodes and managers, from one seed, and processes that come and go. Time stands still for it while it is at rest.

    `under_fault`: whether one lasts.
    """

    cluster_id: ClassVar[str] = "simulated"
    features = (ONE_PARTITION_FEATURE,)
    world: World

    def __init__(self, seed: int, shape: Shape) -> None:
        self.shape = shape
        self.under_fault = False
        self.processes: dict[str, Process] = {}
        super().__init__(
            seed,
            nodes=shape.nodes,
            shards=shape.shards,
            clients=0,
            keys=0,
            settings=NodeSettings(),
            managers=shape.managers,
            tuned=SettingsRow(),
        )

    def _timelines(self) -> tuple[Events, Events]:
        world = World(Rest(self).quiet_until, self._stand_still)
        return world, world.of_cluster

    def _stand_still(self, duration: int) -> None:
        for node in self.nodes.values():
            if node.node is not None:
                node.node.clock.stood_still(duration)

    def _begin_managing(self) -> None:
        self.shard_map = self._shaped_map()
        super()._begin_managing()

    def _shaped_map(self) -> ShardMap:
        shape, names = self.shape, list(self.nodes)
        return msgspec.structs.replace(
            self.shard_map,
            keyspaces=tuple(
                Keyspace(
                    number + 1,
                    name,
                    MICROSHARDS,
                    b"/",
                    round(shape.max_staleness * 1000),
                    round(shape.default_ttl * 1000),
                )
                for number, name in enumerate(shape.keyspaces)
            ),
            shards=tuple(
                Shard(
                    1 + number * shape.shards + part,
                    number + 1,
                    (MicroshardRange(MICROSHARDS * part // shape.shards, MICROSHARDS * (part + 1) // shape.shards),),
                    tuple(names[(number + part + place) % len(names)] for place in range(REPLICAS)),
                )
                for number in range(len(shape.keyspaces))
                for part in range(shape.shards)
            ),
        )

    def _deliver(self, sender: str, receiver: str, body: bytes) -> None:
        # Clients here have connections; what comes by frame answers faults that ask for other leaders, and nobody reads it.
        if receiver in self.nodes:
            super()._deliver(sender, receiver, body)

    # -- processes

    def names(self) -> list[str]:
        """Return everybody who can be cut off."""
        return [*self.nodes, *self.managers, *self.processes]

    def pause(self, name: str, until: int) -> None:
        """Hold a process up until a moment in true time, ns; 0: not, or no longer."""
        clusters_until = until - self.world.stood_still
        if name in self.nodes:
            self.nodes[name].paused_until = clusters_until
            self.nodes[name].turn_soon()
        elif name in self.managers:
            self.managers[name].loop.paused_until = clusters_until
        else:
            self.processes[name].loop.paused_until = until

    def start_again(self, name: str) -> None:
        """Begin a new process of a node or manager, unless one runs."""
        if name in self.managers:
            if not self.managers[name].running:
                self.managers[name].start()
        else:
            node = self.nodes[name]
            assert isinstance(node, ControlledNode)
            node.start_again()

    def leader_of(self, keyspace: str, key: bytes) -> str | None:
        """Return who leads the shard of a key, as far as anybody outside can know: the node with the newest term."""
        found: list[tuple[int, str]] = []
        for node in self.nodes.values():
            for replica in node.node.replicas.values() if node.node is not None else ():
                microshard = replica.keyspace.microshard_of(key)
                holds = any(span.first <= microshard < span.end for span in replica.machine.state.ranges)
                if replica.keyspace.name == keyspace and holds and replica.group.is_leader:
                    found.append((replica.group.term, node.name))
        return max(found)[1] if found else None

    def derived(self, name: str) -> Random:
        """Return a source of chance of its own."""
        return Random(f"{self.seed}/application/{name}")
