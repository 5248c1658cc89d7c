"""What must hold after every step of a simulated cluster; written without the code that it checks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeAlias
from zlib import crc32

import msgspec
from shoal.shardmap import MicroshardRange
from shoal_server.raft.group import Group
from shoal_server.raft.messages import (
    AppendAccepted,
    AppendEntries,
    AppendRejected,
    CommitNotice,
    HardState,
    LeaderQuestion,
    ReadProbe,
    ReadProbeConfirmed,
    Resigned,
    SnapshotHeader,
    TermPassed,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from shoal_server.storage.engine import Damaged
from shoal_server.storage.layout import hard_state_key, load_log_start, log_key
from shoal_server.storage.snapshot import SnapshotChunk

from shoal_chaos.simulation.world.disk import SimulatedEngine

Serving: TypeAlias = tuple[int, int, tuple[MicroshardRange, ...]]
"""A keyspace, a shard of it, and the microshards that its leader would answer for at this moment."""

_SPEAKS_OF_A_TERM = (
    AppendEntries
    | AppendAccepted
    | AppendRejected
    | VoteRequest
    | VoteResponse
    | TimeoutNow
    | ReadProbe
    | ReadProbeConfirmed
    | CommitNotice
    | LeaderQuestion
    | Resigned
    | TermPassed
    | SnapshotHeader
)

CLOCKS_DRIFT_PERMILLE = 100
"""More than any two clocks of a simulated cluster drift apart."""


LONGEST_TURN = 60_000_000
"""What a node has for a turn is a few times less; by how much its estimates are off, nobody says."""


class Violation(AssertionError):
    """Something happened that must never happen."""


class Observed(Protocol):
    """What is looked at of a node."""

    name: str
    engine: SimulatedEngine

    def groups(self) -> Iterable[Group]: ...
    def local_now(self) -> int: ...
    def disk_hangs_for(self) -> int: ...


class Invariants:
    """Remembers what it has seen of a cluster, and compares."""

    def __init__(self, disk_bound_ns: int) -> None:
        """
        Args:
            disk_bound_ns: a node whose disk hangs for longer leads nothing any more.
        """
        self._disk_bound_ns = disk_bound_ns * (1000 + CLOCKS_DRIFT_PERMILLE) // 1000
        self._cluster_id = ""
        self._leaders: dict[tuple[int, int], str] = {}
        self._committed: dict[int, dict[int, tuple[int, int]]] = {}
        self._checked: dict[tuple[str, int], int] = {}
        self._said: dict[tuple[str, int], int] = {}
        self.terms_may_fall = False
        """Whether disks lose what they had confirmed, and with it the terms that replicas were in."""
        self.replicas_may_fail = False
        """Whether something happens to their rows that they are to notice."""
        self.rows_may_differ = False
        """Whether replicas may have other rows than their logs say."""
        self._votes: dict[tuple[str, int, int], str] = {}
        self._terms: dict[tuple[str, int], int] = {}
        self._states: dict[tuple[int, int], int] = {}
        self._newest_leader: dict[int, int] = {}
        self._looked_at: dict[str, dict[int, tuple[int, bool, int]]] = {}
        """By node and group, the term, whether it led, and the commit position, as they were when they were compared."""
        self.committed_entries = 0

    def forget_node(self, name: str) -> None:
        """A node's process ended, and with it what it had not promised to anybody. Its votes are not forgotten."""
        self._looked_at.pop(name, None)
        for marks in (self._checked, self._terms):
            for key in [key for key in marks if key[0] == name]:
                del marks[key]

    def forget_replica(self, name: str, group: int) -> None:
        """A node's replica was deleted, and its promises with it; another of the same group may come later."""
        self._looked_at.get(name, {}).pop(group, None)
        for marks in (self._checked, self._terms):
            marks.pop((name, group), None)
        for key in [key for key in self._votes if key[:2] == (name, group)]:
            del self._votes[key]
        self._said.pop((name, group), None)

    def check(self, node: Observed) -> None:
        """Look at a node after its turn.

        What has not changed since it was compared is not compared again; only leases end by time alone.
        """
        looked_at = self._looked_at.setdefault(node.name, {})
        hangs_for = node.disk_hangs_for()
        for group in node.groups():
            position = (group.term, group.is_leader, group.log.commit_index)
            if looked_at.get(group.group) != position:
                try:
                    self._check_leader(node, group)
                    self._check_committed(node, group)
                except Damaged:
                    # What it has of its log cannot be read, by nobody: there is nothing to compare.
                    continue
                looked_at[group.group] = position
            if group.is_leader:
                self._check_lease(node, group)
                if hangs_for > self._disk_bound_ns:
                    self._check_disk(node, group, hangs_for)

    def _check_leader(self, node: Observed, group: Group) -> None:
        key = (node.name, group.group)
        if group.term < self._terms.get(key, 0):
            raise Violation(f"{node.name} went back from term {self._terms[key]} to {group.term}")
        self._terms[key] = group.term
        if not group.is_leader:
            return
        term = (group.group, group.term)
        holder = self._leaders.setdefault(term, node.name)
        if holder != node.name:
            raise Violation(f"group {group.group} has two leaders in term {group.term}: {holder} and {node.name}")
        if group.term > self._newest_leader.get(group.group, 0):
            self._newest_leader[group.group] = group.term
            self._check_completeness(node, group)

    def _check_lease(self, node: Observed, group: Group) -> None:
        leads_alone = group.term == self._newest_leader[group.group]
        if not leads_alone and group.read_index(node.local_now()) is not None:
            raise Violation(
                f"{node.name} holds a lease on group {group.group} in term {group.term}, "
                f"though term {self._newest_leader[group.group]} has a leader"
            )

    def _check_disk(self, node: Observed, group: Group, hangs_for: int) -> None:
        if len(group.membership.voters) > 1 and group.read_index(node.local_now()) is not None:
            raise Violation(
                f"{node.name} holds a lease on group {group.group}, though its disk has hung for {hangs_for / 1e9:.2f} s"
            )

    def _check_completeness(self, node: Observed, group: Group) -> None:
        log = group.log
        for index, (term, _) in self._committed.get(group.group, {}).items():
            if index >= log.truncated_index and (index > log.last_index or log.term(index) != term):
                raise Violation(
                    f"{node.name} leads group {group.group} in term {group.term} without entry {index} of term {term}"
                )

    def _check_committed(self, node: Observed, group: Group) -> None:
        log = group.log
        known = self._committed.setdefault(group.group, {})
        key = (node.name, group.group)
        index = max(self._checked.get(key, 0), log.truncated_index) + 1
        while index <= log.commit_index:
            for entry in log.entries(index, log.commit_index + 1, 1 << 20):
                content = (entry.term, crc32(entry.payload, entry.kind))
                before = known.setdefault(entry.index, content)
                if before is content:
                    self.committed_entries += 1
                elif before != content:
                    raise Violation(
                        f"entry {entry.index} of group {group.group} is {content} on {node.name}, was {before} before"
                    )
                index = entry.index + 1
        self._checked[key] = log.commit_index

    def check_turn(self, name: str, took: int) -> None:
        """A turn ends, which took so long (ns): a node is never busy for so long that others take it for dead."""
        if took > LONGEST_TURN:
            raise Violation(f"{name} was busy with one turn for {took / 1e6:.0f} ms")

    def check_serving(self, nodes: Iterable[tuple[str, list[Serving]]]) -> None:
        """What leaders serve at one instant by their leases: no microshard is served by two shards."""
        owners: dict[tuple[int, int], tuple[str, int]] = {}
        for name, served in nodes:
            for keyspace, shard, ranges in served:
                for microshard in (each for span in ranges for each in range(span.first, span.end)):
                    holder = owners.setdefault((keyspace, microshard), (name, shard))
                    if holder[1] != shard:
                        raise Violation(
                            f"microshard {microshard} is served by shard {holder[1]} on {holder[0]} and by shard {shard} "
                            f"on {name}, each under a lease"
                        )

    def check_message(self, node: Observed, message: object) -> None:
        """Look at a message as it leaves: what it promises must be on disk."""
        self._check_term(node, message)
        if isinstance(message, AppendAccepted) and message.match_index > 0:
            start = load_log_start(node.engine, message.group).index
            if message.match_index > start and not node.engine.is_durable(log_key(message.group, message.match_index)):
                raise Violation(
                    f"{node.name} accepted entry {message.match_index} of group {message.group} before it was on disk"
                )

    def _check_term(self, node: Observed, message: object) -> None:
        """What a message says of a term must not be untrue after a crash: the term is on disk, or a later one is."""
        said = message.header if isinstance(message, SnapshotChunk) else message
        if not isinstance(said, _SPEAKS_OF_A_TERM):
            return
        if (isinstance(said, VoteRequest) and said.pre) or (
            isinstance(said, VoteResponse) and said.pre and said.granted
        ):
            return  # for the term that would be
        row = node.engine.durable_meta(hard_state_key(said.group))
        # A replica that a split has made begins without the row, in a term that the split's own rows say.
        if row is not None and msgspec.msgpack.decode(row, type=HardState).term < said.term:
            raise Violation(
                f"{node.name} said {type(said).__name__} in term {said.term} of group {said.group}, which is not on its disk"
            )
        key = (node.name, said.group)
        self._said[key] = max(said.term, self._said.get(key, 0))

    def check_began(self, name: str, groups: Iterable[Group]) -> None:
        """A process begins: each replica is in the newest term that it has ever named, or in a later one."""
        for group in groups:
            said = self._said.get((name, group.group), 0)
            if group.term < said and not self.terms_may_fall:
                raise Violation(f"{name} begins in term {group.term} of group {group.group}, and was in {said} before")

    def check_cluster_id(self, name: str, cluster_id: str) -> None:
        """A cluster has one id, whoever founds it, and each node that knows it knows that one."""
        if cluster_id and self._cluster_id and cluster_id != self._cluster_id:
            raise Violation(f"{name} knows the cluster by the id {cluster_id}, others by {self._cluster_id}")
        self._cluster_id = self._cluster_id or cluster_id

    def check_vote(self, node: Observed, candidate: str, message: VoteResponse) -> None:
        """A vote leaves: there is one a term, also across restarts."""
        key = (node.name, message.group, message.term)
        before = self._votes.setdefault(key, candidate)
        if before != candidate:
            raise Violation(
                f"{node.name} voted for {before} and for {candidate} in term {message.term} of group {message.group}"
            )

    def check_state(self, node: str, group: int, index: int, state: int) -> None:
        """Two replicas that have applied the same entries hold the same rows."""
        before = self._states.setdefault((group, index), state)
        if before != state:
            raise Violation(f"{node} holds other rows of group {group} at index {index} than another replica did")
