"""What must be on disk before a message of a group leaves.

A process that forgets a term may enter it once more, and do in it what it had said that it will not. So whatever speaks
of a term waits until that term is on disk; and what promises something stored, or a vote, until everything is.
"""

from __future__ import annotations

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

WAIT_FOR_THEIR_TERM: frozenset[type] = frozenset(
    {AppendEntries, CommitNotice, ReadProbe, TimeoutNow, LeaderQuestion, Resigned, TermPassed}
)
"""They leave when the term is on disk that they name."""

WAIT_FOR_ALL: frozenset[type] = frozenset(
    {AppendAccepted, AppendRejected, VoteRequest, VoteResponse, ReadProbeConfirmed}
)
"""They leave when whatever was handed out for storing until then is on disk, the term with it; see `binds_nobody`."""

invariant(
    set(get_args(RaftMessage)) == WAIT_FOR_THEIR_TERM | WAIT_FOR_ALL and not WAIT_FOR_THEIR_TERM & WAIT_FOR_ALL,
    "it is known of each kind of message what it waits for",
)


def binds_nobody(message: RaftMessage) -> bool:
    """Say whether a message is a pre-vote, asked for or granted: for the term that would be, and of none that is."""
    if type(message) is VoteRequest:
        return message.pre
    return type(message) is VoteResponse and message.pre and message.granted
