"""Hands leaderships to other nodes: one when a client asks for it, all when this node stops or is unfit to lead."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.errors import ErrorCode
from shoal.protocol.messages import Done, TransferLeader

from shoal_server.node.outbox import Outbox
from shoal_server.node.rebuilding import ASK_AGAIN_NS
from shoal_server.node.replica import Replica
from shoal_server.node.snapshot_transfers import SnapshotTransfers
from shoal_server.node.waiting import WaitingTransfer
from shoal_server.raft.ready import TransferRefused

FAILED_NS = 3 * ASK_AGAIN_NS
"""For so long after it has asked for its rows a replica counts as one that has failed."""


class Leaderships:
    """The leaderships of one node.

    `unfit`: the peers that take no leadership now, as their heartbeats say.
    """

    __slots__ = ("_asked_at", "_node", "_replicas", "_transfers", "unfit")

    def __init__(self, node: str, replicas: Mapping[int, Replica], transfers: SnapshotTransfers) -> None:
        """`replicas` are, at every moment, those of the node, by shard."""
        self.unfit: set[str] = set()
        self._node = node
        self._replicas = replicas
        self._transfers = transfers
        self._asked_at: dict[tuple[int, str], int] = {}

    def asked_for_rows(self, shard: int, peer: str, now: int) -> None:
        """The replica of `shard` on `peer` has failed: it does not take over, and nobody would lead meanwhile."""
        self._asked_at = {place: at for place, at in self._asked_at.items() if now - at < FAILED_NS}
        self._asked_at[shard, peer] = now

    def _has_failed(self, shard: int, peer: str, now: int) -> bool:
        asked_at = self._asked_at.get((shard, peer))
        return (asked_at is not None and now - asked_at < FAILED_NS) or self._transfers.sends(shard, peer)

    def transfer(self, client: int, request: TransferLeader, replica: Replica, now: int, outbox: Outbox) -> None:
        """Begin to hand on a leadership as a client has asked; it is answered when the target leads, or in vain."""
        group = replica.group
        if not group.is_leader:
            outbox.fail(
                client,
                request.request,
                ErrorCode.NOT_LEADER,
                f"{self._node} does not lead shard {request.shard}: ask {group.leader or 'its leader'}",
                route=replica.refusals.route,
            )
        elif group.leader == request.target:
            outbox.answer(client, Done(request.request))
        elif request.target in self.unfit:
            outbox.fail(
                client,
                request.request,
                ErrorCode.UNAVAILABLE,
                f"node {request.target!r} takes no leadership now: its disk is full, hangs or is slow, or its clock is off "
                f"(see its status)",
            )
        elif self._has_failed(request.shard, request.target, now):
            outbox.fail(
                client,
                request.request,
                ErrorCode.UNAVAILABLE,
                f"the replica of shard {request.shard} on {request.target!r} gets its rows anew: wait until it has them",
            )
        elif replica.transfer is not None:
            outbox.fail(
                client,
                request.request,
                ErrorCode.UNAVAILABLE,
                f"leadership of shard {request.shard} is already on its way to {replica.transfer.target!r}",
            )
        else:
            try:
                group.transfer_leadership(request.target, now)
            except TransferRefused as error:
                outbox.fail(client, request.request, ErrorCode.INVALID_ARGUMENT, str(error))
                return
            deadline = now + max(request.timeout_ms, 1) * 1_000_000
            replica.transfer = WaitingTransfer(client, request.request, request.target, deadline)

    def hand_over(self, now: int) -> tuple[list[Replica], int]:
        """Begin to hand every leadership to the peer that is best placed for it.

        Returns the replicas that have begun to, and how many leaderships are still here. To be called again until that
        is 0, or the caller's patience ends: leaders without an able peer stay.
        """
        begun: list[Replica] = []
        left = 0
        for replica in self._replicas.values():
            group = replica.group
            if not group.is_leader or group.membership.voters == (self._node,):
                # Nobody else could ever lead a group of one.
                continue
            left += 1
            shard = replica.shard.id

            def able(peer: str, shard: int = shard) -> bool:
                return peer not in self.unfit and not self._has_failed(shard, peer, now)

            target = group.best_successor(now, able)
            if target and not group.transferring:
                group.transfer_leadership(target, now)
                begun.append(replica)
        return begun, left
