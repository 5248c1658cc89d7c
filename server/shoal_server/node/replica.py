"""One shard's copy on this node: its Raft group, its log store, its state machine, and the requests waiting for them.

A turn of the node calls, in this order: `collect` (this turn's writes become log entries, its reads begin, and what the
group wants stored and sent goes into the turn's batch and outbox); and when that is written and on its way, `apply` (what
is committed takes effect in a second batch), `proposals.answer_applied` and `reads.serve`. Nothing here does I/O of its own
except reading the engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from shoal.errors import ErrorCode
from shoal.priorities import OverloadReason
from shoal.protocol.messages import Done, Write, Written
from shoal.shardmap import Keyspace, Shard

from shoal_server.node.command_queue import HELD_BYTES, CommandQueue, too_much_held
from shoal_server.node.comparison import Comparison
from shoal_server.node.counters import Backlog, NodeCounters, Served
from shoal_server.node.digests import DigestReport
from shoal_server.node.fast_writes import FastWrites
from shoal_server.node.group_reports import report_lost_entries, report_out_of_terms
from shoal_server.node.held_reads import HeldReads
from shoal_server.node.keyspace_quota import give_back
from shoal_server.node.log_length import LogLength
from shoal_server.node.outbox import NOBODY, Outbox
from shoal_server.node.proposals import Proposals, into_entries
from shoal_server.node.reads import ReplicaReads
from shoal_server.node.refusals import Refusals
from shoal_server.node.replica_load import ReplicaLoad
from shoal_server.node.replica_memory import ReplicaMemory
from shoal_server.node.row_counts import RowCounts
from shoal_server.node.settings import NodeSettings
from shoal_server.node.stuck_entry import StuckEntry
from shoal_server.node.unsynced import Unsynced
from shoal_server.node.upkeep import due_upkeep
from shoal_server.node.waiting import Proposal, QueuedCommand, WaitingTransfer
from shoal_server.node.wall_clock import WallClock
from shoal_server.raft.group import Group
from shoal_server.raft.messages import Entry, SnapshotHeader
from shoal_server.raft.ready import NotLeader, TooManyUncommitted
from shoal_server.shard.commands import (
    COMMANDS_VERSION,
    Commands,
    SplitCommand,
    WriteCommand,
    encode_commands,
)
from shoal_server.shard.machine import CommandOutcome, Prepared, ShardStateMachine
from shoal_server.shard.sessions import CommandVerdict
from shoal_server.storage.applied_state import AppliedState
from shoal_server.storage.engine import Batch, StorageFailed
from shoal_server.storage.log_store import GroupLogStore
from shoal_server.storage.replica_failure import ReplicaFailure
from shoal_server.storage.skipped_entries import SkippedEntry, describe_entry

OVERLOADED_RETRY_MS = 50


class Replica:
    """See the module's first lines.

    Invariant: whoever asked is answered exactly once (those who wait for an entry by `Proposals`, readers by `ReplicaReads`).
    """

    __slots__ = (
        "_counters",
        "_fast_writes",
        "_queue",
        "_restored",
        "_settings",
        "_unread",
        "_was_leader",
        "comparison",
        "counts",
        "failure",
        "group",
        "keyspace",
        "load",
        "log_length",
        "machine",
        "memory",
        "newest_cost",
        "newest_digest",
        "node",
        "proposals",
        "reads",
        "refusals",
        "rows_unknown",
        "shard",
        "skipped",
        "snapshots_wanted",
        "store",
        "stuck",
        "transfer",
    )

    def __init__(
        self,
        node: str,
        group: Group,
        store: GroupLogStore,
        machine: ShardStateMachine,
        settings: NodeSettings,
        counters: NodeCounters,
        connected: Collection[str],
        memory: ReplicaMemory,
    ) -> None:
        """`connected` are, at every moment, the peers that messages have a way to."""
        self.node = node
        self.memory = memory
        self.group = group
        self.store = store
        self.machine = machine
        self.shard = machine.shard
        self.keyspace = machine.keyspace
        self.refusals = Refusals(node, group, machine.shard, counters, connected)
        self.reads = ReplicaReads(node, group, machine, settings, counters, self.refusals, HeldReads(memory.budget))
        self.proposals = Proposals(machine.shard.id, counters, self.refusals)
        self.log_length = LogLength(group, store, settings, machine.state.index)
        self.failure: ReplicaFailure | None = None
        self.stuck: StuckEntry | None = None
        self.rows_unknown = self._was_leader = False
        self.skipped: dict[int, SkippedEntry] = {}
        self.transfer: WaitingTransfer | None = None
        self.snapshots_wanted: list[str] = []
        self.counts = RowCounts()
        self.load = ReplicaLoad()
        self.comparison: Comparison | None = None
        self.newest_cost = 0
        """What applying the command queued last will cost, where that is known: see `shard.costs`."""
        self.newest_digest: DigestReport | None = None
        self._settings = settings
        self._counters = counters
        self._queue = CommandQueue()
        self._fast_writes = FastWrites(machine)
        self._restored: AppliedState | None = None
        self._unread: AppliedState | None = None

    # -- requests in

    def queue_command(self, command: QueuedCommand) -> None:
        self._queue.append(command)
        self.newest_cost = command.cost

    def is_to_beget(self, child: int) -> bool:
        """Say whether a split that was queued or proposed here, and is not applied yet, names `child`."""
        proposed = (command for prepared in self.proposals.prepared.values() for command in prepared.commands.commands)
        queued = (item.command for item in self._queue.commands)
        return any(isinstance(command, SplitCommand) and command.child.id == child for command in (*queued, *proposed))

    def queue_upkeep(self, time_ms: int, beyond_ms: int) -> bool:
        """Queue what the shard's rows need as time passes (see `due_upkeep`), if this leads; return whether so."""
        if self.proposals.upkeep or not self.group.is_leader:
            return False
        command = due_upkeep(self.machine, self.node, time_ms, beyond_ms, self._settings.purge_rows)
        if command is None:
            return False
        self.proposals.upkeep = True
        self._queue.append(command)
        return True

    # -- the turn

    def _propose_queued(self, now: int, clock: WallClock, outbox: Outbox) -> None:
        """Turn the commands queued since the last turn into log entries, as few as the bounds of size and work allow.

        While the leadership is on its way to another node they wait: soon that is known, or this replica goes on to lead.
        """
        if self._queue.is_held:
            self._not_done(self._queue.refuse_late(now, outbox))
        if self.group.transferring:
            self.refusals.hold_back(now)
            self._queue.hold(now)
            if beyond := self._queue.take_beyond(HELD_BYTES):
                self._refuse_entry(beyond, too_much_held(self.shard.id), outbox)
            return
        queue = self._queue.take_all()
        if not queue:
            return
        arrived = queue[0].held_at or self._counters.arrived
        if not self.group.is_leader:
            self.proposals.upkeep = False
            self._not_done(queue)
            for item in queue:
                self.refusals.not_leader(item.client, item.request, outbox)
            return
        for items in into_entries(queue, self._settings.entry_bytes):
            self._propose(items, arrived, now, clock.now_ms(now), outbox)

    def _not_done(self, commands: list[QueuedCommand]) -> None:
        """Nothing is done of commands that were let through."""
        give_back(self.reads.quota, commands)
        self._counters.undone_bytes += sum([each.size for each in commands if each.operations is not None])

    def forget(self, client: int) -> None:
        """A client has gone: what was kept of it is not done."""
        if self._queue.commands:
            self._not_done(self._queue.take_of(client))

    def _propose(self, items: list[QueuedCommand], arrived: int, now: int, time_ms: int, outbox: Outbox) -> None:
        commands = Commands(COMMANDS_VERSION, time_ms, self.keyspace.default_ttl_ms, [item.command for item in items])
        group = self.group
        payload = encode_commands(commands)
        size = sum([item.size for item in items])
        if not self.memory.has_room_for_entry(len(payload) + size):
            self._refuse_entry(items, self.memory.entry_refusal(), outbox)
            return
        try:
            index = group.propose([payload])
        except TooManyUncommitted as error:
            self._refuse_entry(items, str(error), outbox)
        except NotLeader:
            self.proposals.upkeep = False
            self._not_done(items)
            for item in items:
                self.refusals.not_leader(item.client, item.request, outbox)
        else:
            term = group.term
            self._counters.proposals += 1
            self._counters.proposed_commands += len(items)
            self._fast_writes.proposed(term, index, items)
            proposals = self.proposals
            proposals.waiting[index] = Proposal(
                term, [(NOBODY if item.fast else item.client, item.request) for item in items], arrived, now
            )
            decoded = sum([item.decoded_bytes for item in items])
            kept = self.memory.may_keep(len(payload) + size + decoded)
            operations = [item.operations if kept else None for item in items]
            proposals.prepare(index, Prepared(term, commands, operations, size + decoded if kept else size))
            self._note_memory()
            if any(item.fast for item in items):
                self._acknowledge_fast(index, items, outbox)

    def _refuse_entry(self, items: list[QueuedCommand], words: str, outbox: Outbox) -> None:
        """Answer those whose commands were to be one entry: too much waits for a majority."""
        self.proposals.upkeep = False
        self._counters.proposals_refused += 1
        self._not_done(items)
        for item in items:
            outbox.uncommitted.append((item.client, self.keyspace.id))
            outbox.fail(
                item.client,
                item.request,
                ErrorCode.OVERLOADED,
                words,
                retry_after_ms=OVERLOADED_RETRY_MS,
                reason=OverloadReason.UNCOMMITTED,
            )

    def _acknowledge_fast(self, index: int, items: list[QueuedCommand], outbox: Outbox) -> None:
        """Answer the fast writes of the entry that was proposed at `index`: it is certain what applying them will do."""
        self.reads.fast_index = index
        seq, proposal = self.machine.state.seq_base + index, self.proposals.waiting[index]
        for item in items:
            if item.fast:
                self._counters.at_once[Served.WRITE_FAST] += 1
                outbox.answer(item.client, Written(item.request, seq))
                if self._counters.watched:
                    self.proposals.note_watched(index, proposal, [(item.client, item.request)], fast=True)

    def collect(self, batch: Batch, held: Unsynced, now: int, clock: WallClock, outbox: Outbox) -> bool:
        """Propose what is queued, begin reads, and take out what the group has ready.

        That is stored into `batch`; what may leave now goes into `outbox`, and what must wait until the batch is on disk into
        `held`. Who needs a snapshot goes into `snapshots_wanted`. Returns whether the log is long for want of a flush.

        Raises:
            Damaged: the log could not be read on; what was taken out until then is stored and said all the same.
        """
        group, reads, other = self.group, self.reads, False
        if self._queue.commands or group.transferring:
            self._propose_queued(now, clock, outbox)
            other = True
        reads.begin(now, outbox)
        if not group.is_leader:
            reads.ask_freshness(now, outbox)
        while group.has_ready:
            ready = group.ready(now)
            if ready.hard_state is not None:
                self.store.save_hard_state(batch, ready.hard_state)
                if group.out_of_terms:
                    report_out_of_terms(self.shard.id)
            if ready.entries:
                self.store.append(batch, ready.entries)
                self.log_length.appended(ready.entries)
                other = True
            for peer, message in ready.messages:
                outbox.send(peer, message)
            held.hold(group, ready)
            if ready.reads or ready.failed_reads:
                reads.confirmed(ready, outbox)
            if ready.snapshots_wanted:
                self.snapshots_wanted += ready.snapshots_wanted
            if ready.lost_entries:
                report_lost_entries(self.shard.id, ready.lost_entries)
        if group.is_leader != self._was_leader or group.leader != self.refusals.route.leader:
            self._leadership_changed(outbox)
            other = True
        self.refusals.settle(now, outbox)
        if other:
            self._note_memory()
        return self.log_length.shorten(batch)

    @property
    def may_apply(self) -> bool:
        """Whether there is something committed that this replica can apply."""
        return self.failure is None and self.group.has_committed

    def apply(self, batch: Batch, max_us: int | None = None) -> int:
        """Apply what is committed into `batch`, as much as a turn may take; return the work that it was, about (microseconds).

        `proposals.answer_applied` follows once it is written. Whatever is raised, nothing of it is in `batch`, and the replica
        has to fail: its machine may be halfway. After the entry that reaches `max_us` of work no more are applied.
        """
        group = self.group
        entries = group.committed()
        if not entries:
            return 0
        results = self._apply(entries, batch, max_us)
        index = self.machine.state.index
        group.applied(index)
        self.reads.applied(index)
        if self.proposals.waiting:
            self.proposals.applied(results)
        self._note_memory()
        return self.machine.applied_us

    def _note_memory(self) -> None:
        """Book what the replica holds."""
        commands = self._queue.size + self.proposals.prepared_bytes
        self.memory.note(self.group, commands, self.machine.sessions.held_bytes)

    def _apply(
        self, entries: list[Entry], batch: Batch, max_us: int | None
    ) -> list[tuple[Entry, list[CommandOutcome]]]:
        """Apply entries, up to one that cannot be applied: `stuck` says which that is, and why."""
        machine = self.machine
        before, split_offs = machine.state, len(machine.microshards.split_offs)
        try:
            return machine.apply(entries, batch, self.proposals.prepared, self.skipped, max_us)
        except BaseException as error:
            machine.state, machine.digest_due = before, None
            machine.microshards.forget(split_offs)
            poisoned = machine.applying
            if poisoned is None or not isinstance(error, Exception) or isinstance(error, StorageFailed | MemoryError):
                # It is not about the entry: the disk, or the process.
                raise
            reason = f"{describe_entry(poisoned)} cannot be applied: {type(error).__name__}: {error}"
            self.stuck = StuckEntry.at(poisoned, reason)
        # The machine is halfway: what is stored is of the entry before these.
        machine.adopt(before)
        whole = [entry for entry in entries if entry.index < poisoned.index]
        return machine.apply(whole, batch, self.proposals.prepared, self.skipped)

    def skip(self, index: int, skipped: SkippedEntry, now: int) -> None:
        """Go on behind the entry that the replica is stuck at: it is not to be applied."""
        self.skipped[index] = skipped
        self._mended()
        self.group.mended(now)

    @property
    def backlog(self) -> Backlog:
        """What waits at this replica."""
        return Backlog(
            commands=len(self._queue.commands),
            proposals=len(self.proposals.waiting),
            reads=self.reads.waiting,
            weak_reads=self.reads.weak_waiting,
        )

    def answer_repeated(self, client: int, request: Write, identity: bytes, outbox: Outbox) -> bool:
        """Answer a write for microshards that are not here, if it may have been done while they were; say whether so.

        What its session remembers is final: it knows of everything that was done before they went.
        """
        outcome = self.machine.earlier_outcome(request.session, request.number, identity)
        if outcome.verdict is CommandVerdict.NEW:
            return False
        command = WriteCommand(request.session, request.number, [], request.operations, identity)
        self.proposals.answer(client, request.request, outcome, command, outbox)
        return True

    # -- the shard map

    def adopt_shard(self, shard: Shard, keyspace: Keyspace) -> None:
        """Take over what a newer shard map says of the shard and its keyspace."""
        self.shard = self.machine.shard = shard
        self.keyspace = self.machine.keyspace = keyspace
        self.refusals.adopt(shard)

    def fail_all(self, outbox: Outbox) -> None:
        """Answer everybody who waits: the replica is being removed."""
        queue = self._queue.take_all()
        self._not_done(queue)
        for command in queue:
            self.refusals.not_leader(command.client, command.request, outbox)
        self.reads.fail_all(outbox)
        self.proposals.fail_all(outbox)
        self.refusals.say_all(outbox)
        self.memory.hold(0, 0, 0)

    # -- failing

    def fail(self, failure: ReplicaFailure, now: int, outbox: Outbox) -> None:
        """Serve nothing, apply nothing and lead nobody from here on; whoever waits is answered, to ask another replica."""
        self._failed(failure)
        self.group.fail(now, failure.log_lost_to)
        self._leadership_changed(outbox)
        self.reads.fail_all(outbox)

    def opened_failed(self, failure: ReplicaFailure, state: AppliedState) -> None:
        """The replica had failed when it was opened; `state` is what its rows on disk are of, and its machine is empty."""
        self._failed(failure)
        self._unread = state

    def _failed(self, failure: ReplicaFailure) -> None:
        self.failure = failure
        self.refusals.failure = str(failure)

    def _mended(self) -> None:
        self.failure, self.refusals.failure, self.stuck = None, "", None

    # -- leadership

    def _leadership_changed(self, outbox: Outbox) -> None:
        """Answer those who wait for a leader that no longer is one; keep the route that refusals carry up to date."""
        group = self.group
        if group.leader and group.leader != self.refusals.route.leader:
            self._counters.leader_changes += 1
        self.refusals.leader_changed()
        if self._was_leader and not group.is_leader:
            self.proposals.leadership_lost(outbox)
            self.reads.leadership_lost(outbox)
        if group.is_leader and not self._was_leader:
            self._counters.elections_won += 1
        self._was_leader = group.is_leader
        transfer = self.transfer
        if transfer is not None and group.leader == transfer.target:
            self.transfer = None
            outbox.answer(transfer.client, Done(transfer.request))

    def expire_transfer(self, now: int, outbox: Outbox) -> None:
        """Tell whoever asked for a transfer that it did not come about in time."""
        transfer = self.transfer
        if transfer is not None and now >= transfer.deadline:
            self.transfer = None
            outbox.fail(
                transfer.client,
                transfer.request,
                ErrorCode.UNAVAILABLE,
                f"leadership of shard {self.shard.id} did not reach {transfer.target!r} in time; "
                f"the leader is {self.group.leader or 'unknown'}",
            )

    # -- snapshots

    @property
    def stored_state(self) -> AppliedState:
        """The applied state that the rows on disk are of, with those that this turn's batch will have written."""
        return self._restored or self._unread or self.machine.state

    @property
    def cleared_rows(self) -> list[Mapping[int, int]]:
        """The generations, by microshard, of rows that the replica has removed, which a crash may bring back."""
        return [cleared.generations for cleared in self.machine.microshards.cleared]

    def restore(self, sender: str, header: SnapshotHeader, state: AppliedState, now: int) -> None:
        """A snapshot of `sender` is adopted in the turn's batch: go on from it. `reload` follows once that is written.

        Raises:
            BadMessage, Damaged: it cannot be; nothing was done.
        """
        keep_log = self.group.keeps_log(header.index, header.index_term)
        self.group.restore(sender, header, state.membership, state.membership_index, now)
        self._restored = state
        if keep_log:
            self.log_length.rebased(state.index)
        else:
            self.log_length.restored(state.index)

    def reload(self) -> None:
        """Take up the rows of a snapshot that was just adopted and written."""
        restored = self._restored
        if restored is not None:
            self._mended()
            self.newest_digest = None
            self._restored = self._unread = None
            self.rows_unknown = False
            self.machine.adopt(restored)
            # The batch that stored the snapshot has removed them for good.
            self.machine.microshards.cleared.clear()
            self.reads.restored(restored.index)
