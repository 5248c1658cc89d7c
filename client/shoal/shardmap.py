"""The shard map: which microshards make a shard, and which nodes hold its replicas.

Plain data, versioned, the same on clients and nodes. `Routes` is the index built from it for look-ups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from shoal.bounds import (
    MAX_KEYSPACES,
    MAX_MICROSHARDS,
    MAX_NODES,
    MAX_SHARDS,
    Address,
    Bytes,
    Delimiter,
    DurationMs,
    KeyspaceId,
    MicroshardCount,
    MicroshardEnd,
    MicroshardNumber,
    Name,
    Names,
    Place,
    QuotaRate,
    ShardId,
    Version,
    Word,
)
from shoal.keys import microshard_of, microshards_of


class NodeAddress(msgspec.Struct, frozen=True, array_like=True):
    """A storage node and where clients and peers reach it (`host:port`)."""

    id: Name
    address: Address
    region: Place = ""
    zone: Place = ""


class Keyspace(msgspec.Struct, frozen=True, array_like=True):
    """A tenant's set of keys. `id` is what the disk and the wire use; the name may be looked up only here.

    `default_ttl_ms` is that of writes that name none; 0: they never expire.

    Args:
        reads_per_second, writes_per_second: how many keys and rows may be read, and operations done, in the whole
            cluster; 0: there is no quota.
        max_bytes: of its keys and rows, each counted once however many replicas have it; 0: there is no quota.
    """

    id: KeyspaceId
    name: Name
    microshards: MicroshardCount
    delimiter: Delimiter
    max_staleness_ms: DurationMs = 5_000
    default_ttl_ms: DurationMs = 0
    reads_per_second: QuotaRate = 0
    writes_per_second: QuotaRate = 0
    max_bytes: Bytes = 0

    def microshard_of(self, key: bytes) -> int:
        return microshard_of(key, self.delimiter, self.microshards)

    def microshards_of(self, keys: Iterable[bytes]) -> list[int]:
        return microshards_of(keys, self.delimiter, self.microshards)


class MicroshardRange(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The microshards from `first` up to, not with, `end`. Part of what writes are made of, and so never grows."""

    first: MicroshardNumber
    end: MicroshardEnd


Ranges: TypeAlias = Annotated[tuple[MicroshardRange, ...], Meta(max_length=MAX_MICROSHARDS)]
"""Microshards of one keyspace: in what is asked of a node, well formed (see `is_well_formed`)."""


class Shard(msgspec.Struct, frozen=True, array_like=True):
    """A set of microshards of one keyspace, replicated by one Raft group.

    `voters[0]` is the preferred leader. `leader` is a hint: the last leader the sender knew of, or "".

    Args:
        founders, founding_followers, founding_ranges: what the group began with; never changed. Empty: what it has now.
        membership_version: that of the group's membership as far as the map knows; it begins at 1.
        parent: the shard that it was split off from, 0: none.
    """

    id: ShardId
    keyspace: KeyspaceId
    ranges: Ranges
    voters: Names
    followers: Names = ()
    leader: Name = ""
    founders: Names = ()
    founding_followers: Names = ()
    membership_version: Version = 1
    founding_ranges: Ranges = ()
    parent: ShardId = 0

    @property
    def replicas(self) -> tuple[str, ...]:
        return self.voters + self.followers

    @property
    def founded_by(self) -> tuple[Names, Names]:
        """The voters and the followers that the group began with."""
        return (self.founders, self.founding_followers) if self.founders else (self.voters, self.followers)

    @property
    def founded_with(self) -> Ranges:
        """The microshards that the group began with."""
        return self.founding_ranges or self.ranges


class ShardMap(msgspec.Struct, frozen=True, array_like=True):
    """The whole map of a cluster at one version; a higher version replaces a lower one whole.

    `cluster_id` tells the cluster from every other one, also of that name; "" before it is settled.
    """

    version: Version
    cluster: Name
    nodes: Annotated[tuple[NodeAddress, ...], Meta(max_length=MAX_NODES)]
    keyspaces: Annotated[tuple[Keyspace, ...], Meta(max_length=MAX_KEYSPACES)]
    shards: Annotated[tuple[Shard, ...], Meta(max_length=MAX_SHARDS)]
    cluster_id: Word = ""


@dataclass(frozen=True, slots=True)
class ShardPart:
    """What one shard has of some microshards, by a map."""

    shard: int
    ranges: Ranges


def is_well_formed(ranges: Ranges, microshards: int) -> bool:
    """Say whether ranges are some of so many microshards: at least one, in order, each named once.

    What a node may be asked for is so; it takes no time for ranges that go far.
    """
    end = 0
    for span in ranges:
        if not end <= span.first < span.end:
            return False
        end = span.end
    return 0 < end <= microshards


def count_in(ranges: Ranges) -> int:
    """Return how many microshards well-formed ranges have."""
    return sum([span.end - span.first for span in ranges])


def all_of(keyspace: Keyspace) -> Ranges:
    """Return all microshards of a keyspace."""
    return (MicroshardRange(0, keyspace.microshards),)


def one_microshard(microshard: int) -> Ranges:
    """Return a single microshard as ranges."""
    return (MicroshardRange(microshard, microshard + 1),)


def without_ranges(
    ranges: tuple[MicroshardRange, ...], taken: tuple[MicroshardRange, ...]
) -> tuple[MicroshardRange, ...]:
    """Return what is left of `ranges` without the microshards of `taken`, in order, neighbours joined."""
    return ranges_of(set(microshards_in(ranges)).difference(microshards_in(taken)))


def with_ranges(ranges: tuple[MicroshardRange, ...], added: tuple[MicroshardRange, ...]) -> tuple[MicroshardRange, ...]:
    """Return `ranges` and the microshards of `added`, in order, neighbours joined."""
    return ranges_of({*microshards_in(ranges), *microshards_in(added)})


def microshards_in(ranges: Iterable[MicroshardRange]) -> Iterator[int]:
    """Yield the microshards of ranges."""
    for span in ranges:
        yield from range(span.first, span.end)


def parts_of_at_most(count: int, ranges: Ranges) -> Iterator[tuple[MicroshardRange, ...]]:
    """Yield well-formed ranges in parts of `count` microshards at the most, in order."""
    part: list[MicroshardRange] = []
    left = count
    for span in ranges:
        first = span.first
        while first < span.end:
            end = min(span.end, first + left)
            part.append(MicroshardRange(first, end))
            left -= end - first
            first = end
            if not left:
                yield tuple(part)
                part, left = [], count
    if part:
        yield tuple(part)


def ranges_of(microshards: Iterable[int]) -> tuple[MicroshardRange, ...]:
    """Return microshards as ranges, in order, neighbours joined."""
    found: list[MicroshardRange] = []
    for microshard in sorted(microshards):
        if found and found[-1].end == microshard:
            found[-1] = MicroshardRange(found[-1].first, microshard + 1)
        else:
            found.append(MicroshardRange(microshard, microshard + 1))
    return tuple(found)


class Routes:
    """Look-ups in one `ShardMap`.

    Invariant: every microshard of every keyspace belongs to exactly one shard; `ValueError` otherwise.
    """

    __slots__ = ("_shard_of", "keyspaces", "keyspaces_by_name", "map", "nodes", "shards")

    def __init__(self, shard_map: ShardMap) -> None:
        self.map = shard_map
        self.nodes: dict[str, NodeAddress] = {node.id: node for node in shard_map.nodes}
        self.keyspaces: dict[int, Keyspace] = {keyspace.id: keyspace for keyspace in shard_map.keyspaces}
        self.keyspaces_by_name: dict[str, Keyspace] = {keyspace.name: keyspace for keyspace in shard_map.keyspaces}
        self.shards: dict[int, Shard] = {shard.id: shard for shard in shard_map.shards}
        owners: dict[int, list[int | None]] = {k.id: [None] * k.microshards for k in shard_map.keyspaces}
        for shard in shard_map.shards:
            owner = owners[shard.keyspace]
            for span in shard.ranges:
                for microshard in range(span.first, span.end):
                    if owner[microshard] is not None:
                        raise ValueError(f"microshard {microshard} is in shards {owner[microshard]} and {shard.id}")
                    owner[microshard] = shard.id
        self._shard_of: dict[int, list[int]] = {}
        for keyspace_id, owner in owners.items():
            whole = [shard_id for shard_id in owner if shard_id is not None]
            if len(whole) != len(owner):
                raise ValueError(f"keyspace {keyspace_id} has microshards without a shard")
            self._shard_of[keyspace_id] = whole

    def shard_table(self, keyspace: int) -> list[int]:
        """Return the list microshard -> shard id of a keyspace (shared, not to be changed)."""
        return self._shard_of[keyspace]

    def parts(self, keyspace: int, ranges: Ranges) -> list[ShardPart]:
        """Return which shards have the microshards `ranges` of a keyspace, and which of them each has."""
        table = self._shard_of[keyspace]
        found: dict[int, list[MicroshardRange]] = {}
        for span in ranges:
            first = span.first
            while first < span.end:
                shard, end = table[first], first + 1
                while end < span.end and table[end] == shard:
                    end += 1
                found.setdefault(shard, []).append(MicroshardRange(first, end))
                first = end
        return [ShardPart(shard, tuple(spans)) for shard, spans in found.items()]

    def shard_of(self, keyspace: Keyspace, key: bytes) -> int:
        """Return the id of the shard that holds `key`."""
        return self._shard_of[keyspace.id][keyspace.microshard_of(key)]
