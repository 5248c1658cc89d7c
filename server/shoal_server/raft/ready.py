"""What a group hands to its caller: what to store, and what to send before and after it is on disk."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from shoal_server.raft.messages import Entry, HardState, Membership, RaftMessage


@dataclass(frozen=True, slots=True)
class LostEntries:
    """A replica came back without entries that it had acknowledged as being on its disk: the disk, or its files, lie.

    Args:
        acknowledged: up to where an earlier life of its process had the log.
        missing: an entry at or before that, which the present one has not.
    """

    node: str
    acknowledged: int
    missing: int


class Ready(msgspec.Struct):
    """Everything a group has to have done since the last one. The order that safety rests on:

    - `hard_state` and `entries` go to the engine in order of the Readies; the first entry's index implies that stored
      entries from there on are replaced;
    - `messages` may leave once that is written, synced or not;
    - `durable_messages` must not leave before everything in this Ready and all earlier ones is synced;
    - when it is synced, `Group.term_persisted` is told of the hard state, and `Group.persisted` of the entries. What may
      be applied is asked for apart: `Group.committed`.

    `reads`: (token, index) of confirmed reads, to be answered once `index` is applied; `failed_reads`: tokens of reads
    that this node can no longer serve; `snapshots_wanted`: replicas that need a snapshot; `lost_entries`: to be reported
    to whoever looks after the disks.
    """

    hard_state: HardState | None = None
    entries: list[Entry] = []
    messages: list[tuple[str, RaftMessage]] = []
    durable_messages: list[tuple[str, RaftMessage]] = []
    reads: list[tuple[int, int]] = []
    failed_reads: list[int] = []
    snapshots_wanted: list[str] = []
    lost_entries: list[LostEntries] = []


@dataclass(slots=True)
class PeerState:
    """One replica as its leader sees it."""

    node: str
    match_index: int
    state: str


@dataclass(slots=True)
class GroupStatus:
    """A group as this node sees it. `lease_until`: on the caller's clock, 0 for none."""

    role: str
    term: int
    leader: str
    membership: Membership
    membership_committed: bool
    first_index: int
    last_index: int
    commit_index: int
    applied_index: int
    lease_until: int
    peers: list[PeerState]


class BadMessage(Exception):
    """A message that no peer of ours sends: what it came by is not to be relied on."""


class ImplausibleTerm(BadMessage):
    """A message of a term that no group comes to. It is dropped; what else its connection carries is as good as before."""


class NotLeader(Exception):
    """Only the group's leader can do this."""


class TooManyUncommitted(Exception):
    """Too much is proposed and not yet committed: try again later; this was not done."""


class TransferInProgress(Exception):
    """Leadership is on its way to another node: try again in a moment; this was not done."""


class TransferRefused(Exception):
    """Leadership cannot be transferred so; the message says why."""
