"""What the nodes said last, and what follows from it: who leads a shard, who is silent. Look-ups, no decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.protocol.messages import PeerProgress, ReplicaStatus, StatusReply
from shoal.protocol.migration import MigrationEnd

FRESH_MS = 5_000
"""A report older than this says nothing about now."""
CLOCKS_DIFFER_MS = 10_000
"""Managers' clocks may differ by this much; a row stamped further in the future was stamped by a wrong clock."""
LONG_AGO_MS = 1 << 52


def elapsed_ms(stamp_ms: int, now_ms: int) -> int:
    """Return how long ago a row was stamped (both Unix ms); of a stamp that only a wrong clock can have made, long ago.

    So that no wait that begins with such a stamp lasts until its time comes.
    """
    return LONG_AGO_MS if stamp_ms - now_ms > CLOCKS_DIFFER_MS else now_ms - stamp_ms


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node answered to `GetStatus`, and when it was asked (the manager's monotonic clock)."""

    status: StatusReply
    at_ms: int


def trusted(
    reports: Mapping[str, NodeReport], incarnations: Mapping[str, str], cluster_id: str
) -> dict[str, NodeReport]:
    """Return the reports without those of processes that answer under a node's id and are not that node, or another cluster's.

    Args:
        incarnations: those that nodes were first met with; "": not yet.
        cluster_id: the cluster's own.
    """
    return {
        node: report
        for node, report in reports.items()
        if incarnations.get(node, "") in ("", report.status.incarnation)
        and not is_strange(report.status.cluster_id, cluster_id)
    }


def is_strange(cluster_id: str, own: str) -> bool:
    """Say whether an id is another cluster's; who does not know his own, "", is none's."""
    return bool(cluster_id and own) and cluster_id != own


@dataclass(frozen=True, slots=True)
class Trouble:
    """A request to a node has failed: why, how often in a row."""

    reason: str
    attempts: int


@dataclass(frozen=True, slots=True)
class ObservedState:
    """The reports of one moment.

    Args:
        now_ms: the monotonic clock that reports are stamped with.
        wall_ms: Unix time, for rows.
        waiting: operations with a request under way: nothing is decided about them until it has ended.
        troubles: of operations whose last request failed.
    """

    now_ms: int
    wall_ms: int
    reports: Mapping[str, NodeReport]
    waiting: frozenset[int] = frozenset()
    troubles: Mapping[int, Trouble] = field(default_factory=dict)
    _leaders: dict[int, Leading] = field(default_factory=dict, repr=False)

    def fresh(self, node: str) -> StatusReply | None:
        """Return a node's report, if it is of now."""
        report = self.reports.get(node)
        return None if report is None or self.now_ms - report.at_ms > FRESH_MS else report.status

    def asked_ms(self, node: str) -> int:
        """Return when a node was asked for its newest report (Unix time); 0: it is silent.

        What is missing from an older report may have come after it.
        """
        report = self.reports.get(node)
        return 0 if report is None else self.wall_ms - (self.now_ms - report.at_ms)

    def has_map(self, node: str, version: int) -> bool:
        """Say whether a node has the managers' map of that version, or a newer one.

        One that it has made itself says nothing: it was made of an older one.
        """
        status = self.fresh(node)
        return status is not None and status.map_version >= version and not status.map_derived

    def newest_map(self) -> int:
        """Return the highest version of a map that a node has: one that it derived may be newer than the managers'."""
        return max((status.map_version for node in self.reports if (status := self.fresh(node)) is not None), default=0)

    def replica(self, node: str, shard: int) -> ReplicaStatus | None:
        """Return what a node says of its replica of a shard; None: it has none, or is silent."""
        status = self.fresh(node)
        if status is None:
            return None
        return next((replica for replica in status.replicas if replica.shard == shard), None)

    def parents(self, child: int) -> set[int]:
        """Return the shards that `child` was split off, as their replicas say: of two splits under one number there are two."""
        return {
            replica.shard
            for node in self.reports
            if (status := self.fresh(node)) is not None
            for replica in status.replicas
            if child in replica.children
        }

    def leader(self, shard: int) -> Leading | None:
        """Return who leads a shard, by the newest term that is reported."""
        return self.leaders().get(shard)

    def leaders(self) -> dict[int, Leading]:
        """Return who leads what; found once for all looks at this observed."""
        if not self._leaders:
            self._leaders.update(self._find_leaders())
        return self._leaders

    def _find_leaders(self) -> dict[int, Leading]:
        found: dict[int, Leading] = {}
        for node, report in self.reports.items():
            if self.now_ms - report.at_ms > FRESH_MS:
                continue
            for replica in report.status.replicas:
                if replica.role != "leader":
                    continue
                known = found.get(replica.shard)
                if known is None or replica.term > known.replica.term:
                    found[replica.shard] = Leading(node, replica)
        return found


@dataclass(frozen=True, slots=True)
class Leading:
    """A leader, and what it says of its shard."""

    node: str
    replica: ReplicaStatus

    @property
    def voters(self) -> tuple[str, ...]:
        return self.replica.voters

    @property
    def members(self) -> tuple[str, ...]:
        return self.replica.voters + self.replica.followers

    def behind(self, entries: int) -> list[str]:
        """Return the replicas that do not answer, or lack more than `entries`."""
        lags = {peer.node: peer for peer in self.replica.peers}
        return [
            node
            for node in self.members
            if node != self.node
            and (
                (peer := lags.get(node)) is None
                or not peer.supported
                or self.replica.last_index - peer.match_index > entries
            )
        ]

    def lag_of(self, node: str) -> int | None:
        """Return how many entries a replica lacks; None: the leader does not know."""
        peer = self.peer(node)
        return None if peer is None else max(0, self.replica.last_index - peer.match_index)

    def peer(self, node: str) -> PeerProgress | None:
        """Return what the leader knows of a replica."""
        return next((peer for peer in self.replica.peers if peer.node == node), None)

    def ended(self, migration: int) -> MigrationEnd | None:
        """Return how a migration ended for the shard; None: it has not, or is long ago."""
        return next(
            (MigrationEnd(one.end) for one in self.replica.migrations_ended if one.migration == migration), None
        )

    def supported_voters(self, without: str) -> int:
        """Return how many voters other than `without` answer, the leader among them."""
        answering = {peer.node for peer in self.replica.peers if peer.supported} | {self.node}
        return len(answering.intersection(self.replica.voters) - {without})

    def successors(self, avoid: frozenset[str]) -> list[str]:
        """Return the voters that could lead instead, the best first; those in `avoid` last."""
        able = [
            peer
            for peer in self.replica.peers
            if peer.node in self.replica.voters and peer.node != self.node and peer.supported
        ]
        able.sort(key=lambda peer: (peer.node in avoid, -peer.match_index, peer.node))
        return [peer.node for peer in able]
