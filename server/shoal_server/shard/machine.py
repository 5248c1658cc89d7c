"""The state machine of a shard: what its log entries do to its rows, the same on every replica.

`apply` puts the effects of entries into a batch that the node writes: data, deduplication and the applied position in
one, so that after a crash they agree with each other at some index; the log brings back what comes after. Nothing here
may depend on the node, the clock or chance. An error in here is the same on every replica, or it ends the process.

The entry at a log index has the sequence number `seq_base` + index, and all its writes carry it. Seqs are thus monotonic
per microshard, and stay so when microshards change shards as long as the new shard continues above both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec
from shoal.protocol.messages import (
    ConditionNotMet,
    DeleteRange,
    Operation,
    OperationResult,
    RangeUnchanged,
)
from shoal.protocol.migration import MigrationCursor
from shoal.shardmap import Keyspace, Ranges, Shard, count_in, is_well_formed, microshards_in

from shoal_server.invariants import invariant
from shoal_server.raft.messages import Entry, EntryKind, Membership
from shoal_server.shard.beginnings import Beginnings
from shoal_server.shard.commands import (
    CLOCK_MS_MAX,
    PLAIN,
    Commands,
    DigestCommand,
    DigestCursor,
    FoundCommand,
    OpenSessionCommand,
    PurgeCommand,
    SetClockCommand,
    SplitCommand,
    UnknownCommands,
    WriteCommand,
    decode_commands,
    decode_operations,
    named_ranges,
)
from shoal_server.shard.costs import command_cost, plain_write_cost, write_cost
from shoal_server.shard.microshards import EntryPosition, Microshards
from shoal_server.shard.moving import MovingPage, MovingReader
from shoal_server.shard.operations import WriteExecutor
from shoal_server.shard.overlay import Overlay, PassedPieces, Paused
from shoal_server.shard.pages import PageReader
from shoal_server.shard.reading import READ_BYTES, READ_KEYS, RowReader
from shoal_server.shard.sessions import CommandVerdict, SessionTable
from shoal_server.shard.state import ShardState
from shoal_server.storage.applied_state import AppliedState, Outgoing, applied_state_row
from shoal_server.storage.engine import Batch, Engine
from shoal_server.storage.layout import applied_state_key
from shoal_server.storage.session_rows import (
    encode_session,
    encode_session_slot,
    session_key,
    session_slot_key,
    stored_sessions,
)
from shoal_server.storage.skipped_entries import SkippedEntry

GIVEN_RESULTS_BYTES = 64 * 1024
"""Results of a write that are longer are given without the values that conditions found."""

KEPT_RESULTS_BYTES = 16 * 1024
"""Results of a write that are longer are kept, for a repetition of it, without the values that conditions found."""

_results_encoder = msgspec.msgpack.Encoder()
_results_decoder: msgspec.msgpack.Decoder[list[OperationResult]] = msgspec.msgpack.Decoder(list[OperationResult])


class CommandOutcome(msgspec.Struct):
    """What applying one command came to.

    `seq` is the write's, where it is NEW, a DUPLICATE or FORGOTTEN; `results` are those of the operations that have one.
    `reason` says why it is REFUSED.
    """

    verdict: CommandVerdict
    seq: int
    results: list[OperationResult] = []
    reason: str = ""


class Prepared(msgspec.Struct):
    """What the proposer of an entry already decoded, so that it need not be decoded again when applied.

    `operations` are those of each command, None where it is no write, or not kept. `size`: bytes of all that, about.
    """

    term: int
    commands: Commands
    operations: list[list[Operation] | None]
    size: int = 0


@dataclass(frozen=True, slots=True)
class DigestDue:
    """A digest of the rows behind `cursor` is due, as they are when the entry at (index, term) is the last one applied."""

    index: int
    term: int
    cursor: DigestCursor


class ShardStateMachine(ShardState):
    """One replica's applied state of one shard. `digest_due`: a digest is to be made before anything more is applied.

    While entries are applied, `state` is that after the commands before, but for its position (index, term, clock and
    membership), which `apply` sets when all are: see `ShardState`.
    """

    def __init__(
        self,
        shard: Shard,
        keyspace: Keyspace,
        engine: Engine,
        state: AppliedState,
        beginnings: Beginnings | None = None,
    ) -> None:
        """
        Args:
            state: the applied state as stored, or the initial one of a new shard.
            beginnings: the node's; one that is alone on its node needs none.
        """
        super().__init__(shard, keyspace, state)
        self._engine = engine
        self.rows = RowReader(engine)
        self.digest_due: DigestDue | None = None
        self.applied_us = 0
        """The work of what was applied last, about: see `shard.costs`."""
        self.applying: Entry | None = None
        """The entry that is being applied, or was the last."""
        self._passed: PassedPieces | None = None
        self.sessions = SessionTable()
        self.microshards = Microshards(self, engine, beginnings or Beginnings())
        self.pages = PageReader(self, engine)
        self.adopt(state)

    def adopt(self, state: AppliedState) -> None:
        """Take `state` and the rows it speaks of as they are on disk: at start, and after a snapshot."""
        self.state = state
        self.digest_due = self._passed = None
        self.serve(self._engine)
        self.sessions = SessionTable()
        self.sessions.load(stored_sessions(self._engine, self.shard.id, state.generation))
        self.microshards.adopt()
        self.traffic.changed.update(self.prefixes)

    # -- writes

    def apply(
        self,
        entries: list[Entry],
        batch: Batch,
        prepared: Mapping[int, Prepared],
        skipped: Mapping[int, SkippedEntry] | None = None,
        max_us: int | None = None,
    ) -> list[tuple[Entry, list[CommandOutcome]]]:
        """Add the effects of committed `entries` to `batch`; return what became of each COMMAND entry's commands.

        The batch must be written before the next call. `batch` is for several shards, of which each adds once. An entry
        that asks for a digest is the last to be applied (`state.index` says how far that is): the digest is made of what
        the batch has written, and taken (`take_digest_due`) before the next call.

        Args:
            prepared: by log index, what this node decoded when it proposed; used only where the term is the entry's.
            skipped: by log index, entries that do nothing, since an operator has said so.
            max_us: of work, as `applied_us` has it; None: no bound. With one, applying also pauses before an entry that begins
                with a write on condition of a range where many removed rows are in the way, having passed over some of them:
                the next calls come further. `state` says up to where entries were applied, which may be none.

        Raises:
            Exception: whatever went wrong with the entry `applying`; the machine is halfway then (see `Replica.apply`).
        """
        self.applied_us = 0
        if not entries:
            return []
        invariant(self.digest_due is None, "a digest is made before anything later is applied")
        state = self.state
        index, clock = state.index, state.clock_ms
        membership, membership_index = state.membership, state.membership_index
        overlay = Overlay(self._engine, self._passed)
        self._passed = None
        if self.microshards.journals:
            overlay.record()
        results: list[tuple[Entry, list[CommandOutcome]]] = []
        term = state.term
        for entry in entries:
            invariant(entry.index == index + 1, "entries are applied in order, without a gap")
            before = index, term, clock
            index, term = entry.index, entry.term
            self.applying = entry
            if skipped and _is_skipped(entry, skipped):
                continue
            if entry.kind == EntryKind.COMMAND:
                known = prepared.get(index)
                if known is not None and known.term == entry.term:
                    commands, operations = known.commands, known.operations
                else:
                    commands = decode_commands(entry.payload)
                    operations = [None] * len(commands.commands)
                clock = max(clock, min(commands.clock_ms, CLOCK_MS_MAX))
                seq = self.state.seq_base + index
                executor = WriteExecutor(
                    overlay, self.prefixes, self.expiry, seq=seq, now=clock, default_ttl=commands.default_ttl_ms
                )
                outcomes: list[CommandOutcome] = []
                for command, decoded in zip(commands.commands, operations, strict=True):
                    if isinstance(command, WriteCommand):
                        may_pause = max_us is not None and not outcomes
                        outcome = self._write(command, decoded, seq, executor, overlay, may_pause)
                        if outcome is None:
                            break
                        outcomes.append(outcome)
                        continue
                    self.applied_us += command_cost(command)
                    if isinstance(command, OpenSessionCommand):
                        outcomes.append(self._open_session(command, seq, overlay))
                    elif isinstance(command, SplitCommand):
                        at = EntryPosition(index, entry.term, clock)
                        problem = self.microshards.split(command, at, membership, overlay)
                        outcomes.append(
                            CommandOutcome(
                                CommandVerdict.REFUSED if problem else CommandVerdict.NEW, seq, reason=problem
                            )
                        )
                    elif isinstance(command, PurgeCommand):
                        self.expiry.purge(command.rows, self.prefixes, clock, overlay)
                        self.traffic.changed.update(microshard for microshard, _, _ in command.rows)
                        outcomes.append(CommandOutcome(CommandVerdict.NEW, seq))
                    elif isinstance(command, SetClockCommand):
                        if clock >= command.seen_ms:
                            clock = max(0, min(clock, command.clock_ms))
                            executor.now = clock
                        outcomes.append(CommandOutcome(CommandVerdict.NEW, seq))
                    elif isinstance(command, FoundCommand):
                        if not self.state.cluster_id:
                            self.state = msgspec.structs.replace(self.state, cluster_id=command.cluster_id)
                        outcomes.append(CommandOutcome(CommandVerdict.NEW, seq))
                    elif isinstance(command, DigestCommand):
                        self.digest_due = DigestDue(index, term, command.cursor)
                        self.state = self.state.compared(index, command.compared_index, command.divergence)
                        outcomes.append(CommandOutcome(CommandVerdict.NEW, seq))
                    else:
                        problem = self.microshards.migrate(command, index, overlay)
                        outcomes.append(
                            CommandOutcome(
                                CommandVerdict.REFUSED if problem else CommandVerdict.NEW, seq, reason=problem
                            )
                        )
                if len(outcomes) < len(operations):
                    # Its first write pauses, and nothing of it is done.
                    index, term, clock = before
                    break
                self.traffic.written_bytes += len(entry.payload)
                results.append((entry, outcomes))
                if self.microshards.journals:
                    self.microshards.journal(index, overlay)
                if self.digest_due is not None or (max_us is not None and self.applied_us >= max_us):
                    break
            elif entry.kind == EntryKind.MEMBERSHIP:
                membership = msgspec.msgpack.decode(entry.payload, type=Membership)
                membership_index = index
                self.state = self.state.with_members(membership)
            elif entry.kind != EntryKind.EMPTY:
                raise UnknownCommands(f"a log entry is of the unknown kind {entry.kind}: written by a newer Shoal?")
        self.applied_us += overlay.work.us_passed
        if index == state.index:
            # What was read stays so until something is written.
            self._passed = overlay.passed
            overlay.close()
            self._engine.tidy()
            return []
        self.state = msgspec.structs.replace(
            self.state,
            index=index,
            term=term,
            membership=membership,
            membership_index=membership_index,
            clock_ms=clock,
        )
        overlay.rows[applied_state_key(self.shard.id)] = applied_state_row(self.state)
        overlay.write_to(batch)
        return results

    def take_digest_due(self) -> DigestDue | None:
        """Return the digest that the last entry applied asks for, if it does; it is due no more."""
        due, self.digest_due = self.digest_due, None
        return due

    def _open_session(self, command: OpenSessionCommand, seq: int, overlay: Overlay) -> CommandOutcome:
        opened = self.sessions.open(command.session, command.owner, command.capacity)
        if opened is None:
            return CommandOutcome(CommandVerdict.REFUSED, seq, reason="there is a session of that id")
        shard, generation = self.shard.id, self.state.generation
        rows = overlay.rows
        for old in opened.forgotten:
            # One by one: they are few, and all of them are known.
            rows[session_key(shard, generation, old.session)] = None
            for number in old.numbers:
                rows[session_slot_key(shard, generation, old.session, number)] = None
        rows[session_key(shard, generation, command.session)] = encode_session(command.owner, opened.used_at)
        return CommandOutcome(CommandVerdict.NEW, seq)

    def earlier_outcome(self, session: bytes, number: int, identity: bytes) -> CommandOutcome:
        """Return what is remembered of a numbered write; NEW: it has not been done.

        Args:
            identity: of whom it is, where that is proven, else empty.
        """
        verdict, seq, kept = self.sessions.judge(session, number, identity)
        return CommandOutcome(verdict, seq, _results_decoder.decode(kept) if kept else [])

    def _write(
        self,
        command: WriteCommand,
        decoded: list[Operation] | None,
        seq: int,
        executor: WriteExecutor,
        overlay: Overlay,
        may_pause: bool,
    ) -> CommandOutcome | None:
        """Apply a write; return None, with nothing of it done, where it pauses (see `apply`), which only one does that may."""
        session, number = command.session, command.number
        known = self.earlier_outcome(session, number, command.identity)
        if known.verdict is not CommandVerdict.NEW:
            return known
        operations = decode_operations(command) if decoded is None else decoded
        plain = PLAIN.issuperset(map(type, operations))
        prefixes = self.prefixes
        microshards = set(command.microshards)
        ranges = [] if plain else list(named_ranges(operations))
        if not prefixes.keys() >= microshards or (ranges and not all(self.has_ranges(each.ranges) for each in ranges)):
            # Its leader had not applied what stands before it in the log and took a microshard away.
            return CommandOutcome(CommandVerdict.NOT_HERE, 0)
        results: list[OperationResult] = []
        kept = b""
        size = len(command.operations)
        if plain:
            before = executor.expiring
            executor.execute_plain(operations, command.microshards)  # type: ignore[arg-type]  # `plain` says so
            self.applied_us += plain_write_cost(len(operations), size, executor.expiring - before)
        else:
            self.applied_us += write_cost(operations, size)
            before = executor.looked.us
            may_pause = may_pause and any(type(each) is RangeUnchanged for each in ranges)
            if may_pause:
                overlay.attempt()
            try:
                results, kept = given_and_kept(executor.execute(operations, command.microshards))
            except Paused:
                overlay.give_up()
                return None
            if may_pause:
                overlay.done()
            self.applied_us += executor.looked.us - before
            microshards.update(self._cleared_by(operations))
        self.traffic.wrote(command.microshards, microshards)
        sessions, shard, generation = self.sessions, self.shard.id, self.state.generation
        used_at = sessions.record(session, number, seq)
        rows = overlay.rows
        rows[session_slot_key(shard, generation, session, number)] = encode_session_slot(number, seq, used_at, kept)
        if kept:
            for each in sessions.keep(session, number, kept):
                key = session_slot_key(shard, generation, each.session, each.number)
                rows[key] = encode_session_slot(each.number, each.seq, each.used_at, None)
        return CommandOutcome(CommandVerdict.NEW, seq, results)

    def _cleared_by(self, operations: list[Operation]) -> Iterator[int]:
        """Yield the microshards of which range deletes may have removed rows."""
        for operation in operations:
            if type(operation) is DeleteRange:
                yield from microshards_in(operation.ranges)

    # -- reads

    def now(self, time_ms: int) -> int:
        """Return the time by which rows expire for a reader: a clock behind those of earlier leaders does not count."""
        return max(time_ms, self.state.clock_ms)

    def route(self, keys: Iterable[bytes]) -> list[int] | None:
        """Return the microshard of each key, or None where one of them is not this shard's."""
        microshards = self.keyspace.microshards_of(keys)
        return microshards if self.has_all(microshards) else None

    def has_all(self, microshards: Iterable[int]) -> bool:
        """Say whether all of these microshards are still here."""
        return all(map(self.prefixes.__contains__, microshards))

    def has_ranges(self, ranges: Ranges) -> bool:
        """Say whether these are microshards that are well formed, and all of them are still here."""
        if ranges == self.state.ranges:
            return bool(ranges)
        # How many there are is known before any is looked at: whatever is asked, it takes no longer than the shard is large.
        return (
            is_well_formed(ranges, self.keyspace.microshards)
            and count_in(ranges) <= len(self.prefixes)
            and self.has_all(microshards_in(ranges))
        )

    def read(
        self,
        keys: list[bytes],
        microshards: list[int],
        now: int,
        max_bytes: int = READ_BYTES,
        max_keys: int = READ_KEYS,
    ) -> tuple[list[bytes | None], list[int], list[int]]:
        """Return values (None: absent), their seqs (0: absent) and expiries, as applied now and written to the engine.

        Of the first keys, at least one, as many as the bounds allow. Expiries are as `split_rows` has them.
        """
        prefixes = self.prefixes
        if len(keys) > max_keys:
            keys, microshards = keys[:max_keys], microshards[:max_keys]
        stored = [prefixes[microshard] + key for microshard, key in zip(microshards, keys, strict=True)]
        return self.rows.read(stored, now, max_bytes)

    def read_moving(self, cursor: MigrationCursor, outgoing: Outgoing, max_bytes: int) -> MovingPage:
        """Return what follows `cursor` of the microshards that another shard is to get, as written to the engine."""
        invariant(cursor.mark <= self.state.index, "a source is read from no earlier point than it was before")
        reader = MovingReader(self._engine, self.shard.id, self.keyspace.id, self.state, outgoing, max_bytes)
        return reader.read(cursor)


def _is_skipped(entry: Entry, skipped: Mapping[int, SkippedEntry]) -> bool:
    found = skipped.get(entry.index)
    return found is not None and (found.term, found.checksum) == (entry.term, entry.checksum)


def given_and_kept(results: list[OperationResult]) -> tuple[list[OperationResult], bytes]:
    """Return a write's results as they are given, and, encoded, as they are kept for a repetition of it.

    Where they are long, they are without the values that conditions found.
    """
    if not results:
        return results, b""
    encoded = _results_encoder.encode(results)
    if len(encoded) <= KEPT_RESULTS_BYTES:
        return results, encoded
    shorter = [
        ConditionNotMet(result.condition, result.found_seq, None) if isinstance(result, ConditionNotMet) else result
        for result in results
    ]
    return shorter if len(encoded) > GIVEN_RESULTS_BYTES else results, _results_encoder.encode(shorter)
