"""What a shard map must be like beyond what its type says: nodes refuse any other, and whoever makes one keeps to it.

A node that refuses a map refuses every later one that has the same fault, so one shard's fault would keep all news of all
shards from it. Each function returns "" or, in words, what is wrong. Pure.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from shoal.shardmap import Keyspace, Ranges, Shard, ShardMap, is_well_formed

MAX_PORT = 65_535
MAX_LEAP = 1 << 32
"""By so much a version is above the one before it at the most. Managers give a map one more than the newest that a node
reports, and a group its membership one more than the last: at a map a second, a node that was away has missed so many in a
hundred years. What leaps to the top there is would leave no room for anything after it; so it takes 65,536 requests."""


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
        problem = refuse_shard(shard, known.get(shard.keyspace), set(names))
        if problem:
            return f"shard {shard.id}: {problem}"
    return _refuse_changes(new, old)


def refuse_shard(shard: Shard, keyspace: Keyspace | None, nodes: AbstractSet[str]) -> str:
    """A shard has a keyspace, microshards of that, and replicas on `nodes`, those of the map."""
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
    unknown = sorted(set(replicas) - nodes)
    if unknown:
        return f"it has replicas on nodes that are not there: {', '.join(unknown)}"
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
    shards = {shard.id: shard for shard in old.shards}
    problem = refuse_leap(new.version, old.version, "the shard map's version")
    if problem:
        return problem
    for shard in new.shards:
        problem = refuse_successor(shard, shards.get(shard.id))
        if problem:
            return problem
    return ""


def refuse_successor(shard: Shard, known: Shard | None) -> str:
    """A shard stays what it was made as, and its membership's version near the one before; `known` None: it is new.

    A replica that has applied nothing yet begins with what the map says that its group began with. Two that began with
    different founders elect two leaders, and one with other microshards applies the log to other rows.
    """
    before = known.membership_version if known is not None else 0
    problem = refuse_leap(shard.membership_version, before, f"the version of shard {shard.id}'s membership")
    if problem:
        return problem
    if known is not None and known.keyspace != shard.keyspace:
        return f"shard {shard.id} is of keyspace {known.keyspace}, not of {shard.keyspace}"
    if known is not None and known.parent != shard.parent:
        return f"shard {shard.id} has been split off shard {known.parent}, not {shard.parent} (0: none)"
    if known is not None and known.founded_by != shard.founded_by:
        return (
            f"shard {shard.id} was founded by {_named(*known.founded_by)}, not by {_named(*shard.founded_by)}: "
            "what its log goes on from is for ever"
        )
    if known is not None and known.founded_with != shard.founded_with:
        return f"shard {shard.id} was founded with other microshards: what its log goes on from is for ever"
    return ""


def _named(voters: tuple[str, ...], followers: tuple[str, ...]) -> str:
    return f"{', '.join(voters)} (and {', '.join(followers)} without a vote)" if followers else ", ".join(voters)
