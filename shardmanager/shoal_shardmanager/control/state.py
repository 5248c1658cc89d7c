"""The cluster's state in memory, and the changes of it: one set of changes is one atomic write, and is checked whole.

`ClusterState` is immutable; `changed` returns the next one, or refuses a set of changes that would break an invariant.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from msgspec import structs
from shoal.map_changes import with_members
from shoal.map_rules import refuse_map
from shoal.shardmap import Routes, Shard, ShardMap
from shoal_server.invariants import invariant

from shoal_shardmanager.control.rows import (
    CountersRow,
    NodeRow,
    OperationRow,
    PolicyRow,
    SettingsRow,
    State,
    Step,
)


@dataclass(frozen=True, slots=True)
class ForgetOperation:
    """Drop the row of an operation that has ended long ago."""

    id: int


@dataclass(frozen=True, slots=True)
class ForgetPolicy:
    """Drop the policy of a keyspace that is no more."""

    keyspace: int


RowChange = ShardMap | NodeRow | PolicyRow | CountersRow | SettingsRow | OperationRow | ForgetOperation | ForgetPolicy


@dataclass(frozen=True, slots=True)
class ClusterState:
    """Everything the managers remember.

    Invariants: the map's version only grows; every microshard of it has one shard; an operation that has ended does
    not change any more; the counters are above every number in use.
    """

    map: ShardMap
    nodes: dict[str, NodeRow] = field(default_factory=dict)
    policies: dict[int, PolicyRow] = field(default_factory=dict)
    operations: dict[int, OperationRow] = field(default_factory=dict)
    counters: CountersRow = field(default_factory=CountersRow)
    settings: SettingsRow = field(default_factory=SettingsRow)

    def shard(self, shard: int) -> Shard | None:
        """Return a shard of the map, or None."""
        return next((known for known in self.map.shards if known.id == shard), None)

    def next_map_version(self, newer_than: int) -> int:
        """Return the version of the next map where nodes may have maps up to `newer_than`, which they derived, already."""
        return max(self.map.version, newer_than) + 1

    def running(self) -> list[OperationRow]:
        """Return the operations that have not ended, the oldest first."""
        return [row for _, row in sorted(self.operations.items()) if row.running]

    def operation_on(self, shard: int) -> OperationRow | None:
        """Return the operation that is on a shard, or None."""
        return next((row for row in self.running() if shard in row.shards), None)

    def busy(self, *, healing: bool = False) -> frozenset[int]:
        """Return the shards that an operation is on.

        Args:
            healing: leave out those whose microshards are on their way, which may take hours: their replicas may be
                replaced meanwhile, since what is on its way is in the shards' logs, and the driver follows the leaders.
        """
        return frozenset(
            shard for row in self.running() if not (healing and _bears_healing(row)) for shard in row.shards
        )

    def children(self, parent: int) -> list[OperationRow]:
        """Return the running operations that are parts of another."""
        return [row for row in self.running() if row.parent == parent]


def _bears_healing(row: OperationRow) -> bool:
    return row.migrates and row.step in (Step.QUEUED, Step.COPY)


def changed(state: ClusterState, changes: Iterable[RowChange]) -> ClusterState:
    """Return the state after `changes`."""
    nodes, policies, operations = dict(state.nodes), dict(state.policies), dict(state.operations)
    shard_map, counters, settings = state.map, state.counters, state.settings
    for change in changes:
        match change:
            case ShardMap():
                invariant(change.version > shard_map.version, "a newer map has a higher version")
                Routes(change)
                shard_map = change
            case NodeRow():
                nodes[change.id] = change
            case PolicyRow():
                policies[change.keyspace] = change
            case ForgetPolicy():
                policies.pop(change.keyspace, None)
            case CountersRow():
                counters = change
            case SettingsRow():
                settings = change
            case OperationRow():
                before = operations.get(change.id)
                invariant(before is None or before.running, "an operation that has ended does not change any more")
                operations[change.id] = change
            case ForgetOperation():
                gone = operations.pop(change.id, None)
                invariant(gone is None or gone.state is not State.RUNNING, "no running operation is forgotten")
    after = ClusterState(shard_map, nodes, policies, operations, counters, settings)
    invariant(counters.next_operation > max(operations, default=0), "operation numbers are never given twice")
    invariant(counters.next_shard > max((shard.id for shard in shard_map.shards), default=0), "nor those of shards")
    return after


def map_problem(changes: Iterable[RowChange], before: ShardMap) -> str:
    """Return "", or why nodes would refuse a map among the changes; one that they refuse already is not made worse."""
    for change in changes:
        problem = refuse_map(change, before) if isinstance(change, ShardMap) else ""
        if problem and not refuse_map(before, before):
            return f"nodes would refuse the shard map that follows: {problem}"
    return ""


# -- edits of the map


def with_shards(shard_map: ShardMap, edited: Iterable[Shard]) -> ShardMap:
    """Return the next map, in which shards that are there already are replaced."""
    by_id = {shard.id: shard for shard in edited}
    shards = tuple(by_id.get(shard.id, shard) for shard in shard_map.shards)
    return structs.replace(shard_map, version=shard_map.version + 1, shards=shards)


def with_follower(shard: Shard, node: str) -> Shard:
    """Return the shard with a replica on `node` for routing; its membership is the Raft group's matter."""
    if node in shard.replicas:
        return shard
    return with_members(shard, shard.voters, (*shard.followers, node), shard.membership_version)


def without_replica(shard: Shard, node: str) -> Shard:
    """Return the shard without a replica on `node`."""
    return with_members(
        shard,
        tuple(voter for voter in shard.voters if voter != node),
        tuple(follower for follower in shard.followers if follower != node),
        shard.membership_version,
    )


def with_membership(shard: Shard, voters: tuple[str, ...], followers: tuple[str, ...], version: int) -> Shard:
    """Return the shard as its Raft group has it; voters that stay keep their order."""
    kept = tuple(voter for voter in shard.voters if voter in voters)
    return with_members(shard, kept + tuple(voter for voter in voters if voter not in kept), followers, version)


def with_counters(state: ClusterState, counters: CountersRow) -> ClusterState:
    """Return the state with other counters, while several operations are numbered in one go."""
    return replace(state, counters=counters)
