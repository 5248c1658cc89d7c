"""Snapshots on their way: which replicas are being sent one, and which are being taken in, a chunk at a time.

A sender keeps one chunk of a transfer in flight and sends the next when it is acknowledged, so a receiver is never
flooded; at most `snapshots_at_once` transfers are under way per node, the others wait their turn. What breaks (a lost
peer, silence, a new leader, a newer transfer) ends the transfer; the protocol asks for another.

Every chunk's header goes through the group's `step` as it arrives, like an append: it settles the term and whom the
replica follows. The chunk itself is taken at the end of the turn, from whom the replica follows then and nobody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import structlog

from shoal_server.node.counters import NodeCounters
from shoal_server.node.memory import Account, MemoryBudget
from shoal_server.node.outbox import Outbox
from shoal_server.node.pace import Pace
from shoal_server.node.replica import Replica
from shoal_server.node.settings import NodeSettings
from shoal_server.raft.messages import SnapshotHeader
from shoal_server.raft.ready import BadMessage
from shoal_server.storage.applied_state import state_problem
from shoal_server.storage.engine import Batch, Damaged, Engine
from shoal_server.storage.snapshot import (
    SnapshotAck,
    SnapshotChunk,
    SnapshotReader,
    SnapshotStager,
    chunk_checksum,
    rows_size,
)

MAX_PAUSE_NS = 1_000_000_000
"""Between an acknowledgement and the next chunk."""

log = structlog.get_logger("shoal.node")


@dataclass(slots=True)
class _Sending:
    """A transfer to `peer`. `deadline`: when silence ends it. `sent_at`: the last chunk; `due_at`: the next (all ns).

    `held`: what there is in memory of the chunk that is not acknowledged (bytes).
    """

    replica: Replica
    peer: str
    transfer: int
    term: int
    reader: SnapshotReader
    number: int
    last: bool
    deadline: int
    sent_at: int
    due_at: int
    held: int = 0


@dataclass(slots=True)
class _Taking:
    """A transfer from `peer`. `deadline`: when silence ends it."""

    peer: str
    transfer: int
    stager: SnapshotStager
    expected: int
    deadline: int


class SnapshotTransfers:
    """All transfers of a node."""

    def __init__(
        self,
        engine: Engine,
        settings: NodeSettings,
        replicas: Mapping[int, Replica],
        counters: NodeCounters,
        epoch: int,
        pace: Pace,
        memory: MemoryBudget,
    ) -> None:
        """
        Args:
            replicas: all of the node's, by shard.
            epoch: the life of the node's process.
            pace: how fast chunks may follow each other.
            memory: chunks under way are counted there.
        """
        self._memory = memory
        self._pace = pace
        self._engine = engine
        self._epoch = epoch
        self._replicas = replicas
        self._settings = settings
        self._counters = counters
        self._sending: dict[tuple[int, str], _Sending] = {}
        self._wanted: deque[tuple[Replica, str]] = deque()
        self._taking: dict[int, _Taking] = {}
        self._abandoned: list[SnapshotStager] = []
        self._arrived: list[tuple[Replica, str, SnapshotChunk, int]] = []
        self._acknowledged: list[_Sending] = []
        self._acks: list[tuple[str, SnapshotAck]] = []
        self._damaged: list[tuple[Replica, Damaged]] = []
        self._next_transfer = 1

    @property
    def busy(self) -> bool:
        """Whether anything is under way that time may end."""
        return bool(self._sending or self._taking or self._wanted)

    @property
    def under_way(self) -> tuple[int, int, int]:
        """How many are being sent, are being taken in, and wait to be sent."""
        return len(self._sending), len(self._taking), len(self._wanted)

    def takes(self, shard: int) -> bool:
        """Say whether a snapshot of `shard` is being taken in."""
        return shard in self._taking

    def sends(self, shard: int, peer: str) -> bool:
        """Say whether a snapshot of `shard` is on its way to `peer`."""
        return (shard, peer) in self._sending

    def asked(self, replica: Replica, peer: str) -> None:
        """Queue a snapshot that `peer` has asked for, unless one is on its way, or waits for its turn."""
        if (replica.shard.id, peer) not in self._sending and (replica, peer) not in self._wanted:
            self._wanted.append((replica, peer))

    def want(self, replica: Replica) -> None:
        """Queue snapshots for those whose entries are no longer in the replica's log."""
        self._wanted.extend((replica, peer) for peer in replica.snapshots_wanted)
        replica.snapshots_wanted = []

    def peer_lost(self, peer: str) -> None:
        """End what was under way to and from `peer`."""
        for sending in [sending for sending in self._sending.values() if sending.peer == peer]:
            self._end_sending(sending, 0, "the connection was lost")
        for group in [group for group, taking in self._taking.items() if taking.peer == peer]:
            self._end_taking(group)

    def forget(self, replica: Replica) -> None:
        """End what is under way for a replica that is being removed."""
        shard = replica.shard.id
        for sending in [sending for sending in self._sending.values() if sending.replica is replica]:
            self._end_sending(sending, 0, "the replica was removed")
        self._taking.pop(shard, None)
        self._wanted = deque(item for item in self._wanted if item[0] is not replica)
        for _, _, _, held in [item for item in self._arrived if item[0] is replica]:
            self._memory.give_back(Account.SNAPSHOTS, held)
        self._arrived = [item for item in self._arrived if item[0] is not replica]

    def give_up(self, replica: Replica, reason: str) -> None:
        """End the transfers of what a replica has, whose rows are not to become a copy."""
        for sending in [sending for sending in self._sending.values() if sending.replica is replica]:
            self._end_sending(sending, 0, reason)
        self._wanted = deque(item for item in self._wanted if item[0] is not replica)

    def tick(self, now: int) -> None:
        """End what has been silent for too long, or whose leadership is over."""
        for sending in list(self._sending.values()):
            group = sending.replica.group
            if not group.is_leader or group.term != sending.term:
                self._end_sending(sending, 0, "leadership was lost")
            elif now >= sending.deadline:
                self._end_sending(sending, 0, "the receiver is silent")
        for group_id in [group_id for group_id, taking in self._taking.items() if now >= taking.deadline]:
            self._end_taking(group_id)

    def receive(self, sender: str, message: SnapshotChunk | SnapshotAck, replica: Replica, now: int) -> None:
        """Take a message of a transfer."""
        if type(message) is SnapshotChunk:
            replica.group.step(sender, message.header, now)
            held = rows_size(message.rows)
            if self._memory.take(Account.SNAPSHOTS, held):
                self._arrived.append((replica, sender, message, held))
            else:
                self._end_taking(message.group)
                problem = self._memory.refusal(Account.SNAPSHOTS)
                self._acks.append(
                    (sender, SnapshotAck(message.group, message.transfer, message.number, problem, False))
                )
        elif type(message) is SnapshotAck:
            sending = self._sending.get((message.group, sender))
            if sending is None or sending.transfer != message.transfer or sending.number != message.number:
                return
            if message.problem:
                self._end_sending(sending, 0, message.problem)
            elif message.needless or sending.last:
                self._end_sending(sending, sending.reader.state.index, "")
            else:
                self._release(sending)
                sending.number += 1
                sending.deadline = now + self._settings.snapshot_timeout_ns
                # The time between two chunks has a bound, or a slow receiver would be taken for a silent one.
                sending.due_at = now + min(self._pace.extra(now - sending.sent_at, now), MAX_PAUSE_NS)
                self._acknowledged.append(sending)

    @property
    def has_to_store(self) -> bool:
        """Whether `store` has anything to do."""
        return bool(self._arrived or self._abandoned)

    def store(self, batch: Batch, now: int) -> list[Replica]:
        """Put what arrived into the turn's batch; return the replicas that adopt a snapshot in it, which must be synced."""
        arrived, self._arrived = self._arrived, []
        adopted: list[Replica] = []
        for replica, sender, chunk, held in arrived:
            self._memory.give_back(Account.SNAPSHOTS, held)
            self._drop_abandoned(batch)
            group, header = replica.group, chunk.header
            needless = False
            if not group.follows(sender, header.term):
                problem = (
                    f"{sender} leads in term {header.term}; the replica is in term {group.term}, of another leader"
                )
            else:
                try:
                    needless = not group.can_restore(header.index, header.index_term)
                except Damaged as error:
                    self._damaged.append((replica, error))
                    problem = "the log of the receiver is damaged"
                else:
                    problem = "" if needless else self._take(replica, sender, chunk, batch, now)
                if not (problem or needless) and chunk.last and replica.machine.microshards.split_offs:
                    # The entry that made it is all that could make it again, if a crash came before the flush.
                    problem = f"what was split off shard {chunk.group} is not on disk yet"
                    self._end_taking(chunk.group)
                if needless:
                    self._end_taking(chunk.group)
                elif chunk.last and not problem:
                    problem = self._adopt(replica, sender, chunk, batch, now)
                    if not problem:
                        adopted.append(replica)
            ack = SnapshotAck(chunk.group, chunk.transfer, chunk.number, problem, needless)
            self._acks.append((sender, ack))
        self._drop_abandoned(batch)
        return adopted

    def _end_taking(self, group: int) -> None:
        """End a transfer that nothing comes of, if there is one; what was staged goes with the next batch."""
        taking = self._taking.pop(group, None)
        if taking is not None:
            self._abandoned.append(taking.stager)

    def _drop_abandoned(self, batch: Batch) -> None:
        abandoned, self._abandoned = self._abandoned, []
        for stager in abandoned:
            stager.abandon(batch)

    def _take(self, replica: Replica, sender: str, chunk: SnapshotChunk, batch: Batch, now: int) -> str:
        """Stage a chunk; return "" or why the transfer cannot go on."""
        if chunk_checksum(chunk) != chunk.checksum:
            return self._refuse(replica, sender, f"chunk {chunk.number} is damaged")
        problem = state_problem(chunk.state(0), replica.keyspace.microshards)
        if problem:
            return self._refuse(replica, sender, f"no replica can be as chunk {chunk.number} has it: {problem}")
        taking = self._taking.get(chunk.group)
        if chunk.number == 0:
            self._end_taking(chunk.group)
            self._drop_abandoned(batch)
            stager = SnapshotStager(self._engine, chunk.group, replica.keyspace.id)
            stager.begin(batch, chunk.state(stager.generation))
            taking = self._taking[chunk.group] = _Taking(sender, chunk.transfer, stager, 0, 0)
        if taking is None or (taking.peer, taking.transfer, taking.expected) != (sender, chunk.transfer, chunk.number):
            return f"chunk {chunk.number} of transfer {chunk.transfer} was not expected"
        problem = taking.stager.stage(batch, chunk.rows)
        if not problem and not taking.stager.is_of(chunk.state(0)):
            problem = "the last chunk is of other microshards than the first" if chunk.last else ""
        if problem:
            return self._refuse(replica, sender, f"chunk {chunk.number}: {problem}")
        self._counters.snapshot_bytes_taken += rows_size(chunk.rows)
        taking.expected += 1
        taking.deadline = now + self._settings.snapshot_timeout_ns
        return ""

    def _refuse(self, replica: Replica, sender: str, problem: str) -> str:
        """End a transfer of which something is not as it must be; return that."""
        self._end_taking(replica.shard.id)
        self._counters.snapshots_refused += 1
        log.error("snapshot_refused", shard=replica.shard.id, sender=sender, reason=problem)
        return problem

    def _adopt(self, replica: Replica, sender: str, chunk: SnapshotChunk, batch: Batch, now: int) -> str:
        """Go on from a snapshot that is there as a whole; return "" or why that cannot be."""
        stager = self._taking[chunk.group].stager
        self._end_taking(chunk.group)
        state, before = chunk.state(stager.generation), replica.stored_state
        keep_log = replica.group.keeps_log(chunk.header.index, chunk.header.index_term)
        try:
            replica.restore(sender, chunk.header, state, now)
        except Damaged as error:
            self._damaged.append((replica, error))
            return "the log of the receiver is damaged"
        except BadMessage as error:
            self._counters.messages_refused += 1
            return str(error)
        self._abandoned.remove(stager)
        stager.adopt(batch, replica.store, state, before, replica.cleared_rows, keep_log=keep_log)
        self._counters.snapshots_adopted += 1
        log.info("snapshot_adopted", shard=chunk.group, index=state.index, sender=sender)
        return ""

    @property
    def has_to_send(self) -> bool:
        """Whether `send` has anything to do."""
        return bool(self._acks or self._acknowledged or self._wanted or self._damaged)

    def send(self, now: int, outbox: Outbox) -> list[tuple[Replica, Damaged]]:
        """Send acknowledgements and next chunks; return whose rows cannot be read, and why.

        To be called when the turn's batch is written: views show it.
        """
        damaged, self._damaged = self._damaged, []
        acks, self._acks = self._acks, []
        for peer, ack in acks:
            outbox.send(peer, ack)
        acknowledged, self._acknowledged = self._acknowledged, []
        for sending in acknowledged:
            if self._sending.get((sending.replica.shard.id, sending.peer)) is sending:
                if now < sending.due_at or not self._has_room():
                    self._acknowledged.append(sending)
                    continue
                try:
                    self._send_chunk(sending, now, outbox)
                except Damaged as error:
                    damaged.append((sending.replica, error))
        held: list[tuple[Replica, str]] = []
        while self._wanted and len(self._sending) < self._settings.snapshots_at_once and self._has_room():
            replica, peer = self._wanted.popleft()
            if replica.machine.microshards.split_offs:
                # Whom a snapshot takes past a split does not make the child. So whoever sends it has that on disk.
                held.append((replica, peer))
                continue
            wanted = replica.group.is_leader and replica.failure is None
            if wanted and (replica.shard.id, peer) not in self._sending:
                try:
                    self._begin(replica, peer, now, outbox)
                except Damaged as error:
                    damaged.append((replica, error))
        self._wanted.extendleft(reversed(held))
        return damaged

    def _has_room(self) -> bool:
        """Say whether there is memory for one more chunk."""
        return self._memory.has_room(Account.SNAPSHOTS, self._settings.snapshot_chunk_bytes)

    def _release(self, sending: _Sending) -> None:
        """The chunk that was sent last is not needed any more."""
        self._memory.give_back(Account.SNAPSHOTS, sending.held)
        sending.held = 0

    def _begin(self, replica: Replica, peer: str, now: int, outbox: Outbox) -> None:
        machine = replica.machine
        reader = SnapshotReader(
            self._engine,
            replica.shard.id,
            machine.keyspace.id,
            machine.state,
            self._settings.snapshot_chunk_bytes,
        )
        sending = _Sending(
            replica=replica,
            peer=peer,
            transfer=self._next_transfer,
            term=replica.group.term,
            reader=reader,
            number=0,
            last=False,
            deadline=now + self._settings.snapshot_timeout_ns,
            sent_at=now,
            due_at=now,
        )
        self._next_transfer += 1
        self._sending[replica.shard.id, peer] = sending
        self._hold_log(replica)
        self._counters.snapshots_started += 1
        log.info("snapshot_begun", shard=replica.shard.id, index=machine.state.index, receiver=peer)
        self._send_chunk(sending, now, outbox)

    def _send_chunk(self, sending: _Sending, now: int, outbox: Outbox) -> None:
        sending.sent_at = now
        rows, sending.last = sending.reader.next_rows()
        sending.held = rows_size(rows)
        self._memory.add(Account.SNAPSHOTS, sending.held)
        state = sending.reader.state
        chunk = SnapshotChunk(
            header=SnapshotHeader(
                group=sending.replica.shard.id,
                term=sending.term,
                index=state.index,
                index_term=state.term,
                epoch=self._epoch,
            ),
            transfer=sending.transfer,
            number=sending.number,
            checksum=0,
            rows=rows,
            last=sending.last,
            seq_base=state.seq_base,
            membership=state.membership,
            membership_index=state.membership_index,
            clock_ms=state.clock_ms,
            ranges=state.ranges,
            outgoing=state.outgoing,
            incoming=state.incoming,
            ended=state.ended,
            children=state.children,
            compared_index=state.compared_index,
            cluster_id=state.cluster_id,
            divergence=state.divergence,
        )
        self._counters.snapshot_bytes_sent += sending.held
        outbox.send(sending.peer, msgspec.structs.replace(chunk, checksum=chunk_checksum(chunk)))

    def _end_sending(self, sending: _Sending, index: int, problem: str) -> None:
        """End a transfer: at `index` where it succeeded, 0 where it did not."""
        replica = sending.replica
        self._release(sending)
        sending.reader.close()
        del self._sending[replica.shard.id, sending.peer]
        self._hold_log(replica)
        replica.group.snapshot_ended(sending.peer, index)
        if not problem:
            self._counters.snapshots_sent += 1
        else:
            self._counters.snapshots_failed += 1
            log.info("snapshot_ended", shard=replica.shard.id, receiver=sending.peer, reason=problem)

    def _hold_log(self, replica: Replica) -> None:
        """Keep the log from behind the oldest snapshot under way, or its receiver would need another at once."""
        held = [sending.reader.state.index for sending in self._sending.values() if sending.replica is replica]
        replica.log_length.snapshot_floor = min(held, default=None)
