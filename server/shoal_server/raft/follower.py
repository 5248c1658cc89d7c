"""What a replica does for the leader that it follows: it takes entries into its log, and says how far that is the leader's.

Invariants: what is committed is never cut off; only whole entries get into the log, each where it belongs; who awaits a
snapshot accepts nothing before it. What was accepted is said once a Ready, under the promise that is in force then.
"""

from __future__ import annotations

from shoal_server.invariants import invariant
from shoal_server.raft.candidate import Candidate
from shoal_server.raft.membership import is_membership
from shoal_server.raft.messages import (
    NEEDS_SNAPSHOT,
    AppendEntries,
    AppendRejected,
    CommitNotice,
    Entry,
    EntryKind,
    ReadProbe,
    ReadProbeConfirmed,
    SnapshotHeader,
    first_damaged,
)
from shoal_server.raft.ready import BadMessage
from shoal_server.raft.state import RaftState, Role


def check_entries(group: int, message: AppendEntries) -> None:
    """Only whole entries, each where it belongs, get into the log.

    Raises:
        BadMessage: these are not.
    """
    entries, index, term = message.entries, message.previous_index, message.previous_term
    damaged = first_damaged(group, entries)
    if damaged is not None:
        raise BadMessage(f"entry {damaged.index} of shard {group} arrived damaged: its checksum is another")
    for entry in entries:
        index += 1
        if entry.index != index or not term <= entry.term <= message.term:
            raise BadMessage(f"({entry.index}, {entry.term}) is no entry of shard {group} behind ({index - 1}, {term})")
        term = entry.term
        if entry.kind == EntryKind.MEMBERSHIP and not is_membership(entry.payload):
            raise BadMessage(f"entry {entry.index} of shard {group} is to be a membership, and is none")


class Follower:
    """See the module's first lines. Whoever gives it a message has settled its term."""

    __slots__ = ("_candidate", "_state")

    def __init__(self, state: RaftState, candidate: Candidate) -> None:
        """`candidate` is the replica's own part in elections, which rests while there is a leader."""
        self._state = state
        self._candidate = candidate

    def _follow(self, sender: str, epoch: int, now: int) -> None:
        """Take `sender`, in that life of its process, for the leader of this term."""
        state = self._state
        if state.leadership is not None:
            raise BadMessage(
                f"{sender} says that it leads shard {state.group} in term {state.term}, and this node does"
            )
        if state.leader != sender or state.role is not Role.FOLLOWER:
            if state.leader not in ("", sender):
                raise BadMessage(
                    f"{sender} says that it leads shard {state.group} in term {state.term}, and {state.leader} does"
                )
            state.become(Role.FOLLOWER)
            state.leader = sender
        state.leader_epoch = epoch
        self._candidate.settle_down(now)

    # -- entries

    def on_append(self, sender: str, message: AppendEntries, now: int) -> None:
        self._follow(sender, message.epoch, now)
        state = self._state
        if state.awaits_snapshot:
            self.reject(sender, message.previous_index)
            return
        log, entries = state.log, message.entries
        previous = message.previous_index
        if previous < log.commit_index:
            # What is committed here is the leader's, too: look only at what goes beyond.
            last = previous + len(entries)
            if last <= log.commit_index:
                self.accept(sender, log.commit_index)
                return
            entries = entries[log.commit_index - previous :]
            previous = log.commit_index
            if entries[0].term < log.term(previous):
                raise BadMessage(
                    f"entry {previous + 1} of shard {state.group} is of an older term than what is committed"
                )
        elif not log.matches(previous, message.previous_term):
            self.reject(sender, previous)
            return
        last = previous
        if entries:
            last = entries[-1].index
            if previous < log.last_index:
                entries = self._unknown(entries)
            if entries:
                history = state.history
                problem = history.problem(entries)
                if problem:
                    raise BadMessage(f"shard {state.group}: {problem}")
                if entries[0].index <= log.last_index:
                    # What the log has from there on conflicts with the leader's.
                    log.truncate_from(entries[0].index)
                    history.truncate_from(entries[0].index)
                log.append(entries)
                history.append(entries)
        self._commit_to(min(message.commit, last))
        self.accept(sender, last)

    def _unknown(self, entries: list[Entry]) -> list[Entry]:
        """Return the entries from the first one on that the log has not."""
        log = self._state.log
        for count, entry in enumerate(entries):
            if entry.index > log.last_index or log.term(entry.index) != entry.term:
                return entries[count:]
        return []

    def _commit_to(self, index: int) -> None:
        log = self._state.log
        if index > log.commit_index:
            invariant(index <= log.last_index, "only what is in the log is committed")
            log.commit_index = index

    def on_commit_notice(self, sender: str, message: CommitNotice, now: int) -> None:
        self._follow(sender, message.epoch, now)
        state = self._state
        log = state.log
        if state.awaits_snapshot:
            self.reject(sender, log.last_index)
            return
        # The leader knows that our log is its own up to there, or it would not have sent this.
        self._commit_to(min(message.commit, log.last_index))
        self.accept(sender, log.commit_index)

    # -- what is said of them

    def accept(self, sender: str, last: int) -> None:
        """Owe the leader one acceptance a Ready, however many appends came."""
        state = self._state
        invariant(
            not state.awaits_snapshot, "who awaits a snapshot has acknowledged nothing, and may have voted for anybody"
        )
        state.owes_acceptance = sender
        state.accepted_up_to = max(state.accepted_up_to, last)

    def reject(self, sender: str, previous: int) -> None:
        """Owe the leader a rejection. Under which promise, is found when it leaves."""
        state = self._state
        log = state.log
        if state.awaits_snapshot:
            conflict_term, conflict_index = 0, NEEDS_SNAPSHOT
        elif previous > log.last_index:
            conflict_term, conflict_index = 0, log.last_index + 1
        else:
            conflict_term = log.term(previous)
            conflict_index = log.first_index_of_term(previous, log.commit_index + 1)
        rejected = AppendRejected(state.group, state.term, previous, conflict_term, conflict_index, 0)
        state.rejections.append((sender, rejected))

    def report_lost_log(self) -> bool:
        """Tell the leader, where the log is lost, that nothing of it counts and a snapshot is needed; say whether it is."""
        state = self._state
        if state.lost_to and state.awaits_snapshot:
            self.reject(state.leader, state.log.last_index)
            return True
        return False

    # -- what else a leader says

    def on_read_probe(self, sender: str, message: ReadProbe, now: int) -> None:
        self._follow(sender, message.epoch, now)
        state = self._state
        state.say(sender, ReadProbeConfirmed(state.group, state.term, message.round))

    def on_snapshot_header(self, sender: str, message: SnapshotHeader, now: int) -> None:
        self._follow(sender, message.epoch, now)
