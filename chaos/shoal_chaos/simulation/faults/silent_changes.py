"""Rows of single replicas that change, vanish or appear in silence: found in time, and put right from the others.

The rows are ballast: they lie in every microshard from the first moment, no client names them, and nobody changes them. So
clients' histories are to be right all the same, and whether a replica has the right ones is seen by looking at its disk,
without what the replicas compare.

What is claimed is what the comparison promises (docs/decisions/0025): a member's replica with wrong rows is put right, or its
shard is shown to operators, within a bound of the next reason to compare. Reasons are what a shard's log takes, but for the
questions for digests, and a member's node that comes back; a shard at rest has none. It promises nothing of what it cannot
know. So a shard has at most one such replica at a time, those on nodes that are down among them, though copies are made of
whoever leads; and microshards move only where all is right and stays so: what a target takes of a wrong source is in its log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import ClassVar, TypeAlias

from shoal_server.node.comparison import standing_divergence
from shoal_server.node.replica import Replica
from shoal_server.raft.membership import ChangeKind, MembershipChange
from shoal_server.raft.messages import Entry, EntryKind
from shoal_server.shard.commands import DigestCommand, decode_commands
from shoal_server.storage.applied_state import AppliedState, applied_state_row, load_applied_state
from shoal_server.storage.layout import applied_state_key, data_prefix, prefix_end, value_header

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
"""Within so long of a reason to compare, a replica that differs, on a node that is up, is right again, or operators see it."""
PATIENCE = 3 * SECOND
"""So long operators let the comparison find out by itself that all is right."""

Position: TypeAlias = tuple[int, int]
"""How far a log is: the term and the index of an entry."""


@dataclass(slots=True)
class WrongReplica:
    """A replica with wrong rows.

    Args:
        position: how far its shard's log was when they became wrong; what comes behind is a reason to compare.
        lives: how many processes its shard's members had begun by then; another one is a reason as well.
        since: when there was a reason (true time, ns), None where there has been none.
    """

    position: Position
    lives: int
    since: int | None = None


class SilentChanges(UsualFaults):
    """Changes a row of one replica after the other; beside that, leaders, members and microshards move, and nodes crash.

    `changed`: how many. `found`: how many were then seen to be right again. `shown`: how often nobody could know who is right.
    """

    intervals_ms: ClassVar[tuple[int, ...]] = (200, 600)

    def __init__(self, scene: NodesScene, random: Random) -> None:
        self.changed = self.found = self.shown = 0
        self._wrong: dict[tuple[str, int], WrongReplica] = {}
        self._read: dict[int, Position] = {}
        self._newest_reason: dict[int, Position] = {}
        self._grows: set[int] = set()
        self._shown_since: dict[int, int] = {}
        self._gone: dict[int, set[str]] = {}
        super().__init__(scene, random)
        self._keyspace = self._cluster.shard_map.keyspaces[0].id
        invariants = self._cluster.invariants
        invariants.replicas_may_fail = invariants.rows_may_differ = True
        self.kinds += [self._change] * (2 + len(self.kinds))
        for node in self._cluster.nodes.values():
            for replica in node.replicas.values():
                self._lay_ballast(node.engine, replica)
        self._events.after(LOOK_INTERVAL, self._look)

    def _all_kinds(self) -> list[Callable[[], None]]:
        return [self._transfer, self._change_membership, self._split, self._migrate_if_right, self._crash]

    def _migrate_if_right(self) -> None:
        if all(self._is_right(node, shard.id) for node in self._nodes() for shard in self._manager.map.shards):
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
        self._is_wrong(node.name, replica)

    def _may_change(self, shard: int) -> bool:
        """Say whether a replica of the shard may be changed: all are right and said to be, none moves, it does not rest."""
        leader = self._leaders().get(shard)
        return (
            shard in self._grows
            and leader is not None
            and not _is_shown(leader)
            and not self._manager.moves(shard)
            and all(self._is_right(node, shard) for node in self._nodes())
        )

    def _nodes(self) -> list[SimulatedNode]:
        return list(self._cluster.nodes.values())

    # -- looking

    def _look(self) -> None:
        now = self._events.now
        leaders = self._leaders()
        self._grows = {shard for shard, replica in leaders.items() if self._finds_reason(replica)}
        seen = {(node.name, shard): replica for node in self._nodes() for shard, replica in node.replicas.items()}
        for place in self._wrong.keys() - seen.keys():
            # Its node is down, or has another replica later.
            del self._wrong[place]
        for (name, shard), replica in seen.items():
            leader = leaders.get(shard)
            if replica.failure is None and self._is_right(self._cluster.nodes[name], shard):
                self.found += self._wrong.pop((name, shard), None) is not None
                continue
            if leader is not None and name not in leader.group.members:
                # It is no member any more, and only the simulation has not dropped it.
                self._wrong.pop((name, shard), None)
                continue
            wrong = self._is_wrong(name, replica)
            if leader is None:
                wrong.since = None if wrong.since is None else now
            elif wrong.since is not None:
                if now - wrong.since >= BOUND:
                    self._must_be_shown(name, replica, leader)
            elif self._newest_reason[shard] > wrong.position or self._lives(leader) > wrong.lives or _is_shown(leader):
                wrong.since = now
        for shard, leader in leaders.items():
            self._operate(shard, leader)
        self._events.after(LOOK_INTERVAL, self._look)

    def _leaders(self) -> dict[int, Replica]:
        return {
            shard: replica
            for node in self._nodes()
            for shard, replica in node.replicas.items()
            if replica.group.is_leader
        }

    def _finds_reason(self, leader: Replica) -> bool:
        """Say whether a shard's log has taken something since the last look that is a reason to compare."""
        log, shard = leader.group.log, leader.shard.id
        read, newest = self._read.get(shard, (0, 0)), self._newest_reason.get(shard, (0, 0))
        reasons = [newest]
        if log.truncated_index > read[1]:
            # Cut off unseen: more than a question or two.
            reasons.append((log.truncated_term, log.truncated_index))
        # What another leader had may have been replaced.
        first = max(log.first_index, read[1] + 1 if read[0] == leader.group.term else 0)
        while first <= log.last_index:
            for entry in log.entries(first, log.last_index + 1, 1 << 30):
                first = entry.index + 1
                if _is_reason(entry):
                    reasons.append((entry.term, entry.index))
        self._read[shard] = (leader.group.term, log.last_index)
        self._newest_reason[shard] = max(reasons)
        return max(reasons) > newest

    def _is_wrong(self, name: str, replica: Replica) -> WrongReplica:
        """Note that a replica's rows are wrong, if that is not known."""
        known = self._wrong.get((name, replica.shard.id))
        if known is None:
            logs = [
                node.replicas[replica.shard.id].group.log for node in self._nodes() if replica.shard.id in node.replicas
            ]
            position = max((log.last_term, log.last_index) for log in logs)
            known = self._wrong[name, replica.shard.id] = WrongReplica(position, self._lives(replica))
        return known

    def _lives(self, replica: Replica) -> int:
        return sum(self._cluster.nodes[name].epoch for name in replica.group.members)

    def _must_be_shown(self, name: str, replica: Replica, leader: Replica) -> None:
        if replica.failure is not None or not _is_shown(leader):
            raise Violation(
                f"rows of the replica of shard {replica.shard.id} on {name} have been wrong for {BOUND // SECOND} s: "
                f"{replica.failure or 'nobody knows'}"
            )
        # Whoever operates the cluster looks, and puts it right.
        self.shown += 1
        for node in self._nodes():
            if replica.shard.id in node.replicas:
                self._lay_ballast(node.engine, node.replicas[replica.shard.id])

    # -- operators

    def _operate(self, shard: int, leader: Replica) -> None:
        """Do what docs/operating.md says where a shard's rows are right, and it is shown all the same.

        One of the copies may be gone: then operators say which was right by giving the other replicas to other nodes.
        Here these leave, and come back with nothing when it is shown no more.
        """
        node, membership = self._cluster.nodes[leader.node], leader.group.membership
        divergence = standing_divergence(leader.comparison, leader.machine.state)
        if divergence is None:
            self._shown_since.pop(shard, None)
            for name in self._gone.get(shard, ()):
                if name not in membership.voters:
                    kind = ChangeKind.PROMOTE if name in membership.learners else ChangeKind.ADD_LEARNER
                    self._propose(node, shard, MembershipChange(kind, name))
        elif not all(self._is_right(each, shard) for each in self._nodes()):
            self._shown_since.pop(shard, None)
        elif self._events.now - self._shown_since.setdefault(shard, self._events.now) >= PATIENCE:
            same = next((nodes for nodes in divergence.copies if leader.node in nodes), (leader.node,))
            for name in leader.group.members:
                if name not in same:
                    self._gone.setdefault(shard, set()).add(name)
                    kind = ChangeKind.DEMOTE if name in membership.voters else ChangeKind.REMOVE
                    self._propose(node, shard, MembershipChange(kind, name))

    # -- rows

    def _lay_ballast(self, engine: SimulatedEngine, replica: Replica) -> None:
        """Give a replica the rows that it is to have, now and after a crash."""
        for table in (engine.tables["data"], engine.safe_rows("data")):
            state = replica.machine.state
            if not state.index:
                # Or it would begin anew, under another generation, when its node is started again.
                table.put(applied_state_key(replica.shard.id), applied_state_row(state))
            for prefix in self._prefixes(state):
                for key, _ in table.scan(prefix + BALLAST, prefix_end(prefix + BALLAST)):
                    table.delete(key)
                for row in ROWS:
                    table.put(prefix + row, ROW)

    def _is_right(self, node: SimulatedNode, shard: int) -> bool:
        """Say whether a node's replica has its ballast, all of it and no other; one that has applied nothing yet has none."""
        state = load_applied_state(node.engine, shard)
        if state is None or not state.index:
            return True
        data = node.engine.tables["data"]
        for prefix in self._prefixes(state):
            rows = data.scan(prefix + BALLAST, prefix_end(prefix + BALLAST))
            if rows != [(prefix + row, ROW) for row in ROWS]:
                return False
        return True

    def _prefixes(self, state: AppliedState) -> list[bytes]:
        generations = state.generations(state.ranges)
        return [data_prefix(self._keyspace, microshard, generation) for microshard, generation in generations.items()]


def _is_shown(leader: Replica) -> bool:
    """Say whether operators are shown that a shard's replicas differ."""
    return standing_divergence(leader.comparison, leader.machine.state) is not None


def _is_reason(entry: Entry) -> bool:
    """Say whether an entry is more than a question for digests."""
    if entry.kind != EntryKind.COMMAND:
        return True
    return not all(isinstance(command, DigestCommand) for command in decode_commands(entry.payload).commands)
