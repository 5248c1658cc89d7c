"""Where to split a shard: at the microshard that parts its load best, else its bytes, else its microshards. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.protocol.messages import ReplicaStatus
from shoal.shardmap import MicroshardRange, Shard, microshards_in, ranges_of

from shoal_shardmanager.placement import Load

LEAST_LOAD = 10.0
"""Reads and writes a second: what is less says nothing about where the load is."""


@dataclass(frozen=True, slots=True)
class Point:
    """A way to part a shard.

    Args:
        at: the first microshard of the new shard, which takes it and all behind it.
        ranges: those of the new shard.
        share: the part of the shard's load, or of what `by` says, that goes with them.
        by: "load", "bytes" or "microshards".
    """

    at: int
    ranges: tuple[MicroshardRange, ...]
    share: float
    by: str


def best_point(shard: Shard, leader: ReplicaStatus | None, load: Load, *, for_bytes: bool = False) -> Point:
    """Return where to split a shard, which must have two microshards at least; `for_bytes`: because it is too large.

    Loads are known of the busiest microshards alone; the others are taken to share what is left of the shard's.
    """
    microshards = list(microshards_in(shard.ranges))
    hot = {one.microshard: one for one in leader.hot} if leader is not None else {}
    busy = {microshard: float(one.reads + one.writes) for microshard, one in hot.items()}
    total = max(load.reads + load.writes, sum(busy.values()))
    if total >= LEAST_LOAD and not for_bytes:
        return _cut(microshards, _spread(microshards, busy, total), "load")
    if load.bytes:
        sizes = {microshard: float(one.bytes) for microshard, one in hot.items()}
        return _cut(microshards, _spread(microshards, sizes, float(load.bytes)), "bytes")
    return _cut(microshards, [1.0] * len(microshards), "microshards")


def point_at(shard: Shard, leader: ReplicaStatus | None, load: Load, at: int) -> Point:
    """Return the point at a microshard of the shard that is not its first one."""
    microshards = list(microshards_in(shard.ranges))
    best = best_point(shard, leader, load)
    if at == best.at:
        return best
    taken = microshards[microshards.index(at) :]
    return Point(at, ranges_of(taken), len(taken) / len(microshards), "microshards")


def _spread(microshards: list[int], known: dict[int, float], total: float) -> list[float]:
    left = max(0.0, total - sum(known.get(microshard, 0.0) for microshard in microshards))
    others = sum(microshard not in known for microshard in microshards)
    each = left / others if others else 0.0
    return [known.get(microshard, each) for microshard in microshards]


def _cut(microshards: list[int], weights: list[float], by: str) -> Point:
    """Return the point that leaves the heavier side lightest; of equals, that nearest to the middle."""
    total = sum(weights)
    before, best, least = 0.0, len(microshards) // 2, (total + 1.0, 0)
    share = 0.0
    for place in range(1, len(microshards)):
        before += weights[place - 1]
        heavier = (max(before, total - before), abs(2 * place - len(microshards)))
        if heavier < least:
            best, least, share = place, heavier, (total - before) / total if total else 0.5
    return Point(microshards[best], ranges_of(microshards[best:]), share, by)
