"""One Raft group as one of its replicas sees it: messages, proposals and time in; what to store, send and apply out.

The protocol is Raft (Ongaro's dissertation, 2014) with pre-vote (9.6), leadership transfer (3.10), ReadIndex (6.4) and
leases. It does no I/O and reads no clock: `now` is passed in, in nanoseconds of the node's own monotonic clock.

A group has a part for each thing that a replica does: `Candidate` in elections, `Follower` for the leader that it follows,
`Leader` while it leads. What they share is in `RaftState`, with the roles and how they change. The group gives them what
comes in, changes between them, and hands out what they have to say.

What replaces Raft's per-group heartbeats and randomised timers is `Liveness`: as long as a replica has promised support
to the process that leads it, it neither campaigns nor votes for another. So a quiet group needs no messages and no ticks
(`active` is False), and a leader that a majority supports and acknowledges holds a lease.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from shoal_server.invariants import invariant
from shoal_server.raft.candidate import Candidate
from shoal_server.raft.config import RaftConfig, Timing
from shoal_server.raft.follower import Follower, check_entries
from shoal_server.raft.leader import Leader
from shoal_server.raft.liveness import Liveness
from shoal_server.raft.log import Log
from shoal_server.raft.membership import MembershipChange, MembershipHistory, encode_membership, is_whole
from shoal_server.raft.membership_changes import next_membership
from shoal_server.raft.messages import (
    MAX_TERM_STEP,
    AppendAccepted,
    AppendEntries,
    AppendRejected,
    CommitNotice,
    EntryKind,
    HardState,
    LeaderQuestion,
    Membership,
    ReadProbe,
    ReadProbeConfirmed,
    Resigned,
    SnapshotHeader,
    Stepped,
    TermPassed,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from shoal_server.raft.ready import BadMessage, GroupStatus, ImplausibleTerm, NotLeader, PeerState, TransferRefused
from shoal_server.raft.state import RaftState, Role

FEEDING_SUPPORTS = 5
"""For how many support times a failed replica leads on for those that are not level yet, while another is; or for nobody."""

_ANSWERS = frozenset({AppendAccepted, AppendRejected, VoteResponse, ReadProbeConfirmed, TermPassed})
_OF_LEADERS = frozenset({AppendEntries, CommitNotice, ReadProbe, SnapshotHeader})


class Group(RaftState):
    """See the module's first lines.

    Invariants: the commit position never falls; a leader never drops an entry of its own log; and those of `RaftState`.
    """

    __slots__ = ("_candidate", "_follower", "_handlers")

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
        super().__init__(
            group,
            node,
            config=config,
            timing=timing,
            liveness=liveness,
            log=log,
            hard_state=hard_state,
            membership=membership,
            membership_index=membership_index,
            silent_until=silent_until,
            awaits_snapshot=awaits_snapshot,
            failed=failed,
            lost_to=lost_to,
            has_forgotten=has_forgotten,
        )
        self._candidate = candidate = Candidate(
            self, lead=self._become_leader, fall_back=self._become_follower, random=random, now=now, priority=priority
        )
        self._follower = follower = Follower(self, candidate)
        self._handlers: dict[type, Callable[[str, Any, int], None]] = {
            AppendEntries: follower.on_append,
            AppendAccepted: self._on_accepted,
            AppendRejected: self._on_rejected,
            VoteRequest: candidate.on_vote_request,
            VoteResponse: candidate.on_vote_response,
            TimeoutNow: candidate.on_timeout_now,
            ReadProbe: follower.on_read_probe,
            ReadProbeConfirmed: self._on_probe_confirmed,
            CommitNotice: follower.on_commit_notice,
            LeaderQuestion: candidate.on_leader_question,
            Resigned: candidate.on_resigned,
            TermPassed: self._on_term_passed,
            SnapshotHeader: follower.on_snapshot_header,
        }

    # -- what is so

    @property
    def may_have_to_vote(self) -> bool:
        """Whether a quorum may count on this node: it votes, or did before a change that may yet not be committed."""
        return self.history.is_electable(self.node, self.log.commit_index)

    @property
    def transferring(self) -> bool:
        """Whether leadership is on its way to another node, or has not arrived and is being taken back in a new term."""
        return self.renewing or (self.leadership is not None and self.leadership.transfer is not None)

    def status(self) -> GroupStatus:
        log, leader = self.log, self.leadership
        membership = self.history.current
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
            membership_committed=self.history.current_index <= log.commit_index,
            first_index=log.first_index,
            last_index=log.last_index,
            commit_index=log.commit_index,
            applied_index=log.applied_index,
            lease_until=leader.lease_until() if leader is not None and not self.failed else 0,
            peers=[PeerState(node, progress.match, progress.state.value) for node, progress in leader.progress.items()]
            if leader is not None
            else [],
        )

    def best_successor(self, now: int, able: Callable[[str], bool]) -> str:
        """Return the voter best placed to lead instead of this node, or "" where none is.

        Args:
            able: says whether a node may be given leadership at all.
        """
        return "" if self.leadership is None else self.leadership.best_successor(now, able)

    def needed_from(self) -> int:
        """Return the first entry that some reachable replica still needs of this leader's log."""
        return self.log.last_index + 1 if self.leadership is None else self.leadership.needed_from()

    def campaign(self, now: int) -> None:
        """Campaign now, without waiting for the deadline, unless this replica may not or is bound to a leader."""
        self._candidate.campaign(now)

    def may_have_missed(self, node: str, now: int) -> None:
        """What `node` has said, or was asked, may have been lost: see `Candidate.may_have_missed`."""
        self._candidate.may_have_missed(node, now)

    @property
    def may_campaign(self) -> bool:
        """Whether this replica may campaign once that is due (see `Candidate.may_campaign`)."""
        return self._candidate.may_campaign

    def has_leader(self, now: int) -> bool:
        """Whether this replica leads, or has heard lately from the process that does."""
        return self.is_leader or self.leader_is_supported(now)

    # -- messages in

    def step(self, sender: str, message: Stepped, now: int) -> None:
        """Take one message of a peer, or what a piece of a snapshot says of its sender (see `follows`).

        Raises:
            BadMessage: it cannot be what a peer sent; nothing was done.
            ImplausibleTerm: neither, but it is only this message that makes no sense.
        """
        if self.has_forgotten:
            # Whom it follows it may have voted out: what it acknowledged, that one would take for committed.
            return
        term = message.term
        if term - self.term > MAX_TERM_STEP:
            raise ImplausibleTerm(
                f"{type(message).__name__} of shard {self.group} is of term {term}; the replica knows {self.term}, "
                f"and takes no term that is more than {MAX_TERM_STEP} ahead"
            )
        if type(message) is AppendEntries:
            check_entries(self.group, message)
        elif type(message) is SnapshotHeader and message.index_term > term:
            raise BadMessage(
                f"a snapshot of shard {self.group} is of term {message.index_term}, and its sender's is {term}"
            )
        if term != self.term and not self._settle_term(sender, message, term, now):
            return
        self._handlers[type(message)](sender, message, now)

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
            self.say(sender, TermPassed(self.group, self.term))
        return False

    def _on_term_passed(self, sender: str, message: TermPassed, now: int) -> None:
        """The term is settled, and that was all."""

    def _on_accepted(self, sender: str, message: AppendAccepted, now: int) -> None:
        if self.leadership is not None:
            self.leadership.check_answer(message, self.durable_term)
            self.leadership.on_accepted(sender, message, now)
            self.active = True

    def _on_rejected(self, sender: str, message: AppendRejected, now: int) -> None:  # noqa: ARG002 - handlers are alike
        if self.leadership is not None:
            self.leadership.check_answer(message, self.durable_term)
            self.leadership.on_rejected(sender, message)
            self.active = True

    def _on_probe_confirmed(self, sender: str, message: ReadProbeConfirmed, now: int) -> None:
        if self.leadership is not None:
            self.leadership.on_probe_confirmed(sender, message.round)
            self.reads.extend(self.leadership.probe_reads(now))

    # -- changes of role

    def _become_follower(self, term: int, now: int) -> None:
        """Fall back to FOLLOWER, in `term`, of a leader not yet known."""
        self._resign()
        self.become(Role.FOLLOWER)
        self.leader = ""
        if term > self.term:
            self.set_term(term, "")
        self._candidate.settle_down(now)
        self._candidate.put_off(now)

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
        self.lead_or_not(self.leadership, failed=True)
        if lost_to:
            self.lost_to = max(self.lost_to, lost_to)
            self.awaits_snapshot = True
            self.owes_acceptance = ""
            self.accepted_up_to = 0
        if self.role is not Role.FOLLOWER:
            self._become_follower(self.term, now)

    def mended(self, now: int) -> None:
        """Lead and campaign as before `fail`: what had failed is whole again, and the log was all the time."""
        self.lead_or_not(self.leadership, failed=False)
        self._candidate.mended()
        if self.leadership is not None:
            self.leader = self.node
        self.wake(now)

    def report_lost_log(self) -> bool:
        """Tell the leader, where the log is lost, that nothing of it counts and a snapshot is needed; say whether it is."""
        return self._follower.report_lost_log()

    def _resign(self) -> None:
        leader = self.leadership
        if leader is None:
            return
        self.failed_reads.extend(leader.abandon_reads())
        for node in leader.others:
            self.say(node, Resigned(self.group, self.term))
        self.lead_or_not(None, failed=self.failed)

    def _become_leader(self, now: int) -> None:
        self.become(Role.LEADER)
        if self.failed:
            # It is nobody to be asked, here or elsewhere.
            self.leader = ""
            self._candidate.fed()
        else:
            self.leader = self.node
        self.leader_epoch = self.liveness.epoch
        leader = Leader(
            self.group,
            self.node,
            self.term,
            config=self.config,
            liveness=self.liveness,
            log=self.log,
            membership=self.history.current,
            send=self.say,
            now=now,
        )
        self.lead_or_not(leader, failed=self.failed)
        leader.append(EntryKind.EMPTY, [b""])
        self.active = True

    # -- time

    def wake(self, now: int) -> None:
        """Support for or by some member has changed: look whether that matters here."""
        if self.leadership is not None:
            self.active = True
        elif self.role is Role.FOLLOWER:
            self._candidate.settle_down(now)

    def tick(self, now: int) -> None:
        """Do what is due. Needed every few milliseconds while `active`, not at all otherwise."""
        leader = self.leadership
        if leader is not None:
            supported = leader.supported_until()
            removed = self.node not in leader.membership.voters and self.history.current_index <= self.log.commit_index
            fed = self.failed and leader.has_fed(now, FEEDING_SUPPORTS * self.timing.support_ns)
            if removed or fed or max(supported, leader.since) + self.timing.support_ns <= now:
                self._become_follower(self.term, now)
                return
            self.reads.extend(leader.probe_reads(now))
            # One that has failed does not lead for ever, whether or not anybody takes anything of it.
            self.active = leader.tick(now) or supported <= now or leader.lease_forfeited or self.failed
            if leader.lease_forfeited and leader.transfer is None and supported > now and self.may_campaign:
                # The target of a transfer has not taken over, and may still do so at any time. Only a newer term ends
                # that; without one there would never be a lease again.
                self._become_follower(self.term, now)
                self._candidate.renew(now)
            return
        self._candidate.tick(now)

    # -- proposals

    def _require_leader(self) -> Leader:
        if self.leadership is None or self.failed:
            raise NotLeader(f"{self.node} does not lead group {self.group}; {self.leader or 'nobody known'} does")
        return self.leadership

    def propose(self, payloads: list[bytes]) -> int:
        """Append COMMAND entries; return the index of the first.

        Raises:
            NotLeader, TransferInProgress, TooManyUncommitted: nothing was appended.
        """
        first = self._require_leader().propose(payloads)
        self.active = True
        return first

    def propose_membership(self, change: MembershipChange, now: int) -> int:
        """Append a change of membership; return its index.

        Raises:
            NotLeader: another node leads.
            MembershipRefused: not now, or not at all; the message says why and what would work.
        """
        leader, log = self._require_leader(), self.log
        membership = next_membership(leader, self.node, log, self.history, change, self.config, now)
        index = leader.append(EntryKind.MEMBERSHIP, [encode_membership(membership)])
        self.active = True
        self.history.append(log.entries(index, index + 1, 1))
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
        leader = self.leadership
        if leader is None or self.failed or leader.lease_until() <= now:
            return None
        return self.log.commit_index

    def start_read(self, token: int, now: int) -> None:
        """Confirm leadership for a read by a round of probes; `token` comes out in `Ready.reads` or `failed_reads`."""
        leader = self._require_leader()
        leader.start_read(token)
        self.reads.extend(leader.probe_reads(now))
        self.active = True

    # -- snapshots and connections

    def snapshot_ended(self, node: str, index: int) -> None:
        """A snapshot at `index` has reached `node`, or failed to (0)."""
        if self.leadership is not None and self.leadership.snapshot_ended(node, index):
            self.active = True

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
        if self.keeps_log(header.index, header.index_term):
            self.history = self.history_from(membership, membership_index, header.index)
            log.rebase(header.index)
        else:
            self.history = MembershipHistory(membership, membership_index)
            log.restart(header.index, header.index_term)
        self.awaits_snapshot = False
        self.lead_or_not(self.leadership, failed=False)
        self._candidate.mended()
        self._follower.accept(sender, header.index)
        self._candidate.settle_down(now)

    def compact(self, index: int) -> None:
        """Cut the log off up to and with `index`, which is applied and stored."""
        self.log.compact(index)

    def peer_connected(self, node: str, now: int) -> None:
        """Messages to `node` have a way again."""
        if self.leadership is not None:
            self.leadership.reachable(node, True, now)
            self.active = True
        else:
            self._candidate.may_have_missed(node, now)

    def peer_unreachable(self, node: str, now: int) -> None:
        """Messages to `node` are lost for now."""
        if self.leadership is not None:
            self.leadership.reachable(node, False, now)
            self.active = True
