"""What a node tells of the keys that clients ask it for most."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nlargest

from shoal.protocol.hot_keys import MAX_HOT_BYTES, MAX_HOT_KEYS, MAX_HOT_SHARDS, GetHotKeys, HotKey, HotKeys, HotShard

from shoal_server.node.hot_keys import FADE_SECONDS, SAMPLES_LEAST
from shoal_server.node.replica import Replica

KEY_NS = 1_000
"""About what it takes to look at a key of a table."""


def hot_keys(request: GetHotKeys, node: str, replicas: Mapping[int, Replica], now: int) -> tuple[HotKeys, int]:
    """Return the answer, and about what it has cost (ns)."""
    if request.shard:
        asked = [replicas[request.shard]] if request.shard in replicas else []
    else:
        asked = nlargest(MAX_HOT_SHARDS, replicas.values(), key=lambda replica: replica.load.hot_keys.total_at(now))
    found: list[tuple[float, int, bytes]] = []
    for replica in asked:
        replica.load.hot_keys.fade(now)
        found += [
            (count.reads + count.writes, replica.shard.id, key)
            for key, count in replica.load.hot_keys.keys.items()
            if count.samples >= SAMPLES_LEAST
        ]
    by_shard: dict[int, list[HotKey]] = {}
    size = 0
    for asked_for, shard, key in nlargest(MAX_HOT_KEYS, found):
        size += len(key)
        if size > MAX_HOT_BYTES:
            break
        count = replicas[shard].load.hot_keys.keys[key]
        if asked_for:
            told = HotKey(key, _rate(count.reads), _rate(count.writes), _rate(count.error + count.deviation))
            by_shard.setdefault(shard, []).append(told)
    shards = tuple(
        HotShard(shard, replicas[shard].keyspace.id, _rate(replicas[shard].load.hot_keys.total), tuple(keys))
        for shard, keys in by_shard.items()
    )
    looked_at = sum(len(replica.load.hot_keys.keys) for replica in asked)
    return HotKeys(request.request, node, shards), KEY_NS * (looked_at + len(replicas))


def _rate(count: float) -> int:
    return round(count / FADE_SECONDS)
