"""Numbers of shards and operations that were used: nodes remember them, also where managers have forgotten.

Managers that begin with empty folders know of a number only what the nodes say of it. A migration has its operation's number,
and shards take one that is given again for the migration that they are done with; a shard's number binds whoever had a
replica of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace
from shoal.bounds import MAX_KEYSPACES, MAX_SHARD, MAX_SHARDS, MAX_VERSION
from shoal.protocol.messages import StatusReply
from shoal.shardmap import ShardMap

from shoal_shardmanager.control.observed import ObservedState
from shoal_shardmanager.control.rows import CountersRow
from shoal_shardmanager.control.state import ClusterState

ROOM_SHARDS = MAX_SHARDS
"""Left for what nodes may remember that did not answer. The newest map has every shard that there is, so it is for those that
were dropped, and of which all replicas were on such nodes: more than a map can have at once."""
ROOM_OPERATIONS = 1 << 20
"""For operations after the last one of whose migration anybody who answers knows: at one a second, twelve days of them.

What meets a number that was used all the same ends, and says so (`operations.migrate`)."""
ROOM_KEYSPACES = MAX_KEYSPACES


def first_counters(shard_map: ShardMap, statuses: Mapping[str, StatusReply]) -> CountersRow:
    """Return the counters of managers that take over a map: above all that it has, and that nodes say to know of."""
    newest_shard = max((shard.id for shard in shard_map.shards), default=0)
    newest_keyspace = max((keyspace.id for keyspace in shard_map.keyspaces), default=0)
    said = [status for status in statuses.values() if status.newest_shard]
    shards = [status.newest_shard for status in said if _was_given(status.newest_shard, MAX_SHARD)]
    migrations = [status.newest_migration for status in said if _was_given(status.newest_migration, MAX_VERSION)]
    # The map that a cluster begins with is older than every number that is not in it.
    all_said = shard_map.version <= 1 or {node.id for node in shard_map.nodes} <= {status.node for status in said}
    return CountersRow(
        next_operation=max(migrations, default=0) + 1 + (0 if all_said else ROOM_OPERATIONS),
        next_shard=max([newest_shard, *shards]) + 1 + (0 if all_said else ROOM_SHARDS),
        next_keyspace=newest_keyspace + 1 + (0 if all_said else ROOM_KEYSPACES),
    )


def _was_given(number: int, most: int) -> bool:
    """Say whether managers may have come to a number: one in the upper half of all that there are was made up by hand."""
    return number <= most // 2


def passed_over(state: ClusterState, observed: ObservedState) -> Iterable[CountersRow]:
    """Pass over numbers that nodes know of and these managers have not given, such as those of nodes that were away.

    Where there is more room between, the counters come there in time, and then pass over it.
    """
    counters = state.counters
    statuses = [status for node in observed.reports if (status := observed.fresh(node)) is not None]
    shard = _next(counters.next_shard, [status.newest_shard for status in statuses], ROOM_SHARDS)
    operation = _next(counters.next_operation, [status.newest_migration for status in statuses], ROOM_OPERATIONS)
    if (shard, operation) != (counters.next_shard, counters.next_operation):
        yield replace(counters, next_shard=shard, next_operation=operation)


def _next(number: int, used: list[int], room: int) -> int:
    return max([number, *(each + 1 for each in used if each < number + room)])
