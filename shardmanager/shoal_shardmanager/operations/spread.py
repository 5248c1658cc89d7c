"""Operations whose work is that every node knows: a keyspace founded, altered or dropped, a node removed or taken back."""

from __future__ import annotations

from shoal_shardmanager.operations.outcome import Outcome, ask, end, go, wait
from shoal_shardmanager.requests import Drop
from shoal_shardmanager.rows import (
    AlterKeyspace,
    CreateKeyspace,
    DropKeyspace,
    NodeState,
    OperationRow,
    RemoveNode,
    State,
    Step,
    Undrain,
)
from shoal_shardmanager.state import ClusterState
from shoal_shardmanager.view import View

DONE_WORDS = {
    AlterKeyspace: "every node knows the keyspace's new settings",
    RemoveNode: "every node has forgotten it",
    Undrain: "the node takes replicas again",
}


def found(row: OperationRow, work: CreateKeyspace, state: ClusterState, view: View) -> Outcome:
    """Wait until every shard of a new keyspace has its leader and its replicas; nodes that are gone are not waited for."""
    leaders = view.leaders()
    open_ones: list[str] = []
    for shard in state.map.shards:
        if shard.id not in work.shards:
            continue
        if shard.id not in leaders:
            open_ones.append(f"shard {shard.id} has no leader yet")
            continue
        missing = [
            node for node in shard.replicas if not _excused(node, state) and view.replica(node, shard.id) is None
        ]
        if missing:
            open_ones.append(f"shard {shard.id} is not on {', '.join(missing)} yet")
    if not open_ones:
        return end(row, State.DONE, view.wall_ms, f"keyspace {work.name} serves")
    return wait(open_ones[0], left=len(open_ones), total=len(work.shards), unit="shards")


def spread(
    row: OperationRow, work: AlterKeyspace | RemoveNode | Undrain | DropKeyspace, state: ClusterState, view: View
) -> Outcome:
    """Wait until every node has the map that the operation has made."""
    behind = _without_map(row.map_version, state, view)
    if behind:
        return wait(
            f"{', '.join(behind[:4])} lack the map of version {row.map_version}", left=len(behind), unit="nodes"
        )
    if isinstance(work, DropKeyspace):
        return go(row, Step.DROP, view.wall_ms)
    return end(row, State.DONE, view.wall_ms, DONE_WORDS[type(work)])


def delete(row: OperationRow, work: DropKeyspace, state: ClusterState, view: View) -> Outcome:
    """Delete the replicas of a dropped keyspace; those of nodes that are away follow when they come back."""
    dropped = set(work.shards)
    drops = [
        Drop(node, replica.shard, row.id)
        for node in sorted(state.nodes)
        if (status := view.fresh(node)) is not None
        for replica in status.replicas
        if replica.shard in dropped
    ]
    if drops:
        return ask(*drops, waiting=f"{len(drops)} replicas are being deleted")
    silent = [node for node in state.nodes if not _excused(node, state) and view.fresh(node) is None]
    if silent:
        return wait(f"{', '.join(silent[:4])} are silent, and may still have replicas")
    return end(row, State.DONE, view.wall_ms, f"keyspace {work.name} is deleted")


def _without_map(version: int, state: ClusterState, view: View) -> list[str]:
    behind: list[str] = []
    for node in sorted(state.nodes):
        status = view.fresh(node)
        if not _excused(node, state) and (status is None or status.map_version < version):
            behind.append(node)
    return behind


def _excused(node: str, state: ClusterState) -> bool:
    known = state.nodes.get(node)
    return known is None or known.state in (NodeState.GONE, NodeState.REMOVED)
