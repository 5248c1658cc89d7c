"""One Raft group as one of its replicas sees it: messages, proposals and time in; what to store, send and apply out.

The protocol is Raft (Ongaro's dissertation, 2014) with pre-vote (9.6), leadership transfer (3.10), ReadIndex (6.4) and
leases. It does no I/O and reads no clock: `now` is passed in, in nanoseconds of the node's own monotonic clock.

Roles and how they change:

    FOLLOWER       follows a leader, or knows none. Its leader unsupported for long enough -> PRE_CANDIDATE
    PRE_CANDIDATE  asks whether it could win, binding nobody. A majority says yes -> CANDIDATE; a leader appears -> FOLLOWER
    CANDIDATE      has a new term and its own vote. A majority votes for it -> LEADER; a newer term, a leader -> FOLLOWER
    LEADER         orders writes. A newer term, a majority's support lost for too long, or its own demotion committed
                   -> FOLLOWER

What replaces Raft's per-group heartbeats and randomised timers is `Liveness`: as long as a replica has promised support
to the process that leads it, it neither campaigns nor votes for another. So a quiet group needs no messages and no ticks
(`active` is False), and a leader that a majority supports and acknowledges holds a lease.

Two things hold of whatever leaves, and are checked there (`Group.ready`):

- what speaks of a term waits until that term is on disk (leaving.py says what each kind of message waits for);
- an answer that names a promise is of a replica that this promise binds: it follows the one that it answers.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from random import Random
from typing import Any

from msgspec.structs import replace
from shoal.protocol.bounds import MAX_TERM

from shoal_server.invariants import invariant
from shoal_server.raft.config import RaftConfig, Timing
from shoal_server.raft.leader import Leader
from shoal_server.raft.leaving import WAIT_FOR_THEIR_TERM, binds_nobody
from shoal_server.raft.liveness import Liveness
from shoal_server.raft.log import Log
from shoal_server.raft.membership import (
    ChangeKind,
    MembershipChange,
    MembershipHistory,
    MembershipRefused,
    changed,
    encode_membership,
    is_membership,
    is_whole,
)
from shoal_server.raft.messages import (
    MAX_TERM_STEP,
    NEEDS_SNAPSHOT,
    AppendAccepted,
    AppendEntries,
    AppendRejected,
    CommitNotice,
    Entry,
    EntryKind,
    HardState,
    LeaderQuestion,
    Membership,
    RaftMessage,
    ReadProbe,
    ReadProbeConfirmed,
    Resigned,
    SnapshotHeader,
    Stepped,
    TermPassed,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
    first_damaged,
    sealed,
)
from shoal_server.raft.progress import ProgressState
from shoal_server.raft.quorum import Election, election, quorum_size
from shoal_server.raft.ready import (
    BadMessage,
    GroupStatus,
    ImplausibleTerm,
    NotLeader,
    PeerState,
    Ready,
    TransferInProgress,
    TransferRefused,
)


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


MOST_FEEDINGS = 6
"""How often the wait of a failed replica is doubled before it leads again: to about a minute."""
FEEDING_SUPPORTS = 5
"""For how many support times a failed replica leads on for those that are not level yet, while another is; or for nobody."""

_ANSWERS = frozenset({AppendAccepted, AppendRejected, VoteResponse, ReadProbeConfirmed, TermPassed})
_NAMING_PROMISES = (AppendAccepted, AppendRejected)
_OF_LEADERS = frozenset({AppendEntries, CommitNotice, ReadProbe, SnapshotHeader})


class Group:
    """See the module's first lines.

    Invariants: the term never falls; there is one vote a term; the commit position never falls; a leader never drops an
    entry of its own log.

    Attributes:
        is_leader: whether this replica leads and may be asked for something: one that has failed only feeds the others
            (see `fail`).
    """

    __slots__ = (
        "_accepted_up_to",
        "_asked_at",
        "_awaits_snapshot",
        "_config",
        "_durable",
        "_durable_term",
        "_election_deadline",
        "_failed",
        "_failed_reads",
        "_feedings",
        "_granted",
        "_handlers",
        "_hard_state_changed",
        "_has_forgotten",
        "_history",
        "_leader",
        "_leader_epoch",
        "_liveness",
        "_lost_to",
        "_messages",
        "_owes_acceptance",
        "_random",
        "_reads",
        "_refused",
        "_rejections",
        "_renewing",
        "_restarted",
        "_silent_until",
        "_timing",
        "active",
        "group",
        "is_leader",
        "leader",
        "log",
        "node",
        "role",
        "term",
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
        random: Random,
        now: int,
        priority: int,
        silent_until: int = 0,
        awaits_snapshot: bool = False,
        failed: bool = False,
        lost_to: int = 0,
        has_forgotten: bool = False,
    ) -> None:
        """
        Args:
            awaits_snapshot: the replica cannot begin with the log's first entries: it takes none before a snapshot, and
                does not campaign. It votes only if it cannot have forgotten anything: see `silent_until` and `fail`.
            failed, lost_to: see `fail`.
            has_forgotten: the node may have promised anything in this group, and nobody knows what: the replica hears nobody.
            silent_until: the replica neither votes nor campaigns while its log knows no membership of this version:
                the node may have had a replica before, and have forgotten what it promised then. 0: it has not.
            membership: as of the log's applied position; later ones are found in the log.
            priority: the node's place among those who should lead, 0 for the first: it campaigns first at a start.
        """
        invariant(
            not awaits_snapshot or bool(silent_until or lost_to) or log.last_index == 0,
            "who votes while it awaits a snapshot has never had a log",
        )
        self.group = group
        self.node = node
        self.log = log
        self.role = Role.FOLLOWER
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.leader = ""
        self.active = True
        self._config = config
        self._timing = timing
        self._liveness = liveness
        self._renewing = False
        self._random = random
        self._restarted = hard_state.term > 0
        self._silent_until = silent_until
        self._awaits_snapshot = awaits_snapshot
        self._failed = failed
        self._feedings = 0
        self._lost_to = lost_to
        self._has_forgotten = has_forgotten
        self._hard_state_changed = False
        self._durable_term = hard_state.term
        self._leader: Leader | None = None
        self.is_leader = False
        self._leader_epoch = 0
        self._granted: set[str] = set()
        self._refused: set[str] = set()
        self._asked_at = 0
        self._messages: list[tuple[str, RaftMessage]] = []
        self._durable: list[tuple[str, RaftMessage]] = []
        self._owes_acceptance = ""
        self._accepted_up_to = 0
        self._rejections: list[tuple[str, AppendRejected]] = []
        self._reads: list[tuple[int, int]] = []
        self._failed_reads: list[int] = []
        self._history = MembershipHistory(membership, membership_index)
        self._find_memberships(self._history, log.applied_index)
        start = max(now, liveness.vote_not_before) if self._restarted else now
        # Whoever should lead has a whole support time ahead of the next: nodes that start together seldom start at once.
        self._election_deadline = start + priority * timing.support_ns + random.randrange(timing.election_spread_ns)
        self._handlers: dict[type, Callable[[str, Any, int], None]] = {
            AppendEntries: self._on_append,
            AppendAccepted: self._on_accepted,
            AppendRejected: self._on_rejected,
            VoteRequest: self._on_vote_request,
            VoteResponse: self._on_vote_response,
            TimeoutNow: self._on_timeout_now,
            ReadProbe: self._on_read_probe,
            ReadProbeConfirmed: self._on_probe_confirmed,
            CommitNotice: self._on_commit_notice,
            LeaderQuestion: self._on_leader_question,
            Resigned: self._on_resigned,
            TermPassed: self._on_term_passed,
            SnapshotHeader: self._on_snapshot_header,
        }

    def _find_memberships(self, history: MembershipHistory, behind: int) -> None:
        """Add the memberships in the log behind an index to a history that ends there.

        Raises:
            BadMessage: they do not follow.
        """
        log = self.log
        index = behind + 1
        while index <= log.last_index:
            stored = log.entries(index, log.last_index + 1, self._config.max_append_bytes)
            problem = history.problem(stored)
            if problem:
                raise BadMessage(f"shard {self.group}: {problem}")
            history.append(stored)
            index = stored[-1].index + 1

    # -- what is so

    def _lead_or_not(self, leader: Leader | None, *, failed: bool) -> None:
        """Lead by `leader`, or not at all, as one that has failed, or not: all there is to `is_leader`."""
        self._leader = leader
        self._failed = failed
        self.is_leader = leader is not None and not failed

    @property
    def membership(self) -> Membership:
        return self._history.current

    @property
    def members(self) -> tuple[str, ...]:
        """Everybody who has a replica, voter or not."""
        membership = self._history.current
        return membership.voters + membership.learners

    @property
    def may_have_to_vote(self) -> bool:
        """Whether a quorum may count on this node: it votes, or did before a change that may yet not be committed."""
        return self._history.is_electable(self.node, self.log.commit_index)

    @property
    def transferring(self) -> bool:
        """Whether leadership is on its way to another node, or has not arrived and is being taken back in a new term."""
        return self._renewing or (self._leader is not None and self._leader.transfer is not None)

    @property
    def may_campaign(self) -> bool:
        """Whether this node can store a vote, has applied every committed change of membership, and votes, or may have to lead.

        See `MembershipHistory.is_electable` for the last. One that has failed applies nothing, and leads for those others
        that there are to feed (see `fail`).
        """
        log, history = self.log, self._history
        if self._failed:
            ready = history.current.voters != (self.node,)
        else:
            ready = not log.applied_index < history.current_index <= log.commit_index
        return (
            ready
            and not self.out_of_terms
            and history.is_electable(self.node, log.commit_index)
            and self._liveness.may_campaign
            and not (self._awaits_snapshot or self.is_silent)
        )

    @property
    def out_of_terms(self) -> bool:
        """Whether there is no later term to campaign in: the leader of this one goes on, and after it there is none."""
        return self.term >= MAX_TERM

    @property
    def awaits_snapshot(self) -> bool:
        """Whether this replica has nothing yet, or nothing that counts, and begins with its leader's next snapshot."""
        return self._awaits_snapshot

    @property
    def is_silent(self) -> bool:
        """Whether this replica may have forgotten what a candidate's log must have, and so gives no vote.

        One that awaits a snapshot and has had nothing to forget is a server with an empty log, as Raft knows it: its vote
        is as good as any, and where most voters are like that nobody could be elected without it.
        """
        if self._has_forgotten:
            return True
        if self._lost_to and (self._awaits_snapshot or self.log.last_index < self._lost_to):
            return True
        return self._silent_until > 0 and (self._awaits_snapshot or self._history.current.version < self._silent_until)

    def status(self) -> GroupStatus:
        log, leader = self.log, self._leader
        membership = self._history.current
        if self.is_leader:
            role = "leader"
        elif self.role is not Role.FOLLOWER:
            role = "candidate"
        else:
            role = "voter" if self.node in membership.voters else "follower"
        return GroupStatus(
            role=role,
            term=self.term,
            leader=self.leader,
            membership=membership,
            membership_committed=self._history.current_index <= log.commit_index,
            first_index=log.first_index,
            last_index=log.last_index,
            commit_index=log.commit_index,
            applied_index=log.applied_index,
            lease_until=leader.lease_until() if leader is not None and not self._failed else 0,
            peers=[PeerState(node, progress.match, progress.state.value) for node, progress in leader.progress.items()]
            if leader is not None
            else [],
        )

    def best_successor(self, now: int, able: Callable[[str], bool]) -> str:
        """Return the voter best placed to lead instead of this node, or "" where none is.

        Args:
            able: says whether a node may be given leadership at all.
        """
        leader = self._leader
        if leader is None:
            return ""
        candidates = {
            voter: leader.progress[voter].match
            for voter in leader.membership.voters
            if voter != self.node
            and leader.progress[voter].state is ProgressState.REPLICATE
            and self._liveness.supported_until(voter) > now
            and able(voter)
        }
        best = max(candidates.values(), default=0)
        furthest = sorted(voter for voter, match in candidates.items() if match == best)
        # Not the same one for all groups: a node that gives up everything it leads must not burden a single other.
        return furthest[self.group % len(furthest)] if furthest else ""

    def needed_from(self) -> int:
        """Return the first entry that some reachable replica still needs of this leader's log."""
        leader = self._leader
        if leader is None:
            return self.log.last_index + 1
        return min(
            (progress.match + 1 for progress in leader.progress.values() if progress.reachable),
            default=self.log.last_index + 1,
        )

    # -- messages in

    def step(self, sender: str, message: Stepped, now: int) -> None:
        """Take one message of a peer, or what a piece of a snapshot says of its sender (see `follows`).

        Raises:
            BadMessage: it cannot be what a peer sent; nothing was done.
            ImplausibleTerm: neither, but it is only this message that makes no sense.
        """
        if self._has_forgotten:
            # Whom it follows it may have voted out: what it acknowledged, that one would take for committed.
            return
        term = message.term
        if term - self.term > MAX_TERM_STEP:
            raise ImplausibleTerm(
                f"{type(message).__name__} of shard {self.group} is of term {term}; the replica knows {self.term}, "
                f"and takes no term that is more than {MAX_TERM_STEP} ahead"
            )
        if type(message) is AppendEntries:
            self._check_entries(message)
        elif type(message) is SnapshotHeader and message.index_term > term:
            raise BadMessage(
                f"a snapshot of shard {self.group} is of term {message.index_term}, and its sender's is {term}"
            )
        if term != self.term and not self._settle_term(sender, message, term, now):
            return
        self._handlers[type(message)](sender, message, now)

    def _check_entries(self, message: AppendEntries) -> None:
        """Only whole entries, each where it belongs, get into the log."""
        entries, index, term = message.entries, message.previous_index, message.previous_term
        damaged = first_damaged(self.group, entries)
        if damaged is not None:
            raise BadMessage(f"entry {damaged.index} of shard {self.group} arrived damaged: its checksum is another")
        for entry in entries:
            index += 1
            if entry.index != index or not term <= entry.term <= message.term:
                raise BadMessage(
                    f"({entry.index}, {entry.term}) is no entry of shard {self.group} behind ({index - 1}, {term})"
                )
            term = entry.term
            if entry.kind == EntryKind.MEMBERSHIP and not is_membership(entry.payload):
                raise BadMessage(f"entry {entry.index} of shard {self.group} is to be a membership, and is none")

    def _settle_term(self, sender: str, message: Stepped, term: int, now: int) -> bool:
        """Deal with a message of another term; return whether it is to be handled at all."""
        kind = type(message)
        if kind is VoteRequest or kind is LeaderQuestion or kind is Resigned:
            return True
        if term > self.term:
            if type(message) is VoteResponse and message.pre and message.granted:
                # Granted for the term that would be: it binds nobody.
                return True
            if self.role is Role.FOLLOWER and kind in _ANSWERS:
                # An answer to what this replica no longer does must not talk it out of the leader it is bound to.
                return False
            self._become_follower(term, now)
            return True
        if kind in _OF_LEADERS:
            # An old leader: tell it the term, or it would go on for as long as its quorum lets it.
            self._say(sender, TermPassed(self.group, self.term))
        return False

    def _on_term_passed(self, sender: str, message: TermPassed, now: int) -> None:
        """The term is settled, and that was all."""

    def _on_snapshot_header(self, sender: str, message: SnapshotHeader, now: int) -> None:
        self._follow(sender, message.epoch, now)

    def _on_append(self, sender: str, message: AppendEntries, now: int) -> None:
        self._follow(sender, message.epoch, now)
        if self._awaits_snapshot:
            self._reject(sender, message.previous_index)
            return
        log, entries = self.log, message.entries
        previous = message.previous_index
        if previous < log.commit_index:
            # What is committed here is the leader's, too: look only at what goes beyond.
            last = previous + len(entries)
            if last <= log.commit_index:
                self._accept(sender, log.commit_index)
                return
            entries = entries[log.commit_index - previous :]
            previous = log.commit_index
            if entries[0].term < log.term(previous):
                raise BadMessage(
                    f"entry {previous + 1} of shard {self.group} is of an older term than what is committed"
                )
        elif not log.matches(previous, message.previous_term):
            self._reject(sender, previous)
            return
        last = previous
        if entries:
            last = entries[-1].index
            if previous < log.last_index:
                entries = self._unknown(entries)
            if entries:
                problem = self._history.problem(entries)
                if problem:
                    raise BadMessage(f"shard {self.group}: {problem}")
                self._make_room(entries[0].index)
                log.append(entries)
                self._history.append(entries)
        self._commit_to(min(message.commit, last))
        self._accept(sender, last)

    def _unknown(self, entries: list[Entry]) -> list[Entry]:
        """Return the entries from the first one on that the log has not."""
        log = self.log
        for count, entry in enumerate(entries):
            if entry.index > log.last_index or log.term(entry.index) != entry.term:
                return entries[count:]
        return []

    def _make_room(self, index: int) -> None:
        """Cut off what the log has from `index` on: it conflicts with the leader's."""
        if index <= self.log.last_index:
            self.log.truncate_from(index)
            self._history.truncate_from(index)

    def _accept(self, sender: str, last: int) -> None:
        """Owe the leader one acceptance a Ready, however many appends came."""
        invariant(
            not self._awaits_snapshot, "who awaits a snapshot has acknowledged nothing, and may have voted for anybody"
        )
        self._owes_acceptance = sender
        self._accepted_up_to = max(self._accepted_up_to, last)

    def _reject(self, sender: str, previous: int) -> None:
        """Owe the leader a rejection. Under which promise, is found when it leaves."""
        log = self.log
        if self._awaits_snapshot:
            conflict_term, conflict_index = 0, NEEDS_SNAPSHOT
        elif previous > log.last_index:
            conflict_term, conflict_index = 0, log.last_index + 1
        else:
            conflict_term = log.term(previous)
            conflict_index = log.first_index_of_term(previous, log.commit_index + 1)
        self._rejections.append(
            (sender, AppendRejected(self.group, self.term, previous, conflict_term, conflict_index, 0))
        )

    def _promise_to(self, peer: str) -> int:
        """Return the number of the promise under which `peer` is answered: none is named that does not bind this replica."""
        if self.role is Role.FOLLOWER and self.leader == peer:
            return self._liveness.promise_to(peer, self._leader_epoch)
        return self._liveness.no_promise

    def _follow(self, sender: str, epoch: int, now: int) -> None:
        """Take `sender`, in that life of its process, for the leader of this term."""
        if self._leader is not None:
            raise BadMessage(f"{sender} says that it leads shard {self.group} in term {self.term}, and this node does")
        if self.leader != sender or self.role is not Role.FOLLOWER:
            if self.leader not in ("", sender):
                raise BadMessage(
                    f"{sender} says that it leads shard {self.group} in term {self.term}, and {self.leader} does"
                )
            self._become(Role.FOLLOWER)
            self.leader = sender
        self._leader_epoch = epoch
        self._settle_down(now)

    def _commit_to(self, index: int) -> None:
        log = self.log
        if index > log.commit_index:
            invariant(index <= log.last_index, "only what is in the log is committed")
            log.commit_index = index

    def _on_commit_notice(self, sender: str, message: CommitNotice, now: int) -> None:
        self._follow(sender, message.epoch, now)
        if self._awaits_snapshot:
            self._reject(sender, self.log.last_index)
            return
        # The leader knows that our log is its own up to there, or it would not have sent this.
        self._commit_to(min(message.commit, self.log.last_index))
        self._accept(sender, self.log.commit_index)

    def _on_read_probe(self, sender: str, message: ReadProbe, now: int) -> None:
        self._follow(sender, message.epoch, now)
        self._say(sender, ReadProbeConfirmed(self.group, self.term, message.round))

    def _on_accepted(self, sender: str, message: AppendAccepted, now: int) -> None:
        if self._leader is not None:
            self._check_answer(message)
            self._leader.on_accepted(sender, message, now)
            self.active = True

    def _on_rejected(self, sender: str, message: AppendRejected, now: int) -> None:  # noqa: ARG002 - handlers are alike
        if self._leader is not None:
            self._check_answer(message)
            self._leader.on_rejected(sender, message)
            self.active = True

    def _check_answer(self, message: AppendAccepted | AppendRejected) -> None:
        """Nobody has more of this term's log than its leader, or answers what has not left."""
        last = self.log.last_index
        if isinstance(message, AppendAccepted):
            whole = message.match_index <= last and message.commit <= last
        else:
            conflict = message.conflict_index
            whole = conflict == NEEDS_SNAPSHOT or conflict <= message.rejected_index <= last
        if not whole or self.term > self._durable_term:
            raise BadMessage(
                f"{message} answers nothing that the leader of shard {self.group} has said: its log ends at {last}"
            )

    def _on_probe_confirmed(self, sender: str, message: ReadProbeConfirmed, now: int) -> None:
        if self._leader is not None:
            self._leader.on_probe_confirmed(sender, message.round)
            self._reads.extend(self._leader.probe_reads(now))

    # -- elections

    def campaign(self, now: int) -> None:
        """Campaign now, without waiting for the deadline, unless this replica may not or is bound to a leader."""
        if self.may_campaign and not self._failed and not self._is_bound(self.node, now):
            self._pre_campaign(now)

    def has_leader(self, now: int) -> bool:
        """Whether this replica leads, or has heard lately from the process that does."""
        return self.is_leader or self._leader_is_supported(now)

    def _leader_is_supported(self, now: int) -> bool:
        return bool(self.leader) and self._liveness.supports(self.leader, self._leader_epoch, now)

    def _pre_campaign(self, now: int) -> None:
        # The leader is not forgotten: if it is supported again before this is won, its claim holds as before.
        self._become(Role.PRE_CANDIDATE)
        self._ask_for_votes(now, pre=True, transfer=False)

    def _real_campaign(self, now: int, *, transfer: bool) -> None:
        self._become(Role.CANDIDATE)
        self.leader = ""
        self._set_term(self.term + 1, self.node)
        self._ask_for_votes(now, pre=False, transfer=transfer)

    def _ask_for_votes(self, now: int, *, pre: bool, transfer: bool) -> None:
        self._granted = {self.node}
        self._refused = set()
        retry = self._timing.election_retry_ns
        self._election_deadline = now + retry + self._random.randrange(retry + 1)
        self.active = True
        log = self.log
        term = self.term + 1 if pre else self.term
        request = VoteRequest(self.group, term, log.last_index, log.last_term, pre, transfer)
        for voter in self._history.current.voters:
            if voter != self.node:
                self._say(voter, request)
        self._count_votes(now)

    def _count_votes(self, now: int) -> None:
        state = election(self._history.current.voters, self._granted, self._refused)
        if state is Election.WON:
            if self.role is Role.PRE_CANDIDATE and self._leader_is_supported(now):
                self._become(Role.FOLLOWER)
                self._settle_down(now)
            elif self.role is Role.PRE_CANDIDATE:
                self._real_campaign(now, transfer=False)
            else:
                self._become_leader(now)
        elif state is Election.LOST and self.role is Role.CANDIDATE:
            self._become(Role.FOLLOWER)

    def _on_vote_request(self, sender: str, message: VoteRequest, now: int) -> None:
        if self.is_silent:
            self._refuse_vote(sender, message)
            return
        if not message.transfer and self._is_bound(sender, now):
            if message.term >= self.term:
                self._question_leader(now)
            self._refuse_vote(sender, message)
            return
        if message.term > self.term and not message.pre:
            self._become_follower(message.term, now)
        log = self.log
        up_to_date = (message.last_term, message.last_index) >= (log.last_term, log.last_index)
        if message.pre:
            free = message.term > self.term
        else:
            free = message.term == self.term and self.vote in ("", sender) and self.leader in ("", sender)
        if not (free and up_to_date):
            self._refuse_vote(sender, message)
        elif message.pre:
            self._say(sender, VoteResponse(self.group, message.term, True, True))
        else:
            self._set_term(self.term, sender)
            self._put_off_campaign(now)
            self._say(sender, VoteResponse(self.group, self.term, True, False))

    def _is_bound(self, candidate: str, now: int) -> bool:
        """Whether this replica owes somebody not to vote for `candidate` now."""
        if self._restarted and now < self._liveness.vote_not_before:
            return True
        if self._leader is not None:
            return True
        return self.leader != candidate and self._leader_is_supported(now)

    def _refuse_vote(self, sender: str, message: VoteRequest) -> None:
        self._say(sender, VoteResponse(self.group, self.term, False, message.pre))

    @property
    def _campaign_due(self) -> int:
        """When to campaign, if there is no leader then: one that has failed leaves it to the others first.

        So does one that has much to apply yet, once and no longer: where all have, one of them has to lead.
        """
        support = self._timing.support_ns
        if self._failed:
            return self._election_deadline + (support << self._feedings)
        lag = self.log.last_index - self.log.applied_index
        return self._election_deadline + (support if lag > self._config.replay_lag_entries else 0)

    def _put_off_campaign(self, now: int) -> None:
        retry = self._timing.election_retry_ns
        self._election_deadline = max(self._election_deadline, now + retry + self._random.randrange(retry + 1))

    def _question_leader(self, now: int) -> None:
        """A vote was refused for the leader's sake: make sure, now and then, that it still leads."""
        if self.leader and now - self._asked_at >= self._timing.election_retry_ns:
            self.may_have_missed(self.leader, now)

    def may_have_missed(self, node: str, now: int) -> None:
        """What `node` has said, or was asked, may have been lost: if it is taken for the leader, ask whether it still leads.

        A quiet group says nothing by itself, and a leader says once that it is none any more. Whatever connection that was
        lost with, in one direction or the other, the next one in its place brings this about.
        """
        if self._leader is None and self.leader == node:
            self._asked_at = now
            self._say(node, LeaderQuestion(self.group, self.term))

    def _on_leader_question(self, sender: str, message: LeaderQuestion, now: int) -> None:  # noqa: ARG002
        # No more than what can never come true again: this node may lead its present term, or be about to.
        may_lead = self._leader is not None or self.role is Role.CANDIDATE
        given_up = self.term - 1 if may_lead else self.term
        if given_up >= message.term:
            self._say(sender, Resigned(self.group, given_up))

    def _on_resigned(self, sender: str, message: Resigned, now: int) -> None:
        if self.leader == sender and message.term >= self.term and self._leader is None:
            self.leader = ""
            self._settle_down(now)

    def _on_vote_response(self, sender: str, message: VoteResponse, now: int) -> None:
        asked = Role.PRE_CANDIDATE if message.pre else Role.CANDIDATE
        if self.role is not asked:
            return
        if message.granted and message.term == (self.term + 1 if message.pre else self.term):
            self._granted.add(sender)
        elif not message.granted:
            self._refused.add(sender)
        self._count_votes(now)

    def _on_timeout_now(self, sender: str, message: TimeoutNow, now: int) -> None:  # noqa: ARG002
        if self._leader is None and self.may_campaign and not self._failed:
            self._become(Role.FOLLOWER)
            self._become(Role.PRE_CANDIDATE)
            self._real_campaign(now, transfer=True)

    # -- changes of role

    def _become(self, role: Role) -> None:
        invariant(role in _MAY_FOLLOW[self.role], f"a {self.role.value} does not become a {role.value}")
        self.role = role
        if role is Role.FOLLOWER or role is Role.LEADER:
            self._renewing = False

    def _set_term(self, term: int, vote: str) -> None:
        invariant(term > self.term or (term == self.term and self.vote in ("", vote)), "one vote a term, terms rise")
        if term != self.term or vote != self.vote:
            self.term = term
            self.vote = vote
            self._hard_state_changed = True
            # What is owed to the leader of a term that has passed is of no use to it.
            self._owes_acceptance = ""
            self._accepted_up_to = 0
            self._rejections = []

    def _become_follower(self, term: int, now: int) -> None:
        """Fall back to FOLLOWER, in `term`, of a leader not yet known."""
        self._resign()
        self._become(Role.FOLLOWER)
        self.leader = ""
        if term > self.term:
            self._set_term(term, "")
        self._settle_down(now)
        self._put_off_campaign(now)

    def fail(self, now: int, lost_to: int = 0) -> None:
        """Lead no more: what this replica has applied is not to be relied on. Until `restore`.

        It goes on to vote and to take entries: its log is whole. That may be the newest one there is left, and then nobody
        else can win; so, where nobody leads for some time longer than others would wait, it campaigns. What it wins it uses
        to feed the others its log, and nothing else (`is_leader` is False): it takes no proposals, confirms no reads, sends
        no snapshot, and resigns when another voter could lead, or when none has taken any of it for some time. Each time
        it waits twice as long as before, since others that have failed, too, would do no better.

        Where the log is not whole, entries up to `lost_to` may have been acknowledged and be gone: it then takes none but
        behind a snapshot, and neither votes nor campaigns before its log is that far again, so that no leader is elected
        who lacks what was committed with its help.
        """
        self._lead_or_not(self._leader, failed=True)
        if lost_to:
            self._lost_to = max(self._lost_to, lost_to)
            self._awaits_snapshot = True
            self._owes_acceptance = ""
            self._accepted_up_to = 0
        if self.role is not Role.FOLLOWER:
            self._become_follower(self.term, now)

    def mended(self, now: int) -> None:
        """Lead and campaign as before `fail`: what had failed is whole again, and the log was all the time."""
        self._lead_or_not(self._leader, failed=False)
        self._feedings = 0
        if self._leader is not None:
            self.leader = self.node
        self.wake(now)

    def report_lost_log(self) -> bool:
        """Tell the leader, where the log is lost, that nothing of it counts and a snapshot is needed; say whether it is."""
        if self._lost_to and self._awaits_snapshot:
            self._reject(self.leader, self.log.last_index)
            return True
        return False

    def _resign(self) -> None:
        leader = self._leader
        if leader is None:
            return
        self._failed_reads.extend(leader.abandon_reads())
        for node in leader.others:
            self._say(node, Resigned(self.group, self.term))
        self._lead_or_not(None, failed=self._failed)

    def _become_leader(self, now: int) -> None:
        self._become(Role.LEADER)
        if self._failed:
            # It is nobody to be asked, here or elsewhere.
            self.leader = ""
            self._feedings = min(self._feedings + 1, MOST_FEEDINGS)
        else:
            self.leader = self.node
        self._leader_epoch = self._liveness.epoch
        leader = Leader(
            self.group,
            self.node,
            self.term,
            config=self._config,
            liveness=self._liveness,
            log=self.log,
            membership=self._history.current,
            send=self._say,
            now=now,
        )
        self._lead_or_not(leader, failed=self._failed)
        self._append(leader, EntryKind.EMPTY, [b""])
        self.active = True

    def _say(self, peer: str, message: RaftMessage) -> None:
        """Send once what the message waits for is on disk. (Who is elected by others' votes has a term that is.)"""
        at_once = message.term <= self._durable_term if type(message) in WAIT_FOR_THEIR_TERM else binds_nobody(message)
        (self._messages if at_once else self._durable).append((peer, message))

    def _settle_down(self, now: int) -> None:
        """Be at rest as long as a supported leader is known, else get ready to campaign."""
        if self._leader_is_supported(now):
            self.active = False
        elif not self.active:
            self.active = True
            self._election_deadline = now + self._random.randrange(self._timing.election_spread_ns + 1)

    # -- time

    def wake(self, now: int) -> None:
        """Support for or by some member has changed: look whether that matters here."""
        if self._leader is not None:
            self.active = True
        elif self.role is Role.FOLLOWER:
            self._settle_down(now)

    def tick(self, now: int) -> None:
        """Do what is due. Needed every few milliseconds while `active`, not at all otherwise."""
        leader = self._leader
        if leader is not None:
            supported = leader.supported_until()
            removed = self.node not in leader.membership.voters and self._history.current_index <= self.log.commit_index
            fed = self._failed and leader.has_fed(now, FEEDING_SUPPORTS * self._timing.support_ns)
            if removed or fed or max(supported, leader.since) + self._timing.support_ns <= now:
                self._become_follower(self.term, now)
                return
            self._reads.extend(leader.probe_reads(now))
            # One that has failed does not lead for ever, whether or not anybody takes anything of it.
            self.active = leader.tick(now) or supported <= now or leader.lease_forfeited or self._failed
            if leader.lease_forfeited and leader.transfer is None and supported > now and self.may_campaign:
                # The target of a transfer has not taken over, and may still do so at any time. Only a newer term ends
                # that; without one there would never be a lease again.
                self._become_follower(self.term, now)
                self._renewing = True
                self._pre_campaign(now)
            return
        if self.role is Role.FOLLOWER:
            self._settle_down(now)
        if self.active and now >= self._campaign_due and self.may_campaign:
            if self._restarted and now < self._liveness.vote_not_before:
                return
            if self.role is Role.CANDIDATE or self.role is Role.PRE_CANDIDATE or not self._leader_is_supported(now):
                self._renewing = False
                self._pre_campaign(now)

    # -- proposals

    def _require_leader(self) -> Leader:
        if self._leader is None or self._failed:
            raise NotLeader(f"{self.node} does not lead group {self.group}; {self.leader or 'nobody known'} does")
        return self._leader

    def propose(self, payloads: list[bytes]) -> int:
        """Append COMMAND entries; return the index of the first.

        Raises:
            NotLeader, TransferInProgress, TooManyUncommitted: nothing was appended.
        """
        leader = self._require_leader()
        if leader.transfer is not None:
            raise TransferInProgress(f"leadership of group {self.group} is on its way to {leader.transfer.target!r}")
        leader.admit(sum(map(len, payloads)))
        return self._append(leader, EntryKind.COMMAND, payloads)

    def _append(self, leader: Leader, kind: EntryKind, payloads: list[bytes]) -> int:
        log = self.log
        first = log.last_index + 1
        group, term = self.group, self.term
        log.append([sealed(group, term, index, kind, payload) for index, payload in enumerate(payloads, first)])
        leader.unsent = True
        self.active = True
        return first

    def propose_membership(self, change: MembershipChange, now: int) -> int:
        """Append a change of membership; return its index.

        Raises:
            NotLeader: another node leads.
            MembershipRefused: not now, or not at all; the message says why and what would work.
        """
        leader, log, history = self._require_leader(), self.log, self._history
        if log.commit_index < leader.first_index:
            raise MembershipRefused("the leader has not committed an entry of its own term yet: try again in a moment")
        if history.current_index > log.commit_index:
            raise MembershipRefused("the change before is not committed yet: one at a time, try again in a moment")
        if leader.transfer is not None:
            raise MembershipRefused("leadership is on its way to another node: ask that one")
        if change.node == self.node and change.kind != ChangeKind.PROMOTE:
            raise MembershipRefused(f"{self.node!r} leads the group: transfer leadership first")
        if change.kind == ChangeKind.PROMOTE:
            progress = leader.progress.get(change.node)
            # Under load a learner is never level with the leader; what is on its way to it delays nobody
            # (Raft dissertation, section 4.2.1: the last round of catching up has to be short, not empty).
            caught_up = max(1, log.commit_index - self._config.promotable_lag_entries)
            if progress is not None and progress.match < caught_up:
                raise MembershipRefused(
                    f"{change.node!r} has the log up to {progress.match} of {log.commit_index}: let it catch up first"
                )
        membership = changed(history.current, change)
        if set(membership.voters) != set(history.current.voters):
            alive = leader.supporters(membership.voters, now)
            if len(alive) < quorum_size(len(membership.voters)):
                down = ", ".join(sorted(set(membership.voters) - set(alive)))
                raise MembershipRefused(
                    f"of the voters that would be left ({', '.join(membership.voters)}) too few answer for anything to be "
                    f"committed, this change with it: bring {down} back, or remove those that are gone for good first"
                )
        index = self._append(leader, EntryKind.MEMBERSHIP, [encode_membership(membership)])
        history.append(log.entries(index, index + 1, 1))
        leader.set_membership(membership, now)
        return index

    def transfer_leadership(self, target: str, now: int) -> None:
        """Begin to hand leadership to `target`; it happens, or is given up after a while.

        Raises:
            NotLeader: another node leads.
            TransferRefused: `target` cannot lead, or another transfer is under way.
        """
        leader = self._require_leader()
        voters = leader.membership.voters
        if target not in voters or target == self.node:
            raise TransferRefused(
                f"{target!r} cannot take leadership of shard {self.group}: "
                f"it must be another voter, one of {', '.join(voter for voter in voters if voter != self.node)}"
            )
        if leader.transfer is not None:
            raise TransferRefused(f"leadership is already on its way to {leader.transfer.target!r}")
        leader.begin_transfer(target, now)
        self.active = True

    # -- reads

    def read_index(self, now: int) -> int | None:
        """Return the position that a read must have applied, if the lease says that this node leads now; else None."""
        leader = self._leader
        if leader is None or self._failed or leader.lease_until() <= now:
            return None
        return self.log.commit_index

    def start_read(self, token: int, now: int) -> None:
        """Confirm leadership for a read by a round of probes; `token` comes out in `Ready.reads` or `failed_reads`."""
        leader = self._require_leader()
        leader.start_read(token)
        self._reads.extend(leader.probe_reads(now))
        self.active = True

    # -- what comes out

    @property
    def has_ready(self) -> bool:
        log, leader = self.log, self._leader
        return bool(
            self._messages
            or self._durable
            or log.has_unhanded
            or self._owes_acceptance
            or self._rejections
            or self._hard_state_changed
            or (leader is not None and (leader.unsent or leader.snapshots_wanted or leader.lost_entries))
            or self._reads
            or self._failed_reads
        )

    def ready(self, now: int) -> Ready:
        """Take out everything there is to do; see `Ready` for the order in which it must be done."""
        ready = Ready()
        leader, log = self._leader, self.log
        if leader is not None:
            if leader.unsent:
                leader.replicate(now)
            if leader.snapshots_wanted:
                invariant(self.term <= self._durable_term, "who sends a snapshot leads in a term that is on disk")
                ready.snapshots_wanted, leader.snapshots_wanted = leader.snapshots_wanted, []
            if leader.lost_entries:
                ready.lost_entries, leader.lost_entries = leader.lost_entries, []
        if self._hard_state_changed:
            ready.hard_state = HardState(self.term, self.vote)
            self._hard_state_changed = False
        if log.has_unhanded:
            ready.entries = log.take_unhanded()
        if self._rejections:
            for peer, rejected in self._rejections:
                self._say(peer, replace(rejected, promise=self._promise_to(peer)))
            self._rejections = []
        if self._owes_acceptance:
            peer = self._owes_acceptance
            promise = self._promise_to(peer)
            accepted = AppendAccepted(self.group, self.term, self._accepted_up_to, log.commit_index, promise)
            # It waits for all that is handed out with it.
            self._durable.append((peer, accepted))
            self._owes_acceptance = ""
            self._accepted_up_to = 0
        ready.messages, self._messages = self._messages, []
        ready.durable_messages, self._durable = self._durable, []
        if ready.messages or ready.durable_messages:
            self._check_leaving(ready)
        if self._reads:
            ready.reads, self._reads = self._reads, []
        if self._failed_reads:
            ready.failed_reads, self._failed_reads = self._failed_reads, []
        return ready

    def _check_leaving(self, ready: Ready) -> None:
        """Check what holds of whatever leaves; see the module's first lines."""
        durable_term = self._durable_term
        for _, message in ready.messages:
            if message.term > durable_term:
                invariant(binds_nobody(message), "what speaks of a term leaves when that term is on disk")
        for peer, message in ready.durable_messages:
            if isinstance(message, _NAMING_PROMISES) and not (
                self.leader == peer and self.role is Role.FOLLOWER and message.term == self.term
            ):
                promise = message.promise
                invariant(promise == self._liveness.no_promise, "who names a promise is a replica that it binds")

    @property
    def has_committed(self) -> bool:
        """Whether there is anything to apply."""
        return self.log.commit_index > self.log.applied_index

    def committed(self) -> list[Entry]:
        """Return entries to be applied now, in order: all there are, or as many as a bound allows. May be empty."""
        log = self.log
        if log.commit_index == log.applied_index:
            return []
        first, end, bound = log.applied_index + 1, log.commit_index + 1, self._config.max_apply_bytes
        entries = log.entries(first, end, bound)
        # Checked when it came, but memory is not what it was for ever.
        return entries if first_damaged(self.group, entries) is None else log.stored_entries(first, end, bound)

    def term_persisted(self, term: int) -> None:
        """Take note that the hard state of `term`, as handed out, is on this node's disk."""
        self._durable_term = max(self._durable_term, term)

    def persisted(self, index: int, term: int) -> None:
        """Take note that everything up to entry (index, term), as handed out, is on this node's disk."""
        leader, log = self._leader, self.log
        if not log.persisted(index, term):
            return
        bound = self._config.cache_bytes
        if log.cached_bytes > 2 * bound:
            # Where nothing is applied, or that is slower than what comes, memory would hold the log's whole end.
            bound = bound if self._failed else max(bound, self._config.unapplied_bytes)
            if log.cached_bytes > 2 * bound:
                log.shrink(bound, unapplied=True)
        if leader is not None:
            leader.advance_commit()
            leader.unsent = True
            # Where this disk was the last of a quorum, no answer of a peer is left to come that would tell the others.
            self.active = True

    def applied(self, index: int) -> None:
        """Take note that everything up to `index` is applied."""
        log = self.log
        log.applied(index)
        self._history.applied(index)
        if log.cached_bytes > 2 * self._config.cache_bytes:
            log.shrink(self._config.cache_bytes)

    # -- snapshots and connections

    def snapshot_ended(self, node: str, index: int) -> None:
        """A snapshot at `index` has reached `node`, or failed to (0)."""
        progress = self._leader.progress.get(node) if self._leader is not None else None
        if progress is not None and self._leader is not None and progress.state is ProgressState.SNAPSHOT:
            # A snapshot that failed may have been refused, or its success not heard of: ask what the replica has first.
            progress.snapshot_ended(index or self.log.truncated_index)
            self._leader.unsent = True
            self.active = True

    def follows(self, sender: str, term: int) -> bool:
        """Say whether this replica follows `sender`, which leads in `term`, and nobody newer."""
        return self.role is Role.FOLLOWER and self.term == term and self.leader == sender

    def can_restore(self, index: int, term: int) -> bool:
        """Say whether a snapshot at (index, term) would bring this replica forward, or mend it where it has failed."""
        if self._lost_to and self._awaits_snapshot:
            return index >= self.log.commit_index
        if self._failed:
            return index > self.log.commit_index or self.keeps_log(index, term)
        return index > self.log.commit_index and not self.log.matches(index, term)

    def keeps_log(self, index: int, term: int) -> bool:
        """Say whether a snapshot at (index, term) would leave the log as it is: only what was applied is replaced."""
        return self._failed and not self._awaits_snapshot and self.log.matches(index, term)

    def restore(
        self, sender: str, header: SnapshotHeader, membership: Membership, membership_index: int, now: int
    ) -> None:
        """A snapshot of `sender` was put in place: begin the log anew behind it.

        Its pieces' headers went through `step`, and nothing has come since that ended what they began: see `follows`.

        Raises:
            BadMessage: its membership makes no sense, by itself or before those in the log behind it; nothing was done.
            Damaged: the log behind it cannot be read; nothing was done.
        """
        invariant(self.follows(sender, header.term), "a replica takes the snapshots of the leader that it follows")
        log = self.log
        if not is_whole(membership) or membership_index > header.index:
            raise BadMessage(f"a snapshot of shard {self.group} has {membership}, as of entry {membership_index}")
        history = MembershipHistory(membership, membership_index)
        if self.keeps_log(header.index, header.index_term):
            self._find_memberships(history, header.index)
            log.rebase(header.index)
        else:
            log.restart(header.index, header.index_term)
        self._history = history
        self._awaits_snapshot = False
        self._lead_or_not(self._leader, failed=False)
        self._feedings = 0
        self._accept(sender, header.index)
        self._settle_down(now)

    def compact(self, index: int) -> None:
        """Cut the log off up to and with `index`, which is applied and stored."""
        self.log.compact(index)

    def peer_connected(self, node: str, now: int) -> None:
        """Messages to `node` have a way again."""
        if self._leader is not None:
            self._leader.reachable(node, True, now)
            self.active = True
        else:
            self.may_have_missed(node, now)

    def peer_unreachable(self, node: str, now: int) -> None:
        """Messages to `node` are lost for now."""
        if self._leader is not None:
            self._leader.reachable(node, False, now)
            self.active = True
