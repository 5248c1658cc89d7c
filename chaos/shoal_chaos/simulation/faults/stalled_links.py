"""Links that deliver nothing for a while, in order, or break; changes of membership that a loss of power takes back.

Nothing of this is unusual: a full buffer, a lost packet that TCP sends again, a switch that is restarted. A stall is
shorter than what a node takes for a dead link and longer than what a promise lasts, so that promises run out and are
given anew while messages that belong to the ones before are still under way. Logs are short, so that replicas behind a
stall are sent snapshots.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, ClassVar

import msgspec
from shoal.protocol.messages import TransferLeader
from shoal_server.node.replica import Replica
from shoal_server.raft.config import Timing
from shoal_server.raft.membership import ChangeKind, MembershipChange, MembershipRefused
from shoal_server.raft.messages import VoteRequest, VoteResponse
from shoal_server.raft.ready import NotLeader
from shoal_server.storage.snapshot import SnapshotChunk

from shoal_chaos.simulation.cluster.node import SimulatedNode
from shoal_chaos.simulation.faults.usual import ADMIN_CLIENT, ADMIN_REQUEST, UsualFaults
from shoal_chaos.simulation.scene import NodesScene
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND

STALL_SHORTEST = 800 * MILLISECOND
STALL_LONGEST = 1900 * MILLISECOND
"""A link whose peer answers nothing for two seconds is dialled anew (docs/decisions/0014)."""
DIALLED_AFTER = (5 * MILLISECOND, 1000 * MILLISECOND)
"""A link that broke is made anew within one of these."""
POWER_LOST_WITHIN = 20 * MILLISECOND
SLOWER_THAN_POWER = (5 * SECOND, 6 * SECOND)
SHORT_SUPPORT = Timing(heartbeat_interval_ns=100 * MILLISECOND, support_ns=400 * MILLISECOND)


class StalledLinks(UsualFaults):
    """See the module's first lines."""

    intervals_ms: ClassVar[tuple[int, ...]] = (200, 400, 1000)

    def __init__(self, scene: NodesScene, random: Random) -> None:
        self._first_timing = scene.cluster.settings.timing
        self._restarting_until = 0
        super().__init__(scene, random)
        self._stalls_chunks, self._stalls_votes = random.choice([0.0, 0.5, 1.0]), random.choice([0.0, 0.5, 0.9])
        self._network.watch = self._look_at_frame

    def _all_kinds(self) -> list[Callable[[], None]]:
        return [
            self._stall_some,
            self._stall_some,
            self._stall_around_leader,
            self._stall_one_after_another,
            self._lead_behind_a_stall,
            self._break_some,
            self._slow_disk,
            self._transfer,
            self._change_membership,
            self._change_and_lose_power,
            self._lose_power,
            self._restart_with_other_support,
        ]

    def stop(self) -> None:
        self._network.watch = None
        self._network.flow()
        super().stop()

    # -- stalls

    def _stall(self, sender: str, receiver: str, *, lost: bool = True) -> None:
        """Let a link stall; what is in it arrives in the end, or, if it may be `lost`, is and both ends are told."""
        random = self._random
        if self._network.is_stalled(sender, receiver):
            return
        length = random.randrange(STALL_SHORTEST, STALL_LONGEST)
        self._network.stall(sender, receiver, self._events.now + length)
        if lost and random.random() < 0.25:
            self._events.after(random.randrange(length), lambda: self._break_off(sender, receiver))

    def _break_off(self, sender: str, receiver: str) -> None:
        """Break a link, of which both ends are told, and mend it after a while."""
        cluster, random = self._cluster, self._random
        self._network.break_off(sender, receiver)
        for one, other in ((sender, receiver), (receiver, sender)):
            node = cluster.nodes[one]
            if node.node is not None:
                node.node.peer_lost(other)
                node.turn_soon()
        self._events.after(random.randrange(random.choice(DIALLED_AFTER)), lambda: self._mend(sender, receiver))

    def _mend(self, sender: str, receiver: str) -> None:
        cluster = self._cluster
        self._network.mend(sender, receiver)
        for one, other in ((sender, receiver), (receiver, sender)):
            node = cluster.nodes[one]
            if node.node is not None and cluster.nodes[other].node is not None:
                node.node.peer_connected(other)
                node.turn_soon()

    def _links(self) -> list[tuple[str, str]]:
        names = list(self._cluster.nodes)
        return [(a, b) for a in names for b in names if a != b]

    def _stall_some(self) -> None:
        chance = self._random.choice([0.2, 0.5])
        for link in self._links():
            if self._random.random() < chance:
                self._stall(*link)

    def _break_some(self) -> None:
        for link in self._links():
            if self._random.random() < 0.3:
                self._break_off(*link)

    def _stall_around_leader(self) -> None:
        """All that some shard's leader says stalls, link by link, and some of what others say to each other."""
        found = self._some_leader()
        if found is None:
            return
        leader, _ = found
        for sender, receiver in self._links():
            if sender == leader.name or (receiver != leader.name and self._random.random() < 0.5):
                delay = self._random.randrange(300 * MILLISECOND)
                self._events.after(delay, lambda link=(sender, receiver): self._stall(*link))  # type: ignore[misc]

    def _stall_one_after_another(self) -> None:
        """All that a leader says to one voter stalls, and before that is over what it says to another.

        So the first is behind, is sent a snapshot into the stall, and is free to vote when the second campaigns.
        """
        found = self._some_leader()
        if found is None:
            return
        leader, replica = found
        others = [voter for voter in replica.group.membership.voters if voter != leader.name]
        if len(others) >= 2:
            first, second = self._random.sample(others, 2)
            self._stall(leader.name, first, lost=False)
            later = self._random.randrange(300 * MILLISECOND, STALL_SHORTEST)
            self._events.after(later, lambda: self._stall(leader.name, second, lost=False))

    def _lead_behind_a_stall(self) -> None:
        """Leadership goes to another node while what both say to a third stalls; and is lost, more often than not."""
        found = self._some_leader()
        if found is None:
            return
        leader, replica = found
        others = [voter for voter in replica.group.membership.voters if voter != leader.name]
        if len(others) < 2 or leader.node is None:
            return
        target, behind = self._random.sample(others, 2)
        for sender in (leader.name, target):
            self._stall(sender, behind, lost=False)
            if self._random.random() < 0.7:
                self._events.after(STALL_SHORTEST, lambda sender=sender: self._break_off(sender, behind))  # type: ignore[misc]
        leader.node.receive_client(ADMIN_CLIENT, [TransferLeader(ADMIN_REQUEST, replica.shard.id, target, 1000)])
        leader.turn_soon()

    def _look_at_frame(self, sender: str, receiver: str, messages: list[Any]) -> None:
        """Let links stall from the moment on in which what matters goes into them.

        That is the last chunk of a snapshot, a candidate's request, and whatever a voter says to others once it has voted.
        """
        if not self._active:
            return
        random = self._random
        for message in messages:
            if isinstance(message, SnapshotChunk) and message.last:
                if random.random() < self._stalls_chunks:
                    self._stall(sender, receiver)
            elif isinstance(message, VoteRequest) and not message.pre:
                if random.random() < self._stalls_votes:
                    self._stall(sender, receiver, lost=False)
            elif isinstance(message, VoteResponse) and message.granted and not message.pre:
                for other in self._cluster.nodes:
                    if other not in (sender, receiver) and random.random() < self._stalls_votes:
                        self._stall(sender, other, lost=False)

    # -- changes of membership, and power

    def _some_leader(self) -> tuple[SimulatedNode, Replica] | None:
        found = [
            (node, replica)
            for node in self._cluster.nodes.values()
            for replica in node.replicas.values()
            if replica.group.is_leader
        ]
        return self._random.choice(found) if found else None

    def _lose_power(self) -> None:
        self._crash_one(self._some_node())

    def _change_and_lose_power(self) -> None:
        """Propose a change of membership on a leader whose disk has it too late: it reaches the others, and power goes."""
        found = self._some_leader()
        if found is None:
            return
        leader, replica = found
        change = self._smaller_or_larger(replica)
        if change is None:
            return
        before = leader.sync_delay
        leader.sync_delay = SLOWER_THAN_POWER
        try:
            assert leader.node is not None, "it leads"
            leader.node.replica_set.propose_membership(replica.shard.id, change, leader.local_now())
        except (NotLeader, MembershipRefused):
            leader.sync_delay = before
            return
        leader.turn_soon()
        life = leader.epoch

        def lose() -> None:
            leader.sync_delay = before
            if leader.epoch == life:
                self._crash_one(leader)

        self._events.after(self._random.randrange(MILLISECOND, POWER_LOST_WITHIN), lose)

    def _smaller_or_larger(self, replica: Replica) -> MembershipChange | None:
        """Return a step of a group's voters down to one, or from there up again."""
        membership = replica.group.membership
        others = [voter for voter in membership.voters if voter != replica.node]
        if others and (self._random.random() < 0.7 or not membership.learners):
            return MembershipChange(ChangeKind.DEMOTE, self._random.choice(others))
        if membership.learners:
            return MembershipChange(ChangeKind.PROMOTE, self._random.choice(membership.learners))
        return None

    # -- settings

    def _restart_with_other_support(self) -> None:
        """Restart the nodes, one after another, with settings by which promises are shorter than those given before.

        Or longer again. The last is a leader, often one whom the others hear late, and who hears them late.
        """
        found = self._some_leader()
        cluster, random = self._cluster, self._random
        if found is None or self._events.now < self._restarting_until:
            return
        is_short = cluster.settings.timing == SHORT_SUPPORT
        timing = self._first_timing if is_short else SHORT_SUPPORT
        cluster.settings = msgspec.structs.replace(cluster.settings, timing=timing)
        leader, _ = found
        others = [node for node in cluster.nodes.values() if node is not leader]
        if random.random() < 0.7:
            for node in others:
                self._stall(leader.name, node.name, lost=False)
                self._stall(node.name, leader.name, lost=False)
        longest = random.choice([50, 800]) * MILLISECOND
        at = 0
        for node in (*others, leader):
            at += random.randrange(20 * MILLISECOND, longest) if node is not leader else 2 * SECOND
            self._events.after(at, lambda node=node: self._restart_at_once(node))  # type: ignore[misc]
        self._restarting_until = self._events.now + at + SECOND

    def _restart_at_once(self, node: SimulatedNode) -> None:
        if node.node is not None:
            node.crash()
            self._events.after(self._random.randrange(50 * MILLISECOND), node.start_again)
