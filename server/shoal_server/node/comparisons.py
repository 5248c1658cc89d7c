"""Compares the replicas of the shards that a node leads, in the background: round by round, a slice at a time.

The leader proposes an entry that asks for the digest of a slice (digests.py); every replica makes it when it applies the
entry and reports it to its leader, which judges (verdicts.py) once all that can have reported, or some time has passed. A
replica that has another copy than most is told, and fails itself, so that it is rebuilt from the others; where nobody knows
which copy is right, the shard is shown as one whose replicas differ, and nothing is done to any of them.

A round goes through all rows of a shard. It begins anew while entries are applied, and once more when they have ceased;
then the shard is at rest and nothing is done, until a replica's node connects again (its disk may have lost or changed
something meanwhile), another leader takes over, or a day has passed. What a node's own shards may cost each of their
replicas is a share of the time, by what slices are known to take: large ones are further apart than small ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping

import structlog
from shoal.protocol.comparison import Divergence

from shoal_server.node.comparison import Comparison, OwnSlice
from shoal_server.node.counters import NodeCounters
from shoal_server.node.digests import (
    DigestReport,
    DigestVerdict,
    Slice,
    describe,
    first_microshard,
    slice_after,
)
from shoal_server.node.outbox import NOBODY, Outbox
from shoal_server.node.pace import Pace
from shoal_server.node.replica import Replica
from shoal_server.node.settings import ComparisonSettings
from shoal_server.node.verdicts import Copy, CopyVerdict, judge
from shoal_server.node.waiting import QueuedCommand
from shoal_server.shard.commands import DigestCommand, DigestCursor
from shoal_server.storage.engine import Engine

log = structlog.get_logger("shoal.node")

COMMAND_BYTES = 64
"""About what asking for a digest takes in a log entry, beside the key that it names."""
SLICE_NS = 300_000
"""What an entry of its own and looking at places take of a node, about."""
ROW_NS = 1_000
BYTE_NS = 2
MAX_BEHIND_ENTRIES = 256
"""A replica that has more committed entries to apply makes no digests: nobody waits for those of a replica so far behind."""
MAX_SHOWN_COPIES = 8
NEVER = 1 << 62


class Comparisons:
    """All comparisons of a node, and its replicas' part in those of other leaders."""

    def __init__(
        self,
        node: str,
        engine: Engine,
        replicas: Mapping[int, Replica],
        connected: Collection[str],
        settings: ComparisonSettings,
        counters: NodeCounters,
        fail: Callable[[Replica, int, str, int], None],
        pace: Pace,
        now: int,
    ) -> None:
        """
        Args:
            replicas: all of the node's, by shard, at every moment; `connected` likewise the peers that there is a way to.
            fail: takes out a replica that differs from the others: since which log index, why, and now (ns).
        """
        self._node = node
        self._engine = engine
        self._replicas = replicas
        self._connected = connected
        self._settings = settings
        self._counters = counters
        self._fail = fail
        self._pace = pace
        self._look_at = now + settings.look_ns if settings.share_permille else NEVER
        self._pace_at = now
        self._queue: deque[Replica] = deque()
        self._open: dict[int, Replica] = {}
        self.due_at = self._look_at

    def step(self, now: int, outbox: Outbox) -> list[Replica]:
        """Do what is due at `now`, and set `due_at` anew; return the replicas that have something to propose."""
        if now >= self._look_at:
            self._look(now)
        for replica in list(self._open.values()):
            comparison = self._current(replica)
            if comparison is None:
                del self._open[replica.shard.id]
            elif comparison.own is not None:
                if now - comparison.own.made_at >= self._settings.patience_ns:
                    self._finish(replica, comparison, comparison.own, now, outbox)
            elif now - comparison.asked_at >= self._settings.patience_ns:
                # Its entry may never have been proposed; if it comes after all, another with the same cursor does no harm.
                comparison.asked_at = 0
                del self._open[replica.shard.id]
                self._queue.append(replica)
        asking: list[Replica] = []
        while self._queue and now >= self._pace_at:
            replica = self._queue.popleft()
            comparison = self._current(replica)
            if comparison is not None and comparison.cursor is not None and not replica.group.transferring:
                self._ask(replica, comparison, comparison.cursor, now)
                asking.append(replica)
            elif comparison is not None:
                comparison.cursor = None
        self.due_at = self._next_due()
        return asking

    def _next_due(self) -> int:
        due_at = min(self._look_at, self._pace_at) if self._queue else self._look_at
        for replica in self._open.values():
            comparison = replica.comparison
            if comparison is not None:
                since = comparison.asked_at if comparison.own is None else comparison.own.made_at
                due_at = min(due_at, since + self._settings.patience_ns)
        return due_at

    def _look(self, now: int) -> None:
        """Queue the shards of which a round is due."""
        settings = self._settings
        self._look_at = now + settings.look_ns
        for replica in self._replicas.values():
            group = replica.group
            if not group.is_leader or len(group.members) < 2:
                continue
            comparison = replica.comparison
            if comparison is None or comparison.term != group.term:
                comparison = replica.comparison = Comparison(group.term, now + settings.first_ns, now, now)
            if comparison.is_due(group.log.last_index, now, settings.daily_ns):
                comparison.begin()
                self._queue.append(replica)

    def _current(self, replica: Replica) -> Comparison | None:
        """Return the comparison of a replica that is still here and leads in the term that it began in."""
        comparison = replica.comparison
        if comparison is None or self._replicas.get(replica.shard.id) is not replica:
            return None
        return comparison if comparison.is_of(replica.group.term, replica.group.is_leader) else None

    def _ask(self, replica: Replica, comparison: Comparison, cursor: DigestCursor, now: int) -> None:
        comparison.asked_at, comparison.own = now, None
        self._open[replica.shard.id] = replica
        found = comparison.found if comparison.found != replica.machine.state.divergence else None
        size = COMMAND_BYTES + len(cursor.after) + (0 if found is None else len(str(found)))
        replica.queue_command(
            QueuedCommand(NOBODY, 0, DigestCommand(cursor, comparison.whole_index, found), None, size)
        )
        self._spend(SLICE_NS, now)

    def _spend(self, ns: int, now: int) -> None:
        """Be silent for so long that `ns` of every replica's time are no more than the share of it that is allowed."""
        silence = self._pace.pause(ns * 1000 // self._settings.share_permille, now)
        self._pace_at = max(self._pace_at, now) + silence

    # -- every replica

    def make(self, replica: Replica, now: int, outbox: Outbox) -> None:
        """Make the digest that the last entry applied asks for, if it does. What was applied is written by now."""
        due = replica.machine.take_digest_due()
        group = replica.group
        if due is None or len(group.members) < 2:
            return
        comparison = self._current(replica)
        if comparison is not None:
            awaited = due.term == comparison.term and comparison.asked_at and due.cursor == comparison.cursor
        else:
            behind = group.log.commit_index - due.index > MAX_BEHIND_ENTRIES
            awaited = group.leader not in ("", self._node) and not behind
        if not awaited:
            return
        found = slice_after(due.cursor, replica.machine, self._engine)
        copied_index = replica.machine.state.copied_index
        report = DigestReport(replica.shard.id, due.index, found.digest, found.next, copied_index)
        self._counters.compared_slices += 1
        self._counters.compared_bytes += found.bytes
        replica.newest_digest = report
        if comparison is None:
            outbox.send(group.leader, report)
        else:
            self._begin_judging(replica, comparison, due.cursor, found, report, now, outbox)

    def _begin_judging(
        self,
        replica: Replica,
        comparison: Comparison,
        cursor: DigestCursor,
        found: Slice,
        report: DigestReport,
        now: int,
        outbox: Outbox,
    ) -> None:
        self._spend(ROW_NS * found.rows + BYTE_NS * found.bytes, now)
        if not comparison.slices:
            comparison.first_index = report.index
        comparison.slices += 1
        state = replica.machine.state
        own = comparison.own = OwnSlice(cursor, report, now, state.membership, state.compared_index)
        for node in replica.group.members:
            if node != self._node and node not in self._connected:
                comparison.miss(node, 0, connected=False)
        self._finish_if_complete(replica, comparison, own, now, outbox)
        self.due_at = self._next_due()

    def told_to_fail(self, sender: str, verdict: DigestVerdict, replica: Replica, now: int) -> None:
        """Take the leader's word that this replica differs from most, if it is about the digest that it has reported."""
        group, newest = replica.group, replica.newest_digest
        if sender != group.leader or verdict.term != group.term or newest is None or verdict.right == verdict.wrong:
            return
        if (newest.index, newest.digest) == (verdict.index, verdict.wrong):
            self._fail_replica(replica, verdict.index, verdict.wrong, verdict.right, now)

    def _fail_replica(self, replica: Replica, index: int, wrong: bytes, right: bytes, now: int) -> None:
        self._counters.replicas_differed += 1
        self._fail(
            replica,
            index,
            f"at log index {index} the digest of some of its rows is {wrong.hex()}, that of most replicas {right.hex()}",
            now,
        )

    # -- the leader

    def report(self, sender: str, report: DigestReport, replica: Replica, now: int, outbox: Outbox) -> None:
        """Take a member's report."""
        comparison = self._current(replica)
        if comparison is None or sender not in replica.group.members:
            return
        comparison.reports[sender] = report
        if comparison.own is not None and comparison.own.index == report.index:
            self._finish_if_complete(replica, comparison, comparison.own, now, outbox)
            self.due_at = self._next_due()

    def connected(self, peer: str) -> None:
        """A peer has connected again, perhaps in a new life: what it has is to be compared."""
        for replica in self._replicas.values():
            if replica.comparison is not None and peer in replica.group.members:
                replica.comparison.recheck = True

    def _reports(self, comparison: Comparison, own: OwnSlice) -> dict[str, DigestReport]:
        """Return what there is on the open slice, this node's own among it."""
        reports = {node: report for node, report in comparison.reports.items() if report.index == own.index}
        reports[self._node] = own.report
        return reports

    def _finish_if_complete(
        self, replica: Replica, comparison: Comparison, own: OwnSlice, now: int, outbox: Outbox
    ) -> None:
        if self._reports(comparison, own).keys() | comparison.missed >= set(replica.group.members):
            self._finish(replica, comparison, own, now, outbox)

    def _finish(self, replica: Replica, comparison: Comparison, own: OwnSlice, now: int, outbox: Outbox) -> None:
        """Judge the open slice, and go on to the next."""
        self._open.pop(replica.shard.id, None)
        comparison.asked_at, comparison.own = 0, None
        again_at = now + self._settings.retry_ns
        reports = self._reports(comparison, own)
        for node in set(replica.group.members) - reports.keys() - comparison.missed:
            comparison.miss(node, again_at, connected=node in self._connected)
        compared_index = max(comparison.whole_index, own.compared_index)
        verdict = judge(
            {node: Copy(report.digest, report.next) for node, report in reports.items()},
            own.membership,
            {node for node, report in reports.items() if report.copied_index and report.copied_index >= compared_index},
        )
        comparison.proven &= verdict.right is not None
        if verdict.right is not None and verdict.wrong:
            comparison.differed = True
            self._sentence(replica, own, reports, verdict, verdict.right, now, outbox)
        elif verdict.undecided:
            comparison.differed = True
            self._show(replica, comparison, own, verdict)
        if own.report.next is None or self._current(replica) is None or verdict.wrong:
            comparison.end(own.index, now, again_at, replica.machine.state)
            self._counters.comparison_rounds += 1
        else:
            comparison.cursor = own.report.next
            self._queue.append(replica)

    def _sentence(
        self,
        replica: Replica,
        own: OwnSlice,
        reports: Mapping[str, DigestReport],
        verdict: CopyVerdict,
        right: Copy,
        now: int,
        outbox: Outbox,
    ) -> None:
        """Tell the replicas that have not the right copy; this node's own goes last, with the leadership."""
        shard = replica.shard.id
        log.error(
            "replica_differs",
            shard=shard,
            nodes=", ".join(verdict.wrong),
            index=own.index,
            rows=describe(own.cursor, own.report.next),
            right=right.digest.hex(),
            reason="it has other rows than most replicas at the same entry of the log; it is taken out and rebuilt",
        )
        for node in verdict.wrong:
            if node != self._node:
                wrong = reports[node].digest
                outbox.send(node, DigestVerdict(shard, replica.group.term, own.index, wrong, right.digest))
        if self._node in verdict.wrong:
            self._fail_replica(replica, own.index, own.report.digest, right.digest, now)

    def _show(self, replica: Replica, comparison: Comparison, own: OwnSlice, verdict: CopyVerdict) -> None:
        """Say that replicas differ, and that nobody knows which are right."""
        end = own.report.next
        last = (
            max(self._replicas[replica.shard.id].machine.prefixes, default=0) if end is None else first_microshard(end)
        )
        copies = tuple(verdict.copies[:MAX_SHOWN_COPIES])
        rows = describe(own.cursor, end)
        divergence = Divergence(own.index, first_microshard(own.cursor), last, rows, copies)
        if comparison.found is None:
            log.error(
                "replicas_differ",
                shard=replica.shard.id,
                index=own.index,
                rows=rows,
                copies="; ".join(", ".join(nodes) for nodes in copies),
                reason="no copy is that of most replicas: none is replaced, an operator has to say which is right",
            )
            self._counters.divergences += 1
        comparison.found = divergence
