"""What operators ask for in a simulated cluster: random requests, sensible ones and others, to whichever manager leads."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random

from shoal.errors import ShoalError
from shoal.shardmap import MicroshardRange, Shard
from shoal_shardmanager.control.requests import Alter, Create, DropRequest, KeyspaceRequest, OperatorRequest, Refused
from shoal_shardmanager.control.requests.model import MergeRequest, MoveMicroshardsRequest, RestartRequest, SplitRequest
from shoal_shardmanager.control.rows import (
    Drain,
    Failover,
    MoveLeader,
    MoveReplica,
    NodeState,
    Rebalance,
    RemoveNode,
    RollingRestart,
    Step,
    Undrain,
)
from shoal_shardmanager.control.state import ClusterState
from shoal_shardmanager.process.leadership import Leadership
from shoal_shardmanager.process.store import Deposed

from shoal_chaos.simulation.invariants import Violation
from shoal_chaos.simulation.managers.scene import ManagedScene
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND

NODES_MAX = 7
KEYSPACES_MAX = 3
SHARDS_MAX = 12
INTERVALS_MS = (300, 1000, 3000)
QUOTAS = (0, 2, 20, 1000)
"""Operations a second; 0: none. With the least one, clients still get everything through in the end."""
REMOVED_RUNS_FOR = 3 * SECOND

Maker = Callable[[ClusterState], OperatorRequest | None]


class Operators:
    """Give requests at random moments until told to stop. `answers` counts what became of them."""

    def __init__(self, scene: ManagedScene, random: Random, *, unreplicated: bool) -> None:
        """`unreplicated`: keyspaces of one voter may be created; they do not outlive the loss of a node."""
        self.answers: Counter[str] = Counter()
        self._scene = scene
        self._nodes = scene.cluster.nodes
        self._events = scene.world.events
        self._random = random
        self._active = True
        self._voters = [1, 3] if unreplicated else [3]
        self._keyspaces = 0
        self._makers = [maker for maker in self._all_makers() if random.random() < 0.6] or [self._move]
        self._cancels = random.choice([0.0, 0.2])
        self._joins = random.choice([0.0, 0.1])
        self._interval = random.choice(INTERVALS_MS) * MILLISECOND
        self._next()
        self._supervise()

    def _all_makers(self) -> list[Maker]:
        return [
            self._move,
            self._move_leader,
            self._drain,
            self._undrain,
            self._remove,
            self._rebalance,
            self._failover,
            self._create,
            self._alter,
            self._drop,
            self._split,
            self._merge,
            self._move_microshards,
            self._restart,
            self._nonsense,
        ]

    def only(self, names: tuple[str, ...]) -> None:
        """Give no other requests than these, one after the other."""
        self._interval = INTERVALS_MS[0] * MILLISECOND
        self._makers = [maker for maker in self._all_makers() if maker.__name__.strip("_") in names]

    def stop(self) -> None:
        """Ask for nothing more."""
        self._active = False

    def _next(self) -> None:
        self._events.after(self._random.randrange(1, 2 * self._interval), self._act)

    def _act(self) -> None:
        if not self._active:
            return
        self._next()
        self._end_removed()
        random, scene = self._random, self._scene
        if random.random() < self._joins and len(self._nodes) < NODES_MAX:
            scene.nodes.add_node()
            return
        manager = scene.managers.leading()
        if manager is None or manager.leadership is None:
            return
        leadership = manager.leadership
        if random.random() < self._cancels:
            running = [row.id for row in leadership.state.running()]
            if running:
                manager.loop.create_task(self._cancel(leadership, random.choice(running)))
            return
        request = random.choice(self._makers)(leadership.state)
        if request is not None:
            manager.loop.create_task(self._give(leadership, request, plan_only=random.random() < 0.1))

    async def _give(self, leadership: Leadership, request: OperatorRequest, *, plan_only: bool) -> None:
        kind = type(request).__name__
        before = leadership.state
        try:
            accepted = await asyncio.wait_for(leadership.request(request, plan_only=plan_only, if_version=0), 20)
        except Refused as refused:
            self.answers[f"{kind} refused"] += 1
            if not str(refused):
                raise Violation(f"{request} was refused without a reason") from refused
        except (ShoalError, Deposed, TimeoutError):
            self.answers[f"{kind} failed"] += 1
        else:
            self.answers[f"{kind} planned" if plan_only else f"{kind} accepted"] += 1
            if plan_only and accepted.operation.id in leadership.state.operations and leadership.state is before:
                raise Violation(f"the plan of {request} was carried out")

    async def _cancel(self, leadership: Leadership, operation: int) -> None:
        try:
            await asyncio.wait_for(leadership.cancel(operation), 20)
        except (Refused, ShoalError, Deposed, TimeoutError):
            self.answers["cancel failed"] += 1
        else:
            self.answers["cancel accepted"] += 1

    def _end_removed(self) -> None:
        """Whoever removes a node ends its process, some time after."""
        for name, row in self._scene.checks.nodes.items():
            node = self._nodes[name]
            if row.state is NodeState.REMOVED and not node.ended:
                self._events.after(self._random.randrange(REMOVED_RUNS_FOR), node.end)

    def _supervise(self) -> None:
        """Restart the nodes that rolling restarts ask for, as whoever runs them would."""
        self._events.after(SECOND, self._supervise)
        for row in self._scene.checks.running():
            work = row.arguments
            if not isinstance(work, RollingRestart) or row.step is not Step.RESTART:
                continue
            node = self._nodes[work.nodes[work.done]]
            if node.node is not None and self._random.random() < 0.5:
                node.crash()
                self._events.after(self._random.randrange(SECOND), node.start_again)

    # -- requests

    def _node(self, state: ClusterState, *states: NodeState) -> str:
        """Return a node in one of these states, or, rarely, any."""
        fit = [row.id for row in state.nodes.values() if row.state in states]
        if not fit or self._random.random() < 0.05:
            fit = list(state.nodes)
        return self._random.choice(fit)

    def _move(self, state: ClusterState) -> OperatorRequest:
        random = self._random
        shard = random.choice(state.map.shards)
        source = random.choice(shard.replicas)
        free = [row.id for row in state.nodes.values() if row.id not in shard.replicas] or list(state.nodes)
        return MoveReplica(shard.id, source, random.choice(free))

    def _move_leader(self, state: ClusterState) -> OperatorRequest:
        shard = self._random.choice(state.map.shards)
        return MoveLeader(shard.id, self._random.choice(shard.replicas))

    def _drain(self, state: ClusterState) -> OperatorRequest:
        return Drain(self._node(state, NodeState.ACTIVE))

    def _undrain(self, state: ClusterState) -> OperatorRequest:
        return Undrain(self._node(state, NodeState.DRAINING, NodeState.DRAINED))

    def _remove(self, state: ClusterState) -> OperatorRequest:
        return RemoveNode(self._node(state, NodeState.DRAINED, NodeState.GONE))

    def _rebalance(self, state: ClusterState) -> OperatorRequest:  # noqa: ARG002
        return Rebalance()

    def _failover(self, state: ClusterState) -> OperatorRequest:
        return Failover(self._node(state, NodeState.ACTIVE, NodeState.DRAINING))

    def _create(self, state: ClusterState) -> OperatorRequest | None:
        if len(state.map.keyspaces) > KEYSPACES_MAX:
            return None
        random = self._random
        self._keyspaces += 1
        return Create(
            KeyspaceRequest(
                f"ks{self._keyspaces}",
                microshards=4,
                shards=random.choice([1, 2]),
                voters=random.choice(self._voters),
                followers=random.choice([0, 0, 1]),
            )
        )

    def _alter(self, state: ClusterState) -> OperatorRequest:
        random = self._random
        keyspace = random.choice(state.map.keyspaces)
        kind = random.random()
        if kind < 0.3:
            return Alter(
                KeyspaceRequest(
                    keyspace.name,
                    reads_per_second=random.choice([None, *QUOTAS]),
                    writes_per_second=random.choice(QUOTAS),
                    max_bytes=random.choice([None, 0, 1 << 40]),
                )
            )
        if kind < 0.6:
            return Alter(KeyspaceRequest(keyspace.name, max_staleness_ms=random.choice([100, 1000, 10_000])))
        voters = None if keyspace.id == 1 else random.choice(self._voters)
        return Alter(KeyspaceRequest(keyspace.name, voters=voters, followers=random.choice([0, 1])))

    def _drop(self, state: ClusterState) -> OperatorRequest | None:
        others = [keyspace.name for keyspace in state.map.keyspaces if keyspace.id != 1]
        return DropRequest(self._random.choice(others)) if others else None

    def _split(self, state: ClusterState) -> OperatorRequest | None:
        if len(state.map.shards) >= SHARDS_MAX:
            return None
        shard = self._random.choice(state.map.shards)
        return SplitRequest(shard.id, self._random.choice([None, *_microshards(shard)]))

    def _merge(self, state: ClusterState) -> OperatorRequest:
        source = self._random.choice(state.map.shards)
        return MergeRequest(self._neighbour(source, state).id, source.id)

    def _move_microshards(self, state: ClusterState) -> OperatorRequest:
        source = self._random.choice(state.map.shards)
        microshards = _microshards(source)
        chosen = self._random.sample(microshards, self._random.randint(min(1, len(microshards)), len(microshards)))
        ranges = tuple(MicroshardRange(one, one + 1) for one in sorted(chosen))
        return MoveMicroshardsRequest(source.id, self._neighbour(source, state).id, ranges)

    def _neighbour(self, shard: Shard, state: ClusterState) -> Shard:
        """Return another shard of its keyspace, if there is one."""
        others = [other for other in state.map.shards if other.keyspace == shard.keyspace and other is not shard]
        return self._random.choice(others or [shard])

    def _restart(self, state: ClusterState) -> OperatorRequest:
        named = self._random.sample(sorted(state.nodes), self._random.randint(0, 2))
        return RestartRequest(tuple(named))

    def _nonsense(self, state: ClusterState) -> OperatorRequest:
        random = self._random
        shard = random.choice([random.choice(state.map.shards).id, 10_000])
        nodes = [*state.nodes, "n99"]
        requests: list[OperatorRequest] = [
            MoveReplica(shard, random.choice(nodes), random.choice(nodes)),
            MoveLeader(shard, random.choice(nodes)),
            RemoveNode(random.choice(nodes)),
            Undrain(random.choice(nodes)),
            DropRequest("none"),
            Alter(KeyspaceRequest("none", voters=3)),
            Create(KeyspaceRequest("", shards=0)),
        ]
        return random.choice(requests)


def _microshards(shard: Shard) -> list[int]:
    return [microshard for span in shard.ranges for microshard in range(span.first, span.end)]
