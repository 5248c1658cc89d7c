"""How far a reader of all rows of a keyspace has come, whatever becomes of the shards meanwhile.

Rows are read by microshard, since these stay what they are: shards split, merge and move. What is still to be read is
kept as microshards, and looked up in the newest map; so no row is left out, or read twice, because a map was old.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from shoal.errors import Internal, KeyspaceNotFound
from shoal.protocol.messages import PageResume
from shoal.shardmap import (
    Keyspace,
    MicroshardRange,
    Ranges,
    Routes,
    ShardPart,
    all_of,
    count_in,
    one_microshard,
    without_ranges,
)


@dataclass(frozen=True, slots=True)
class Unread:
    """Microshards of a shard whose rows a reader goes without; of the first of them, the rows up to `after` were read."""

    shard: int
    ranges: Ranges
    after: bytes


class KeyspaceCoverage:
    """What is left to read of a keyspace, in pages of one shard each.

    `after`: of the first microshard of `part`, the rows up to this key have been read.
    """

    __slots__ = ("_parts", "after", "keyspace")

    def __init__(self, routes: Routes, keyspace: Keyspace) -> None:
        self.keyspace = keyspace
        self.after = b""
        self._parts = deque(routes.parts(keyspace.id, all_of(keyspace)))

    @property
    def part(self) -> ShardPart | None:
        """What to read next; None: all has been read."""
        return self._parts[0] if self._parts else None

    @property
    def microshards_left(self) -> int:
        """How many microshards are not read to their end."""
        return sum(count_in(part.ranges) for part in self._parts)

    def take(self, microshards: Sequence[int], keys: Sequence[bytes], resume: PageResume | None) -> None:
        """Take note of a page of `part` that was read from behind `after` up to `resume`; None: it was the last one.

        Raises:
            Internal: it is not what was asked for, or does not get the reader on.
        """
        part = self._parts[0]
        positions = list(zip(microshards, keys, strict=True))
        begins_behind = (part.ranges[0].first, self.after)
        in_order = all(one < other for one, other in zip([begins_behind, *positions], positions, strict=False))
        if not in_order or not _within(microshards, part.ranges):
            raise Internal(f"shard {part.shard} sent a page that is not what it was asked for")
        if resume is None:
            self._parts.popleft()
            self.after = b""
            return
        reached = (resume.microshard, resume.after)
        last = positions[-1] if positions else begins_behind
        if reached < last or reached == begins_behind or not _within([resume.microshard], part.ranges):
            raise Internal(f"shard {part.shard} sent a page that does not say where to go on")
        self.after = resume.after
        self._parts[0] = ShardPart(part.shard, _from(part.ranges, resume.microshard))

    def leave(self, served: Ranges = ()) -> Unread:
        """Go on without what is left of `part`, but for `served`, and return what that is.

        Args:
            served: microshards that the shard does have; where it has all of them, it is to go on without all the same.
        """
        part = self._parts.popleft()
        lost = without_ranges(part.ranges, served) or part.ranges
        kept = without_ranges(part.ranges, lost)
        begun_is_lost = lost[0].first == part.ranges[0].first
        unread = Unread(part.shard, lost, self.after if begun_is_lost else b"")
        if begun_is_lost:
            self.after = b""
        if kept:
            self._parts.appendleft(ShardPart(part.shard, kept))
        return unread

    def follow(self, routes: Routes) -> None:
        """Go by a newer map from now on.

        Raises:
            KeyspaceNotFound: it has no such keyspace any more.
        """
        if self.keyspace.id not in routes.keyspaces:
            raise KeyspaceNotFound(f"keyspace {self.keyspace.name!r} has been dropped while it was read")
        left = tuple(sorted((span for part in self._parts for span in part.ranges), key=lambda span: span.first))
        parts: list[ShardPart] = []
        if self.after:
            # It is read to its end by itself: by the new map it need not be the first that its shard has.
            begun = self._parts[0].ranges[0].first
            parts += routes.parts(self.keyspace.id, one_microshard(begun))
            left = without_ranges(left, one_microshard(begun))
        self._parts = deque([*parts, *routes.parts(self.keyspace.id, left)])


def _within(microshards: Sequence[int], ranges: Ranges) -> bool:
    return all(any(span.first <= each < span.end for span in ranges) for each in set(microshards))


def _from(ranges: Ranges, first: int) -> Ranges:
    """Return what `ranges` has from the microshard `first` on."""
    return tuple(MicroshardRange(max(span.first, first), span.end) for span in ranges if span.end > first)
