"""What a replica says to those whom it cannot serve: who leads, or that the microshard has gone elsewhere.

A refusal carries the route to whoever can. One that cannot name the leader is kept back until somebody is known to lead,
or for a while: without that, a client would be told that nobody leads, or one who is gone, and guess, and wait, and ask
again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import msgspec
from shoal.errors import ErrorCode
from shoal.shardmap import Shard

from shoal_server.node.counters import NodeCounters
from shoal_server.node.outbox import Outbox
from shoal_server.raft.group import Group

PATIENCE_NS = 250_000_000
"""A transfer takes some milliseconds; an election may take longer, and then the same is asked again."""


@dataclass(frozen=True, slots=True)
class _HeldRefusal:
    """A request that the next leader is to be asked."""

    client: int
    request: int
    maybe_applied: bool


class Refusals:
    """The refusals of one replica.

    `route`: the shard as its map and its group say, with its leader; `failure`: "" or why the replica serves nothing.
    """

    __slots__ = ("_connected", "_counters", "_group", "_had_leader", "_held", "_node", "_until", "failure", "route")

    def __init__(
        self, node: str, group: Group, shard: Shard, counters: NodeCounters, connected: Collection[str]
    ) -> None:
        """`connected` are, at every moment, the peers that messages have a way to."""
        self.route = shard
        self.failure = ""
        self._node = node
        self._group = group
        self._counters = counters
        self._connected = connected
        self._had_leader = False
        self._held: list[_HeldRefusal] = []
        self._until = 0

    def adopt(self, shard: Shard) -> None:
        """Take over what a newer shard map says of the shard; who leads it, its group knows better."""
        self.route = msgspec.structs.replace(shard, leader=self.route.leader)

    def leader_changed(self) -> None:
        """The group knows another leader, or none any more."""
        leader = self._group.leader
        self.route = msgspec.structs.replace(self.route, leader=leader)
        self._had_leader = self._had_leader or bool(leader)

    # -- while nobody knows who leads

    @property
    def held_back(self) -> bool:
        """Whether refusals are kept until the leader is known."""
        return self._until > 0

    def hold_back(self, now: int) -> None:
        """From now on (ns), keep refusals until the leader is known: leadership is on its way, or was lost."""
        self._until = now + PATIENCE_NS

    def settle(self, now: int, outbox: Outbox) -> None:
        """Say what was kept, once leadership is not on its way any more and has arrived somewhere, or after a while."""
        if self._until and not self._group.transferring and (self._knows_leader() or now >= self._until):
            self.say_all(outbox)

    def say_all(self, outbox: Outbox) -> None:
        """Say what was kept."""
        held, self._held = self._held, []
        self._until = 0
        for refusal in held:
            self._say_not_leader(refusal.client, refusal.request, outbox, refusal.maybe_applied)

    def _knows_leader(self) -> bool:
        """Whether there is a leader, and nothing says that it is gone."""
        leader = self._group.leader
        return leader == self._node or leader in self._connected

    # -- what is said

    def not_leader(self, client: int, request: int, outbox: Outbox, *, maybe_applied: bool = False) -> None:
        """Answer that this node does not lead the shard, with the route to who does; once that is known, or after a while."""
        # One that is new here, and has not heard of any leader, is the last to hear: another replica may well know.
        if self._had_leader and not self._until and not self._knows_leader():
            self.hold_back(self._counters.began)
        if self._until:
            self._held.append(_HeldRefusal(client, request, maybe_applied))
        else:
            self._say_not_leader(client, request, outbox, maybe_applied)

    def _say_not_leader(self, client: int, request: int, outbox: Outbox, maybe_applied: bool) -> None:
        leader = self._group.leader
        if not leader:
            who = "nobody known does"
        elif self._knows_leader():
            who = f"{leader} does"
        else:
            who = f"{leader} did, and is not connected"
        if self.failure:
            who += f"; the replica here has failed ({self.failure})"
        outbox.fail(
            client,
            request,
            ErrorCode.NOT_LEADER,
            f"{self._node} does not lead shard {self.route.id}; {who}",
            maybe_applied=maybe_applied,
            route=self.route,
        )

    def not_here(self, client: int, request: int, outbox: Outbox) -> None:
        """Answer that a microshard has gone to another shard, and that nothing was done."""
        outbox.fail(
            client,
            request,
            ErrorCode.WRONG_SHARD,
            f"shard {self.route.id} has other microshards by now: fetch the shard map again",
            route=self.route,
        )
