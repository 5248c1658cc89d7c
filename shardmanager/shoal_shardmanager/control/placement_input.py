"""The state as placement sees it: nodes, policies, shards, who is busy, and loads measured from reports."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from shoal.protocol.messages import ReplicaStatus

from shoal_shardmanager import placement
from shoal_shardmanager.control.observed import NodeReport, ObservedState
from shoal_shardmanager.control.rows import MoveReplica, NodeState, PolicyRow, SettingsRow
from shoal_shardmanager.control.state import ClusterState

FADE_SECONDS = 3.0
"""The time constant of the running means, however often a node reports."""

SILENT = "it does not answer"
UNKNOWN = "the managers know no such node"

_STATES = {
    NodeState.ACTIVE: placement.NodeState.ACTIVE,
    NodeState.DRAINING: placement.NodeState.DRAINING,
    NodeState.DRAINED: placement.NodeState.DRAINING,
    NodeState.GONE: placement.NodeState.GONE,
    NodeState.REMOVED: placement.NodeState.GONE,
}


@dataclass(slots=True)
class _Counted:
    at_ms: int
    reads: int
    writes: int
    load: placement.Load


@dataclass(slots=True)
class Loads:
    """Loads of replicas: reads and writes as running means of the differences between reports' counters.

    Bytes are those that nodes have counted, and CPU the share of a core that they say; bytes of a replica that is not
    counted yet, after a restart, stay what was known of it before.
    """

    _counted: dict[str, dict[int, _Counted]] = field(default_factory=dict)

    def take(self, node: str, report: NodeReport) -> None:
        """Take a node's newest report into account; the same one again says nothing new."""
        before = self._counted.get(node, {})
        if any(counted.at_ms >= report.at_ms for counted in before.values()):
            return
        self._counted[node] = {
            replica.shard: _counted(replica, report.at_ms, before.get(replica.shard))
            for replica in report.status.replicas
        }

    def bytes_of(self, shard: int, leader: str | None, nodes: tuple[str, ...]) -> int:
        """Return the bytes of a shard as its leader has counted them; where that is not known, the most that any node has."""
        counted = None if leader is None else self._counted.get(leader, {}).get(shard)
        return self.of(shard, nodes).bytes if counted is None else counted.load.bytes

    def of(self, shard: int, nodes: tuple[str, ...]) -> placement.Load:
        """Return a shard's load: reads and CPU of all its replicas, bytes and writes of the one that has most."""
        found = [counted.load for node in nodes if (counted := self._counted.get(node, {}).get(shard)) is not None]
        if not found:
            return placement.Load()
        return placement.Load(
            bytes=max(load.bytes for load in found),
            reads=sum(load.reads for load in found),
            writes=max(load.writes for load in found),
            cpu=sum(load.cpu for load in found),
        )


def _counted(replica: ReplicaStatus, at_ms: int, before: _Counted | None) -> _Counted:
    if before is None:
        load = placement.Load(bytes=replica.bytes, cpu=replica.cpu)
        return _Counted(at_ms, replica.reads, replica.writes, load)
    seconds = (at_ms - before.at_ms) / 1000
    gain = 1 - math.exp(-seconds / FADE_SECONDS)
    # A counter that went back is that of a process that began anew.
    reads = max(0, replica.reads - before.reads) / seconds
    writes = max(0, replica.writes - before.writes) / seconds
    load = placement.Load(
        bytes=replica.bytes if replica.counted else max(replica.bytes, before.load.bytes),
        reads=before.load.reads + gain * (reads - before.load.reads),
        writes=before.load.writes + gain * (writes - before.load.writes),
        cpu=replica.cpu,
    )
    return _Counted(at_ms, replica.reads, replica.writes, load)


def placement_settings(settings: SettingsRow) -> placement.Settings:
    """Return placement's settings, with the operator's caps."""
    caps = placement.Caps(per_node=settings.moves_per_node, per_cluster=settings.moves_per_cluster)
    return placement.Settings(caps=caps)


def placement_state(
    state: ClusterState, observed: ObservedState, loads: Loads, *, healing: bool = False
) -> placement.State:
    """Return what placement plans from; `healing`: to replace what is lost, for which fewer shards count as busy."""
    leaders = observed.leaders()
    busy = state.busy(healing=healing)
    moves = {row.arguments.shard: row.arguments for row in state.running() if isinstance(row.arguments, MoveReplica)}
    shards: list[placement.Shard] = []
    for shard in state.map.shards:
        leading = leaders.get(shard.id)
        incoming: tuple[str, ...] = ()
        move = moves.get(shard.id)
        if move is not None and move.target and move.target not in shard.replicas:
            incoming = (move.target,)
        leader = leading.node if leading is not None and leading.node in shard.voters else ""
        load = loads.of(shard.id, shard.replicas)
        shards.append(
            placement.Shard(
                shard.id, shard.keyspace, shard.voters, shard.followers, leader, load, shard.id in busy, incoming
            )
        )
    return placement.State(_nodes(state, observed), _keyspaces(state), tuple(shards))


def _nodes(state: ClusterState, observed: ObservedState) -> tuple[placement.Node, ...]:
    used = dict.fromkeys(node for shard in state.map.shards for node in shard.replicas)
    found: list[placement.Node] = []
    for _, node in sorted(state.nodes.items()):
        if node.state is NodeState.REMOVED and node.id not in used:
            continue
        status = observed.fresh(node.id)
        found.append(
            placement.Node(
                node.id,
                node.region,
                node.zone,
                _STATES[node.state],
                closed=SILENT if status is None else status.not_writable,
                not_leading="" if status is None else status.not_leading,
            )
        )
    # A map that an earlier version wrote may name others; what is there is to be seen, and left.
    found += [
        placement.Node(node, "", "", placement.NodeState.GONE, closed=UNKNOWN)
        for node in used
        if node not in state.nodes
    ]
    return tuple(found)


def _keyspaces(state: ClusterState) -> tuple[placement.Keyspace, ...]:
    return tuple(
        placement_keyspace(state.policies[keyspace.id], keyspace.name)
        for keyspace in state.map.keyspaces
        if keyspace.id in state.policies
    )


def placement_keyspace(policy: PolicyRow, name: str) -> placement.Keyspace:
    """Return what placement is to know of a keyspace."""
    return placement.Keyspace(
        id=policy.keyspace,
        voters=policy.voters,
        followers=policy.followers,
        required=dict(policy.required),
        leader_regions=policy.leader_regions,
        follower_regions=policy.follower_regions,
        name=name,
    )
