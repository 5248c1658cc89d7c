"""How far a replica has applied its log, and what of its state is not rows: one row, written with what it is about."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from shoal.bounds import (
    MAX_MICROSHARDS,
    Count,
    CursorBytes,
    Generation,
    LogIndex,
    MicroshardEnd,
    MicroshardNumber,
    MigrationId,
    PageNumber,
    Seq,
    ShardId,
    Term,
    UnixMs,
    Word,
)
from shoal.protocol.checksum import checksum
from shoal.protocol.comparison import Divergence
from shoal.protocol.migration import EndedMigration, MigrationCursor
from shoal.shardmap import MicroshardRange, Ranges, is_well_formed, microshards_in, ranges_of

from shoal_server.raft.messages import Membership
from shoal_server.storage.decoding import RowCodec, damaged_row
from shoal_server.storage.engine import Engine
from shoal_server.storage.layout import FORMAT, applied_state_key


class Outgoing(msgspec.Struct, frozen=True, array_like=True):
    """A migration that the shard is the source of.

    Args:
        sealed: it has parted with the microshards, and keeps the rows.
        forgotten: up to where, behind its prefix, the journal is deleted: nothing can be read from before it any more.
    """

    migration: MigrationId
    target: ShardId
    ranges: Ranges
    sealed: bool = False
    forgotten: CursorBytes = b""


class Incoming(msgspec.Struct, frozen=True, array_like=True):
    """A migration that the shard is the target of.

    Args:
        number: of the next page that it takes.
        cursor: where the last one ended, as the source had it.
        rows, bytes: taken so far.
    """

    migration: MigrationId
    source: ShardId
    ranges: Ranges
    number: PageNumber = 1
    cursor: MigrationCursor = MigrationCursor()
    rows: Count = 0
    bytes: Count = 0


class Placement(msgspec.Struct, frozen=True, array_like=True):
    """On this node the rows of the microshards from `first` up to, not with, `end` lie under `generation`."""

    first: MicroshardNumber
    end: MicroshardEnd
    generation: Generation


class AppliedState(msgspec.Struct, frozen=True, array_like=True):
    """How far a replica's state machine is, and what of its state is not rows.

    All of it is the same on every replica at one index, except for what `shared` leaves out, which is this node's.

    Args:
        seq_base: the entry at a log index has the seq `seq_base` + index: so a leader knows it when it proposes, and a
            microshard's seqs go on rising when it comes to another shard, whose base is raised for it.
        generation: that of the replica's rows, where `placements` do not say another one.
        membership: the group's as of `index`.
        clock_ms: the newest time (Unix milliseconds) that an applied entry was stamped with, since one set it back.
        ranges: the microshards, as of `index`.
        ended: migrations that the shard is done with, the newest last.
        children: the shards that were split off.
        compared_index: all rows of all replicas were found the same by a comparison that began at this entry; 0: never yet.
        copied_index: the rows on this node came by a snapshot of this entry; 0: they were all made here.
        cluster_id: of the first shard, what its log says the cluster's id is; else "".
        divergence: replicas had different rows at its index, and nobody could know which are right. It stands until a
            comparison has shown that it is over; that they are the same by now need not show it (node/comparisons.py).
    """

    index: LogIndex
    term: Term
    seq_base: Seq
    generation: Generation
    membership: Membership
    membership_index: LogIndex
    clock_ms: UnixMs = 0
    ranges: Ranges = ()
    format: Count = FORMAT
    outgoing: Outgoing | None = None
    incoming: Incoming | None = None
    ended: tuple[EndedMigration, ...] = ()
    placements: tuple[Placement, ...] = ()
    children: tuple[ShardId, ...] = ()
    compared_index: LogIndex = 0
    copied_index: LogIndex = 0
    cluster_id: Word = ""
    divergence: Divergence | None = None

    @property
    def shared(self) -> AppliedState:
        """The state without where this node's rows lie and came from: the same on every replica at one index."""
        return msgspec.structs.replace(self, generation=0, placements=(), copied_index=0)

    def compared(self, index: int, compared_index: int, divergence: Divergence | None) -> AppliedState:
        """Return the state with what a comparison of replicas has come to by the entry at `index`: see `DigestCommand`."""
        compared_index = max(self.compared_index, min(compared_index, index))
        if divergence is None or divergence.index > index:
            divergence = self.divergence
        if divergence is not None and divergence.index < compared_index:
            divergence = None
        return msgspec.structs.replace(self, compared_index=compared_index, divergence=divergence)

    def with_members(self, membership: Membership) -> AppliedState:
        """Return the state without a divergence of which no two copies are left: over for good, whoever joins later."""
        divergence = self.divergence
        if divergence is None or not divergence.is_replaced(membership.voters + membership.learners):
            return self
        return msgspec.structs.replace(self, divergence=None)

    @property
    def seq(self) -> int:
        """The replica's position: that of the last entry applied."""
        return self.seq_base + self.index

    @property
    def stored_ranges(self) -> tuple[MicroshardRange, ...]:
        """The microshards that the replica has rows of: its own, those it has parted with, and those it is to get."""
        outgoing = self.outgoing.ranges if self.outgoing is not None else ()
        incoming = self.incoming.ranges if self.incoming is not None else ()
        return ranges_of({*microshards_in(self.ranges), *microshards_in(outgoing), *microshards_in(incoming)})

    def generations(self, ranges: Iterable[MicroshardRange]) -> dict[int, int]:
        """Return, for each microshard of `ranges`, the generation that its rows lie under on this node."""
        elsewhere = {
            microshard: placement.generation
            for placement in self.placements
            for microshard in range(placement.first, placement.end)
        }
        return {microshard: elsewhere.get(microshard, self.generation) for microshard in microshards_in(ranges)}


def placements_of(generations: dict[int, int], usual: int) -> tuple[Placement, ...]:
    """Return the placements of microshards, by generation, that do not lie under the `usual` one."""
    placements: list[Placement] = []
    for microshard, generation in sorted(generations.items()):
        if generation == usual:
            continue
        if placements and (placements[-1].end, placements[-1].generation) == (microshard, generation):
            placements[-1] = Placement(placements[-1].first, microshard + 1, generation)
        else:
            placements.append(Placement(microshard, microshard + 1, generation))
    return tuple(placements)


_codec = RowCodec(AppliedState, "data", FORMAT)
_CHECKSUM_BYTES = 4
_COMPARED = tuple(name for name in AppliedState.__struct_fields__ if name != "divergence")


def encode_compared_state(state: AppliedState) -> bytes:
    """Encode what replicas compare of a state: what of it is the same on each, in the fields that every version has.

    That they differ is not in it, nor are fields that a later version adds: beside one that does not know them, a replica
    would be found to differ, and be made anew.
    """
    shared = state.shared
    return msgspec.msgpack.encode([getattr(shared, name) for name in _COMPARED])


def applied_state_row(state: AppliedState) -> bytes:
    """Encode a state as it is stored: behind its checksum.

    All else that a replica has is found by it: of one with another generation no row would be missed by anybody here.
    """
    encoded = _codec.encode(state)
    return checksum(encoded).to_bytes(_CHECKSUM_BYTES, "big") + encoded


def state_problem(state: AppliedState, microshards: int | None = None) -> str:
    """Return "", or why no replica can be in this state.

    Args:
        microshards: how many its keyspace has, where that is known.
    """
    most = MAX_MICROSHARDS if microshards is None else microshards
    moving = [each.ranges for each in (state.outgoing, state.incoming) if each is not None]
    if not all(is_well_formed(ranges, most) for ranges in (*((state.ranges,) if state.ranges else ()), *moving)):
        return f"it is of microshards that are not some of {most}"
    if not state.membership.voters:
        return "nobody votes"
    differed_at = 0 if state.divergence is None else state.divergence.index
    if max(state.membership_index, state.compared_index, state.copied_index, differed_at) > state.index:
        return f"at entry {state.index} it knows of later ones"
    return ""


def load_applied_state(engine: Engine, group: int, microshards: int | None = None) -> AppliedState | None:
    """Return how far a replica is, or None where it has applied nothing yet.

    Args:
        microshards: how many its keyspace has, where that is known.

    Raises:
        Damaged: that cannot be read.
    """
    key = applied_state_key(group)
    row = engine.get(engine.data, key)
    if row is None:
        return None
    encoded = row[_CHECKSUM_BYTES:]
    if checksum(encoded).to_bytes(_CHECKSUM_BYTES, "big") != row[:_CHECKSUM_BYTES]:
        raise damaged_row("data", key, "its checksum is another")
    state = _codec.decode(key, encoded)
    problem = state_problem(state, microshards)
    if problem:
        raise damaged_row("data", key, problem)
    return state
