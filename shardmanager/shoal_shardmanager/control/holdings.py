"""What shards have by their own logs, held against what the map gives them. The logs decide; the map has to follow.

They differ for a moment while an operation is on a shard, and for good where something was done past the managers, or under
managers that were lost. Whatever is decided about a shard's microshards is decided on what its leader says of them, since a
map that is wrong about who has them would have them deleted.
"""

from __future__ import annotations

from shoal.protocol.messages import ReplicaStatus
from shoal.shardmap import Ranges, Shard, without_ranges


def described_ranges(ranges: Ranges) -> str:
    """Say which microshards they are, as operators name them: "0-3, 9"."""
    spans = [str(span.first) if span.end == span.first + 1 else f"{span.first}-{span.end - 1}" for span in ranges]
    return ", ".join(spans[:10]) + (f" and {len(spans) - 10} ranges more" if len(spans) > 10 else "")


def disagreement(shard: Shard, leader: ReplicaStatus) -> str:
    """Return "", or how a shard's log and the map differ on what it has. No operation may be on the shard.

    A migration counts: no operation is about it, so nobody knows what the shard is going to have.
    """
    moving = _migration(leader)
    if moving:
        return f"shard {shard.id} takes part in {moving}, which no operation is about"
    lacking, beyond = without_ranges(shard.ranges, leader.ranges), without_ranges(leader.ranges, shard.ranges)
    if lacking:
        return f"shard {shard.id} lacks microshards {described_ranges(lacking)} by its log, which the map gives it"
    if beyond:
        return f"shard {shard.id} has microshards {described_ranges(beyond)} by its log, which the map does not give it"
    return ""


def still_held(leader: ReplicaStatus) -> str:
    """Return "", or what rows a shard still answers for by its log: one that does is not dropped."""
    if leader.ranges:
        return f"shard {leader.shard} has microshards {described_ranges(leader.ranges)} by its log"
    moving = _migration(leader)
    return f"shard {leader.shard} takes part in {moving}" if moving else ""


def has_applied_all(leader: ReplicaStatus) -> bool:
    """Say whether a leader speaks for all of its log: one that was elected just now may still be applying it."""
    return leader.applied_index >= leader.last_index


def _migration(leader: ReplicaStatus) -> str:
    moving = leader.outgoing or leader.incoming
    return "" if moving is None else f"migration {moving.migration}"
