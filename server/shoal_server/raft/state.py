"""Where a replica stands in its group, and what it has to store and to say: what all parts of a group go by.

Roles and how they change:

    FOLLOWER       follows a leader, or knows none. Its leader unsupported for long enough -> PRE_CANDIDATE
    PRE_CANDIDATE  asks whether it could win, binding nobody. A majority says yes -> CANDIDATE; a leader appears -> FOLLOWER
    CANDIDATE      has a new term and its own vote. A majority votes for it -> LEADER; a newer term, a leader -> FOLLOWER
    LEADER         orders writes. A newer term, a majority's support lost for too long, or its own demotion committed
                   -> FOLLOWER

Two things hold of whatever leaves, and are checked there (`RaftState.check_leaving`):

- what speaks of a term waits until that term is on disk (leaving.py says what each kind of message waits for);
- an answer that names a promise is of a replica that this promise binds: it follows the one that it answers.
"""

from __future__ import annotations

from enum import Enum

from msgspec.structs import replace
from shoal.bounds import MAX_TERM

from shoal_server.invariants import invariant
from shoal_server.raft.config import RaftConfig, Timing
from shoal_server.raft.leader import Leader
from shoal_server.raft.leaving import WAIT_FOR_THEIR_TERM, binds_nobody
from shoal_server.raft.liveness import Liveness
from shoal_server.raft.log import Log
from shoal_server.raft.membership import MembershipHistory
from shoal_server.raft.messages import (
    AppendAccepted,
    AppendRejected,
    Entry,
    HardState,
    Membership,
    RaftMessage,
    first_damaged,
)
from shoal_server.raft.ready import BadMessage, Ready


class Role(Enum):
    """What a replica is at the moment; see the module's first lines."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


_MAY_FOLLOW: dict[Role, frozenset[Role]] = {
    Role.FOLLOWER: frozenset({Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE}),
    Role.PRE_CANDIDATE: frozenset({Role.PRE_CANDIDATE, Role.CANDIDATE, Role.FOLLOWER}),
    Role.CANDIDATE: frozenset({Role.PRE_CANDIDATE, Role.LEADER, Role.FOLLOWER}),
    Role.LEADER: frozenset({Role.FOLLOWER}),
}
"""The transitions there are. A pre-candidate that cannot win campaigns again; so does a candidate, from the beginning."""

_NAMING_PROMISES = (AppendAccepted, AppendRejected)


class RaftState:
    """See the module's first lines.

    Invariants: the term never falls; there is one vote a term; roles change as `_MAY_FOLLOW` says; who leads has a
    `leadership`, and nobody else.

    Attributes:
        role, term, vote: as Raft has them; `leader` is the node that leads in `term`, "" where that is not known, and
            `leader_epoch` the life of its process.
        history: the memberships that the log holds.
        leadership: what this node does as the leader, while it leads.
        is_leader: whether this replica leads and may be asked for something: one that has failed only feeds the others
            (see `Group.fail`).
        renewing: a leadership that was on its way to another node, and has not arrived, is being taken back in a new term.
        active: whether `Group.tick` is needed.
        failed: what was applied is not to be relied on (see `Group.fail`).
        awaits_snapshot: this replica has nothing yet, or nothing that counts, and begins with its leader's next snapshot.
        lost_to: entries up to here may have been acknowledged, and be gone; 0: none.
        silent_until: the version of a membership that its log has to know before it votes; 0: any.
        has_forgotten: the node may have promised anything in this group, and nobody knows what.
        durable_term: the newest term that is on this node's disk; `hard_state_changed`: term or vote are to be stored.
        owes_acceptance, accepted_up_to: to whom an acceptance is owed that leaves with the next Ready, and of what;
            `rejections`: those that are owed. Both are to the leader of this term.
        reads, failed_reads: tokens of reads that were confirmed, each with its position, and that cannot be any more.
        messages, durable_messages: what leaves with the next Ready, at once or when that is on disk.
    """

    __slots__ = (
        "accepted_up_to",
        "active",
        "awaits_snapshot",
        "config",
        "durable_messages",
        "durable_term",
        "failed",
        "failed_reads",
        "group",
        "hard_state_changed",
        "has_forgotten",
        "history",
        "is_leader",
        "leader",
        "leader_epoch",
        "leadership",
        "liveness",
        "log",
        "lost_to",
        "messages",
        "node",
        "owes_acceptance",
        "reads",
        "rejections",
        "renewing",
        "role",
        "silent_until",
        "term",
        "timing",
        "vote",
    )

    def __init__(
        self,
        group: int,
        node: str,
        *,
        config: RaftConfig,
        timing: Timing,
        liveness: Liveness,
        log: Log,
        hard_state: HardState,
        membership: Membership,
        membership_index: int,
        silent_until: int,
        awaits_snapshot: bool,
        failed: bool,
        lost_to: int,
        has_forgotten: bool,
    ) -> None:
        """See `Group` for what the arguments are."""
        invariant(
            not awaits_snapshot or bool(silent_until or lost_to) or log.last_index == 0,
            "who votes while it awaits a snapshot has never had a log",
        )
        self.group = group
        self.node = node
        self.config = config
        self.timing = timing
        self.liveness = liveness
        self.log = log
        self.history = self.history_from(membership, membership_index, log.applied_index)
        self.role = Role.FOLLOWER
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.leader = ""
        self.leader_epoch = 0
        self.leadership: Leader | None = None
        self.is_leader = False
        self.renewing = False
        self.active = True
        self.failed = failed
        self.awaits_snapshot = awaits_snapshot
        self.lost_to = lost_to
        self.silent_until = silent_until
        self.has_forgotten = has_forgotten
        self.durable_term = hard_state.term
        self.hard_state_changed = False
        self.owes_acceptance = ""
        self.accepted_up_to = 0
        self.rejections: list[tuple[str, AppendRejected]] = []
        self.reads: list[tuple[int, int]] = []
        self.failed_reads: list[int] = []
        self.messages: list[tuple[str, RaftMessage]] = []
        self.durable_messages: list[tuple[str, RaftMessage]] = []

    # -- what is so

    @property
    def membership(self) -> Membership:
        return self.history.current

    @property
    def members(self) -> tuple[str, ...]:
        """Everybody who has a replica, voter or not."""
        membership = self.history.current
        return membership.voters + membership.learners

    @property
    def out_of_terms(self) -> bool:
        """Whether there is no later term to campaign in: the leader of this one goes on, and after it there is none."""
        return self.term >= MAX_TERM

    @property
    def is_silent(self) -> bool:
        """Whether this replica may have forgotten what a candidate's log must have, and so gives no vote.

        One that awaits a snapshot and has had nothing to forget is a server with an empty log, as Raft knows it: its vote
        is as good as any, and where most voters are like that nobody could be elected without it.
        """
        if self.has_forgotten:
            return True
        if self.lost_to and (self.awaits_snapshot or self.log.last_index < self.lost_to):
            return True
        return self.silent_until > 0 and (self.awaits_snapshot or self.history.current.version < self.silent_until)

    def history_from(self, membership: Membership, index: int, behind: int) -> MembershipHistory:
        """Return the history that begins with a membership, as of `index`, and goes on with those in the log behind another.

        Raises:
            BadMessage: they do not follow.
        """
        history = MembershipHistory(membership, index)
        problem = history.read(self.log, behind, self.config.max_append_bytes)
        if problem:
            raise BadMessage(f"shard {self.group}: {problem}")
        return history

    def leader_is_supported(self, now: int) -> bool:
        """Say whether this node has promised the leader's process support that is in force."""
        return bool(self.leader) and self.liveness.supports(self.leader, self.leader_epoch, now)

    def follows(self, sender: str, term: int) -> bool:
        """Say whether this replica follows `sender`, which leads in `term`, and nobody newer."""
        return self.role is Role.FOLLOWER and self.term == term and self.leader == sender

    def can_restore(self, index: int, term: int) -> bool:
        """Say whether a snapshot at (index, term) would bring this replica forward, or mend it where it has failed."""
        if self.lost_to and self.awaits_snapshot:
            return index >= self.log.commit_index
        if self.failed:
            return index > self.log.commit_index or self.keeps_log(index, term)
        return index > self.log.commit_index and not self.log.matches(index, term)

    def keeps_log(self, index: int, term: int) -> bool:
        """Say whether a snapshot at (index, term) would leave the log as it is: only what was applied is replaced."""
        return self.failed and not self.awaits_snapshot and self.log.matches(index, term)

    # -- moves

    def lead_or_not(self, leadership: Leader | None, *, failed: bool) -> None:
        """Lead by `leadership`, or not at all, as one that has failed, or not: all there is to `is_leader`."""
        self.leadership = leadership
        self.failed = failed
        self.is_leader = leadership is not None and not failed

    def become(self, role: Role) -> None:
        invariant(role in _MAY_FOLLOW[self.role], f"a {self.role.value} does not become a {role.value}")
        self.role = role
        if role is Role.FOLLOWER or role is Role.LEADER:
            self.renewing = False

    def set_term(self, term: int, vote: str) -> None:
        """Be in `term`, with that vote, once it is stored."""
        invariant(term > self.term or (term == self.term and self.vote in ("", vote)), "one vote a term, terms rise")
        if term != self.term or vote != self.vote:
            self.term = term
            self.vote = vote
            self.hard_state_changed = True
            # What is owed to the leader of a term that has passed is of no use to it.
            self.owes_acceptance = ""
            self.accepted_up_to = 0
            self.rejections = []

    # -- what leaves

    @property
    def has_ready(self) -> bool:
        log, leader = self.log, self.leadership
        return bool(
            self.messages
            or self.durable_messages
            or log.has_unhanded
            or self.owes_acceptance
            or self.rejections
            or self.hard_state_changed
            or (leader is not None and (leader.unsent or leader.snapshots_wanted or leader.lost_entries))
            or self.reads
            or self.failed_reads
        )

    def ready(self, now: int) -> Ready:
        """Take out everything there is to do; see `Ready` for the order in which it must be done."""
        ready = Ready()
        leader, log = self.leadership, self.log
        if leader is not None:
            if leader.unsent:
                leader.replicate(now)
            if leader.snapshots_wanted:
                invariant(self.term <= self.durable_term, "who sends a snapshot leads in a term that is on disk")
                ready.snapshots_wanted, leader.snapshots_wanted = leader.snapshots_wanted, []
            if leader.lost_entries:
                ready.lost_entries, leader.lost_entries = leader.lost_entries, []
        if self.hard_state_changed:
            ready.hard_state = HardState(self.term, self.vote)
            self.hard_state_changed = False
        if log.has_unhanded:
            ready.entries = log.take_unhanded()
        if self.rejections:
            for peer, rejected in self.rejections:
                self.say(peer, replace(rejected, promise=self.promise_to(peer)))
            self.rejections = []
        if self.owes_acceptance:
            peer = self.owes_acceptance
            promise = self.promise_to(peer)
            accepted = AppendAccepted(self.group, self.term, self.accepted_up_to, log.commit_index, promise)
            # It waits for all that is handed out with it.
            self.durable_messages.append((peer, accepted))
            self.owes_acceptance = ""
            self.accepted_up_to = 0
        ready.messages, self.messages = self.messages, []
        ready.durable_messages, self.durable_messages = self.durable_messages, []
        if ready.messages or ready.durable_messages:
            self.check_leaving(ready)
        if self.reads:
            ready.reads, self.reads = self.reads, []
        if self.failed_reads:
            ready.failed_reads, self.failed_reads = self.failed_reads, []
        return ready

    def say(self, peer: str, message: RaftMessage) -> None:
        """Send once what the message waits for is on disk. (Who is elected by others' votes has a term that is.)"""
        at_once = message.term <= self.durable_term if type(message) in WAIT_FOR_THEIR_TERM else binds_nobody(message)
        (self.messages if at_once else self.durable_messages).append((peer, message))

    def promise_to(self, peer: str) -> int:
        """Return the number of the promise under which `peer` is answered: none is named that does not bind this replica."""
        if self.role is Role.FOLLOWER and self.leader == peer:
            return self.liveness.promise_to(peer, self.leader_epoch)
        return self.liveness.no_promise

    def check_leaving(self, ready: Ready) -> None:
        """Check what holds of whatever leaves; see the module's first lines."""
        durable_term = self.durable_term
        for _, message in ready.messages:
            if message.term > durable_term:
                invariant(binds_nobody(message), "what speaks of a term leaves when that term is on disk")
        for peer, message in ready.durable_messages:
            if isinstance(message, _NAMING_PROMISES) and not (
                self.leader == peer and self.role is Role.FOLLOWER and message.term == self.term
            ):
                promise = message.promise
                invariant(promise == self.liveness.no_promise, "who names a promise is a replica that it binds")

    # -- what has come of it

    @property
    def has_committed(self) -> bool:
        """Whether there is anything to apply."""
        return self.log.commit_index > self.log.applied_index

    def committed(self) -> list[Entry]:
        """Return entries to be applied now, in order: all there are, or as many as a bound allows. May be empty."""
        log = self.log
        if log.commit_index == log.applied_index:
            return []
        first, end, bound = log.applied_index + 1, log.commit_index + 1, self.config.max_apply_bytes
        entries = log.entries(first, end, bound)
        # Checked when it came, but memory is not what it was for ever.
        return entries if first_damaged(self.group, entries) is None else log.stored_entries(first, end, bound)

    def term_persisted(self, term: int) -> None:
        """Take note that the hard state of `term`, as handed out, is on this node's disk."""
        self.durable_term = max(self.durable_term, term)

    def persisted(self, index: int, term: int) -> None:
        """Take note that everything up to entry (index, term), as handed out, is on this node's disk."""
        leader, log = self.leadership, self.log
        if not log.persisted(index, term):
            return
        bound = self.config.cache_bytes
        if log.cached_bytes > 2 * bound:
            # Where nothing is applied, or that is slower than what comes, memory would hold the log's whole end.
            bound = bound if self.failed else max(bound, self.config.unapplied_bytes)
            if log.cached_bytes > 2 * bound:
                log.shrink(bound, unapplied=True)
        if leader is not None:
            leader.advance_commit()
            leader.unsent = True
            # Where this disk was the last of a quorum, no answer of a peer is left to come that would tell the others.
            self.active = True

    def shrink_cache(self) -> None:
        """Keep nothing of the log in memory that is on this node's disk."""
        self.log.shrink(0, unapplied=True)

    def applied(self, index: int) -> None:
        """Take note that everything up to `index` is applied."""
        log = self.log
        log.applied(index)
        self.history.applied(index)
        if log.cached_bytes > 2 * self.config.cache_bytes:
            log.shrink(self.config.cache_bytes)
