"""Who takes part in a group, and how that changes: one step at a time, each an entry of the log.

A membership is in force from the moment its entry is in the log, committed or not (Ongaro's dissertation, 4.1), and is
rolled back when the entry is overwritten. Two memberships that follow each other differ by one voter at the most, so
their majorities overlap; and a leader proposes one only after it has committed an entry of its own term, which mends the
flaw found in 2015 (raft-dev, "bug in single-server membership changes").
"""

from __future__ import annotations

from enum import IntEnum

import msgspec
from shoal.bounds import (
    MAX_REPLICAS,
    Count,
    Name,
)

from shoal_server.invariants import invariant
from shoal_server.raft.log import Log
from shoal_server.raft.messages import Entry, EntryKind, Membership


class ChangeKind(IntEnum):
    """What happens to a node's replica."""

    ADD_LEARNER = 1
    PROMOTE = 2
    DEMOTE = 3
    REMOVE = 4


class MembershipChange(msgspec.Struct, frozen=True, array_like=True):
    """One step. A voter comes by ADD_LEARNER and PROMOTE, and goes by DEMOTE and REMOVE."""

    kind: Count
    node: Name


class MembershipRefused(Exception):
    """The change may not be made now; the message says why and what would work."""


def changed(membership: Membership, change: MembershipChange) -> Membership:
    """Return the membership after `change`.

    Raises:
        MembershipRefused: the change makes no sense for this membership.
    """
    node, voters, learners = change.node, membership.voters, membership.learners
    if not node:
        raise MembershipRefused("the change names no node")
    if change.kind == ChangeKind.ADD_LEARNER:
        if node in voters or node in learners:
            raise MembershipRefused(f"{node!r} already has a replica")
        learners = (*learners, node)
    elif change.kind == ChangeKind.PROMOTE:
        if node not in learners:
            raise MembershipRefused(f"{node!r} is no follower: only a follower can become a voter")
        voters, learners = (*voters, node), tuple(other for other in learners if other != node)
    elif change.kind == ChangeKind.DEMOTE:
        if node not in voters:
            raise MembershipRefused(f"{node!r} is no voter")
        if len(voters) == 1:
            raise MembershipRefused(f"{node!r} is the last voter: promote another first")
        voters, learners = tuple(other for other in voters if other != node), (*learners, node)
    elif change.kind == ChangeKind.REMOVE:
        if node not in learners:
            raise MembershipRefused(f"{node!r} is no follower: demote a voter before removing it")
        learners = tuple(other for other in learners if other != node)
    else:
        raise MembershipRefused(f"unknown kind of change {change.kind}")
    if len(voters) + len(learners) > MAX_REPLICAS:
        raise MembershipRefused(f"a group has at most {MAX_REPLICAS} replicas: remove another first")
    return Membership(membership.version + 1, voters, learners)


class MembershipHistory:
    """The memberships that the log holds, newest last; the first is as of the applied state.

    Invariant: versions grow by one, indexes grow, and neighbours differ by at most one voter.
    """

    __slots__ = ("_history",)

    def __init__(self, base: Membership, index: int) -> None:
        invariant(bool(base.voters), "a group has a voter")
        self._history: list[tuple[int, Membership]] = [(index, base)]

    @property
    def current(self) -> Membership:
        return self._history[-1][1]

    @property
    def current_index(self) -> int:
        """The index of the entry that brought the current membership."""
        return self._history[-1][0]

    def is_electable(self, node: str, commit_index: int) -> bool:
        """Say whether `node` may have to lead: it is a voter, or was one before a change that may yet not be committed.

        Whoever has such a change in its log may be the only one of a majority who does, and then nobody else can win:
        the server that it removes campaigns, too, without counting itself (Ongaro's dissertation, 4.2.2).
        """
        if node in self.current.voters:
            return True
        return self.current_index > commit_index and len(self._history) > 1 and node in self._history[-2][1].voters

    def problem(self, entries: list[Entry]) -> str:
        """Return why the memberships among entries do not follow those before them, or ""."""
        before: Membership | None = None
        for entry in entries:
            if entry.kind != EntryKind.MEMBERSHIP:
                continue
            if before is None:
                first = entries[0].index
                known = [membership for index, membership in self._history if index < first]
                if not known:
                    return f"the membership of entry {entry.index} is older than what is applied"
                before = known[-1]
            if not is_membership(entry.payload):
                return f"entry {entry.index} is to be a membership, and is none"
            membership = msgspec.msgpack.decode(entry.payload, type=Membership)
            if membership.version != before.version + 1 or len(set(membership.voters) ^ set(before.voters)) > 1:
                return f"the membership of entry {entry.index}, {membership}, is no single step from {before}"
            before = membership
        return ""

    def read(self, log: Log, behind: int, max_bytes: int) -> str:
        """Take the memberships in the log behind an index, at which this history ends; return why they do not follow, or ""."""
        index = behind + 1
        while index <= log.last_index:
            stored = log.entries(index, log.last_index + 1, max_bytes)
            problem = self.problem(stored)
            if problem:
                return problem
            self.append(stored)
            index = stored[-1].index + 1
        return ""

    def append(self, entries: list[Entry]) -> bool:
        """Take the memberships among appended entries; return whether there were any."""
        found = False
        for entry in entries:
            if entry.kind == EntryKind.MEMBERSHIP:
                membership = msgspec.msgpack.decode(entry.payload, type=Membership)
                index, before = self._history[-1]
                invariant(entry.index > index, "memberships come in the log's order")
                invariant(membership.version == before.version + 1, "one change of membership at a time")
                invariant(len(set(membership.voters) ^ set(before.voters)) <= 1, "one voter changes at a time")
                self._history.append((entry.index, membership))
                found = True
        return found

    def truncate_from(self, index: int) -> bool:
        """Roll back what was in entries from `index` on; return whether anything was."""
        rolled_back = False
        while self._history[-1][0] >= index and len(self._history) > 1:
            self._history.pop()
            rolled_back = True
        return rolled_back

    def applied(self, index: int) -> None:
        """Forget memberships that are older than the one in force at the applied `index`."""
        while len(self._history) > 1 and self._history[1][0] <= index:
            self._history.pop(0)

    def restart(self, membership: Membership, index: int) -> None:
        """Begin anew with a snapshot's membership."""
        self._history = [(index, membership)]


def is_membership(payload: bytes) -> bool:
    """Say whether this is the payload of a MEMBERSHIP entry."""
    try:
        membership = msgspec.msgpack.decode(payload, type=Membership)
    except msgspec.MsgspecError:
        return False
    return is_whole(membership)


def is_whole(membership: Membership) -> bool:
    """Say whether a membership has a voter, and nobody twice."""
    replicas = membership.voters + membership.learners
    return bool(membership.voters) and len(set(replicas)) == len(replicas)


def encode_membership(membership: Membership) -> bytes:
    """Encode the payload of a MEMBERSHIP entry."""
    return msgspec.msgpack.encode(membership)
