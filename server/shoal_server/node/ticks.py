"""What is due by the clock: heartbeats, support that runs out, groups that are not at rest, upkeep of rows.

Only replicas that are awake are looked at: those that had something to do since they were last found at rest. What is at rest
costs nothing, but for a look at everything once a second, by which also is found what nobody has woken.
"""

from __future__ import annotations

from shoal_server.node.agenda import Agenda
from shoal_server.node.disk_health import DiskHealth
from shoal_server.node.failing import Failing
from shoal_server.node.leaderships import Leaderships
from shoal_server.node.loads import LoadClock
from shoal_server.node.outbox import Outbox
from shoal_server.node.rebuilding import Rebuilding
from shoal_server.node.replica import Replica
from shoal_server.node.replica_set import ReplicaSet
from shoal_server.node.settings import NodeSettings
from shoal_server.node.snapshot_transfers import SnapshotTransfers
from shoal_server.node.stray_rows import StrayRows
from shoal_server.node.wall_clock import WallClock
from shoal_server.raft.liveness import Liveness
from shoal_server.storage.engine import Damaged, Engine
from shoal_server.storage.node_rows import forget_longer_promises

LOOK_AT_ALL_NS = 1_000_000_000
JUMP_MS = 100
"""By how much a wall clock goes ahead of the node's own, or falls behind, before everything is looked at."""
LOOK_AT_ALL_MS = LOOK_AT_ALL_NS // 1_000_000


class Ticks:
    """See the module's first lines. `cpu`: the process's share of a core, for the process to set."""

    __slots__ = (
        "_agenda",
        "_ahead_ms",
        "_clock",
        "_disk",
        "_engine",
        "_failing",
        "_leaderships",
        "_liveness",
        "_loads",
        "_look_due",
        "_promised_ns",
        "_rebuilding",
        "_replica_set",
        "_settings",
        "_stray_rows",
        "_transfers",
        "cpu",
    )

    def __init__(
        self,
        replica_set: ReplicaSet,
        engine: Engine,
        settings: NodeSettings,
        agenda: Agenda,
        liveness: Liveness,
        disk: DiskHealth,
        clock: WallClock,
        transfers: SnapshotTransfers,
        leaderships: Leaderships,
        stray_rows: StrayRows,
        failing: Failing,
        promised_ns: int,
        now: int,
    ) -> None:
        """
        Args:
            promised_ns: the longest support that this node may have promised in an earlier life.
        """
        self.cpu = 0.0
        self._replica_set = replica_set
        self._engine = engine
        self._settings = settings
        self._agenda = agenda
        self._liveness = liveness
        self._disk = disk
        self._clock = clock
        self._transfers = transfers
        self._leaderships = leaderships
        self._stray_rows = stray_rows
        self._failing = failing
        self._promised_ns = promised_ns
        self._rebuilding = Rebuilding(agenda.awake, transfers)
        self._loads = LoadClock(now)
        self._look_due = now
        self._ahead_ms = 0

    @property
    def not_leading(self) -> str:
        """ "" or the reason to take no leadership and to hand over those there are."""
        return self._disk.not_leading or self._clock.not_leading

    def hand_over(self, now: int) -> int:
        """Begin to hand every leadership on; return how many are still here (see `Leaderships.hand_over`)."""
        begun, left = self._leaderships.hand_over(now)
        for replica in begun:
            self._agenda.mark(replica)
        return left

    def tell_whether_to_lead(self, now: int) -> None:
        """Have peers know at once whether this node may lead."""
        for peer in self._replica_set.peers:
            self._liveness.heartbeat_soon(peer)
        self._agenda.next_tick = now

    def judge_clock(self, now: int, wall_ms: int) -> None:
        """Compare the wall clock with the peers'."""
        clock = self._clock
        before, was_settled = bool(clock.not_leading), clock.settled
        clock.judge(now, wall_ms, nodes=1 + len(self._replica_set.peers))
        ahead_ms = wall_ms - now // 1_000_000
        if clock.settled != was_settled or abs(ahead_ms - self._ahead_ms) > JUMP_MS:
            # What was due by another time is not, or the other way round; and a clock that was set by it is wrong.
            self._ahead_ms = ahead_ms
            self._look_due = now
        if bool(clock.not_leading) != before:
            self.tell_whether_to_lead(now)

    def tick(self, now: int, outbox: Outbox) -> None:
        """Do what is due; `Agenda.next_tick` is when something will be again."""
        agenda, liveness, peers = self._agenda, self._liveness, self._replica_set.peers
        interval = self._settings.tick_interval_ns
        if self.not_leading:
            self.hand_over(now)
        self._tick_support(now, outbox)
        if now >= self._look_due:
            self._look_due = now + LOOK_AT_ALL_NS
            agenda.awake.update(self._replica_set.by_shard)
        any_active = self._tick_replicas(now, outbox)
        self._loads.tick(self._replica_set.by_shard.values(), self.cpu, now)
        self._transfers.tick(now)
        agenda.next_tick = now + interval if any_active or self._transfers.busy else liveness.next_due(now, peers)
        for due in (self._rebuilding.tick(now, outbox), self._stray_rows.tick(now)):
            if due is not None:
                agenda.next_tick = min(agenda.next_tick, due)

    def _tick_support(self, now: int, outbox: Outbox) -> None:
        """Send heartbeats; take note of support that has run out."""
        liveness, disk, replica_set = self._liveness, self._disk, self._replica_set
        support_ns, interval = self._settings.timing.support_ns, self._settings.tick_interval_ns
        if self._promised_ns > support_ns and now >= liveness.vote_not_before:
            self._promised_ns = support_ns
            forget_longer_promises(self._engine, self._promised_ns)
        beats = liveness.peers_heartbeats(
            now, replica_set.peers, not disk.stalled, not self.not_leading, disk.state.latency_us
        )
        for peer, heartbeat in beats.items():
            outbox.send(peer, heartbeat)
        for peer in liveness.expired(now):
            replica_set.wake_groups_with(peer, now, interval)
        for peer in liveness.unsupported_by(now):
            replica_set.wake_groups_with(peer, now, interval)

    def _tick_replicas(self, now: int, outbox: Outbox) -> bool:
        """Do what is due at the replicas that are awake; return whether any of them is to be looked at again soon."""
        clock, agenda, failing = self._clock, self._agenda, self._failing
        time_ms, settled, beyond_ms = clock.now_ms(now), clock.settled, clock.beyond_ms
        any_active = False
        at_rest: list[int] = []
        # Those that wake or fail meanwhile are for the next tick.
        for shard, replica in list(agenda.awake.items()):
            active = False
            if replica.transfer is not None:
                active = True
                replica.expire_transfer(now, outbox)
            if replica.group.active:
                active = True
                try:
                    replica.group.tick(now)
                except Damaged as error:
                    failing.damaged(replica, error, now)
                agenda.dirty[shard] = replica
            if replica.reads.is_used(now) or replica.refusals.held_back:
                active = True
                agenda.dirty[shard] = replica
            if settled:
                try:
                    if replica.queue_upkeep(time_ms, beyond_ms):
                        agenda.dirty[shard] = replica
                except Damaged as error:
                    failing.damaged(replica, error, now)
            if active:
                any_active = True
            elif not _has_to_wake(replica, time_ms, beyond_ms):
                at_rest.append(shard)
        for shard in at_rest:
            if shard not in agenda.dirty:
                agenda.awake.pop(shard, None)
        return any_active


def _has_to_wake(replica: Replica, time_ms: int, beyond_ms: int) -> bool:
    """Say whether a replica that is at rest has something due before the next look at all."""
    if replica.failure is not None:
        return True
    machine = replica.machine
    return replica.group.is_leader and (
        machine.expiry.due_at <= time_ms + LOOK_AT_ALL_MS or machine.state.clock_ms > time_ms + beyond_ms
    )
