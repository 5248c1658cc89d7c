"""Digests of slices of a replica's rows, made by every replica at the same entry of the log, and what is said of them.

A log entry names where the slice begins (`DigestCommand`); that entry is the last that a replica applies before it makes
the digest of what is then written. So replicas without a fault come to the same digest however far apart they are in time.
A slice is bounded by rows, by bytes and by the microshards that it looks into. It takes in all that applying the log has
stored, of whichever kind: rows, the index of their expiry, sessions, a migration's journal, microshards on their way,
and with the first slice what of the applied state is not rows. Not in it: where on a node the rows lie (generations,
placements), which is the node's own affair; the log, whose entries have checksums of their own; term, vote and whatever
else is the node's.

Places, in the order in which they are gone through: sessions, the journal, and of each microshard its rows, then its
expiry index.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec
from shoal.bounds import (
    Digest,
    LogIndex,
    ShardId,
    Term,
)

from shoal_server.shard.commands import DigestCursor
from shoal_server.storage.applied_state import encode_compared_state
from shoal_server.storage.engine import Engine
from shoal_server.storage.journal import journal_prefix
from shoal_server.storage.layout import expiry_prefix_beside, prefix_end, sessions_prefix

if TYPE_CHECKING:
    from shoal_server.shard.machine import ShardStateMachine

DIGEST_BYTES = 16
MAX_ROWS = 1024
MAX_BYTES = 256 * 1024
"""Of rows in a slice, beside the last one."""
LOOK_ROWS = 16
"""To begin with a place counts as so many rows."""
START = DigestCursor()

_SESSIONS, _JOURNAL, _MICROSHARDS = 0, 1, 2


class DigestReport(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=64):
    """Replica to leader: at `index` the slice that was asked for has this digest, and what follows begins at `next`.

    `next` is None where nothing follows. It belongs to the copy: replicas of which one lacks a row may end elsewhere.
    `copied_index` is that of the snapshot that the replica's rows came by, 0 for none.
    """

    group: ShardId
    index: LogIndex
    digest: Digest
    next: DigestCursor | None
    copied_index: LogIndex = 0


class DigestVerdict(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=65):
    """Leader to replica: the digest that you made at `index`, `wrong`, is not that of most replicas, which is `right`."""

    group: ShardId
    term: Term
    index: LogIndex
    wrong: Digest
    right: Digest


class Slice(msgspec.Struct, frozen=True, gc=False):
    """A digest, over how much it is, and where to go on (None: no more rows follow)."""

    digest: Digest
    rows: int
    bytes: int
    next: DigestCursor | None


def slice_after(cursor: DigestCursor, machine: ShardStateMachine, engine: Engine) -> Slice:
    """Return the slice behind `cursor` of what `machine` has applied, all of which must be written to `engine`."""
    hashed = blake2b(digest_size=DIGEST_BYTES)
    if cursor == START:
        # Where its rows lie is the node's own affair.
        hashed.update(encode_compared_state(machine.state))
    update = hashed.update
    budget, rows, size = MAX_ROWS, 0, 0
    for place, prefix in _places(cursor.place, machine):
        if budget <= 0:
            return Slice(hashed.digest(), rows, size, DigestCursor(place))
        budget -= LOOK_ROWS
        skip = len(prefix)
        start = prefix + cursor.after + b"\0" if place == cursor.place and cursor.after else prefix
        for key, row in engine.scan(engine.data, start, prefix_end(prefix)):
            behind = key[skip:]
            update(b"%d %d %d %b%b" % (place, len(behind), len(row), behind, row))
            rows += 1
            budget -= 1
            size += len(key) + len(row)
            if budget <= 0 or size >= MAX_BYTES:
                return Slice(hashed.digest(), rows, size, DigestCursor(place, behind))
    return Slice(hashed.digest(), rows, size, None)


def _places(first: int, machine: ShardStateMachine) -> Iterator[tuple[int, bytes]]:
    """Yield the places from `first` on, each with what the rows there begin with."""
    shard, generation = machine.shard.id, machine.state.generation
    for place, make in ((_SESSIONS, sessions_prefix), (_JOURNAL, journal_prefix)):
        if place >= first:
            yield place, make(shard, generation)
    prefixes = machine.microshards.stored_prefixes()
    for microshard in sorted(prefixes):
        rows = _MICROSHARDS + 2 * microshard
        if rows >= first:
            yield rows, prefixes[microshard]
        if rows + 1 >= first:
            yield rows + 1, expiry_prefix_beside(prefixes[microshard])


def first_microshard(cursor: DigestCursor) -> int:
    """Return the microshard whose rows are the first behind `cursor`."""
    return max(0, cursor.place - _MICROSHARDS) // 2


def describe(cursor: DigestCursor, end: DigestCursor | None) -> str:
    """Return a few words on which rows a slice has, without a key of a user in them: those are told by a hash."""
    since = _told(cursor) if cursor.place >= _MICROSHARDS else "the shard's sessions"
    if end is None:
        return f"from {since} to the last row"
    return f"from {since} to {_told(end) if end.place >= _MICROSHARDS else 'its sessions'}"


def _told(cursor: DigestCursor) -> str:
    kind = "the expiry index of microshard" if (cursor.place - _MICROSHARDS) % 2 else "microshard"
    behind = f" behind key #{blake2b(cursor.after, digest_size=4).hexdigest()}" if cursor.after else ""
    return f"{kind} {first_microshard(cursor)}{behind}"
