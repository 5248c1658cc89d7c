"""The usual faults of nodes without managers: those of any nodes, and changes of leaders, members, shards and microshards."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from shoal.protocol.messages import TransferLeader
from shoal_server.raft.membership import ChangeKind, MembershipChange, MembershipRefused
from shoal_server.raft.ready import NotLeader

from shoal_chaos.simulation.cluster.node import SimulatedNode
from shoal_chaos.simulation.cluster.unmanaged import make_room
from shoal_chaos.simulation.faults.base import Faults
from shoal_chaos.simulation.scene import NodesScene

ADMIN_CLIENT = 0
ADMIN_REQUEST = 1 << 40


class UsualFaults(Faults):
    """See the module's first line."""

    def __init__(self, scene: NodesScene, random: Random) -> None:
        self._scene = scene
        self._manager = scene.manager
        super().__init__(scene.cluster, random)

    def _all_kinds(self) -> list[Callable[[], None]]:
        return [*super()._all_kinds(), self._transfer, self._change_membership, self._split, self._migrate]

    def _mend_others(self) -> None:
        self._manager.resume()

    # -- kinds

    def _transfer(self) -> None:
        cluster = self._cluster
        shard = self._random.choice(self._manager.map.shards)
        target = self._random.choice(list(cluster.nodes))
        for node in cluster.nodes.values():
            if node.node is not None:
                node.node.receive_client(ADMIN_CLIENT, [TransferLeader(ADMIN_REQUEST, shard.id, target, 1000)])
                node.turn_soon()

    def _split(self) -> None:
        self._manager.split()

    def _migrate(self) -> None:
        self._manager.migrate()

    def _change_membership(self) -> None:
        cluster, random = self._cluster, self._random
        shard = random.choice(self._manager.map.shards)
        for node in cluster.nodes.values():
            if node.node is None or shard.id not in node.node.replicas:
                continue
            membership = node.node.replicas[shard.id].group.membership
            kind = random.choice(list(ChangeKind))
            if kind is ChangeKind.DEMOTE and len(membership.voters) <= 2:
                continue
            change = MembershipChange(kind, random.choice(list(cluster.nodes)))
            if self._propose(node, shard.id, change):
                return

    def _propose(self, node: SimulatedNode, shard: int, change: MembershipChange) -> bool:
        """Have a node's replica propose a change; return whether it does."""
        assert node.node is not None, "it has a replica"
        if change.kind is ChangeKind.ADD_LEARNER and not make_room(self._cluster.nodes[change.node], shard):
            return False
        try:
            node.node.replica_set.propose_membership(shard, change, node.local_now())
        except (NotLeader, MembershipRefused):
            return False
        node.turn_soon()
        return True
