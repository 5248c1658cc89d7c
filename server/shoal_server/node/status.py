"""What a node says of itself: the state of its replicas, as operators see it."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from shoal.protocol.messages import PeerProgress, ReplicaStatus, StatusReply

from shoal_server.node.replica import Replica

if TYPE_CHECKING:
    from shoal_server.node.core import Node

SOFTWARE = version("shoal")


def describe(node: Node, request: int, now: int) -> StatusReply:
    """Return the answer to a `GetStatus`."""
    return StatusReply(
        request=request,
        node=node.identity.node,
        cluster=node.identity.cluster,
        incarnation=node.identity.incarnation,
        software=SOFTWARE,
        uptime_ms=(now - node.started_at) // 1_000_000,
        map_version=node.routes.map.version,
        connected_peers=tuple(sorted(node.connected)),
        not_writable=node.not_writable,
        disk_free_bytes=node.disk_free_bytes,
        replicas=tuple(_replica(node, replica, now) for _, replica in sorted(node.replicas.items())),
    )


def _replica(node: Node, replica: Replica, now: int) -> ReplicaStatus:
    status = replica.group.status()
    membership = status.membership
    return ReplicaStatus(
        shard=replica.shard.id,
        role=status.role,
        leader=status.leader,
        term=status.term,
        seq=replica.machine.state.seq,
        last_index=status.last_index,
        commit_index=status.commit_index,
        applied_index=status.applied_index,
        first_index=status.first_index,
        lease_ms=min(max(0, status.lease_until - now), node.settings.timing.support_ns) // 1_000_000,
        voters=membership.voters,
        followers=membership.followers,
        membership_version=membership.version,
        membership_committed=status.membership_committed,
        reads=replica.reads,
        writes=replica.machine.operations_applied,
        written_bytes=replica.machine.bytes_applied,
        peers=tuple(
            PeerProgress(
                node=peer.node,
                role="voter" if peer.node in membership.voters else "follower",
                match_index=peer.match_index,
                state=peer.state,
                supported=node.liveness.supported_until(peer.node) > now,
            )
            for peer in status.peers
        ),
    )
