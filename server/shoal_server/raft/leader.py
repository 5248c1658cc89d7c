"""What a leader does for its term: feed the replicas, count what they have, confirm reads, hand leadership over.

It exists while its node leads and is thrown away with the leadership, so nothing of it can outlive the term. Its node
need not be a voter: one that was elected while its own demotion is not committed counts as nothing (see state.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shoal_server.invariants import invariant
from shoal_server.raft.config import RaftConfig
from shoal_server.raft.liveness import FOREVER, Liveness, life_of
from shoal_server.raft.log import Log
from shoal_server.raft.messages import (
    NEEDS_SNAPSHOT,
    AppendAccepted,
    AppendEntries,
    AppendRejected,
    CommitNotice,
    EntryKind,
    Membership,
    RaftMessage,
    ReadProbe,
    TimeoutNow,
    first_damaged,
    sealed,
)
from shoal_server.raft.progress import Progress, ProgressState
from shoal_server.raft.quorum import reached_by_quorum
from shoal_server.raft.ready import BadMessage, LostEntries, TooManyUncommitted, TransferInProgress


@dataclass(slots=True)
class _ReadRound:
    """Reads that one round of probes confirms (dissertation, 6.4). `index`: the commit position when it began."""

    index: int
    tokens: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Transfer:
    """Leadership on its way. Once TimeoutNow is sent, the lease is given up for the rest of the term."""

    target: str
    deadline: int
    sent: bool = False


class Leader:
    """The leader's side of a group, in one term."""

    __slots__ = (
        "_admitted",
        "_config",
        "_confirmed",
        "_group",
        "_liveness",
        "_log",
        "_node",
        "_probed_at",
        "_read_round",
        "_rounds",
        "_send",
        "_waiting",
        "first_index",
        "lease_forfeited",
        "lost_entries",
        "membership",
        "others",
        "progress",
        "since",
        "snapshots_wanted",
        "term",
        "transfer",
        "uncommitted_bytes",
        "unsent",
    )

    def __init__(
        self,
        group: int,
        node: str,
        term: int,
        *,
        config: RaftConfig,
        liveness: Liveness,
        log: Log,
        membership: Membership,
        send: Callable[[str, RaftMessage], None],
        now: int,
    ) -> None:
        self._group = group
        self._node = node
        self._config = config
        self._liveness = liveness
        self._log = log
        self._send = send
        self.term = term
        self.since = now
        self.first_index = log.last_index + 1
        """The first entry of this term: nothing is read under a lease, and no membership changed, before it commits."""
        self.progress: dict[str, Progress] = {}
        self.set_membership(membership, now)
        self.lease_forfeited = False
        self.transfer: _Transfer | None = None
        self.uncommitted_bytes = 0
        self._admitted: deque[tuple[int, int]] = deque()
        """The commands of this term that are not committed: their positions, and their bytes."""
        self.unsent = False
        self.snapshots_wanted: list[str] = []
        self.lost_entries: list[LostEntries] = []
        self._waiting: list[int] = []
        self._rounds: dict[int, _ReadRound] = {}
        self._read_round = 0
        self._confirmed: dict[str, int] = {}
        self._probed_at = 0

    def set_membership(self, membership: Membership, now: int) -> None:
        """Feed those who are in `membership`, and nobody else, from now on."""
        self.membership = membership
        self.others = [node for node in (*membership.voters, *membership.learners) if node != self._node]
        self.progress = {
            node: self.progress.get(node) or Progress(self._config, self._log.last_index + 1, now)
            for node in self.others
        }

    # -- proposing

    def propose(self, payloads: list[bytes]) -> int:
        """Append COMMAND entries; return the index of the first.

        Raises:
            TransferInProgress, TooManyUncommitted: nothing was appended.
        """
        if self.transfer is not None:
            raise TransferInProgress(f"leadership of group {self._group} is on its way to {self.transfer.target!r}")
        bound = self._config.max_uncommitted_bytes
        size = sum(map(len, payloads))
        if self.uncommitted_bytes and self.uncommitted_bytes + size > bound:
            raise TooManyUncommitted(
                f"shard {self._group} has {self.uncommitted_bytes} bytes proposed and not yet committed, "
                f"of {bound} allowed: its replicas do not keep up"
            )
        self.uncommitted_bytes += size
        first = self.append(EntryKind.COMMAND, payloads)
        self._admitted += [(index, len(payload)) for index, payload in enumerate(payloads, first)]
        return first

    def append(self, kind: EntryKind, payloads: list[bytes]) -> int:
        """Append entries of this term; return the index of the first."""
        log = self._log
        first = log.last_index + 1
        group, term = self._group, self.term
        log.append([sealed(group, term, index, kind, payload) for index, payload in enumerate(payloads, first)])
        self.unsent = True
        return first

    # -- replicating

    def replicate(self, now: int) -> None:
        """Send every replica what it has not been sent yet and its window has room for."""
        self.unsent = False
        last = self._log.last_index
        for node in self.others:
            progress = self.progress[node]
            while progress.next <= last and progress.may_send:
                self._append_to(node, progress, now)

    def _append_to(self, node: str, progress: Progress, now: int) -> None:
        """Send one append: what comes next; less of it while it is not known where the replica's log agrees."""
        log = self._log
        previous = progress.next - 1
        if previous < log.truncated_index:
            if progress.state is not ProgressState.SNAPSHOT:
                progress.await_snapshot()
                self.snapshots_wanted.append(node)
            return
        entries = []
        size = 0
        if progress.next <= log.last_index:
            replicating = progress.state is ProgressState.REPLICATE
            bound = self._config.max_append_bytes if replicating else self._config.max_probe_bytes
            entries = log.entries(progress.next, log.last_index + 1, bound)
            stored = log.persisted_index
            if not replicating and progress.next <= stored and first_damaged(self._group, entries) is not None:
                # A replica refuses what is damaged with the connection, and is probed then: let it have what is stored.
                entries = log.stored_entries(progress.next, stored + 1, bound)
            size = sum(len(entry.payload) for entry in entries)
        message = AppendEntries(
            self._group, self.term, previous, log.term(previous), log.commit_index, entries, self._liveness.epoch
        )
        self._send(node, message)
        progress.sent(previous + len(entries), size, now)

    def _answered_by(self, sender: str, promise: int) -> Progress | None:
        """Return what is known of the replica that answers, or None where the answer is of nobody who takes part."""
        progress = self.progress.get(sender)
        if progress is None or not progress.answered_by(life_of(promise)):
            return None
        progress.promise = max(progress.promise, promise)
        return progress

    def check_answer(self, message: AppendAccepted | AppendRejected, durable_term: int) -> None:
        """Nobody has more of this term's log than its leader, or answers what has not left.

        Raises:
            BadMessage: this one does.
        """
        last = self._log.last_index
        if isinstance(message, AppendAccepted):
            whole = message.match_index <= last and message.commit <= last
        else:
            conflict = message.conflict_index
            whole = conflict == NEEDS_SNAPSHOT or conflict <= message.rejected_index <= last
        if not whole or self.term > durable_term:
            raise BadMessage(
                f"{message} answers nothing that the leader of shard {self._group} has said: its log ends at {last}"
            )

    def on_accepted(self, sender: str, message: AppendAccepted, now: int) -> None:
        progress = self._answered_by(sender, message.promise)
        if progress is None:
            return
        progress.commit = max(progress.commit, message.commit)
        if progress.accepted(message.match_index, self._log.truncated_index, now):
            self.advance_commit()
            transfer = self.transfer
            if transfer is not None and transfer.target == sender:
                self._push_transfer()
        self.unsent = True

    def on_rejected(self, sender: str, message: AppendRejected) -> None:
        progress = self._answered_by(sender, message.promise)
        if progress is None:
            return
        lost = progress.take_lost(message.rejected_index)
        if lost:
            self.lost_entries.append(LostEntries(sender, lost, message.rejected_index))
        if message.conflict_index == NEEDS_SNAPSHOT:
            # Whatever it had accepted before, it has no entries any more that could count.
            progress.match = 0
            if progress.state is not ProgressState.SNAPSHOT:
                progress.await_snapshot()
                self.snapshots_wanted.append(sender)
            return
        next_index = message.conflict_index
        if message.conflict_term:
            # Theirs up to there are of that term or older ones: what of ours is of newer ones cannot be in both logs.
            # Of that very term, ours may be in both, as far as they go; where we have none, none of theirs is.
            log = self._log
            ours = log.last_index_up_to_term(message.rejected_index, message.conflict_term)
            next_index = ours + 1 if log.matches(ours, message.conflict_term) else min(ours + 1, message.conflict_index)
        if progress.rejected(message.rejected_index, next_index):
            self.unsent = True

    def advance_commit(self) -> None:
        """Commit what a majority of the voters has on disk, if it is of this term (dissertation, 5.4.2)."""
        log = self._log
        index = reached_by_quorum(
            [log.persisted_index if v == self._node else self.progress[v].match for v in self.membership.voters]
        )
        if index > log.commit_index and index >= self.first_index:
            # Entries may not be in memory any more, so what was admitted is known by itself.
            while self._admitted and self._admitted[0][0] <= index:
                self.uncommitted_bytes -= self._admitted.popleft()[1]
            invariant(self.uncommitted_bytes >= 0, "no more is committed than was proposed")
            log.commit_index = index

    def needed_from(self) -> int:
        """Return the first entry that some reachable replica still needs of the log."""
        return min(
            (progress.match + 1 for progress in self.progress.values() if progress.reachable),
            default=self._log.last_index + 1,
        )

    def snapshot_ended(self, node: str, index: int) -> bool:
        """A snapshot at `index` has reached `node`, or failed to (0); return whether that one waited for it."""
        progress = self.progress.get(node)
        if progress is None or progress.state is not ProgressState.SNAPSHOT:
            return False
        # A snapshot that failed may have been refused, or its success not heard of: ask what the replica has first.
        progress.snapshot_ended(index or self._log.truncated_index)
        self.unsent = True
        return True

    # -- leading

    def lease_until(self) -> int:
        """Return until when no other leader can have been elected, or 0 where that is not known."""
        if self.lease_forfeited or self._log.commit_index < self.first_index:
            return 0
        supported_until = self._liveness.supported_until
        return reached_by_quorum(
            [
                FOREVER if voter == self._node else supported_until(voter) if self._is_bound(voter) else 0
                for voter in self.membership.voters
            ]
        )

    def _is_bound(self, node: str) -> bool:
        """Whether it was under the promise whose end we know that `node` last showed to know us for its leader."""
        return self.progress[node].promise == self._liveness.promise_of(node)

    def supporters(self, voters: Iterable[str], now: int) -> list[str]:
        """Return those of `voters` that are known to live: they support this node, or are it."""
        return [voter for voter in voters if self._liveness.supported_until(voter) > now]

    def supported_until(self) -> int:
        """Return until when a majority of voters supports this node, whatever they know of its leadership."""
        return reached_by_quorum([self._liveness.supported_until(voter) for voter in self.membership.voters])

    # -- reading

    def start_read(self, token: int) -> None:
        self._waiting.append(token)

    def probe_reads(self, now: int) -> list[tuple[int, int]]:
        """Begin a round for the reads that wait, once this term has committed; return those confirmed already."""
        if self._waiting and self._log.commit_index >= self.first_index:
            self._read_round += 1
            self._rounds[self._read_round] = _ReadRound(self._log.commit_index, self._waiting)
            self._waiting = []
            self._send_probes(now)
        return self._take_confirmed()

    def _send_probes(self, now: int) -> None:
        self._probed_at = now
        message = ReadProbe(self._group, self.term, self._read_round, self._log.commit_index, self._liveness.epoch)
        for voter in self.membership.voters:
            if voter != self._node:
                self._send(voter, message)

    def on_probe_confirmed(self, sender: str, read_round: int) -> None:
        if read_round > self._read_round:
            raise BadMessage(
                f"{sender} confirms round {read_round} of reads of shard {self._group}, which was not begun"
            )
        self._confirmed[sender] = max(self._confirmed.get(sender, 0), read_round)

    def _take_confirmed(self) -> list[tuple[int, int]]:
        if not self._rounds:
            return []
        confirmed = reached_by_quorum(
            [self._read_round if v == self._node else self._confirmed.get(v, 0) for v in self.membership.voters]
        )
        reads: list[tuple[int, int]] = []
        for number in [number for number in self._rounds if number <= confirmed]:
            done = self._rounds.pop(number)
            reads.extend((token, done.index) for token in done.tokens)
        return reads

    def abandon_reads(self) -> list[int]:
        """Return the tokens of all reads that were not confirmed."""
        tokens = [token for pending in self._rounds.values() for token in pending.tokens] + self._waiting
        self._rounds = {}
        self._waiting = []
        return tokens

    # -- handing over

    def has_fed(self, now: int, patience_ns: int) -> bool:
        """Say whether there is nobody left to feed, for a leader that does nothing else.

        Another voter has the whole log, and so have all whom entries help, unless they take longer than patience. Or no
        voter has taken any for as long as that: it cannot be reached, or a snapshot would have to come first. To lead on
        would help nobody, and keep those from leading who could.
        """
        level = lagging = False
        taken_at = self.since
        for voter in self.membership.voters:
            if voter != self._node:
                progress = self.progress[voter]
                taken_at = max(taken_at, progress.heard_at)
                if progress.match >= self._log.last_index:
                    level = True
                elif progress.reachable and progress.state is not ProgressState.SNAPSHOT:
                    lagging |= self._liveness.supported_until(voter) > now
        if now - taken_at >= patience_ns:
            return True
        return level and (not lagging or now - self.since >= patience_ns)

    def best_successor(self, now: int, able: Callable[[str], bool]) -> str:
        """Return the voter best placed to lead instead of this node, or "" where none is.

        Args:
            able: says whether a node may be given leadership at all.
        """
        candidates = {
            voter: self.progress[voter].match
            for voter in self.membership.voters
            if voter != self._node
            and self.progress[voter].state is ProgressState.REPLICATE
            and self._liveness.supported_until(voter) > now
            and able(voter)
        }
        best = max(candidates.values(), default=0)
        furthest = sorted(voter for voter, match in candidates.items() if match == best)
        # Not the same one for all groups: a node that gives up everything it leads must not burden a single other.
        return furthest[self._group % len(furthest)] if furthest else ""

    def begin_transfer(self, target: str, now: int) -> None:
        self.transfer = _Transfer(target, now + self._config.transfer_timeout_ns)
        self._push_transfer()

    def _push_transfer(self) -> None:
        transfer = self.transfer
        if transfer is None or transfer.sent or self.progress[transfer.target].match < self._log.last_index:
            return
        # From here on the target may win whatever our voters promised us: no lease outlives this line.
        self.lease_forfeited = True
        transfer.sent = True
        self._send(transfer.target, TimeoutNow(self._group, self.term))

    # -- time

    def tick(self, now: int) -> bool:
        """Send again what seems lost, and commits that no append carried; return whether there is more to come."""
        busy = False
        config, log = self._config, self._log
        transfer = self.transfer
        if transfer is not None:
            if now >= transfer.deadline or transfer.target not in self.membership.voters:
                self.transfer = None
            busy = True
        if self._rounds or self._waiting:
            busy = True
            if self._rounds and now - self._probed_at >= config.probe_retry_ns:
                self._send_probes(now)
        for node in self.others:
            progress = self.progress[node]
            if not progress.reachable or self._liveness.supported_until(node) <= now:
                # It can take nothing now. A connection, or its support, wakes the group when it can.
                continue
            if progress.match < log.last_index or not self._is_bound(node):
                busy = True
                self._feed_slowly(node, progress, now)
            elif progress.commit < log.commit_index:
                busy = True
                if now - progress.sent_at >= config.commit_notice_delay_ns and (
                    progress.sent_at < progress.heard_at or now - progress.sent_at >= config.probe_retry_ns
                ):
                    progress.sent_at = now
                    self._send(node, CommitNotice(self._group, self.term, log.commit_index, self._liveness.epoch))
        return busy

    def _feed_slowly(self, node: str, progress: Progress, now: int) -> None:
        config = self._config
        if progress.state is ProgressState.REPLICATE:
            silent_for = now - max(progress.heard_at, progress.sent_at)
            if progress.outstanding and silent_for >= config.stall_ns:
                progress.probe()
            elif not progress.outstanding and not self._is_bound(node) and silent_for >= config.probe_retry_ns:
                # All there is was accepted, but before it gave the promise that is in force: tell it again who leads.
                self._append_to(node, progress, now)
            self.unsent = True
        elif progress.state is ProgressState.PROBE and now - progress.sent_at >= config.probe_retry_ns:
            progress.probe()
            self._append_to(node, progress, now)

    def reachable(self, node: str, reachable: bool, now: int) -> None:
        """A connection to a replica came or went: what was in it is lost."""
        progress = self.progress.get(node)
        if progress is None:
            return
        progress.reachable = reachable
        if progress.state is ProgressState.REPLICATE:
            progress.probe()
        if reachable and progress.state is ProgressState.PROBE:
            progress.probe()
            self._append_to(node, progress, now)
