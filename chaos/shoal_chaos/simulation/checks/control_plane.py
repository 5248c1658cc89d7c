"""What must hold of the control plane at every moment, checked on the rows as they are written and on the nodes' own groups.

The checks know the rows' format and nothing of how operations decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec
from shoal.bounds import WHOLE
from shoal.shardmap import Routes, Shard, ShardMap
from shoal_server.raft.messages import Membership
from shoal_server.storage.layout import hard_state_key
from shoal_shardmanager.control.rows import (
    COUNTERS_KEY,
    FORMAT,
    MAP_KEY,
    NODES,
    OPERATIONS,
    POLICIES,
    SETTINGS_KEY,
    CountersRow,
    MoveReplica,
    NodeRow,
    NodeState,
    OperationRow,
    PolicyRow,
    SettingsRow,
    Step,
)

from shoal_chaos.simulation.cluster.node import SimulatedNode
from shoal_chaos.simulation.invariants import Violation

MOVES_NOTHING_MS = 30_000
"""A move that is stuck for so long does not count against the caps."""
NEARLY_WHOLE = WHOLE * 95 // 100
EMPTIED = frozenset({NodeState.DRAINING, NodeState.DRAINED})
DEAD = frozenset({NodeState.GONE, NodeState.REMOVED})

T = TypeVar("T")


def _decoded(value: bytes, kind: type[T]) -> T:
    assert value[:1] == FORMAT
    return msgspec.msgpack.decode(value[1:], type=kind)


class ControlChecks:
    """Remembers the rows and the committed memberships, and compares."""

    def __init__(self, nodes: Mapping[str, SimulatedNode]) -> None:
        self.map = ShardMap(0, "", (), (), ())
        self.nodes: dict[str, NodeRow] = {}
        self.policies: dict[int, PolicyRow] = {}
        self.operations: dict[int, OperationRow] = {}
        self.settings = SettingsRow()
        self.counters = CountersRow()
        self.memberships: dict[int, Membership] = {}
        self.ended: Counter[str] = Counter()
        self._nodes = nodes
        self._votes_asked: dict[int, int] = {}
        """By keyspace, the fewest voters that were ever asked for: what it had before a change may be on its way still."""
        self._promised: set[tuple[int, str]] = set()
        """Shards and the nodes whose replicas have something on disk that others may count on."""
        self._targets: set[tuple[int, str]] = set()
        """Shards and the nodes that operations were to bring to them, when that was still allowed."""

    # -- rows

    def rows_written(self, changes: dict[str, bytes | None]) -> None:
        """Look at one write of the managers."""
        operations: list[tuple[OperationRow | None, OperationRow]] = []
        before = dict(self.nodes)
        for key, value in changes.items():
            if key.startswith(OPERATIONS):
                number = int(key.removeprefix(OPERATIONS))
                if value is None:
                    if self.operations.pop(number).running:
                        raise Violation(f"operation {number} is forgotten while it runs")
                else:
                    row = _decoded(value, OperationRow)
                    operations.append((self.operations.get(number), row))
                    self.operations[number] = row
            elif value is not None:
                self._take(key, value)
        for old, new in operations:
            self._check_operation(old, new, before)
        self._check_alone()

    def _take(self, key: str, value: bytes) -> None:
        if key == MAP_KEY:
            self._check_map(_decoded(value, ShardMap))
        elif key == SETTINGS_KEY:
            self.settings = _decoded(value, SettingsRow)
        elif key == COUNTERS_KEY:
            self.counters = _decoded(value, CountersRow)
        elif key.startswith(POLICIES):
            policy = _decoded(value, PolicyRow)
            self.policies[policy.keyspace] = policy
            asked = self._votes_asked
            asked[policy.keyspace] = min(asked.get(policy.keyspace, policy.voters), policy.voters)
        elif key.startswith(NODES):
            node = _decoded(value, NodeRow)
            known = self.nodes.get(node.id)
            self.nodes[node.id] = node
            if node.state is NodeState.DRAINED and (known is None or known.state is NodeState.DRAINING):
                self._check_empty(node.id)
            if node.state is NodeState.REMOVED:
                self._check_empty(node.id)

    def _check_map(self, new: ShardMap) -> None:
        if new.version <= self.map.version:
            raise Violation(f"map {new.version} is stored after map {self.map.version}")
        Routes(new)
        names = {node.id for node in new.nodes}
        before = {shard.id: shard for shard in self.map.shards}
        for shard in new.shards:
            if (
                not shard.voters
                or len(set(shard.replicas)) < len(shard.replicas)
                or not names.issuperset(shard.replicas)
            ):
                raise Violation(f"the map has a shard of nodes that cannot be: {shard}, nodes {sorted(names)}")
            known = before.get(shard.id)
            if known is not None and known.membership_version > shard.membership_version:
                raise Violation(f"the map went back from {known} to {shard}")
            if known is not None and known.founders and known.founders != shard.founders:
                raise Violation(f"the founders of shard {shard.id} changed from {known.founders} to {shard.founders}")
        self.map = new

    def _check_empty(self, name: str) -> None:
        """A node is said to be empty: so it is."""
        holding = [shard.id for shard in self.map.shards if name in shard.replicas]
        node = self._nodes.get(name)
        if node is not None and node.node is not None:
            holding += list(node.node.replicas)
        counted = {shard.id for shard in self.map.shards}
        holding += [
            shard
            for shard, membership in self.memberships.items()
            if shard in counted and name in membership.voters + membership.learners
        ]
        if holding:
            raise Violation(f"node {name} is called empty, and has to do with shards {sorted(set(holding))}")

    def _check_operation(self, old: OperationRow | None, new: OperationRow, nodes_before: dict[str, NodeRow]) -> None:
        if old is not None and not old.running:
            raise Violation(f"an operation that had ended changed: {old} to {new}")
        if not new.running:
            self.ended[f"{new.kind} {new.state}"] += 1
            if not new.reason:
                raise Violation(f"{new} ended and does not say how")
            return
        work = new.arguments
        if not isinstance(work, MoveReplica):
            return
        begins = new.step is not Step.QUEUED and (old is None or old.step is Step.QUEUED)
        if work.target and (old is None or begins):
            target = nodes_before.get(work.target)
            if target is None or target.state is not NodeState.ACTIVE:
                raise Violation(f"{new} begins, while its target is {target}")
            self._targets.add((work.shard, work.target))
        if begins and not new.undo:
            self._check_caps(new)

    def _check_caps(self, begun: OperationRow) -> None:
        by_node: Counter[str] = Counter()
        total = 0
        for row in self.operations.values():
            work = row.arguments
            moving = begun.step_ms - row.step_ms < MOVES_NOTHING_MS
            if isinstance(work, MoveReplica) and row.running and row.step is not Step.QUEUED and moving:
                total += 1
                by_node.update({node for node in (work.source, work.target) if node})
        settings = self.settings
        if total > settings.moves_per_cluster or max(by_node.values(), default=0) > settings.moves_per_node:
            raise Violation(f"{begun} began, and {total} moves are under way, {dict(by_node)}, with caps {settings}")

    def _check_alone(self) -> None:
        holders: dict[int, OperationRow] = {}
        for _, row in sorted(self.operations.items()):
            if not row.running:
                continue
            for shard in row.shards:
                other = holders.setdefault(shard, row)
                if other is not row and not self._bear_each_other(row, other):
                    raise Violation(f"two operations are on shard {shard}: {other} and {row}")

    @staticmethod
    def _bear_each_other(one: OperationRow, other: OperationRow) -> bool:
        """Replicas may be replaced while microshards are being copied from or to their shard, and not yet handed over."""
        rows = sorted((one, other), key=lambda row: row.kind == "move")
        return rows[0].kind in ("merge", "move-microshards") and rows[1].kind == "move"

    # -- nodes

    def check_node(self, node: SimulatedNode) -> None:
        """Look at the groups of a node after its turn."""
        for replica in node.replicas.values():
            group = replica.group
            place = (group.group, node.name)
            if place not in self._promised and node.engine.durable_meta(hard_state_key(group.group)) is not None:
                self._promised.add(place)
            known = self.memberships.get(group.group)
            membership = group.membership
            if (known is None or membership.version > known.version) and group.status().membership_committed:
                self.memberships[group.group] = membership
                if known is not None:
                    self._check_change(group.group, known, membership)
                self.check_quorum(group.group)

    def _check_change(self, shard_id: int, old: Membership, new: Membership) -> None:
        shard = self._mapped(shard_id)
        if shard is None:
            return
        asked = self._votes_asked.get(shard.keyspace, 1)
        lost = set(old.voters) - set(new.voters)
        if len(new.voters) < len(old.voters) and len(new.voters) < asked and not all(map(self._is_dead, lost)):
            raise Violation(f"shard {shard_id} went from {old} to {new}, and {asked} voters are asked for")
        for name in set(new.voters + new.learners) - set(old.voters + old.learners):
            known = self.nodes.get(name)
            if (known is None or known.state in EMPTIED) and (shard_id, name) not in self._targets:
                raise Violation(f"shard {shard_id} was given a replica on {name}, which is {known}")

    def _is_dead(self, name: str) -> bool:
        node = self._node(name)
        return node.ended or name not in self.nodes or self.nodes[name].state in DEAD

    def check_quorum(self, shard_id: int) -> None:
        """A majority of a shard's voters has not lost its replica; those that are yet to be founded have nothing to lose."""
        membership = self.memberships.get(shard_id)
        if membership is None or self._mapped(shard_id) is None:
            return
        holding = [
            name
            for name in membership.voters
            if (shard_id, name) not in self._promised or self._node(name).holds(shard_id)
        ]
        if len(holding) * 2 <= len(membership.voters):
            raise Violation(f"shard {shard_id} has lost its quorum: of {membership} only {holding} have a replica")

    def replica_dropped(self, node: SimulatedNode, shard_id: int) -> None:
        """A node has deleted a replica: nobody may count on it."""
        membership = self.memberships.get(shard_id)
        if self._mapped(shard_id) is None and shard_id not in self.counters.dropped:
            raise Violation(f"{node.name} deleted its replica of shard {shard_id}, which the managers do not know")
        if membership is None or self._mapped(shard_id) is None:
            return
        if node.name in membership.voters + membership.learners:
            raise Violation(f"{node.name} deleted its replica of shard {shard_id}, which has {membership}")
        leaders = [
            (group.term, other.name, group.membership)
            for other in self._nodes.values()
            for group in other.groups()
            if group.group == shard_id and group.is_leader
        ]
        # One of an earlier term has been deposed, and has not heard of it, nor of what was decided since.
        _, leader, led = max(leaders, default=(0, "", membership))
        if node.name in led.voters:
            raise Violation(f"{node.name} deleted its replica of shard {shard_id}, whose leader {leader} has it voting")

    def _mapped(self, shard_id: int) -> Shard | None:
        return next((shard for shard in self.map.shards if shard.id == shard_id), None)

    # -- the end

    def running(self) -> list[OperationRow]:
        return [row for _, row in sorted(self.operations.items()) if row.running]

    def unsettled(self) -> Iterator[str]:
        """Yield where nodes and shards are not as the map says."""
        routes = Routes(self.map)
        for name, row in self.nodes.items():
            node = self._node(name)
            if node.ended or row.state is NodeState.REMOVED:
                continue
            if node.node is None or row.state is NodeState.GONE:
                yield f"{name} is down, or taken for it"
                continue
            if node.node.routes.map.version != self.map.version:
                yield f"{name} has map {node.node.routes.map.version}, and {self.map.version} is the newest"
            for shard in node.node.replicas:
                if shard not in routes.shards or name not in routes.shards[shard].replicas:
                    yield f"{name} has a replica of shard {shard} that no map gives it"
        for shard_id in routes.shards:
            yield from self._unsettled_shard(routes.shards[shard_id])
        yield from self._unsettled_quotas(routes)

    def _unsettled_quotas(self, routes: Routes) -> Iterator[str]:
        """Whoever serves a keyspace keeps its quotas, and all of them together no less than these and no more."""
        for keyspace in routes.keyspaces.values():
            bounded = keyspace.reads_per_second or keyspace.writes_per_second or keyspace.max_bytes
            shared_by = {
                node for shard in routes.shards.values() if shard.keyspace == keyspace.id for node in shard.replicas
            }
            cores = [self._node(name).node for name in sorted(shared_by)]
            shares = [core.quotas.by_keyspace.get(keyspace.id) for core in cores if core is not None]
            if not bounded and any(shares):
                yield f"keyspace {keyspace.name} has no quotas, and a node keeps some"
            for kind in ("read_share", "write_share") if bounded else ():
                whole = sum(getattr(share, kind, 0) for share in shares)
                if None in shares or whole > WHOLE or (len(shares) == len(shared_by) and whole < NEARLY_WHOLE):
                    yield f"keyspace {keyspace.name}: of its {kind}s {whole} millionths are dealt out, to {len(shares)} nodes"

    def _unsettled_shard(self, shard: Shard) -> Iterator[str]:
        membership = self.memberships.get(shard.id)
        if membership is None:
            yield f"shard {shard.id} never had a committed membership"
            return
        same = set(membership.voters) == set(shard.voters) and set(membership.learners) == set(shard.followers)
        if not same and not any(shard.id in row.shards for row in self.running()):
            yield f"the map says {shard}, the shard's log {membership}"
        alive = [name for name in shard.replicas if not self._node(name).ended]
        missing = [name for name in alive if not self._node(name).holds(shard.id)]
        if missing:
            yield f"shard {shard.id} has no replica on {missing}"
        leaders = [
            node.name
            for node in self._nodes.values()
            if any(group.group == shard.id and group.is_leader for group in node.groups())
        ]
        if len(leaders) != 1:
            yield f"shard {shard.id} has leaders {leaders}"

    def _node(self, name: str) -> SimulatedNode:
        return self._nodes[name]
