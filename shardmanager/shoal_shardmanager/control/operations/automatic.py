"""What nobody asked for: splits of shards that are too large, or merely too hot, and rebalancings.

A shard has to be beyond a limit for a while. It is left alone after a split, twice as long after each one; and where one
microshard makes the load, no split would part it. So splits end by themselves. A split moves nothing, so both halves load
the nodes that the one shard did: once their loads are known, a rebalancing spreads them, under the caps of all moves.

After a rolling restart the nodes that had their turn last lead the least: a rebalancing of leaders alone follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec.structs import replace
from shoal.shardmap import Shard, microshards_in

from shoal_shardmanager.control.holdings import disagreement
from shoal_shardmanager.control.observed import ObservedState, elapsed_ms
from shoal_shardmanager.control.placement_input import Loads
from shoal_shardmanager.control.rows import (
    NodeState,
    OperationRow,
    Rebalance,
    RollingRestart,
    SettingsRow,
    SplitShard,
    State,
    Step,
)
from shoal_shardmanager.control.split_points import Point, best_point
from shoal_shardmanager.control.state import ClusterState, RowChange
from shoal_shardmanager.placement import Load

SUSTAINED_MS = 10_000
AT_ONCE = 1
"""How many shards are being split by themselves at a time."""
MEASURED_MS = 10_000
"""So long after a split the loads of both halves are known: they are running means."""
LEAST_SHARE = 0.1
"""A split that takes less of the load away is no help."""
DOUBLINGS_MAX = 8


def splits(
    state: ClusterState, observed: ObservedState, loads: Loads, overloaded: dict[int, int]
) -> Iterable[RowChange]:
    """Begin the split that is needed most.

    Args:
        overloaded: since when shards have been beyond a limit (monotonic); brought up to date here.
    """
    wanted: list[tuple[float, Shard, Point, str]] = []
    seen: set[int] = set()
    busy = state.busy()
    for shard in state.map.shards:
        load = loads.of(shard.id, shard.replicas)
        excess, of_bytes, reason = _excess(load, state.settings)
        if excess <= 1.0:
            continue
        seen.add(shard.id)
        since = overloaded.setdefault(shard.id, observed.now_ms)
        leader = observed.leader(shard.id)
        if shard.id in busy or leader is None or observed.now_ms - since < SUSTAINED_MS:
            continue
        if disagreement(shard, leader.replica):
            continue
        if _resting(shard.id, state, observed.wall_ms) or sum(1 for _ in microshards_in(shard.ranges)) < 2:
            continue
        point = best_point(shard, leader.replica, load, for_bytes=of_bytes)
        if LEAST_SHARE <= point.share <= 1.0 - LEAST_SHARE:
            wanted.append((excess, shard, point, reason))
    for shard_id in set(overloaded) - seen:
        del overloaded[shard_id]
    under_way = sum(isinstance(row.arguments, SplitShard) for row in state.running())
    if not wanted or under_way >= AT_ONCE or any(row.state is NodeState.GONE for row in state.nodes.values()):
        return
    _, shard, point, reason = max(wanted, key=lambda one: (one[0], -one[1].id))
    counters = state.counters
    number, child = counters.next_operation, counters.next_shard
    yield replace(counters, next_operation=number + 1, next_shard=child + 1)
    work = SplitShard(shard.id, child, point.ranges, automatic=True)
    now = observed.wall_ms
    yield OperationRow(number, work, State.RUNNING, Step.SPLIT, now, now, reason=reason)


def rebalancing(state: ClusterState, observed: ObservedState) -> Iterable[RowChange]:
    """Begin a rebalancing, if none has been begun since a split that nobody asked for, or a rolling restart, has ended."""
    if any(row.state is NodeState.GONE for row in state.nodes.values()):
        return
    begun_ms = leaders_begun_ms = 0
    for row in state.operations.values():
        if isinstance(row.arguments, Rebalance):
            if row.running:
                return
            leaders_begun_ms = max(leaders_begun_ms, row.created_ms)
            if not row.arguments.leaders_only:
                begun_ms = max(begun_ms, row.created_ms)
    split = _last(_is_automatic_split, begun_ms, state)
    restart = _last(_is_restart, leaders_begun_ms, state)
    if split is not None and observed.wall_ms - split.ended_ms >= MEASURED_MS:
        work = Rebalance(automatic=True)
        reason = f"operation {split.id} has split shard {split.shards[0]}: both halves are on the same nodes"
    elif restart is not None:
        work = Rebalance(automatic=True, leaders_only=True)
        reason = f"operation {restart.id} has restarted nodes, which gave their leaderships to others"
    else:
        return
    number = state.counters.next_operation
    yield replace(state.counters, next_operation=number + 1)
    now = observed.wall_ms
    yield OperationRow(number, work, State.RUNNING, Step.WORK, now, now, reason=reason)


def _last(fits: Callable[[OperationRow], bool], after_ms: int, state: ClusterState) -> OperationRow | None:
    """Return which of the operations that fit was done last, if that was later than `after_ms`."""
    done = [row for row in state.operations.values() if row.state is State.DONE and row.ended_ms > after_ms]
    return max(filter(fits, done), key=lambda row: row.ended_ms, default=None)


def _is_automatic_split(row: OperationRow) -> bool:
    return isinstance(row.arguments, SplitShard) and row.arguments.automatic


def _is_restart(row: OperationRow) -> bool:
    return isinstance(row.arguments, RollingRestart)


def _excess(load: Load, settings: SettingsRow) -> tuple[float, bool, str]:
    """Return how many times a load is the limit that it exceeds most, whether that is of bytes, and it in words."""
    found = [(0.0, False, "")]
    for name, value, limit in (
        ("bytes", float(load.bytes), settings.split_bytes),
        ("reads/s", load.reads, settings.split_reads_per_second),
        ("writes/s", load.writes, settings.split_writes_per_second),
    ):
        if limit:
            found.append((value / limit, name == "bytes", f"it has {value:.0f} {name}, and {limit} is the limit"))
    return max(found)


def _resting(shard: int, state: ClusterState, now_ms: int) -> bool:
    """Say whether a shard has been split so lately, and so often, that it is left alone."""
    ended = [
        row.ended_ms
        for row in state.operations.values()
        if not row.running and isinstance(row.arguments, SplitShard) and shard in row.shards
    ]
    if not ended:
        return False
    pause = state.settings.split_pause_ms << min(len(ended) - 1, DOUBLINGS_MAX)
    return min(elapsed_ms(each, now_ms) for each in ended) < pause
