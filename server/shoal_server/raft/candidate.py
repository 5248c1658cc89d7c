"""A replica's part in elections: when it campaigns, for what it asks, what it makes of the answers, and whom it votes for.

What replaces Raft's randomised timers is `Liveness`: as long as a replica has promised support to the process that leads it,
it neither campaigns nor votes for another. Once that has run out it campaigns at a deadline that chance has spread: first as
a pre-candidate, which binds nobody (Ongaro's dissertation, 9.6), then, if it could win, in a new term.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from shoal_server.raft.messages import (
    LeaderQuestion,
    Resigned,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from shoal_server.raft.quorum import Election, election
from shoal_server.raft.state import RaftState, Role

MOST_FEEDINGS = 6
"""How often the wait of a failed replica is doubled before it leads again: to about a minute."""


class Candidate:
    """See the module's first lines.

    Invariants: answers count only in the role that has asked for them; a vote is given once a term, to a log that has all of
    this one's, and to nobody while this replica is bound to a leader, or may have forgotten what it had promised.
    """

    __slots__ = (
        "_asked_at",
        "_deadline",
        "_fall_back",
        "_feedings",
        "_granted",
        "_lead",
        "_random",
        "_refused",
        "_restarted",
        "_state",
    )

    def __init__(
        self,
        state: RaftState,
        *,
        lead: Callable[[int], None],
        fall_back: Callable[[int, int], None],
        random: Random,
        now: int,
        priority: int,
    ) -> None:
        """
        Args:
            lead: makes this replica the leader of its term, from now (ns) on.
            fall_back: makes it a follower in a term, of a leader that is not yet known, from now (ns) on.
            priority: the node's place among those who should lead, 0 for the first: it campaigns first at a start.
        """
        self._state = state
        self._lead = lead
        self._fall_back = fall_back
        self._random = random
        self._restarted = state.term > 0
        self._feedings = 0
        self._granted: set[str] = set()
        self._refused: set[str] = set()
        self._asked_at = 0
        timing = state.timing
        start = max(now, state.liveness.vote_not_before) if self._restarted else now
        # Whoever should lead has a whole support time ahead of the next: nodes that start together seldom start at once.
        self._deadline = start + priority * timing.support_ns + random.randrange(timing.election_spread_ns)

    # -- campaigning

    @property
    def may_campaign(self) -> bool:
        """Whether this node can store a vote, has applied every committed change of membership, and votes, or may have to lead.

        See `MembershipHistory.is_electable` for the last. One that has failed applies nothing, and leads for those others
        that there are to feed (see `Group.fail`).
        """
        state = self._state
        log, history = state.log, state.history
        if state.failed:
            ready = history.current.voters != (state.node,)
        else:
            ready = not log.applied_index < history.current_index <= log.commit_index
        return (
            ready
            and not state.out_of_terms
            and history.is_electable(state.node, log.commit_index)
            and state.liveness.may_campaign
            and not (state.awaits_snapshot or state.is_silent)
        )

    @property
    def _due_at(self) -> int:
        """When to campaign, if there is no leader then: one that has failed leaves it to the others first.

        So does one that has much to apply yet, once and no longer: where all have, one of them has to lead.
        """
        state = self._state
        support = state.timing.support_ns
        if state.failed:
            return self._deadline + (support << self._feedings)
        lag = state.log.last_index - state.log.applied_index
        return self._deadline + (support if lag > state.config.replay_lag_entries else 0)

    def tick(self, now: int) -> None:
        """Campaign if that is due, on a node that does not lead."""
        state = self._state
        if state.role is Role.FOLLOWER:
            self.settle_down(now)
        if state.active and now >= self._due_at and self.may_campaign:
            if self._restarted and now < state.liveness.vote_not_before:
                return
            if state.role is not Role.FOLLOWER or not state.leader_is_supported(now):
                state.renewing = False
                self.pre_campaign(now)

    def campaign(self, now: int) -> None:
        """Campaign now, without waiting for the deadline, unless this replica may not or is bound to a leader."""
        if self.may_campaign and not self._state.failed and not self._is_bound(self._state.node, now):
            self.pre_campaign(now)

    def renew(self, now: int) -> None:
        """Take a leadership back, in a new term, that was handed on and has not arrived."""
        self._state.renewing = True
        self.pre_campaign(now)

    def pre_campaign(self, now: int) -> None:
        # The leader is not forgotten: if it is supported again before this is won, its claim holds as before.
        self._state.become(Role.PRE_CANDIDATE)
        self._ask_for_votes(now, pre=True, transfer=False)

    def _real_campaign(self, now: int, *, transfer: bool) -> None:
        state = self._state
        state.become(Role.CANDIDATE)
        state.leader = ""
        state.set_term(state.term + 1, state.node)
        self._ask_for_votes(now, pre=False, transfer=transfer)

    def _ask_for_votes(self, now: int, *, pre: bool, transfer: bool) -> None:
        state = self._state
        self._granted = {state.node}
        self._refused = set()
        retry = state.timing.election_retry_ns
        self._deadline = now + retry + self._random.randrange(retry + 1)
        state.active = True
        log = state.log
        term = state.term + 1 if pre else state.term
        request = VoteRequest(state.group, term, log.last_index, log.last_term, pre, transfer)
        for voter in state.history.current.voters:
            if voter != state.node:
                state.say(voter, request)
        self._count_votes(now)

    def _count_votes(self, now: int) -> None:
        state = self._state
        stands = election(state.history.current.voters, self._granted, self._refused)
        if stands is Election.WON:
            if state.role is Role.PRE_CANDIDATE and state.leader_is_supported(now):
                state.become(Role.FOLLOWER)
                self.settle_down(now)
            elif state.role is Role.PRE_CANDIDATE:
                self._real_campaign(now, transfer=False)
            else:
                self._lead(now)
        elif stands is Election.LOST and state.role is Role.CANDIDATE:
            state.become(Role.FOLLOWER)

    def on_vote_response(self, sender: str, message: VoteResponse, now: int) -> None:
        state = self._state
        asked = Role.PRE_CANDIDATE if message.pre else Role.CANDIDATE
        if state.role is not asked:
            return
        if message.granted and message.term == (state.term + 1 if message.pre else state.term):
            self._granted.add(sender)
        elif not message.granted:
            self._refused.add(sender)
        self._count_votes(now)

    def on_timeout_now(self, sender: str, message: TimeoutNow, now: int) -> None:  # noqa: ARG002 - handlers are alike
        state = self._state
        if state.leadership is None and self.may_campaign and not state.failed:
            state.become(Role.FOLLOWER)
            state.become(Role.PRE_CANDIDATE)
            self._real_campaign(now, transfer=True)

    # -- waiting

    def settle_down(self, now: int) -> None:
        """Be at rest as long as a supported leader is known, else get ready to campaign."""
        state = self._state
        if state.leader_is_supported(now):
            state.active = False
        elif not state.active:
            state.active = True
            self._deadline = now + self._random.randrange(state.timing.election_spread_ns + 1)

    def put_off(self, now: int) -> None:
        """Leave somebody else time to campaign, or to lead."""
        retry = self._state.timing.election_retry_ns
        self._deadline = max(self._deadline, now + retry + self._random.randrange(retry + 1))

    def fed(self) -> None:
        """A failed replica begins to lead, to feed the others: it waits longer before it does so again."""
        self._feedings = min(self._feedings + 1, MOST_FEEDINGS)

    def mended(self) -> None:
        """The replica has not failed any more."""
        self._feedings = 0

    # -- voting

    def on_vote_request(self, sender: str, message: VoteRequest, now: int) -> None:
        state = self._state
        if state.is_silent:
            self._refuse_vote(sender, message)
            return
        if not message.transfer and self._is_bound(sender, now):
            if message.term >= state.term:
                self._question_leader(now)
            self._refuse_vote(sender, message)
            return
        if message.term > state.term and not message.pre:
            self._fall_back(message.term, now)
        log = state.log
        up_to_date = (message.last_term, message.last_index) >= (log.last_term, log.last_index)
        if message.pre:
            free = message.term > state.term
        else:
            free = message.term == state.term and state.vote in ("", sender) and state.leader in ("", sender)
        if not (free and up_to_date):
            self._refuse_vote(sender, message)
        elif message.pre:
            state.say(sender, VoteResponse(state.group, message.term, True, True))
        else:
            state.set_term(state.term, sender)
            self.put_off(now)
            state.say(sender, VoteResponse(state.group, state.term, True, False))

    def _is_bound(self, candidate: str, now: int) -> bool:
        """Whether this replica owes somebody not to vote for `candidate` now."""
        state = self._state
        if self._restarted and now < state.liveness.vote_not_before:
            return True
        if state.leadership is not None:
            return True
        return state.leader != candidate and state.leader_is_supported(now)

    def _refuse_vote(self, sender: str, message: VoteRequest) -> None:
        self._state.say(sender, VoteResponse(self._state.group, self._state.term, False, message.pre))

    # -- asking whether the leader still leads

    def _question_leader(self, now: int) -> None:
        """A vote was refused for the leader's sake: make sure, now and then, that it still leads."""
        state = self._state
        if state.leader and now - self._asked_at >= state.timing.election_retry_ns:
            self.may_have_missed(state.leader, now)

    def may_have_missed(self, node: str, now: int) -> None:
        """What `node` has said, or was asked, may have been lost: if it is taken for the leader, ask whether it still leads.

        A quiet group says nothing by itself, and a leader says once that it is none any more. Whatever connection that was
        lost with, in one direction or the other, the next one in its place brings this about.
        """
        state = self._state
        if state.leadership is None and state.leader == node:
            self._asked_at = now
            state.say(node, LeaderQuestion(state.group, state.term))

    def on_leader_question(self, sender: str, message: LeaderQuestion, now: int) -> None:  # noqa: ARG002
        # No more than what can never come true again: this node may lead its present term, or be about to.
        state = self._state
        may_lead = state.leadership is not None or state.role is Role.CANDIDATE
        given_up = state.term - 1 if may_lead else state.term
        if given_up >= message.term:
            state.say(sender, Resigned(state.group, given_up))

    def on_resigned(self, sender: str, message: Resigned, now: int) -> None:
        state = self._state
        if state.leader == sender and message.term >= state.term and state.leadership is None:
            state.leader = ""
            self.settle_down(now)
