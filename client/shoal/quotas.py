"""Whose a keyspace's quotas are: the nodes that serve it share them, in millionths: a change of a quota needs no new shares.

Each node refuses by itself what is beyond its share (shoal_server/node/quotas.py); the shard manager deals the shares out
(shoal_shardmanager/control/quota_shares.py). Where there is none, or before it has dealt, each node takes the same.
"""

from __future__ import annotations

from shoal.protocol.messages import Atomic, Increment, Operation, Put
from shoal.shardmap import Keyspace, ShardMap


def has_quota(keyspace: Keyspace) -> bool:
    """Say whether anything of a keyspace is bounded."""
    return bool(keyspace.reads_per_second or keyspace.writes_per_second or keyspace.max_bytes)


def sharers_of(shard_map: ShardMap) -> dict[int, frozenset[str]]:
    """Return the nodes that share the quotas of each keyspace that has one: any replica may be read from, or come to lead."""
    sharers: dict[int, set[str]] = {keyspace.id: set() for keyspace in shard_map.keyspaces if has_quota(keyspace)}
    for shard in shard_map.shards if sharers else ():
        if shard.keyspace in sharers:
            sharers[shard.keyspace].update(shard.replicas)
    return {keyspace: frozenset(nodes) for keyspace, nodes in sharers.items()}


def adds(operation: Operation) -> bool:
    """Say whether an operation adds a row, or may make one longer: such a one is refused where a keyspace is full."""
    if isinstance(operation, Atomic):
        return any(isinstance(each, Put | Increment) for each in operation.operations)
    return isinstance(operation, Put | Increment)
