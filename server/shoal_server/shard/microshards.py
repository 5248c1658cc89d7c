"""Microshards that leave a shard or come to it: splits and migrations, as applied.

A split gives microshards to a new shard whose replicas are where this one's are: the rows stay where they lie
(docs/decisions/0010-splits-in-place.md). A migration gives them to another shard, wherever that is; its steps are in
`shoal.protocol.migration`, the reasons in docs/decisions/0011-moving-microshards.md.

| a shard in no migration | by BeginOutgoing: it is *outgoing* | by BeginIncoming: it is *incoming* |
| outgoing: it serves the microshards, and journals what changes | by Seal: it is *sealed* | by Cancel: in none |
| sealed: it keeps the rows, and serves them no more | by Forget: in none | |
| incoming: it stores pages of rows, in their order | by Adopt, if it has all: in none, and serves them | by Cancel: in none |

A shard is in one migration at a time, and is not split meanwhile. Which ones it is done with it remembers for a while,
so that a step that is repeated is known, and a late one begins nothing anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from shoal.protocol.migration import EndedMigration, MigrationCursor, MigrationEnd
from shoal.shardmap import MicroshardRange, microshards_in, ranges_of, with_ranges, without_ranges

from shoal_server.invariants import invariant
from shoal_server.raft.messages import Membership
from shoal_server.shard.beginnings import Beginnings, ShardBegunTwice
from shoal_server.shard.commands import (
    AdoptCommand,
    BeginIncomingCommand,
    BeginOutgoingCommand,
    CancelCommand,
    ForgetCommand,
    MigrationCommand,
    SealCommand,
    SplitCommand,
    StoreMovedCommand,
)
from shoal_server.shard.moving import journal_place, journal_resumption
from shoal_server.shard.overlay import Overlay
from shoal_server.shard.state import ShardState
from shoal_server.storage.applied_state import AppliedState, Incoming, Outgoing, applied_state_row, placements_of
from shoal_server.storage.engine import Engine
from shoal_server.storage.generations import next_generation
from shoal_server.storage.journal import CHANGED, CLEARED, journal_prefix, journal_suffix
from shoal_server.storage.layout import (
    DATA_PREFIX_BYTES,
    SplitOff,
    applied_state_key,
    data_prefix,
    encode_split_off,
    expiry_prefix,
    expiry_suffix,
    prefix_end,
    row_expiry,
    split_off_key,
)

ENDED_KEPT = 32
"""How many migrations that are over a shard remembers."""


@dataclass(slots=True, frozen=True)
class HandOver:
    """Microshards went from one shard to another: routes of a version before `map_version` are not right any more."""

    source: int
    target: int
    ranges: tuple[MicroshardRange, ...]
    map_version: int


@dataclass(slots=True, frozen=True)
class ClearedRows:
    """The entry at `index` removed the rows of microshards, each under its generation."""

    index: int
    generations: Mapping[int, int]


@dataclass(slots=True, frozen=True)
class EntryPosition:
    """Of the entry that is being applied: index, term, and time (Unix milliseconds)."""

    index: int
    term: int
    clock_ms: int


class Microshards:
    """Applies splits and the steps of migrations to what the parts of a shard's state machine share.

    `split_offs` are the shards that splits have made, each beside the index of its entry; the node takes them out.
    `cleared` are the rows whose removal was applied, and is not known to be on disk: a crash brings them back, and only the
    entry that removed them would remove them again. Who stores at once that the replica is behind that entry, or is gone,
    removes them in the same batch.
    """

    __slots__ = (
        "_beginnings",
        "_engine",
        "_hand_overs",
        "_incoming_prefixes",
        "_outgoing",
        "_shared",
        "cleared",
        "split_offs",
    )

    def __init__(self, shared: ShardState, engine: Engine, beginnings: Beginnings) -> None:
        self._shared = shared
        self._beginnings = beginnings
        self._engine = engine
        self._hand_overs: list[HandOver] = []
        self.split_offs: list[tuple[int, SplitOff]] = []
        self.cleared: list[ClearedRows] = []
        self._outgoing: dict[bytes, int] = {}
        self._incoming_prefixes: dict[int, bytes] = {}

    def adopt(self) -> None:
        """Go by the machine's present state: at start, and after a snapshot."""
        self._outgoing = {}
        self._incoming_prefixes = {}
        state = self._shared.state
        if state.outgoing is not None:
            self._outgoing = {prefix: each for each, prefix in self._prefixes(state.outgoing.ranges).items()}
        if state.incoming is not None:
            self._incoming_prefixes = self._prefixes(state.incoming.ranges)

    def _prefixes(self, ranges: tuple[MicroshardRange, ...]) -> dict[int, bytes]:
        keyspace = self._shared.keyspace.id
        generations = self._shared.state.generations(ranges)
        return {
            microshard: data_prefix(keyspace, microshard, generation) for microshard, generation in generations.items()
        }

    def stored_prefixes(self) -> dict[int, bytes]:
        """Return what the rows of each microshard begin with that the shard has, has parted with, or is to get."""
        shared = self._shared
        if not (self._outgoing or self._incoming_prefixes):
            return shared.prefixes
        return {
            **shared.prefixes,
            **self._incoming_prefixes,
            **{microshard: prefix for prefix, microshard in self._outgoing.items()},
        }

    def take_hand_overs(self) -> list[HandOver]:
        """Take out what was handed over since the last time."""
        hand_overs, self._hand_overs = self._hand_overs, []
        return hand_overs

    def forget(self, split_offs: int) -> None:
        """Of what was applied and will not be written, hand nothing out: `split_offs` were there before."""
        for _, split_off in self.split_offs[split_offs:]:
            self._beginnings.forget(split_off.child.id)
        del self.split_offs[split_offs:]
        self._hand_overs = []
        index = self._shared.state.index
        self.cleared = [each for each in self.cleared if each.index <= index]

    def flushed(self, index: int) -> None:
        """What was applied up to `index` is on disk, and with it that rows were removed."""
        if self.cleared:
            self.cleared = [each for each in self.cleared if each.index > index]

    # -- the journal

    @property
    def journals(self) -> bool:
        """Whether changes are to be recorded."""
        outgoing = self._shared.state.outgoing
        return outgoing is not None and not outgoing.sealed

    def journal(self, index: int, overlay: Overlay) -> None:
        """Note what the entry at `index` has changed, as far as it was recorded and another shard is to get it."""
        keys, spans = overlay.take_changes()
        moving, rows = self._outgoing, overlay.rows
        prefix = journal_prefix(self._shared.shard.id, self._shared.state.generation)
        for key in keys:
            microshard = moving.get(key[:DATA_PREFIX_BYTES])
            if microshard is not None:
                rows[prefix + journal_suffix(index, CHANGED, microshard, key[DATA_PREFIX_BYTES:])] = b""
        # A row of the journal is known by its range's start alone: those of one entry have to be apart from each other.
        for start, end in joined_spans([span for span in spans if span[0][:DATA_PREFIX_BYTES] in moving]):
            begins_with = start[:DATA_PREFIX_BYTES]
            suffix = journal_suffix(index, CLEARED, moving[begins_with], start[DATA_PREFIX_BYTES:])
            invariant(prefix + suffix not in rows, "the ranges that one entry clears have one row each in the journal")
            rows[prefix + suffix] = end[DATA_PREFIX_BYTES:] if end[:DATA_PREFIX_BYTES] == begins_with else b""

    # -- splits

    def split(self, command: SplitCommand, at: EntryPosition, membership: Membership, overlay: Overlay) -> str:
        """Give microshards to a new shard, whose rows are the same ones and whose log begins here; "" or why not.

        Whether it is refused hangs on what all replicas of this shard have applied, and on nothing else.

        Raises:
            ShardBegunTwice: this node has a shard of that number which is not this one's. The other nodes may not, so it
                cannot be refused; the replica stops before it with all its rows.
        """
        shared, child = self._shared, command.child
        state = shared.state
        taken = set(microshards_in(child.ranges))
        if state.outgoing is not None or state.incoming is not None:
            return f"{_busy(state)}: split shard {shared.shard.id} when that is over"
        if not taken or not taken < shared.prefixes.keys() or child.keyspace != shared.keyspace.id:
            return (
                f"shard {shared.shard.id} cannot be split so: some of the microshards are not in it, or none would stay"
            )
        if child.id == shared.shard.id or child.id in state.children:
            return f"shard {child.id} was split off shard {shared.shard.id} before: give the new one another number"
        split_off = SplitOff(msgspec.structs.replace(child, parent=shared.shard.id), command.map_version)
        child_state = AppliedState(
            index=at.index,
            term=at.term,
            seq_base=state.seq_base,
            generation=state.generation,
            membership=membership,
            membership_index=at.index,
            clock_ms=at.clock_ms,
            ranges=ranges_of(taken),
            placements=placements_of(state.generations(child.ranges), state.generation),
            compared_index=state.compared_index,
            copied_index=state.copied_index,
            divergence=state.divergence,
        )
        begun_by = self._beginnings.parent_of(child.id, self._engine)
        if begun_by is not None and begun_by != shared.shard.id:
            whose = f"a part of shard {begun_by}" if begun_by else "founded"
            raise ShardBegunTwice(
                f"shard {child.id} is there already, {whose}: it cannot be split off shard {shared.shard.id} as well"
            )
        if begun_by is not None:
            # It came here before its parent did, and is fed by its own leader.
            self._clear_rows(child.ranges, at.index, overlay)
        else:
            self._beginnings.begin(child.id, shared.shard.id)
            overlay.rows[applied_state_key(child.id)] = applied_state_row(child_state)
            overlay.rows[split_off_key(child.id)] = encode_split_off(split_off)
            self.split_offs.append((at.index, split_off))
        self._part_with(child.ranges)
        self._place(state.generations(shared.state.ranges))
        shared.state = msgspec.structs.replace(shared.state, children=(*state.children, child.id))
        return ""

    def _part_with(self, ranges: tuple[MicroshardRange, ...]) -> None:
        """Serve microshards no more."""
        shared = self._shared
        shared.state = msgspec.structs.replace(shared.state, ranges=without_ranges(shared.state.ranges, ranges))
        gone = list(microshards_in(ranges))
        for microshard in gone:
            del shared.prefixes[microshard]
        shared.expiry.forget(gone)

    def _place(self, generations: dict[int, int]) -> None:
        state = self._shared.state
        self._shared.state = msgspec.structs.replace(state, placements=placements_of(generations, state.generation))

    # -- migrations

    def migrate(self, command: MigrationCommand, index: int, overlay: Overlay) -> str:
        """Take a step of a migration, unless it was taken before; return "" or why it is refused."""
        end = self._end_of(command.migration)
        if isinstance(command, BeginIncomingCommand):
            return self._refuse_ended(end, MigrationEnd.ADOPTED) if end else self._take(command)
        if isinstance(command, BeginOutgoingCommand):
            return self._refuse_ended(end, MigrationEnd.FORGOTTEN) if end else self._give(command, index, overlay)
        if isinstance(command, CancelCommand):
            return self._refuse_ended(end, MigrationEnd.CANCELLED) if end else self._cancel(command, index, overlay)
        if isinstance(command, StoreMovedCommand | AdoptCommand):
            if end:
                return self._refuse_ended(end, MigrationEnd.ADOPTED)
            incoming = self._shared.state.incoming
            if incoming is None or incoming.migration != command.migration:
                return self._unknown(command.migration)
            if isinstance(command, AdoptCommand):
                return self._adopt(command, incoming, index)
            return self._store(command, incoming, overlay)
        if end:
            return self._refuse_ended(end, MigrationEnd.FORGOTTEN)
        outgoing = self._shared.state.outgoing
        if outgoing is None or outgoing.migration != command.migration:
            return self._unknown(command.migration)
        if isinstance(command, SealCommand):
            return self._seal(command, outgoing, index, overlay)
        return self._forget(command, outgoing, index, overlay)

    def _end_of(self, migration: int) -> MigrationEnd | None:
        ended = self._shared.state.ended
        return next((each.end for each in ended if each.migration == migration), None)

    def _refuse_ended(self, end: MigrationEnd, wanted: MigrationEnd) -> str:
        return "" if end is wanted else f"this migration has ended on shard {self._shared.shard.id}: {end.name.lower()}"

    def _unknown(self, migration: int) -> str:
        return f"migration {migration} was never begun on shard {self._shared.shard.id}, or long ago"

    def _end(self, migration: int, end: MigrationEnd) -> None:
        state = self._shared.state
        ended = (*state.ended, EndedMigration(migration, end))[-ENDED_KEPT:]
        self._shared.state = msgspec.structs.replace(state, ended=ended)

    def _take(self, command: BeginIncomingCommand) -> str:
        shared, state = self._shared, self._shared.state
        wanted = Incoming(command.migration, command.source, ranges_of(microshards_in(command.ranges)))
        known = state.incoming
        if known is not None and known.migration == command.migration:
            same = (known.source, known.ranges) == (wanted.source, wanted.ranges)
            return "" if same else f"migration {command.migration} was begun with another shard or other microshards"
        if known is not None or state.outgoing is not None:
            return f"{_busy(state)}: a shard is in one migration at a time"
        microshards = set(microshards_in(wanted.ranges))
        if not microshards or not microshards <= set(range(shared.keyspace.microshards)):
            return f"the microshards must be some of the keyspace's {shared.keyspace.microshards}"
        if not microshards.isdisjoint(shared.prefixes):
            return f"shard {shared.shard.id} has some of the microshards already"
        generations = state.generations(state.ranges) | dict.fromkeys(microshards, next_generation(self._engine))
        shared.state = msgspec.structs.replace(state, incoming=wanted)
        self._place(generations)
        self.adopt()
        return ""

    def _give(self, command: BeginOutgoingCommand, index: int, overlay: Overlay) -> str:
        shared, state = self._shared, self._shared.state
        wanted = Outgoing(command.migration, command.target, ranges_of(microshards_in(command.ranges)))
        known = state.outgoing
        if known is not None and known.migration == command.migration:
            if (known.target, known.ranges) != (wanted.target, wanted.ranges):
                return f"migration {command.migration} was begun with another shard or other microshards"
            return self._trim_journal(command.confirmed, index, known, overlay)
        if known is not None or state.incoming is not None:
            return f"{_busy(state)}: a shard is in one migration at a time"
        microshards = set(microshards_in(wanted.ranges))
        if not microshards or not microshards <= shared.prefixes.keys():
            return f"shard {shared.shard.id} has not all of the microshards"
        shared.state = msgspec.structs.replace(state, outgoing=wanted)
        self.adopt()
        overlay.record()
        return ""

    def _trim_journal(self, confirmed: MigrationCursor, index: int, outgoing: Outgoing, overlay: Overlay) -> str:
        """Forget what the target is said to have.

        Where it has less, what it lacks can be read no more, and is not left out in silence: see `can_be_read`.
        """
        if confirmed.mark > index:
            return f"nobody has read up to index {confirmed.mark}: this is {index}"
        if confirmed.scanned:
            prefix = journal_prefix(self._shared.shard.id, self._shared.state.generation)
            overlay.clear([(prefix, prefix + journal_resumption(confirmed))])
            forgotten = max(journal_place(confirmed), outgoing.forgotten)
            outgoing = msgspec.structs.replace(outgoing, forgotten=forgotten)
            self._shared.state = msgspec.structs.replace(self._shared.state, outgoing=outgoing)
        return ""

    def _store(self, command: StoreMovedCommand, incoming: Incoming, overlay: Overlay) -> str:
        if command.number < incoming.number:
            return ""
        if command.number > incoming.number:
            return f"page {command.number} is not the next one, which is {incoming.number}"
        if incoming.cursor.complete:
            return "nothing follows a page that was complete"
        if command.behind is not None and command.behind != incoming.cursor:
            return f"page {command.number} was not read from where the page before it ended"
        if command.cursor.ranges != incoming.ranges:
            return f"page {command.number} is of other microshards than shard {self._shared.shard.id} is to get"
        prefixes = self._incoming_prefixes
        if any(microshard not in prefixes for microshard, _, _ in (*command.cleared, *command.rows)):
            return f"some of the rows are of microshards that migration {command.migration} is not about"
        overlay.clear(
            joined_spans([_span(prefixes[microshard], start, end) for microshard, start, end in command.cleared])
        )
        keyspace, size = self._shared.keyspace.id, 0
        index_prefixes: dict[int, bytes] = {}
        generations = self._shared.state.generations(incoming.ranges)
        for microshard, key, row in command.rows:
            overlay.rows[prefixes[microshard] + key] = row
            size += len(key) + len(row or b"")
            expiry = row_expiry(row) if row is not None else 0
            if expiry:
                if microshard not in index_prefixes:
                    index_prefixes[microshard] = expiry_prefix(keyspace, microshard, generations[microshard])
                overlay.rows[index_prefixes[microshard] + expiry_suffix(expiry, key)] = b""
        stored = msgspec.structs.replace(
            incoming,
            number=incoming.number + 1,
            cursor=command.cursor,
            rows=incoming.rows + len(command.rows),
            bytes=incoming.bytes + size,
        )
        self._shared.state = msgspec.structs.replace(self._shared.state, incoming=stored)
        return ""

    def _seal(self, command: SealCommand, outgoing: Outgoing, index: int, overlay: Overlay) -> str:
        if outgoing.sealed:
            return ""
        # What stands before it in the same entry is the last that the target has to learn of.
        self.journal(index, overlay)
        shared = self._shared
        self._part_with(outgoing.ranges)
        shared.state = msgspec.structs.replace(shared.state, outgoing=msgspec.structs.replace(outgoing, sealed=True))
        self._hand_overs.append(HandOver(shared.shard.id, outgoing.target, outgoing.ranges, command.map_version))
        return ""

    def _adopt(self, command: AdoptCommand, incoming: Incoming, index: int) -> str:
        if not incoming.cursor.complete:
            return f"shard {self._shared.shard.id} has not yet all that shard {incoming.source} had when it was sealed"
        shared = self._shared
        state = shared.state
        generations = state.generations(incoming.ranges)
        shared.prefixes.update(self._incoming_prefixes)
        shared.expiry.begin(generations)
        shared.traffic.changed.update(generations)
        shared.state = msgspec.structs.replace(
            state,
            # The next entry's seq is then greater than any that the source gave, and this one's no smaller.
            seq_base=max(state.seq_base, incoming.cursor.seq - index),
            ranges=with_ranges(state.ranges, incoming.ranges),
            incoming=None,
        )
        self._end(command.migration, MigrationEnd.ADOPTED)
        self.adopt()
        self._hand_overs.append(HandOver(incoming.source, shared.shard.id, incoming.ranges, command.map_version))
        return ""

    def _forget(self, command: ForgetCommand, outgoing: Outgoing, index: int, overlay: Overlay) -> str:
        if not outgoing.sealed:
            return f"shard {self._shared.shard.id} still has the microshards: seal it first"
        self._clear_rows(outgoing.ranges, index, overlay)
        self._end_outgoing(command.migration, MigrationEnd.FORGOTTEN, overlay)
        return ""

    def _cancel(self, command: CancelCommand, index: int, overlay: Overlay) -> str:
        state, migration = self._shared.state, command.migration
        outgoing, incoming = state.outgoing, state.incoming
        if outgoing is not None and outgoing.migration == migration:
            if outgoing.sealed:
                return f"shard {self._shared.shard.id} has parted with the microshards: the migration must go forward"
            self._end_outgoing(migration, MigrationEnd.CANCELLED, overlay)
        elif incoming is not None and incoming.migration == migration:
            if incoming.cursor.complete:
                return f"shard {incoming.source} has parted with the microshards: the migration must go forward"
            self._clear_rows(incoming.ranges, index, overlay)
            self._shared.state = msgspec.structs.replace(state, incoming=None)
            self._place(state.generations(state.ranges))
            self._end(migration, MigrationEnd.CANCELLED)
            self.adopt()
        else:
            self._end(migration, MigrationEnd.CANCELLED)
        return ""

    def _end_outgoing(self, migration: int, end: MigrationEnd, overlay: Overlay) -> None:
        shared = self._shared
        state = shared.state
        overlay.take_changes()
        prefix = journal_prefix(shared.shard.id, state.generation)
        overlay.clear([(prefix, prefix_end(prefix))])
        shared.state = msgspec.structs.replace(state, outgoing=None)
        self._place(state.generations(state.ranges))
        self._end(migration, end)
        self.adopt()

    def _clear_rows(self, ranges: tuple[MicroshardRange, ...], index: int, overlay: Overlay) -> None:
        """Remove the rows of microshards, and what indexes their expiry, by the entry at `index`."""
        keyspace = self._shared.keyspace.id
        generations = self._shared.state.generations(ranges)
        self.cleared.append(ClearedRows(index, generations))
        for make in (data_prefix, expiry_prefix):
            prefixes = sorted(make(keyspace, microshard, generation) for microshard, generation in generations.items())
            overlay.clear([(prefix, prefix_end(prefix)) for prefix in prefixes])


def _span(prefix: bytes, start: bytes, end: bytes) -> tuple[bytes, bytes]:
    return prefix + start, prefix + end if end else prefix_end(prefix)


def joined_spans(spans: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the same ranges of stored keys in order, those of one microshard that overlap or touch as one."""
    joined: list[tuple[bytes, bytes]] = []
    for start, end in sorted(spans):
        last = joined[-1] if joined else (b"", b"")
        if start <= last[1] and start[:DATA_PREFIX_BYTES] == last[0][:DATA_PREFIX_BYTES]:
            joined[-1] = (last[0], max(end, last[1]))
        else:
            joined.append((start, end))
    return joined


def _busy(state: AppliedState) -> str:
    if state.outgoing is not None:
        return f"migration {state.outgoing.migration}, which takes microshards away, is under way"
    assert state.incoming is not None, "asked only of a shard that is in a migration"
    return f"migration {state.incoming.migration}, which brings microshards, is under way"
