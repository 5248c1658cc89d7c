"""What splits, migrations, removals and changes of members make of a shard map: the same, whoever derives it.

Pure: maps in, maps out. Managers and nodes both derive maps: a node that has applied a split knows of it before any manager
does, and routes by the map that it derives from its own; the manager's map of the same change has to be the same one.
"""

from __future__ import annotations

from msgspec import structs

from shoal.bounds import Names
from shoal.shardmap import Ranges, Shard, ShardMap, with_ranges, without_ranges


def with_split(shard_map: ShardMap, child: Shard, version: int) -> ShardMap:
    """Return the map, of `version`, in which `child` has been split off.

    Whichever shards of its keyspace have its microshards part with them: by an older map than the split's that may be others
    than its parent.
    """
    shards = tuple(
        _with(shard, without_ranges(shard.ranges, child.ranges)) if shard.keyspace == child.keyspace else shard
        for shard in shard_map.shards
    )
    return structs.replace(shard_map, version=version, shards=(*shards, child))


def with_migrated(shard_map: ShardMap, source: int, target: int, ranges: Ranges, version: int) -> ShardMap:
    """Return the map, of `version`, in which the microshards of `ranges` are `target`'s and no longer `source`'s."""
    moved = {source: without_ranges, target: with_ranges}
    shards = tuple(
        _with(shard, moved[shard.id](shard.ranges, ranges)) if shard.id in moved else shard
        for shard in shard_map.shards
    )
    return structs.replace(shard_map, version=version, shards=shards)


def without_shard(shard_map: ShardMap, shard: int, version: int) -> ShardMap:
    """Return the map, of `version`, without a shard that has no microshards."""
    return structs.replace(
        shard_map, version=version, shards=tuple(known for known in shard_map.shards if known.id != shard)
    )


def with_members(shard: Shard, voters: Names, followers: Names, membership_version: int) -> Shard:
    """Return the shard with other members. Whom its group began with is kept from the first change on."""
    founders, founding_followers = shard.founded_by
    return structs.replace(
        shard,
        voters=voters,
        followers=followers,
        founders=founders,
        founding_followers=founding_followers,
        membership_version=membership_version,
    )


def _with(shard: Shard, ranges: Ranges) -> Shard:
    """Return the shard with other microshards. What its group began with is kept from the first change on."""
    if ranges == shard.ranges:
        return shard
    return structs.replace(shard, ranges=ranges, founding_ranges=shard.founded_with)
