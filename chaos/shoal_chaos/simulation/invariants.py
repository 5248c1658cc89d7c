"""What must hold after every step of a simulated cluster; written without the code that it checks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol
from zlib import crc32

from shoal_server.raft.group import Group
from shoal_server.raft.messages import AppendAccepted, VoteResponse
from shoal_server.storage.layout import load_log_start, log_key

from shoal_chaos.simulation.disk import SimulatedEngine


class Violation(AssertionError):
    """Something happened that must never happen."""


class Observed(Protocol):
    """What is looked at of a node."""

    name: str
    engine: SimulatedEngine

    def groups(self) -> Iterable[Group]: ...
    def local_now(self) -> int: ...


class Invariants:
    """Remembers what it has seen of a cluster, and compares."""

    def __init__(self) -> None:
        self._leaders: dict[tuple[int, int], str] = {}
        self._committed: dict[int, dict[int, tuple[int, int]]] = {}
        self._checked: dict[tuple[str, int], int] = {}
        self._votes: dict[tuple[str, int, int], str] = {}
        self._terms: dict[tuple[str, int], int] = {}
        self._states: dict[tuple[int, int], int] = {}
        self._newest_leader: dict[int, int] = {}
        self.committed_entries = 0

    def forget_node(self, name: str) -> None:
        """A node's process ended, and with it what it had not promised to anybody. Its votes are not forgotten."""
        for marks in (self._checked, self._terms):
            for key in [key for key in marks if key[0] == name]:
                del marks[key]

    def check(self, node: Observed) -> None:
        """Look at a node after its turn."""
        for group in node.groups():
            self._check_leader(node, group)
            self._check_committed(node, group)

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
        leads_alone = group.term == self._newest_leader[group.group]
        if not leads_alone and group.read_index(node.local_now()) is not None:
            raise Violation(
                f"{node.name} holds a lease on group {group.group} in term {group.term}, "
                f"though term {self._newest_leader[group.group]} has a leader"
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

    def check_message(self, node: Observed, message: object) -> None:
        """Look at a message as it leaves: what it promises must be on disk."""
        if isinstance(message, AppendAccepted) and message.match_index > 0:
            start = load_log_start(node.engine, message.group).index
            if message.match_index > start and not node.engine.is_durable(log_key(message.group, message.match_index)):
                raise Violation(
                    f"{node.name} accepted entry {message.match_index} of group {message.group} before it was on disk"
                )

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
