"""Rows and log entries that cannot be read any more, on one node at a time, under other faults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import ClassVar

from shoal_server.node.core import Node
from shoal_server.storage.meta_rows import KIND_OF, DamageRule
from shoal_server.storage.twice import COPIES

from shoal_chaos.simulation.cluster.node import SimulatedNode
from shoal_chaos.simulation.faults.usual import UsualFaults
from shoal_chaos.simulation.scene import NodesScene
from shoal_chaos.simulation.world.events import SECOND

ROWS_MOST = 8
GROUP_BYTES = 4
"""Of a log entry's key, which begins with them."""


class DamagedRows(UsualFaults):
    """Neighbouring rows on a node's disk are damaged: of users, of what replicas have applied, or of their logs.

    No other node's are, before all replicas are whole again and nothing damaged is left: of every row there is a copy that
    can be read. Whoever meets the damage must neither take the rest for all there is nor stay failed.
    """

    intervals_ms: ClassVar[tuple[int, ...]] = (100, 300)

    def __init__(self, scene: NodesScene, random: Random) -> None:
        self.damaged = 0
        super().__init__(scene, random)
        self._cluster.invariants.replicas_may_fail = True
        self.kinds += [self._damage] * len(self.kinds)

    def _all_kinds(self) -> list[Callable[[], None]]:
        # Clocks and membership have faults of their own: what this is about is what replicas hold.
        return [
            self._crash,
            self._pause,
            self._partition,
            self._bad_network,
            self._slow_disk,
            self._transfer,
            self._split,
            self._migrate,
        ]

    def _damage(self) -> None:
        node = self._some_node()
        nodes = self._cluster.nodes.values()
        if any(is_damaged(other, nodes) for other in nodes if other is not node):
            return
        family = self._random.choice(["data", "data", "log"])
        keys = node.engine.tables[family].keys
        if family == "log":
            # What is stored twice is another mix's.
            keys = [key for key in keys if not key.startswith(COPIES)]
        if keys:
            first = self._random.randrange(len(keys))
            chosen = set(keys[first : first + self._random.randint(1, ROWS_MOST)])
            if family == "log":
                chosen -= _ends_of_logs(keys)
            if chosen:
                node.engine.damage.add(family, chosen)
                self.damaged += 1

    def stop(self) -> None:
        """What nobody has met yet is mended; what was met, the replicas have to see to."""
        super().stop()
        for node in self._cluster.nodes.values():
            node.engine.damage.clear()


class DamagedMeta(DamagedRows):
    """Rows that a node has of its replicas are damaged while its process is away: votes, where logs begin, failures, ...

    Of what is stored twice it is one copy: where both are gone a replica never votes again, and nobody replaces it here.
    """

    def _damage(self) -> None:
        node, nodes = self._some_node(), self._cluster.nodes.values()
        # Nor is this node's: the other copy might be.
        if any(is_damaged(each, nodes) for each in nodes):
            return
        self._crash_one(node)
        keys = [key for key in node.engine.tables["meta"].keys if KIND_OF[key[:1]].rule is not DamageRule.NODE_REFUSES]
        if keys:
            for key in self._random.sample(keys, min(len(keys), self._random.randint(1, ROWS_MOST))):
                if KIND_OF[key[:1]].stored_twice and self._random.random() < 0.5:
                    node.engine.damage.add("log", [COPIES + key])
                else:
                    node.engine.damage.add("meta", [key])
            self.damaged += 1


class LostLogs(UsualFaults):
    """A replica's log is damaged just when a leader is cut off that knows, with it, what the third has never heard of.

    Of three voters, one is cut off for a while; then the log of another is damaged, whose process starts again; then the
    first comes back and the leader is cut off. Nobody may be elected by the two before the leader is back.
    """

    intervals_ms: ClassVar[tuple[int, ...]] = (2000,)

    def __init__(self, scene: NodesScene, random: Random) -> None:
        self.lost = 0
        self._busy = False
        super().__init__(scene, random)
        self._cluster.invariants.replicas_may_fail = True

    def _all_kinds(self) -> list[Callable[[], None]]:
        return [self._lose_log]

    def _lose_log(self) -> None:
        nodes, events = self._cluster.nodes, self._events
        whole = not any(is_damaged(node, nodes.values()) for node in nodes.values())
        led = self._led_by_three()
        if self._busy or not whole or not led:
            return
        self._busy = True
        shard, leader, others = self._random.choice(led)
        victim, ignorant = self._random.sample(others, 2)

        def lose() -> None:
            node = nodes[victim]
            if node.node is not None:
                self._lose(node, node.node, shard)
                self.lost += 1
            self._apart(leader)
            events.after(4 * SECOND, self._heal)
            events.after(8 * SECOND, self._rest)

        self._apart(ignorant)
        events.after(self._random.randrange(SECOND // 2, SECOND), lose)

    def _lose(self, node: SimulatedNode, core: Node, shard: int) -> None:  # noqa: ARG002 - others lose one shard's alone
        """Have a node's logs be damaged, and its process start again."""
        node.crash()
        keys = node.engine.tables["log"].keys
        entries = {key for key in keys if not key.startswith(COPIES)}
        node.engine.damage.add("log", entries - _ends_of_logs(keys))
        self._events.after(self._random.randrange(SECOND // 2), node.start_again)

    def _led_by_three(self) -> list[tuple[int, str, list[str]]]:
        """Return which shards have a leader and two voters beside it, and who these are."""
        return [
            (shard, name, [voter for voter in replica.group.membership.voters if voter != name])
            for name, node in self._cluster.nodes.items()
            for shard, replica in node.replicas.items()
            if replica.group.is_leader and len(replica.group.membership.voters) == 3
        ]

    def _rest(self) -> None:
        self._busy = False

    def _apart(self, name: str) -> None:
        others = [other for other in self._cluster.nodes if other != name]
        self._network.cut({(name, other) for other in others} | {(other, name) for other in others})
        self._cluster.tell_of_links(self._random)


def _ends_of_logs(keys: Sequence[bytes]) -> set[bytes]:
    """Return the last key of each log among the log family's `keys`, which are in order.

    They stay readable: a replica that cannot tell where its log ended is silent until it is replaced, and nobody does that.
    """
    return set({key[:GROUP_BYTES]: key for key in keys}.values())


def is_damaged(node: SimulatedNode, nodes: Iterable[SimulatedNode]) -> bool:
    """Say whether something of a node is not whole, or was not when it last ran, or a voter there has no vote or no rows.

    One that was rebuilt gives none for as long as its log is shorter than what it may have acknowledged: with another one
    damaged there would be no majority left. One that has missed a split has no rows: another one's may be the only copy.
    """
    # A node that does not run may have a failure stored: it counts until it has come back whole.
    if node.engine.damage or node.node is None:
        return True
    if any(
        # One that is no member nobody rebuilds, and nobody needs.
        replica.failure is not None and node.name in _members(shard, nodes)
        for shard, replica in node.replicas.items()
    ):
        return True
    shards = {shard for each in nodes for shard in each.replicas}
    return any(_is_wanting(node, shard) for shard in shards if node.name in _voters(shard, nodes))


def _is_wanting(node: SimulatedNode, shard: int) -> bool:
    """Say whether a voter's replica is not there yet, has no rows yet, or gives no vote."""
    replica = node.replicas.get(shard)
    return replica is None or replica.group.awaits_snapshot or replica.group.is_silent


def _voters(shard: int, nodes: Iterable[SimulatedNode]) -> set[str]:
    """Return who votes in a shard, as far as any replica of it knows."""
    replicas = [node.replicas[shard] for node in nodes if shard in node.replicas]
    return {voter for replica in replicas for voter in replica.group.membership.voters}


def _members(shard: int, nodes: Iterable[SimulatedNode]) -> set[str]:
    """Return who has a replica of a shard, as far as any of them knows."""
    replicas = [node.replicas[shard] for node in nodes if shard in node.replicas]
    return {member for replica in replicas for member in replica.group.members}
