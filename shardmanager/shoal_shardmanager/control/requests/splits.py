"""The request to split a shard."""

from __future__ import annotations

from msgspec.structs import replace
from shoal.shardmap import Shard, microshards_in, without_ranges

from shoal_shardmanager.control.holdings import described_ranges
from shoal_shardmanager.control.requests.common import (
    accept,
    check_agreed,
    check_idle,
    known_leader,
    known_shard,
)
from shoal_shardmanager.control.requests.model import Accepted, Refused, Situation, SplitRequest, Why
from shoal_shardmanager.control.rows import SplitShard, Step
from shoal_shardmanager.control.split_points import Point, best_point, point_at

_BY = {
    "load": "of its reads and writes, as far as known",
    "bytes": "of its bytes, as far as known",
    "microshards": "of its microshards",
}


def split(request: SplitRequest, situation: Situation) -> Accepted:
    state = situation.state
    shard = known_shard(state, request.shard)
    check_idle(state, shard.id)
    check_agreed(situation, shard)
    microshards = sorted(microshards_in(shard.ranges))
    if len(microshards) < 2:
        raise Refused(
            Why.REFUSED,
            f"shard {shard.id} has one microshard, {described_ranges(shard.ranges)}, and a microshard cannot be split: "
            f"`shoal move {shard.id}` gives it a node with more room",
        )
    leader = known_leader(situation, shard.id)
    load = situation.loads.of(shard.id, shard.replicas)
    if request.at is None:
        point = best_point(shard, leader.replica, load)
    else:
        _check_point(request.at, microshards, shard)
        point = point_at(shard, leader.replica, load, request.at)
    counters = state.counters
    child = counters.next_shard
    work = SplitShard(shard.id, child, point.ranges)
    return accept(
        situation,
        work,
        Step.SPLIT,
        steps=_steps(work, point, shard),
        counters=replace(counters, next_shard=child + 1),
    )


def _check_point(at: int, microshards: list[int], shard: Shard) -> None:
    if at == microshards[0]:
        raise Refused(
            Why.REFUSED,
            f"{at} is the first microshard of shard {shard.id}, of which nothing would be left: choose one of "
            f"{microshards[1]} to {microshards[-1]}",
        )
    if at not in microshards:
        raise Refused(
            Why.REFUSED,
            f"microshard {at} is not in shard {shard.id}, which has {described_ranges(shard.ranges)}: choose one of these",
        )


def _steps(work: SplitShard, point: Point, shard: Shard) -> tuple[str, ...]:
    staying = without_ranges(shard.ranges, work.ranges)
    return (
        f"shard {shard.id} keeps microshards {described_ranges(staying)}",
        f"shard {work.child}, new, gets {described_ranges(work.ranges)}: about {point.share:.0%} {_BY[point.by]}",
        f"its replicas are where those of shard {shard.id} are: {', '.join(shard.replicas)}; no row moves",
        "every node hears of it",
    )
