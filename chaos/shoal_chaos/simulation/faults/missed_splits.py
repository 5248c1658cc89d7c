"""Splits that two of three voters miss, and voters that had a shard and have lost it, each when a majority hangs on them.

A voter misses a split whose replica of the parent is taken past it by a snapshot: one was cut off while it happened, the
other failed with the split's entry in its log. The third alone has the child's rows, and needs a vote of those that have
nothing. Later on, as in `LostLogs`, one of three is cut off, another one loses what it alone has acknowledged with the
leader, and the leader goes. These two must elect nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import ClassVar

import msgspec
from shoal.protocol.messages import DropReplica, InstallShardMap
from shoal_server.node.core import Node
from shoal_server.storage.replica_failure import FailureKind, ReplicaFailure

from shoal_chaos.simulation.cluster.node import SimulatedNode
from shoal_chaos.simulation.faults.damaged_rows import LostLogs, is_damaged
from shoal_chaos.simulation.faults.usual import ADMIN_CLIENT, ADMIN_REQUEST
from shoal_chaos.simulation.scene import NodesScene
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND

LOOK = MILLISECOND // 4
LOOKS = 400
"""A split that has not been applied after so many looks was refused, or its leader is gone."""


class MissedSplits(LostLogs):
    """See the module's first lines. One thing at a time happens, and only to shards that are whole."""

    intervals_ms: ClassVar[tuple[int, ...]] = (1000,)

    def __init__(self, scene: NodesScene, random: Random) -> None:
        self.missed = 0
        super().__init__(scene, random)
        self.kinds = self._all_kinds()

    def _all_kinds(self) -> list[Callable[[], None]]:
        return [self._miss_split, self._lose_log]

    def _miss_split(self) -> None:
        nodes, events = self._cluster.nodes, self._events
        led = self._led_by_three()
        if self._busy or not led or any(is_damaged(node, nodes.values()) for node in nodes.values()):
            return
        self._busy = True
        shard, leader, others = self._random.choice(led)
        failing, lagging = self._random.sample(others, 2)

        def split() -> None:
            replica = nodes[leader].replicas.get(shard)
            if replica is not None:
                self._manager.split(shard)
                self._fail_once_split(shard, leader, failing, replica.machine.state.children, LOOKS)

        self._apart(lagging)
        events.after(self._random.randrange(SECOND // 2, SECOND), split)
        events.after(3 * SECOND, self._heal)
        events.after(7 * SECOND, self._rest)

    def _fail_once_split(self, shard: int, leader: str, failing: str, before: tuple[int, ...], looks: int) -> None:
        """Have the replica on `failing` fail when its leader has applied the split, if it has not done so itself."""
        nodes, node = self._cluster.nodes, self._cluster.nodes[failing]
        leading, replica = nodes[leader].replicas.get(shard), node.replicas.get(shard)
        if leading is None or replica is None or node.node is None or not looks:
            return
        if leading.machine.state.children == before:
            self._events.after(LOOK, lambda: self._fail_once_split(shard, leader, failing, before, looks - 1))
        elif replica.machine.state.children == before:
            failure = ReplicaFailure(FailureKind.DIVERGED, "a split is to be missed", replica.machine.state.index)
            node.node.failing.fail(replica, failure, node.local_now())
            node.turn_soon()
            self.missed += 1

    def _lose(self, node: SimulatedNode, core: Node, shard: int) -> None:
        """Have a node's logs be damaged, or one replica be dropped, whom its group counts on, and a new one come."""
        if self._random.random() < 0.5:
            super()._lose(node, core, shard)
            return
        known = core.routes.map
        without = msgspec.structs.replace(known, version=known.version + 1, keyspaces=(), shards=())
        again = msgspec.structs.replace(known, version=known.version + 2)
        for request in (
            InstallShardMap(ADMIN_REQUEST, without),
            DropReplica(ADMIN_REQUEST, shard),
            InstallShardMap(ADMIN_REQUEST, again),
        ):
            core.receive_client(ADMIN_CLIENT, [request])
        node.turn_soon()
