"""What an order to a node must be like beyond what its type says: checked before anything of it is done, or proposed.

The types of messages bound each number by itself (`shoal.protocol.bounds`); here is what makes sense of them together.
An entry that is in the log is applied by every replica, now and at each start, so nothing may get there that applying
could stumble over. Each function returns "" or, in words, why the order is refused.
"""

from __future__ import annotations

from shoal.protocol.bounds import MAX_VERSION
from shoal.protocol.messages import SplitShard
from shoal.protocol.relocation import (
    AdoptMicroshards,
    ClearedRange,
    GiveMicroshards,
    MovedRow,
    RelocationStep,
    SealMicroshards,
    StoreMoved,
    TakeMicroshards,
)
from shoal.shardmap import Keyspace, Ranges, Shard, ShardMap, is_well_formed

from shoal_server.shard.moving import MAX_MOVED_ROWS
from shoal_server.storage.layout import row_problem

MAX_PORT = 65_535
MAX_LEAP = 1 << 32
"""By so much a version is above the one before it at the most. Managers give a map one more than the newest that a node
reports, and a group its membership one more than the last: at a map a second, a node that was away has missed so many in a
hundred years. What leaps to the top there is would leave no room for anything after it; so it takes 65,536 orders."""
MAX_SEQ_LEAP = 1 << 49
"""By so much the seqs of a shard that gives microshards are above those of the one that gets them: seqs count log entries,
of which a shard has at most 2^48, on from those of shards that it had microshards from."""


def refuse_leap(version: int, known: int, what: str) -> str:
    """A version that only grows is near the one before it."""
    return "" if version <= known + MAX_LEAP else f"{what} is {version}, and {known} so far: by a mistake, it seems"


def refuse_ranges(ranges: Ranges, keyspace: Keyspace) -> str:
    """Microshards are named in order, each once, and are some of the keyspace's."""
    if is_well_formed(ranges, keyspace.microshards):
        return ""
    return (
        f"microshards are named as ranges in order, at least one and each once, out of the {keyspace.microshards} "
        f"of keyspace {keyspace.name!r}"
    )


def refuse_map(new: ShardMap, old: ShardMap) -> str:
    """A shard map does not contradict itself, nor, in what is for ever, the one before it.

    That each microshard is in one shard is for `Routes` to see.
    """
    names = [node.id for node in new.nodes]
    known = {keyspace.id: keyspace for keyspace in new.keyspaces}
    if len(set(names)) < len(names) or "" in names:
        return "nodes have a name each, and no two the same one"
    for node in new.nodes:
        host, _, port = node.address.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) <= MAX_PORT):
            return f"node {node.id!r} is at {node.address!r}, which is no host:port"
    if len(known) < len(new.keyspaces) or len({one.name for one in new.keyspaces}) < len(new.keyspaces) or 0 in known:
        return "keyspaces have a number from 1 and a name each, and no two the same one"
    if len({shard.id for shard in new.shards}) < len(new.shards):
        return "two shards have the same number"
    for shard in new.shards:
        problem = _refuse_shard(shard, known.get(shard.keyspace), set(names))
        if problem:
            return f"shard {shard.id}: {problem}"
    return _refuse_changes(new, old)


def _refuse_shard(shard: Shard, keyspace: Keyspace | None, nodes: set[str]) -> str:
    if shard.id < 1 or shard.parent == shard.id:
        return "its number is from 1, and another one than its parent's"
    if keyspace is None:
        return f"there is no keyspace {shard.keyspace}"
    for ranges in (shard.ranges, shard.founding_ranges):
        # A shard whose microshards have all been moved away has none for a while.
        problem = refuse_ranges(ranges, keyspace) if ranges else ""
        if problem:
            return problem
    replicas = shard.replicas
    if not shard.voters or len(set(replicas)) < len(replicas):
        return "it has voters, and one replica a node"
    if not nodes.issuperset(replicas):
        return f"it has replicas on nodes that are not there: {', '.join(sorted(set(replicas) - nodes))}"
    founders = shard.founders + shard.founding_followers
    if len(set(founders)) < len(founders) or (shard.founding_followers and not shard.founders):
        return "it was founded with voters, and one replica a node"
    return ""


def _refuse_changes(new: ShardMap, old: ShardMap) -> str:
    """Where keys and rows lie hangs on what a keyspace and a shard were made as."""
    before = {keyspace.id: keyspace for keyspace in old.keyspaces}
    for keyspace in new.keyspaces:
        known = before.get(keyspace.id)
        if known is not None and (known.microshards, known.delimiter) != (keyspace.microshards, keyspace.delimiter):
            return f"microshards and delimiter of keyspace {known.name!r} are fixed: every key would be somewhere else"
    homes = {shard.id: shard.keyspace for shard in old.shards}
    memberships = {shard.id: shard.membership_version for shard in old.shards}
    problem = refuse_leap(new.version, old.version, "the shard map's version")
    if problem:
        return problem
    for shard in new.shards:
        problem = refuse_leap(
            shard.membership_version, memberships.get(shard.id, 0), f"the version of shard {shard.id}'s membership"
        )
        if problem:
            return problem
        if homes.get(shard.id, shard.keyspace) != shard.keyspace:
            return f"shard {shard.id} is of keyspace {homes[shard.id]}, not of {shard.keyspace}"
    return ""


def refuse_split(request: SplitShard, keyspace: Keyspace, map_version: int) -> str:
    """A split names a new shard and some microshards; whether the parent has these is for its leader to see.

    `map_version` is that of the node's shard map.
    """
    child = request.child
    if not 1 <= child.id != request.shard:
        return "a new shard has a number from 1, and another one than its parent's"
    if request.map_version >= MAX_VERSION:
        return f"versions of shard maps are less than {MAX_VERSION}"
    problem = refuse_leap(request.map_version, map_version, "the shard map's version")
    if problem:
        return problem
    return refuse_ranges(child.ranges, keyspace)


def refuse_step(request: RelocationStep, keyspace: Keyspace, map_version: int, seq: int) -> str:
    """A step of a relocation names two shards, microshards and rows that there can be.

    Args:
        map_version: that of the node's shard map.
        seq: the position of the shard whose step it is.
    """
    if isinstance(request, SealMicroshards | AdoptMicroshards):
        return refuse_leap(request.map_version, map_version, "the shard map's version")
    if isinstance(request, TakeMicroshards | GiveMicroshards):
        other = request.source if isinstance(request, TakeMicroshards) else request.target
        if not 1 <= other != request.shard:
            return f"microshards go from one shard to another, not from {request.shard} to {other}"
        return refuse_ranges(request.ranges, keyspace)
    if isinstance(request, StoreMoved):
        if request.cursor.seq > seq + MAX_SEQ_LEAP:
            return (
                f"a page is of a shard at seq {request.cursor.seq}, and {seq} is reached here: by a mistake, it seems"
            )
        return _refuse_page(request.cleared, request.rows, keyspace)
    return ""


def _refuse_page(cleared: list[ClearedRange], rows: list[MovedRow], keyspace: Keyspace) -> str:
    if len(cleared) + len(rows) > MAX_MOVED_ROWS:
        return f"a page has at most {MAX_MOVED_ROWS} rows and ranges, not {len(cleared) + len(rows)}"
    for microshard, start, end in cleared:
        if microshard >= keyspace.microshards or (end and start >= end):
            return f"a range of microshard {microshard} that was cleared has no row"
    for microshard, key, row in rows:
        if microshard >= keyspace.microshards or not key:
            return f"a row has a key, and is in one of the keyspace's {keyspace.microshards} microshards"
        problem = "" if row is None else row_problem(row)
        if problem:
            return f"a row of microshard {microshard} is damaged: {problem}"
    return ""
