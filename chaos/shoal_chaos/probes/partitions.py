"""A partition in each shard, so that what is asked of one shard stays together wherever it may move."""

from __future__ import annotations

from shoal.shardmap import Keyspace, Routes


def partitions_of_shards(routes: Routes, keyspace: Keyspace, prefix: str) -> dict[int, str]:
    """Return, by shard of a keyspace that has microshards, a partition with its delimiter; `prefix` begins them all."""
    wanted = {shard.id for shard in routes.map.shards if shard.keyspace == keyspace.id and shard.ranges}
    found: dict[int, str] = {}
    number = 0
    while len(found) < len(wanted):
        partition = f"{prefix}:{number}{keyspace.delimiter.decode()}"
        found.setdefault(routes.shard_of(keyspace, partition.encode()), partition)
        number += 1
    return dict(sorted(found.items()))
