"""The second half of a turn's end: a second batch with the effects of what is committed, and the answers that waited for it.

A leader's replica applies in the turn in which something is committed, and so does one that somebody reads from. Nobody waits
for any other follower's state, and one large batch costs less than many small ones: these apply all together, some time later.
A turn applies no more than `APPLY_US` of work; what is left is the next turn's, of other replicas first.
"""

from __future__ import annotations

from collections.abc import Collection

from shoal_server.node.agenda import Agenda
from shoal_server.node.comparisons import Comparisons
from shoal_server.node.failing import Failing
from shoal_server.node.flushes import Flushes
from shoal_server.node.migrations import Migrations
from shoal_server.node.outbox import Outbox
from shoal_server.node.replica import Replica
from shoal_server.node.serving import SERVE_NS, Serving
from shoal_server.node.settings import NodeSettings
from shoal_server.node.wall_clock import WallClock
from shoal_server.storage.engine import Batch, Damaged, Engine

APPLY_US = 20_000
"""Of work in one turn, as `shard.costs` reckons: as much as one entry may be, whose end may be beyond it."""


class Applying:
    """See the module's first lines."""

    __slots__ = (
        "_agenda",
        "_clock",
        "_comparisons",
        "_engine",
        "_failing",
        "_flushes",
        "_migrations",
        "_serving",
        "_settings",
    )

    def __init__(
        self,
        engine: Engine,
        settings: NodeSettings,
        agenda: Agenda,
        clock: WallClock,
        flushes: Flushes,
        comparisons: Comparisons,
        migrations: Migrations,
        failing: Failing,
        serving: Serving,
    ) -> None:
        self._engine = engine
        self._serving = serving
        self._settings = settings
        self._agenda = agenda
        self._clock = clock
        self._flushes = flushes
        self._comparisons = comparisons
        self._migrations = migrations
        self._failing = failing

    def apply(self, now: int, outbox: Outbox) -> None:
        """Write the batch, and answer writes and reads. What is dirty from here on is the next turn's."""
        agenda, settings = self._agenda, self._settings
        dirty, agenda.dirty = agenda.dirty, agenda.again
        agenda.again = {}
        batch = self._engine.batch()
        applied: dict[int, Replica] = {}
        left = APPLY_US
        if agenda.behind and now >= agenda.behind_due:
            left = self._apply_behind(batch, applied, left // 2, now) + left // 2
        behind = agenda.behind
        put_off: dict[int, Replica] = {}
        for shard, replica in dirty.items():
            if shard in applied or not replica.may_apply:
                # What it applies next must see what it has just applied, which is not written yet.
                continue
            if replica.group.is_leader or replica.reads.awaits_applying:
                if left <= 0:
                    put_off[shard] = replica
                    continue
                applied[shard] = replica
                left -= self._apply_to(batch, replica, left, now)
            elif shard not in behind:
                if not behind:
                    agenda.behind_due = now + settings.follower_apply_ns
                behind[shard] = replica
        if not batch.is_empty():
            self._engine.write_unlogged(batch)
        if applied:
            self._follow_up(applied.values(), now, outbox)
        if put_off:
            # First the next time, or those before them would take all of it for as long as they have more.
            agenda.dirty = put_off | agenda.dirty
            agenda.next_tick = now
        soon, clock, serving = now + settings.tick_interval_ns, self._clock, self._serving
        serving.now, serving.left = now, SERVE_NS
        for replica in dirty.values():
            group, reads = replica.group, replica.reads
            try:
                if not reads.serve(now, clock, serving, outbox):
                    agenda.dirty[replica.shard.id] = replica
                    agenda.next_tick = now
            except Damaged as error:
                self._failing.damaged(replica, error, now)
            if group.is_leader and group.has_committed:
                # A turn applies so much and no more, or heartbeats would wait for it.
                agenda.dirty[replica.shard.id] = replica
                agenda.next_tick = now
            elif soon < agenda.next_tick and (group.active or reads.awaits_applying):
                agenda.next_tick = soon

    def _apply_behind(self, batch: Batch, applied: dict[int, Replica], left: int, now: int) -> int:
        """Apply what those have who do so later, up to so much work; return what is left of it.

        Those that there is no more time for come first the next time.
        """
        agenda = self._agenda
        first: dict[int, Replica] = {}
        then: dict[int, Replica] = {}
        for shard, replica in agenda.behind.items():
            if replica.failure is not None:
                continue
            if left <= 0:
                first[shard] = replica
                continue
            applied[shard] = replica
            left -= self._apply_to(batch, replica, left, now)
            if replica.may_apply:
                then[shard] = replica
        agenda.behind = first | then
        return left

    def _apply_to(self, batch: Batch, replica: Replica, max_us: int, now: int) -> int:
        """Apply what `replica` has committed into `batch`, or have it fail; return the work that it was (us)."""
        before, cost = replica.machine.state.index, 0
        try:
            cost = replica.apply(batch, max_us)
        except Damaged as error:
            self._failing.damaged(replica, error, now)
        flushes = self._flushes
        flushes.unflushed += max(0, replica.machine.state.index - before)
        if flushes.unflushed >= flushes.entries_max:
            flushes.wanted = True
        return cost

    def _follow_up(self, replicas: Collection[Replica], now: int, outbox: Outbox) -> None:
        """Do what is due when these replicas have applied something, and it is written."""
        for replica in replicas:
            if replica.comparison is not None and replica.comparison.found is not None:
                replica.comparison.members_changed(replica.machine.state.membership)
            if replica.machine.digest_due is not None and replica.failure is None:
                try:
                    self._comparisons.make(replica, now, outbox)
                except Damaged as error:
                    self._failing.damaged(replica, error, now)
        self._flushes.split(replicas)
        # Before anybody is answered: a refusal is to carry the version of a map that says where to go.
        self._migrations.take_hand_overs(replicas, now)
        for replica in replicas:
            replica.proposals.answer_applied(outbox)
            if replica.stuck is not None and replica.failure is None:
                self._failing.fail(replica, replica.stuck.failure, now)
