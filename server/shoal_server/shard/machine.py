"""The state machine of a shard: what its log entries do to its rows, the same on every replica.

`apply` puts the effects of entries into a batch that the node writes: data, deduplication and the applied position in
one, so that after a crash they agree with each other at some index; the log brings back what comes after. Nothing here
may depend on the node, the clock or chance. An error in here is the same on every replica, or it ends the process.

Every entry that writes takes the shard's next sequence number; all its writes carry it. Seqs are thus monotonic per
microshard, and stay so when microshards change shards as long as the new shard continues above both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
from shoal.protocol.frames import operations_decoder
from shoal.protocol.messages import Operation, Put
from shoal.shardmap import Keyspace, Shard

from shoal_server.invariants import invariant
from shoal_server.raft.messages import Entry, EntryKind, Membership
from shoal_server.shard.commands import Command, UnknownCommands, WriteCommand, decode_commands
from shoal_server.shard.sessions import SessionTable, Verdict
from shoal_server.storage.engine import Batch, Engine
from shoal_server.storage.layout import (
    AppliedState,
    applied_state_key,
    data_prefix,
    encode_applied_state,
    encode_session_slot,
    prefix_end,
    session_prefix,
    session_slot_key,
    session_slots,
    value_header,
    values_and_seqs,
)

SESSION_ORDINAL_BITS = 40
"""A session's id is the id of the shard that opened it, shifted by this, plus a counter: unique in the cluster."""


@dataclass(slots=True)
class Outcome:
    """What applying one command came to. `value` is a seq (writes) or a session id (openings), where it is NEW or DUPLICATE."""

    verdict: Verdict
    value: int


@dataclass(slots=True)
class Prepared:
    """What the proposer of an entry already decoded, so that it need not be decoded again when applied."""

    term: int
    commands: list[Command]
    operations: list[list[Operation] | None]


Key: TypeAlias = bytes


class ShardStateMachine:
    """One replica's applied state of one shard."""

    def __init__(self, shard: Shard, keyspace: Keyspace, engine: Engine, state: AppliedState, sessions: int) -> None:
        """
        Args:
            state: the applied state as stored, or the initial one of a new shard.
            sessions: how many client sessions the shard remembers at once.
        """
        self.shard = shard
        self.keyspace = keyspace
        self.state = state
        self._engine = engine
        self._session_capacity = sessions
        self.prefixes: dict[int, bytes] = {}
        self.sessions = SessionTable(sessions)
        self.adopt(state)

    def adopt(self, state: AppliedState) -> None:
        """Take `state` and the rows stored under its generation as they are on disk: at start, and after a snapshot."""
        self.state = state
        self.prefixes = {
            microshard: data_prefix(self.keyspace.id, microshard, state.generation)
            for span in self.shard.ranges
            for microshard in range(span.first, span.end)
        }
        self.sessions = SessionTable(self._session_capacity)
        self.sessions.load(session_slots(self._engine, self.shard.id, state.generation))

    # -- writes

    def apply(
        self, entries: list[Entry], batch: Batch, prepared: Mapping[int, Prepared]
    ) -> list[tuple[Entry, list[Outcome]]]:
        """Add the effects of committed `entries` to `batch`; return what became of each COMMAND entry's commands.

        Args:
            prepared: by log index, what this node decoded when it proposed; used only where the term is the entry's.

        Raises:
            UnknownCommands: an entry cannot be read; nothing after it may be applied.
        """
        state = self.state
        index, seq, opened = state.index, state.seq, state.sessions_opened
        membership, membership_index = state.membership, state.membership_index
        results: list[tuple[Entry, list[Outcome]]] = []
        for entry in entries:
            invariant(entry.index == index + 1, "entries are applied in order, without a gap")
            index = entry.index
            if entry.kind == EntryKind.COMMAND:
                known = prepared.get(index)
                if known is not None and known.term == entry.term:
                    commands, operations = known.commands, known.operations
                else:
                    commands = decode_commands(entry.payload)
                    operations = [None] * len(commands)
                outcomes: list[Outcome] = []
                next_seq = seq + 1
                for command, decoded in zip(commands, operations, strict=True):
                    if type(command) is WriteCommand:
                        outcome = self._write(command, decoded, next_seq, batch)
                        if outcome.verdict is Verdict.NEW:
                            seq = next_seq
                    else:
                        opened += 1
                        outcome = self._open_session(opened, batch)
                    outcomes.append(outcome)
                results.append((entry, outcomes))
            elif entry.kind == EntryKind.MEMBERSHIP:
                membership = msgspec.msgpack.decode(entry.payload, type=Membership)
                membership_index = index
            elif entry.kind != EntryKind.EMPTY:
                raise UnknownCommands(f"a log entry is of the unknown kind {entry.kind}: written by a newer Shoal?")
        if entries:
            self.state = AppliedState(
                index=index,
                term=entries[-1].term,
                seq=seq,
                generation=state.generation,
                sessions_opened=opened,
                membership=membership,
                membership_index=membership_index,
            )
            batch.put(applied_state_key(self.shard.id), encode_applied_state(self.state), self._engine.data)
        return results

    def _open_session(self, ordinal: int, batch: Batch) -> Outcome:
        session = (self.shard.id << SESSION_ORDINAL_BITS) + ordinal
        used_at, forgotten = self.sessions.open(session)
        data = self._engine.data
        shard, generation = self.shard.id, self.state.generation
        for old in forgotten:
            prefix = session_prefix(shard, generation, old)
            batch.delete_range(prefix, prefix_end(prefix), data)
        batch.put(session_slot_key(shard, generation, session, 0), encode_session_slot(0, 0, used_at), data)
        return Outcome(Verdict.NEW, session)

    def _write(self, command: WriteCommand, decoded: list[Operation] | None, seq: int, batch: Batch) -> Outcome:
        session, number = command.session, command.number
        verdict, earlier = self.sessions.judge(session, number)
        if verdict is not Verdict.NEW:
            return Outcome(verdict, earlier)
        used_at = self.sessions.record(session, number, seq)
        engine = self._engine
        batch.put(
            session_slot_key(self.shard.id, self.state.generation, session, number),
            encode_session_slot(number, seq, used_at),
            engine.data,
        )
        operations = operations_decoder.decode(command.operations) if decoded is None else decoded
        put, data, prefixes, header = batch.put, engine.data, self.prefixes, value_header(seq)
        for operation, microshard in zip(operations, command.microshards, strict=True):
            if type(operation) is Put:
                put(prefixes[microshard] + operation.key, header + operation.value, data)
            else:
                batch.delete(prefixes[microshard] + operation.key, data)
        return Outcome(Verdict.NEW, seq)

    # -- reads

    def route(self, keys: list[bytes]) -> list[int] | None:
        """Return the microshard of each key, or None where one of them is not this shard's."""
        microshard_of, prefixes = self.keyspace.microshard_of, self.prefixes
        microshards = [microshard_of(key) for key in keys]
        for microshard in microshards:
            if microshard not in prefixes:
                return None
        return microshards

    def read(self, keys: list[bytes], microshards: list[int]) -> tuple[list[bytes | None], list[int]]:
        """Return values (None: absent) and their seqs (0: absent), as applied now and written to the engine."""
        prefixes = self.prefixes
        rows = self._engine.get_many(
            self._engine.data, [prefixes[microshard] + key for microshard, key in zip(microshards, keys, strict=True)]
        )
        return values_and_seqs(rows)

    def read_page(
        self, microshard: int, after: bytes, max_rows: int, max_bytes: int
    ) -> tuple[list[int], list[bytes], list[bytes], bool]:
        """Return rows after a cursor in (microshard, key) order as microshards, keys, values, and whether that was all.

        Args:
            microshard: where the cursor stands, -1 at the beginning.
            after: the last key already read there, b"" for none.
        """
        microshards: list[int] = []
        keys: list[bytes] = []
        rows: list[bytes | None] = []
        size = 0
        for current, key, row in self._rows_after(microshard, after):
            if len(rows) >= max_rows or size >= max_bytes:
                return microshards, keys, _present(values_and_seqs(rows)[0]), False
            microshards.append(current)
            keys.append(key)
            rows.append(row)
            size += len(key) + len(row)
        return microshards, keys, _present(values_and_seqs(rows)[0]), True

    def _rows_after(self, microshard: int, after: bytes) -> Iterator[tuple[int, bytes, bytes]]:
        engine = self._engine
        for current in sorted(self.prefixes):
            if current < microshard:
                continue
            prefix = self.prefixes[current]
            # The smallest key greater than `after` is `after` with a zero byte behind it.
            start = prefix + after + b"\x00" if current == microshard and after else prefix
            for key, row in engine.scan(engine.data, start, prefix_end(prefix)):
                yield current, key[len(prefix) :], row


def _present(values: list[bytes | None]) -> list[bytes]:
    return [value for value in values if value is not None]
