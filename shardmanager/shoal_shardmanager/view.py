"""What the nodes said last, and what follows from it: who leads a shard, who is silent. Look-ups, no decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.protocol.messages import PeerProgress, ReplicaStatus, StatusReply

FRESH_MS = 5_000
"""A report older than this says nothing about now."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a node answered to `GetStatus`, and when it was asked (the manager's monotonic clock)."""

    status: StatusReply
    at_ms: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """A request to a node has failed: why, how often in a row."""

    reason: str
    attempts: int


@dataclass(frozen=True, slots=True)
class View:
    """The reports of one moment.

    Args:
        now_ms: the monotonic clock that reports are stamped with.
        wall_ms: Unix time, for rows.
        waiting: operations with a request under way: nothing is decided about them until it has ended.
        troubles: of operations whose last request failed.
    """

    now_ms: int
    wall_ms: int
    reports: Mapping[str, Report]
    waiting: frozenset[int] = frozenset()
    troubles: Mapping[int, Trouble] = field(default_factory=dict)
    _leaders: dict[int, Leading] = field(default_factory=dict, repr=False)

    def fresh(self, node: str) -> StatusReply | None:
        """Return a node's report, if it is of now."""
        report = self.reports.get(node)
        return None if report is None or self.now_ms - report.at_ms > FRESH_MS else report.status

    def replica(self, node: str, shard: int) -> ReplicaStatus | None:
        """Return what a node says of its replica of a shard; None: it has none, or is silent."""
        status = self.fresh(node)
        if status is None:
            return None
        return next((replica for replica in status.replicas if replica.shard == shard), None)

    def leader(self, shard: int) -> Leading | None:
        """Return who leads a shard, by the newest term that is reported."""
        return self.leaders().get(shard)

    def leaders(self) -> dict[int, Leading]:
        """Return who leads what; found once for all looks at this view."""
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

    def lag_of(self, node: str) -> int | None:
        """Return how many entries a replica lacks; None: the leader does not know."""
        peer = self.peer(node)
        return None if peer is None else max(0, self.replica.last_index - peer.match_index)

    def peer(self, node: str) -> PeerProgress | None:
        """Return what the leader knows of a replica."""
        return next((peer for peer in self.replica.peers if peer.node == node), None)

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
