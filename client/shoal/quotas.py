"""Whose a keyspace's quotas are: the nodes that serve it share them, in millionths: a change of a quota needs no new shares.

Each node refuses by itself what is beyond its share (shoal_server/node/quotas.py); the shard manager deals the shares out
(shoal_shardmanager/control/quota_shares.py). Where there is none, or before it has dealt, each node takes the same.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from shoal.protocol.messages import Atomic, Increment, Operation, Put
from shoal.shardmap import Keyspace, ShardMap


@dataclass(frozen=True, slots=True)
class Sharers:
    """The nodes that may serve a keyspace: any replica serves reads, and a voter may come to lead, which writes go to."""

    readers: AbstractSet[str]
    writers: AbstractSet[str]


def has_quota(keyspace: Keyspace) -> bool:
    """Say whether anything of a keyspace is bounded."""
    return bool(keyspace.reads_per_second or keyspace.writes_per_second or keyspace.max_bytes)


def sharers_of(shard_map: ShardMap) -> dict[int, Sharers]:
    """Return who shares the quotas of each keyspace that has one."""
    readers: dict[int, set[str]] = {each.id: set() for each in shard_map.keyspaces if has_quota(each)}
    writers: dict[int, set[str]] = {keyspace: set() for keyspace in readers}
    for shard in shard_map.shards if readers else ():
        if shard.keyspace in readers:
            readers[shard.keyspace].update(shard.replicas)
            writers[shard.keyspace].update(shard.voters)
    return {keyspace: Sharers(readers[keyspace], writers[keyspace]) for keyspace in readers}


def adds(operation: Operation) -> bool:
    """Say whether an operation adds a row, or may make one longer: such a one is refused where a keyspace is full."""
    if isinstance(operation, Atomic):
        return any(isinstance(each, Put | Increment) for each in operation.operations)
    return isinstance(operation, Put | Increment)
