"""What the replicas of a group say to each other, and the entries of their log, as typed structs.

The sender of a message is known from the connection it came by. Terms and indexes begin at 1; 0 means "none".
Structs travel as MessagePack arrays that may grow at their end.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct as Layout
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta
from shoal.bounds import (
    Checksum,
    ClockNs,
    Count,
    DurationNs,
    DurationUs,
    Epoch,
    LogIndex,
    Name,
    Names,
    Promise,
    ShardId,
    Term,
    Version,
    WallMs,
)
from shoal.protocol.checksum import checksum

_PLACE = Layout(">IQQB")
MAX_TERM_STEP = 1 << 24
"""How far a message's term may be above what its receiver knows. A group that elects a leader every ten seconds has come so far
in five years, be it that a replica was away, or is new; whoever names a higher term is wrong, or means harm."""
MAX_ENTRY_KIND = 255
"""One byte says what an entry is for."""


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all peer structs."""


class EntryKind(IntEnum):
    """What a log entry is for: EMPTY opens a leader's term, COMMAND is the state machine's, MEMBERSHIP the group's."""

    EMPTY = 0
    COMMAND = 1
    MEMBERSHIP = 2


class Entry(_Message, frozen=True):
    """One entry of the log. `payload` of a MEMBERSHIP entry is an encoded `Membership`; of an EMPTY one, empty.

    `checksum` is made once, where the entry is proposed (see `sealed`), and goes with it to every disk.
    """

    term: Term
    index: LogIndex
    kind: Annotated[int, Meta(ge=0, le=MAX_ENTRY_KIND)]
    payload: bytes
    checksum: Checksum


def entry_checksum(group: int, term: int, index: int, kind: int, payload: bytes) -> int:
    """Return the checksum of an entry of a group's log: of all that it says, and of where it stands."""
    return checksum(payload, checksum(_PLACE.pack(group, term, index, kind)))


def sealed(group: int, term: int, index: int, kind: int, payload: bytes) -> Entry:
    """Return a new entry, with its checksum."""
    return Entry(term, index, kind, payload, entry_checksum(group, term, index, kind, payload))


def first_damaged(group: int, entries: list[Entry]) -> Entry | None:
    """Return the first of the entries that is not what was proposed; None: all are."""
    for entry in entries:
        if entry_checksum(group, entry.term, entry.index, entry.kind, entry.payload) != entry.checksum:
            return entry
    return None


class Membership(_Message, frozen=True):
    """Who takes part in a group from some entry on. `version` grows by one with every change.

    Invariant: voters and learners are disjoint, and there is at least one voter.
    """

    version: Version
    voters: Names
    learners: Names = ()


class HardState(_Message, frozen=True):
    """What must be on disk before any message that depends on it leaves: the newest term seen and the vote in it."""

    term: Term
    vote: Name


class AppendEntries(_Message, frozen=True, tag=20):
    """Leader to replica: `entries` follow (previous_index, previous_term); everything up to `commit` is committed.

    `epoch`, here and below, is the life of the leader's process: the one whose support binds the replica.
    """

    group: ShardId
    term: Term
    previous_index: LogIndex
    previous_term: Term
    commit: LogIndex
    entries: list[Entry]
    epoch: Epoch


class AppendAccepted(_Message, frozen=True, tag=21):
    """Replica to leader: its log, on its disk, agrees with the leader's up to `match_index`.

    `promise`, here and below, is the replica's promise to the leader's node that is in force: the one under which it
    knows this leader (see `HeartbeatAnswer`). Its number also says which life of the replica's process answers.
    """

    group: ShardId
    term: Term
    match_index: LogIndex
    commit: LogIndex
    promise: Promise


NEEDS_SNAPSHOT = 0
"""In place of an index in `AppendRejected.conflict_index`: no entries will do."""


class AppendRejected(_Message, frozen=True, tag=22):
    """Replica to leader, which it follows: it has no entry (rejected_index, ·) of that term.

    `conflict_term` is the term of its entry there and `conflict_index` the first index it holds of that term; where
    its log is too short, `conflict_term` is 0 and `conflict_index` one past its last.
    """

    group: ShardId
    term: Term
    rejected_index: LogIndex
    conflict_term: Term
    conflict_index: LogIndex
    promise: Promise


class VoteRequest(_Message, frozen=True, tag=23):
    """Candidate to voter. `pre` asks without binding anybody; `transfer` was bidden by the leader itself."""

    group: ShardId
    term: Term
    last_index: LogIndex
    last_term: Term
    pre: bool
    transfer: bool


class VoteResponse(_Message, frozen=True, tag=24):
    """Voter to candidate, for the `term` that was asked (granted) or the voter's own (refused)."""

    group: ShardId
    term: Term
    granted: bool
    pre: bool


class TimeoutNow(_Message, frozen=True, tag=25):
    """Leader to voter: campaign at once; the leader has given its lease up for the rest of the term."""

    group: ShardId
    term: Term


class ReadProbe(_Message, frozen=True, tag=26):
    """Leader to voter: am I still your leader? `round` is the leader's own counter (ReadIndex)."""

    group: ShardId
    term: Term
    round: Count
    commit: LogIndex
    epoch: Epoch


class ReadProbeConfirmed(_Message, frozen=True, tag=27):
    """Voter to leader: yes, at the time `round` reached me."""

    group: ShardId
    term: Term
    round: Count


class CommitNotice(_Message, frozen=True, tag=28):
    """Leader to replica, when no append carries it: everything up to `commit` is committed, if you match up to there."""

    group: ShardId
    term: Term
    commit: LogIndex
    epoch: Epoch


class LeaderQuestion(_Message, frozen=True, tag=29):
    """Replica to the node that it takes for its leader: do you still lead?

    Asked when it has refused somebody a vote for the leader's sake, and whenever a connection between the two was made
    anew: what the leader had said of its end may have been lost with the one before.
    """

    group: ShardId
    term: Term


class Resigned(_Message, frozen=True, tag=30):
    """Once-leader to replica: I do not lead the group in `term` (any more)."""

    group: ShardId
    term: Term


class TermPassed(_Message, frozen=True, tag=31):
    """Replica to who leads in an older term, or did when it sent what this answers: I am in `term`."""

    group: ShardId
    term: Term


class SnapshotHeader(_Message, frozen=True):
    """Leader to replica, in every piece of a snapshot at (index, index_term): I lead, and so far it brings you.

    It settles the term, and whom the replica follows, as an append does; the rows that travel with it are the caller's.
    """

    group: ShardId
    term: Term
    index: LogIndex
    index_term: Term
    epoch: Epoch


RaftMessage: TypeAlias = (
    AppendEntries
    | AppendAccepted
    | AppendRejected
    | VoteRequest
    | VoteResponse
    | TimeoutNow
    | ReadProbe
    | ReadProbeConfirmed
    | CommitNotice
    | LeaderQuestion
    | Resigned
    | TermPassed
)
"""What travels by itself."""

Stepped: TypeAlias = RaftMessage | SnapshotHeader
"""What a group takes."""


class Heartbeat(_Message, frozen=True, tag=50):
    """Node to node, for all groups at once: asks for support.

    Args:
        epoch: the sending process's life; a new one voids all support given to an older one.
        sent_at: the sender's clock, nanoseconds, echoed in the answer.
        heard_at: `sent_at` of the newest heartbeat whose answer the sender has seen, 0 for none: shows the receiver
            that its answers arrive, without which it gives no support (a leader that cannot be answered cannot lead).
        wants_support: False where the sender must not lead now (its disk stalls).
        may_lead: False where nobody is to hand leadership to the sender (its disk is full, hangs or is slow).
        disk_latency_us: how long its disk takes for a sync, 0 where that is not known.
        link: how many connections to the receiver the sending process has had: with each new one, what was under way in
            the one before may have been lost.
    """

    epoch: Epoch
    sent_at: ClockNs
    heard_at: ClockNs
    wants_support: bool
    may_lead: bool = True
    disk_latency_us: DurationUs = 0
    link: Count = 0


class HeartbeatAnswer(_Message, frozen=True, tag=51):
    """Answer to a heartbeat: the receiver supports the sender's leaderships for `support_ns` from its receipt on.

    `support_ns` is 0 where it gives none. `promise` numbers the unbroken promise that this prolongs: a promise that had
    run out, or that an earlier life of the process made, is not prolonged but replaced by one with a higher number.
    `wall_ms` is what the receiver's wall clock shows (Unix milliseconds), 0 where it does not say.
    """

    sent_at: ClockNs
    support_ns: DurationNs
    promise: Promise
    wall_ms: WallMs = 0
