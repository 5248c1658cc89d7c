"""The first half of a turn's end: one batch with what all groups want stored, and what may leave only when it is on disk."""

from __future__ import annotations

from collections import deque

from shoal.protocol.messages import Answer

from shoal_server.invariants import invariant
from shoal_server.node.agenda import Agenda
from shoal_server.node.failing import Failing
from shoal_server.node.flushes import Flushes
from shoal_server.node.outbox import Outbox
from shoal_server.node.replica import Replica
from shoal_server.node.replica_set import ReplicaSet
from shoal_server.node.snapshot_transfers import SnapshotTransfers
from shoal_server.node.unsynced import Unsynced
from shoal_server.node.wall_clock import WallClock
from shoal_server.storage.engine import Damaged, Engine


class Storing:
    """See the module's first line.

    What waits for the disk is in `unsynced`, oldest first, each with the ticket of a sync that covers its batch; what was
    taken out of groups and asks for no sync yet, in `_held`. `ticket` is the newest; up to `synced_to` all is on disk.
    """

    __slots__ = (
        "_agenda",
        "_clock",
        "_engine",
        "_failing",
        "_flushes",
        "_held",
        "_replica_set",
        "_transfers",
        "synced_to",
        "ticket",
        "unsynced",
    )

    def __init__(
        self,
        engine: Engine,
        replica_set: ReplicaSet,
        transfers: SnapshotTransfers,
        flushes: Flushes,
        failing: Failing,
        agenda: Agenda,
        clock: WallClock,
    ) -> None:
        self.unsynced: deque[Unsynced] = deque()
        self.ticket = 0
        self.synced_to = 0
        self._held = Unsynced()
        self._engine = engine
        self._replica_set = replica_set
        self._transfers = transfers
        self._flushes = flushes
        self._failing = failing
        self._agenda = agenda
        self._clock = clock

    def store(self, answers: list[tuple[int, Answer]], now: int, outbox: Outbox) -> int | None:
        """Write the batch; return the ticket to sync up to, if there is any.

        Args:
            answers: to be given when what was written before this is on disk.
        """
        engine, failing, transfers, held = self._engine, self._failing, self._transfers, self._held
        clock = self._clock
        batch = engine.batch()
        for replica in self._agenda.dirty.values():
            try:
                if replica.collect(batch, held, now, clock, outbox):
                    self._flushes.wanted = True
            except Damaged as error:
                failing.damaged(replica, error, now)
            if replica.snapshots_wanted:
                transfers.want(replica)
        adopted = transfers.store(batch, now) if transfers.has_to_store else []
        if not batch.is_empty():
            engine.write(batch)
        if adopted:
            self._take_up(adopted, now)
        if adopted or self._replica_set.may_lack:
            self._replica_set.open_missing(now)
        unsynced = self.unsynced
        if held.must_sync or adopted or answers or failing.has_stored:
            failing.has_stored = False
            self.ticket += 1
            held.ticket, held.answers = self.ticket, answers
            unsynced.append(held)
            self._held = Unsynced()
        elif held.messages:
            messages, held.messages = held.messages, []
            if unsynced:
                unsynced[-1].messages.extend(messages)
            else:
                for peer, message in messages:
                    outbox.send(peer, message)
        return self.ticket if unsynced else None

    def _take_up(self, adopted: list[Replica], now: int) -> None:
        """The batch has put snapshots in the place of these replicas' rows."""
        for replica in adopted:
            self._flushes.forget(replica)
            try:
                replica.reload()
            except Damaged as error:
                self._failing.damaged(replica, error, now)
            self._agenda.again[replica.shard.id] = replica

    def synced(self, ticket: int) -> None:
        """Everything written by the turns up to that of `ticket` is on disk."""
        invariant(self.synced_to <= ticket <= self.ticket, "a sync covers what was written, in order")
        self.synced_to = ticket

    def release_late(self, now: int, outbox: Outbox) -> None:
        """Do so in the second half of a turn, where the disk was that quick: what groups have to say then is the next one's."""
        agenda = self._agenda
        for replica in self.release(now, outbox):
            if replica.group.has_ready:
                agenda.again[replica.shard.id] = replica
                agenda.next_tick = now

    def release(self, now: int, outbox: Outbox) -> list[Replica]:
        """Tell groups, peers and clients of what is on disk by now; return the replicas whose entries are."""
        unsynced, agenda, replicas = self.unsynced, self._agenda, self._replica_set.by_shard
        told: list[Replica] = []
        while unsynced and unsynced[0].ticket <= self.synced_to:
            done = unsynced.popleft()
            for group, term in done.terms:
                group.term_persisted(term)
            for group, index, term in done.persisted:
                replica = replicas.get(group.group)
                if replica is not None and replica.group is group:
                    try:
                        group.persisted(index, term)
                    except Damaged as error:
                        self._failing.damaged(replica, error, now)
                    replica.proposals.synced(index, now)
                    agenda.dirty[group.group] = replica
                    told.append(replica)
            for peer, message in done.messages:
                outbox.send(peer, message)
            for client, answer in done.answers:
                outbox.answer(client, answer)
        return told

    def forget(self, replica: Replica) -> None:
        """What it was about to promise is being deleted: another replica of the shard here would be taken at its word."""
        shard = replica.shard.id
        for held in self.unsynced:
            held.messages = [(peer, message) for peer, message in held.messages if message.group != shard]
