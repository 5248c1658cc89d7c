"""What peers send: their connections come and go, their messages step groups, their heartbeats ask for support."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
import structlog

from shoal_server.node.absent_replicas import answer_for_absent
from shoal_server.node.agenda import Agenda
from shoal_server.node.comparisons import Comparisons
from shoal_server.node.counters import NodeCounters
from shoal_server.node.digests import DigestReport, DigestVerdict
from shoal_server.node.failing import Failing
from shoal_server.node.freshness import FreshnessAnswer, FreshnessQuestion
from shoal_server.node.leaderships import Leaderships
from shoal_server.node.outbox import Outbox, PeerMessage
from shoal_server.node.replica_set import ReplicaSet
from shoal_server.node.settings import NodeSettings
from shoal_server.node.snapshot_transfers import SnapshotTransfers
from shoal_server.node.splits import Splits
from shoal_server.node.wall_clock import WallClock
from shoal_server.raft.liveness import Liveness
from shoal_server.raft.messages import (
    AppendAccepted,
    AppendRejected,
    Heartbeat,
    HeartbeatAnswer,
    ReadProbeConfirmed,
    VoteRequest,
    VoteResponse,
)
from shoal_server.raft.ready import BadMessage, ImplausibleTerm
from shoal_server.storage.engine import Damaged
from shoal_server.storage.snapshot import SnapshotAck, SnapshotChunk, SnapshotWanted

log = structlog.get_logger("shoal.node")

_ANSWERS = frozenset((AppendAccepted, AppendRejected, ReadProbeConfirmed, VoteResponse, SnapshotAck))
"""What a peer says only once it has received something from this node."""

SAY_AGAIN_NS = 60_000_000_000
"""What a peer repeats without end is logged this seldom."""


class PeerInput:
    """See the module's first line.

    Attributes:
        connected: the peers that messages have a way to.
        cut_off: peers whose connection is to be ended, since it brought what no peer sends, and why.
        disk_latency_us: of peers, as their heartbeats say.
    """

    __slots__ = (
        "_agenda",
        "_clock",
        "_comparisons",
        "_counters",
        "_failing",
        "_implausible_due",
        "_leaderships",
        "_liveness",
        "_replica_set",
        "_settings",
        "_splits",
        "_started_at",
        "_transfers",
        "connected",
        "cut_off",
        "disk_latency_us",
    )

    def __init__(
        self,
        replica_set: ReplicaSet,
        connected: set[str],
        settings: NodeSettings,
        agenda: Agenda,
        liveness: Liveness,
        clock: WallClock,
        counters: NodeCounters,
        splits: Splits,
        transfers: SnapshotTransfers,
        leaderships: Leaderships,
        comparisons: Comparisons,
        failing: Failing,
        now: int,
    ) -> None:
        self.connected = connected
        self.cut_off: dict[str, str] = {}
        self.disk_latency_us: dict[str, int] = {}
        self._started_at = now
        self._replica_set = replica_set
        self._settings = settings
        self._agenda = agenda
        self._liveness = liveness
        self._clock = clock
        self._counters = counters
        self._splits = splits
        self._transfers = transfers
        self._leaderships = leaderships
        self._comparisons = comparisons
        self._failing = failing
        self._implausible_due: dict[tuple[str, int], int] = {}

    def take_events(self, events: Collection[tuple[str, bool]], now: int) -> None:
        """Take in which peers have connected, and which connections were lost, in their order."""
        for peer, connected in events:
            (self.connected.add if connected else self.connected.discard)(peer)
            for replica in self._replica_set.by_shard.values():
                group = replica.group
                if peer in group.members or peer == group.leader:
                    try:
                        if connected:
                            group.peer_connected(peer, now)
                        else:
                            group.peer_unreachable(peer, now)
                    except Damaged as error:
                        self._failing.damaged(replica, error, now)
                    self._agenda.mark(replica)
            if connected:
                self._comparisons.connected(peer)
                # Support needs a heartbeat there and back: do not wait for the next tick to begin.
                self._liveness.connected(peer)
                self._agenda.next_tick = now
            else:
                self._transfers.peer_lost(peer)

    def take(self, frames: Collection[tuple[str, list[PeerMessage]]], now: int, wall_ms: int, outbox: Outbox) -> None:
        """Take in the frames of peers, in their order.

        Args:
            wall_ms: Unix time by the machine's clock.
        """
        replicas, dirty = self._replica_set.by_shard, self._agenda.dirty
        for sender, messages in frames:
            for message in messages:
                if isinstance(message, (Heartbeat, HeartbeatAnswer)):
                    self._take_heartbeat(sender, message, now, wall_ms, outbox)
                    continue
                replica = replicas.get(message.group)
                if replica is None:
                    if isinstance(message, VoteRequest):
                        self._splits.keep(sender, message)
                    else:
                        answer_for_absent(sender, message, outbox)
                    continue
                dirty[message.group] = replica
                if type(message) in _ANSWERS:
                    self._liveness.answered(sender)
                if isinstance(message, SnapshotWanted):
                    if sender in replica.group.members:
                        self._transfers.asked(replica, sender)
                        self._leaderships.asked_for_rows(message.group, sender, now)
                elif isinstance(message, FreshnessQuestion):
                    answer = replica.reads.answer_freshness(message, now)
                    if answer is not None:
                        outbox.send(sender, answer)
                elif isinstance(message, FreshnessAnswer):
                    if self._started_at <= message.asked_at <= now:
                        replica.reads.take_freshness(message)
                elif isinstance(message, DigestReport):
                    self._comparisons.report(sender, message, replica, now, outbox)
                elif isinstance(message, DigestVerdict):
                    self._comparisons.told_to_fail(sender, message, replica, now)
                else:
                    try:
                        if isinstance(message, (SnapshotChunk, SnapshotAck)):
                            self._transfers.receive(sender, message, replica, now)
                        else:
                            replica.group.step(sender, message, now)
                    except Damaged as error:
                        self._failing.damaged(replica, error, now)
                    except BadMessage as error:
                        self._refuse(sender, message.group, error, now)

    def _refuse(self, sender: str, shard: int, error: BadMessage, now: int) -> None:
        """A message makes no sense: end what it came by, unless that would only harm the other groups."""
        self._counters.messages_refused += 1
        if not isinstance(error, ImplausibleTerm):
            self.cut_off[sender] = str(error)
        elif now >= self._implausible_due.get((sender, shard), now):
            # Who believes in such a term repeats it, several times a second.
            self._implausible_due[sender, shard] = now + SAY_AGAIN_NS
            log.error("term_implausible", peer=sender, shard=shard, reason=str(error))

    def _take_heartbeat(
        self, sender: str, message: Heartbeat | HeartbeatAnswer, now: int, wall_ms: int, outbox: Outbox
    ) -> None:
        if isinstance(message, Heartbeat):
            (self._leaderships.unfit.discard if message.may_lead else self._leaderships.unfit.add)(sender)
            self.disk_latency_us[sender] = message.disk_latency_us
            if self._liveness.may_have_missed(sender, message):
                for replica in self._replica_set.by_shard.values():
                    if replica.group.leader == sender:
                        replica.group.may_have_missed(sender, now)
                        self._agenda.mark(replica)
            answer = self._liveness.on_heartbeat(sender, message, now)
            outbox.send(sender, msgspec.structs.replace(answer, wall_ms=wall_ms))
        else:
            if self._started_at <= message.sent_at:
                self._clock.heard(sender, message.sent_at, now, message.wall_ms)
            if self._liveness.on_answer(sender, message, now):
                self._replica_set.wake_groups_with(sender, now, self._settings.tick_interval_ns)
