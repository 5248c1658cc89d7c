"""How far the leader of one shard is with comparing its replicas: the state of its rounds (see comparisons.py)."""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal.protocol.comparison import ComparisonStatus, Divergence

from shoal_server.node.digests import START, DigestReport
from shoal_server.raft.messages import Membership
from shoal_server.shard.commands import DigestCursor
from shoal_server.storage.applied_state import AppliedState


@dataclass(slots=True)
class OwnSlice:
    """What the leader itself has of the slice that is open, since when (ns), and the state that it is of."""

    cursor: DigestCursor
    report: DigestReport
    made_at: int
    membership: Membership
    compared_index: int

    @property
    def index(self) -> int:
        return self.report.index


@dataclass(slots=True)
class Comparison:
    """How far a shard's leader is with comparing its replicas, in one term: another leader, or term, begins anew.

    Args:
        again_at: when the next round may begin (ns).
        cursor: what the round is at, None between rounds.
        asked_at: when the open slice was asked for, 0 where none is open.
        own: once this node has applied that.
        reports: the newest of each other member.
        missed: who did not report in time in this round, or is not connected; nobody waits for these again.
        first_index, slices: of the round.
        ended_at: when the last round did, or the leadership began.
        differed, proven: whether replicas did in this round; and whether those that have their rows of their own were a
            majority with the same ones, in each slice.
        compared_at, compared_index: of the last round in which all members took part; and of the last one, if nothing but
            its own entries were applied meanwhile, and nothing is to be told with the next.
        whole_index: where the last round began in which all members took part and had the same rows, 0 for none; but not
            where that does not show that a divergence is over.
        recheck: there is a reason to compare although nothing was applied.
        found: replicas differ, and nobody knows which are right; the next question puts it into the log.
    """

    term: int
    again_at: int
    ended_at: int
    led_since: int
    cursor: DigestCursor | None = None
    asked_at: int = 0
    own: OwnSlice | None = None
    reports: dict[str, DigestReport] = field(default_factory=dict)
    missed: set[str] = field(default_factory=set)
    first_index: int = 0
    slices: int = 0
    differed: bool = False
    proven: bool = True
    compared_at: int | None = None
    compared_index: int = 0
    rounds: int = 0
    whole_index: int = 0
    recheck: bool = False
    found: Divergence | None = None

    def is_of(self, term: int, leads: bool) -> bool:
        """Say whether a replica that is in `term`, and leads or not, goes by it."""
        return leads and term == self.term

    def is_due(self, last_index: int, now: int, daily_ns: int) -> bool:
        """Say whether a round is to begin, where the log ends at `last_index`."""
        if self.cursor is not None or now < self.again_at:
            return False
        return self.recheck or last_index != self.compared_index or now - self.ended_at >= daily_ns

    def begin(self) -> None:
        """Begin a round."""
        self.cursor = START
        self.missed = set()
        self.first_index = self.slices = 0
        self.recheck = self.differed = False
        self.proven = True

    def end(self, index: int, now: int, again_at: int, state: AppliedState) -> None:
        """End the round, whose last slice was at `index`.

        That all have the same rows need not end a divergence: a snapshot may have put one of the copies in the place of
        the other. It is over when the rows are those of a majority of their own (they were written anew, or mended), or
        when the nodes that are left had the same copy: the others were replaced, as operators do.

        Args:
            again_at: when to try again where something is amiss.
            state: what this node has applied.
        """
        divergence = self.found or state.divergence
        self.cursor = None
        self.ended_at = now
        self.rounds += 1
        quiet = self.slices == index + 1 - self.first_index
        self.compared_index = index if quiet and not self.differed else 0
        if self.differed:
            # What is new is told at once.
            self.again_at = again_at if state.divergence is not None or self.found is None else now
        elif not self.missed:
            self.compared_at = now
            if divergence is None or self.proven or divergence.is_replaced(_members(state.membership)):
                self.whole_index = self.first_index
                self.found = None
                if divergence is not None:
                    self.compared_index = 0

    def members_changed(self, membership: Membership) -> None:
        """The shard has these members now: a divergence is over with the last but one of its copies."""
        if self.found is not None and self.found.is_replaced(_members(membership)):
            self.found = None

    def miss(self, node: str, again_at: int, *, connected: bool) -> None:
        """Go on without `node` until the next round: at `again_at`, or when it connects again."""
        self.missed.add(node)
        if connected:
            self.recheck = True
            self.again_at = max(self.again_at, again_at)

    def age_ms(self, now: int) -> int:
        """Return how long it is since all replicas were compared, or the leadership began."""
        return (now - (self.led_since if self.compared_at is None else self.compared_at)) // 1_000_000

    def status(self, now: int, state: AppliedState) -> ComparisonStatus:
        """Return what operators see of it, where this node has applied `state`."""
        since = -1 if self.compared_at is None else (now - self.compared_at) // 1_000_000
        return ComparisonStatus(since, self.rounds, standing_divergence(self, state))


def standing_divergence(comparison: Comparison | None, state: AppliedState) -> Divergence | None:
    """Return what the replicas of a shard differ in, or differed in, while nobody knows which rows are right.

    Args:
        comparison: of the leader, if it has begun one.
        state: what the leader has applied.
    """
    if len(_members(state.membership)) < 2:
        return None
    return comparison.found or state.divergence if comparison is not None else state.divergence


def _members(membership: Membership) -> tuple[str, ...]:
    return membership.voters + membership.learners
