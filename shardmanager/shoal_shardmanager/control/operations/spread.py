"""Operations whose work is that every node knows: a keyspace founded, altered or dropped, a node removed or taken back.

Splits and merges end so too.
"""

from __future__ import annotations

from shoal_shardmanager.control.holdings import still_held
from shoal_shardmanager.control.node_requests import Drop
from shoal_shardmanager.control.observed import ObservedState
from shoal_shardmanager.control.operations.outcome import Outcome, ask, end, go, wait
from shoal_shardmanager.control.rows import (
    AlterKeyspace,
    CreateKeyspace,
    DropKeyspace,
    FollowLogs,
    MergeShards,
    NodeState,
    OperationRow,
    RemoveNode,
    SplitShard,
    State,
    Step,
    Undrain,
)
from shoal_shardmanager.control.state import ClusterState

DONE_WORDS = {
    AlterKeyspace: "every node knows the keyspace's new settings",
    RemoveNode: "every node has forgotten it",
    Undrain: "the node takes replicas again",
}


def found(row: OperationRow, work: CreateKeyspace, state: ClusterState, observed: ObservedState) -> Outcome:
    """Wait until every shard of a new keyspace has its leader and its replicas; nodes that are gone are not waited for."""
    leaders = observed.leaders()
    open_ones: list[str] = []
    for shard in state.map.shards:
        if shard.id not in work.shards:
            continue
        if shard.id not in leaders:
            open_ones.append(f"shard {shard.id} has no leader yet")
            continue
        missing = [
            node for node in shard.replicas if not _excused(node, state) and observed.replica(node, shard.id) is None
        ]
        if missing:
            open_ones.append(f"shard {shard.id} is not on {', '.join(missing)} yet")
    if not open_ones:
        return end(row, State.DONE, observed.wall_ms, f"keyspace {work.name} serves")
    return wait(open_ones[0], left=len(open_ones), total=len(work.shards), unit="shards")


def spread(
    row: OperationRow,
    work: AlterKeyspace | RemoveNode | Undrain | DropKeyspace | SplitShard | MergeShards | FollowLogs,
    state: ClusterState,
    observed: ObservedState,
) -> Outcome:
    """Wait until every node has the map that the operation has made."""
    behind = _without_map(row.map_version, state, observed)
    if behind:
        reason = f"not yet with the map of version {row.map_version}: {', '.join(behind[:4])}"
        return wait(reason, left=len(behind), unit="nodes")
    if isinstance(work, MergeShards):
        # No node knows a way to it any more, so what it has now is what it has for good; with no leader, what was known of it.
        leader = observed.leader(work.source)
        held = "" if leader is None else still_held(leader.replica)
        if held:
            return wait(
                f"{held}, though nothing was left of it: somebody else has given it some, and it is not dropped"
            )
    if isinstance(work, DropKeyspace | MergeShards):
        return go(row, Step.DROP, observed.wall_ms)
    if isinstance(work, SplitShard):
        if observed.leader(work.child) is None:
            return wait(f"shard {work.child} has no leader yet")
        count = sum(span.end - span.first for span in work.ranges)
        return end(
            row, State.DONE, observed.wall_ms, f"shard {work.child} has {count} microshards of shard {work.shard}"
        )
    if isinstance(work, FollowLogs):
        noun = "microshard" if work.microshards == 1 else "microshards"
        return end(
            row,
            State.DONE,
            observed.wall_ms,
            f"the map gives {work.microshards} {noun} to who has them by the shards' logs",
        )
    done = DONE_WORDS[type(work)]
    if isinstance(work, AlterKeyspace) and _counts_differ(work.keyspace, state):
        done += "; `shoal rebalance` gives its shards the replicas that it asks for"
    return end(row, State.DONE, observed.wall_ms, done)


def delete(
    row: OperationRow, work: DropKeyspace | MergeShards, state: ClusterState, observed: ObservedState
) -> Outcome:
    """Delete the replicas of dropped shards; those of nodes that are away follow when they come back."""
    dropped = {work.source} if isinstance(work, MergeShards) else set(work.shards)
    empty_at = work.empty_at if isinstance(work, MergeShards) else -1
    drops = [
        Drop(node, replica.shard, row.id, empty_at)
        for node in sorted(state.nodes)
        if (status := observed.fresh(node)) is not None
        for replica in status.replicas
        if replica.shard in dropped
    ]
    if drops:
        return ask(*drops, waiting=f"{len(drops)} replicas are being deleted")
    silent = [node for node in state.nodes if not _excused(node, state) and observed.fresh(node) is None]
    if silent:
        return wait(f"{', '.join(silent[:4])} are silent, and may still have replicas")
    if isinstance(work, MergeShards):
        return end(
            row, State.DONE, observed.wall_ms, f"shard {work.target} has all of shard {work.source}, which is no more"
        )
    return end(row, State.DONE, observed.wall_ms, f"keyspace {work.name} is deleted")


def _counts_differ(keyspace: int, state: ClusterState) -> bool:
    policy = state.policies.get(keyspace)
    return policy is not None and any(
        (len(shard.voters), len(shard.followers)) != (policy.voters, policy.followers)
        for shard in state.map.shards
        if shard.keyspace == keyspace
    )


def _without_map(version: int, state: ClusterState, observed: ObservedState) -> list[str]:
    behind: list[str] = []
    for node in sorted(state.nodes):
        if not _excused(node, state) and not observed.has_map(node, version):
            behind.append(node)
    return behind


def _excused(node: str, state: ClusterState) -> bool:
    known = state.nodes.get(node)
    return known is None or known.state in (NodeState.GONE, NodeState.REMOVED)
