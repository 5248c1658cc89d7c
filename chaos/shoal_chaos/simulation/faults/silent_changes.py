"""Rows of single replicas that change, vanish or appear in silence: found in time, and put right from the others.

The rows are ballast: they lie in every microshard from the first moment, no client names them, and nobody changes them. So
clients' histories are to be right all the same, and whether a replica has the right ones is seen by looking at them,
without what the replicas compare. A shard has at most one such replica at a time, but members come and go, and copies are
made of whoever leads. Microshards begin to move only where all is right: what a target takes from a wrong source is in its log.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import ClassVar

from shoal_server.node.comparison import standing_divergence
from shoal_server.node.replica import Replica
from shoal_server.storage.applied_state import applied_state_row
from shoal_server.storage.layout import applied_state_key, prefix_end, value_header

from shoal_chaos.simulation.cluster.node import SimulatedNode
from shoal_chaos.simulation.faults.usual import UsualFaults
from shoal_chaos.simulation.invariants import Violation
from shoal_chaos.simulation.scene import NodesScene
from shoal_chaos.simulation.world.disk import SimulatedEngine
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND

BALLAST = b"ballast/"
ROW = value_header(0) + b"as it was"
ROWS = tuple(BALLAST + b"%d" % number for number in range(3))
LOOK_INTERVAL = 250 * MILLISECOND
BOUND = 8 * SECOND
"""Within so long a replica that differs, on a node that is up, has been found and put right, or is shown to operators."""


class SilentChanges(UsualFaults):
    """Changes a row of one replica after the other; beside that, leaders, members and microshards move, and nodes crash.

    `changed`: how many. `found`: how many were then seen to be right again. `shown`: how often nobody could know who is right.
    """

    intervals_ms: ClassVar[tuple[int, ...]] = (200, 600)

    def __init__(self, scene: NodesScene, random: Random) -> None:
        self.changed = self.found = self.shown = 0
        self._wrong_since: dict[tuple[str, int], int] = {}
        self._shown: set[tuple[str, int]] = set()
        self._last_index: dict[int, int] = {}
        self._grows: set[int] = set()
        super().__init__(scene, random)
        invariants = self._cluster.invariants
        invariants.replicas_may_fail = invariants.rows_may_differ = True
        self.kinds += [self._change] * (2 + len(self.kinds))
        for node in self._cluster.nodes.values():
            for replica in node.replicas.values():
                _lay_ballast(node.engine, replica)
        self._events.after(LOOK_INTERVAL, self._look)

    def _all_kinds(self) -> list[Callable[[], None]]:
        return [self._transfer, self._change_membership, self._split, self._migrate_if_right, self._crash]

    def _migrate_if_right(self) -> None:
        if not self._wrong_since:
            self._migrate()

    # -- changing

    def _change(self) -> None:
        node = self._some_node()
        shards = [shard for shard in sorted(node.replicas) if self._may_change(shard)]
        if not shards:
            return
        replica = node.replicas[self._random.choice(shards)]
        prefixes = replica.machine.prefixes
        if replica.failure is not None or not prefixes:
            return
        key = prefixes[self._random.choice(sorted(prefixes))] + self._random.choice(ROWS)
        kind = self._random.choice(["vanish", "change", "appear"])
        for table in (node.engine.tables["data"], node.engine.safe_rows("data")):
            if key in table.rows:
                if kind == "vanish":
                    table.delete(key)
                elif kind == "change":
                    table.put(key, ROW + b"?")
                else:
                    table.put(key + b"?", ROW)
        self.changed += 1

    def _may_change(self, shard: int) -> bool:
        """Say whether a replica of the shard may be changed: all are right, none moves, and it does not rest."""
        replicas = [(node, node.replicas[shard]) for node in self._nodes() if shard in node.replicas]
        moves = any(replica.machine.state.outgoing or replica.machine.state.incoming for _, replica in replicas)
        return shard in self._grows and not moves and all(_is_right(node, replica) for node, replica in replicas)

    def _nodes(self) -> list[SimulatedNode]:
        return list(self._cluster.nodes.values())

    def _node(self, name: str) -> SimulatedNode:
        return self._cluster.nodes[name]

    # -- looking

    def _look(self) -> None:
        now = self._events.now
        self._grows = set()
        leaders = self._leaders()
        for shard, replica in leaders.items():
            last_index = replica.group.log.last_index
            if self._last_index.get(shard, last_index) < last_index:
                self._grows.add(shard)
            self._last_index[shard] = last_index
        seen = {(node.name, shard): replica for node in self._nodes() for shard, replica in node.replicas.items()}
        for place in self._wrong_since.keys() - seen.keys():
            # Its node is down, or has another replica later.
            del self._wrong_since[place]
        self._shown &= self._wrong_since.keys()
        for (name, shard), replica in seen.items():
            if replica.failure is None and _is_right(self._node(name), replica):
                self.found += self._wrong_since.pop((name, shard), None) is not None
            elif shard not in leaders:
                self._wrong_since[name, shard] = now
            else:
                leader = leaders[shard]
                if standing_divergence(leader.comparison, leader.machine.state) is not None:
                    self._shown.add((name, shard))
                if now - self._wrong_since.setdefault((name, shard), now) >= BOUND:
                    self._must_be_shown(name, shard, replica)
        self._events.after(LOOK_INTERVAL, self._look)

    def _leaders(self) -> dict[int, Replica]:
        return {
            shard: replica
            for node in self._nodes()
            for shard, replica in node.replicas.items()
            if replica.group.is_leader
        }

    def _must_be_shown(self, name: str, shard: int, replica: Replica) -> None:
        if replica.failure is not None or (name, shard) not in self._shown:
            raise Violation(
                f"rows of the replica of shard {shard} on {name} have been wrong for {BOUND // SECOND} s: "
                f"{replica.failure or 'nobody knows'}"
            )
        # Whoever operates the cluster looks, and puts it right.
        self.shown += 1
        for node in self._nodes():
            if shard in node.replicas:
                _lay_ballast(node.engine, node.replicas[shard])


def _lay_ballast(engine: SimulatedEngine, replica: Replica) -> None:
    """Give a replica the rows that it is to have, now and after a crash."""
    for table in (engine.tables["data"], engine.safe_rows("data")):
        state = replica.machine.state
        if not state.index:
            # Or it would begin anew, under another generation, when its node is started again.
            table.put(applied_state_key(replica.shard.id), applied_state_row(state))
        for prefix in replica.machine.prefixes.values():
            for key, _ in table.scan(prefix + BALLAST, prefix_end(prefix + BALLAST)):
                table.delete(key)
            for row in ROWS:
                table.put(prefix + row, ROW)


def _is_right(node: SimulatedNode, replica: Replica) -> bool:
    """Say whether a replica has its ballast, all of it and no other; one that has applied nothing yet has none."""
    if not replica.machine.state.index:
        return True
    data = node.engine.tables["data"]
    for prefix in replica.machine.prefixes.values():
        rows = data.scan(prefix + BALLAST, prefix_end(prefix + BALLAST))
        if rows != [(prefix + row, ROW) for row in ROWS]:
            return False
    return True
