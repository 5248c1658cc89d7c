"""What must be on disk before a message of a group leaves.

A process that forgets a term may enter it once more, and do in it what it had said that it will not. So whatever speaks
of a term waits until that term is on disk; and what promises something stored, or a vote, until everything is.
"""

from __future__ import annotations

from enum import Enum
from typing import get_args

from shoal_server.invariants import invariant
from shoal_server.raft.messages import (
    AppendAccepted,
    AppendEntries,
    AppendRejected,
    CommitNotice,
    LeaderQuestion,
    RaftMessage,
    ReadProbe,
    ReadProbeConfirmed,
    Resigned,
    TermPassed,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)


class _WaitsFor(Enum):
    """ITS_TERM: the term that the message names. ALL: whatever was handed out for storing until then, its term, too."""

    ITS_TERM = 1
    ALL = 2


_WAITS_FOR: dict[type, _WaitsFor] = {
    AppendEntries: _WaitsFor.ITS_TERM,
    CommitNotice: _WaitsFor.ITS_TERM,
    ReadProbe: _WaitsFor.ITS_TERM,
    TimeoutNow: _WaitsFor.ITS_TERM,
    LeaderQuestion: _WaitsFor.ITS_TERM,
    Resigned: _WaitsFor.ITS_TERM,
    TermPassed: _WaitsFor.ITS_TERM,
    AppendAccepted: _WaitsFor.ALL,
    AppendRejected: _WaitsFor.ALL,
    VoteRequest: _WaitsFor.ALL,
    VoteResponse: _WaitsFor.ALL,
    ReadProbeConfirmed: _WaitsFor.ALL,
}
invariant(set(_WAITS_FOR) == set(get_args(RaftMessage)), "it is known of each kind of message what it waits for")


def may_leave(message: RaftMessage, durable_term: int) -> bool:
    """Say whether a message may leave at once, where the newest term on disk is `durable_term`."""
    if _WAITS_FOR[type(message)] is _WaitsFor.ITS_TERM:
        return message.term <= durable_term
    # A pre-vote, asked for or granted, is for the term that would be: it binds nobody, and says of no term that it is.
    if type(message) is VoteRequest:
        return message.pre
    return type(message) is VoteResponse and message.pre and message.granted
