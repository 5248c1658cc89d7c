"""Requests that give microshards to another shard: some of them, or, to merge two shards, all."""

from __future__ import annotations

from shoal.shardmap import MicroshardRange, Shard, microshards_in, ranges_of, without_ranges

from shoal_shardmanager.control.holdings import described_ranges
from shoal_shardmanager.control.requests.common import (
    accept,
    check_agreed,
    check_idle,
    known_leader,
    known_shard,
)
from shoal_shardmanager.control.requests.model import (
    Accepted,
    MergeRequest,
    MoveMicroshardsRequest,
    Refused,
    Situation,
    Why,
)
from shoal_shardmanager.control.rows import MergeShards, MoveMicroshards, Step

ROOM = 1.2
"""A target's nodes must have so many times the bytes free: rows take space in their log, too, for a while."""


def move_microshards(request: MoveMicroshardsRequest, situation: Situation) -> Accepted:
    source, target = _pair(request.source, request.target, situation)
    ranges = _known_ranges(request.ranges, source, situation)
    if not without_ranges(source.ranges, ranges):
        raise Refused(
            Why.REFUSED,
            f"these are all microshards of shard {source.id}: `shoal merge {target.id} {source.id}` moves them, and drops it",
        )
    size = _size(source, ranges, situation)
    _check_room(target, size, situation)
    accepted = accept(situation, MoveMicroshards(source.id, target.id, ranges), Step.QUEUED)
    steps = _steps(source, target, ranges, situation)
    return Accepted(accepted.operation, accepted.changes, steps, bytes=size)


def merge(request: MergeRequest, situation: Situation) -> Accepted:
    source, target = _pair(request.source, request.target, situation)
    work = MergeShards(source.id, target.id, source.ranges)
    seconds = situation.state.settings.merge_linger_ms / 1000
    size = _size(source, source.ranges, situation) if source.ranges else 0
    if source.ranges:
        _check_room(target, size, situation)
        accepted = accept(situation, work, Step.QUEUED)
        moving = _steps(source, target, source.ranges, situation)
    else:
        # Whoever moved the last of them left the shard behind.
        accepted, moving = accept(situation, work, Step.LINGER), ()
    steps = (
        *moving,
        f"shard {source.id} stays for {seconds:g} s, empty, for writes that are repeated",
        f"every node forgets shard {source.id}, and its replicas are deleted",
    )
    return Accepted(accepted.operation, accepted.changes, steps, bytes=size)


def _pair(source_id: int, target_id: int, situation: Situation) -> tuple[Shard, Shard]:
    state = situation.state
    source, target = known_shard(state, source_id), known_shard(state, target_id)
    if source.id == target.id:
        raise Refused(Why.WRONG, f"shard {source.id} is named twice: two different shards are needed")
    if source.keyspace != target.keyspace:
        names = {keyspace.id: keyspace.name for keyspace in state.map.keyspaces}
        fit = [shard.id for shard in state.map.shards if shard.keyspace == source.keyspace and shard.id != source.id]
        other = f"shards of {names[source.keyspace]!r} are {min(fit)} to {max(fit)}" if fit else "it has no other shard"
        raise Refused(
            Why.REFUSED,
            f"shard {source.id} is of keyspace {names[source.keyspace]!r}, shard {target.id} of "
            f"{names[target.keyspace]!r}, and keys stay in their keyspace: {other}",
        )
    for shard in (source, target):
        check_idle(state, shard.id)
        check_agreed(situation, shard)
    return source, target


def _known_ranges(
    asked: tuple[MicroshardRange, ...], source: Shard, situation: Situation
) -> tuple[MicroshardRange, ...]:
    """Return the microshards in order, if all of them are the source's."""
    microshards = next(one.microshards for one in situation.state.map.keyspaces if one.id == source.keyspace)
    for span in asked:
        if not 0 <= span.first < span.end <= microshards:
            raise Refused(
                Why.WRONG,
                f"{span.first}-{span.end - 1} is no range of microshards: they are 0 to {microshards - 1} in this keyspace",
            )
    if sum(span.end - span.first for span in asked) > microshards:
        raise Refused(
            Why.WRONG, f"more microshards are named than the {microshards} that there are: name each of them once"
        )
    wanted = set(microshards_in(asked))
    if not wanted:
        raise Refused(Why.WRONG, "no microshards are named: such as `--microshards 10-19,30`")
    strange = wanted.difference(microshards_in(source.ranges))
    if strange:
        owner = next(
            shard.id
            for shard in situation.state.map.shards
            if shard.keyspace == source.keyspace and min(strange) in set(microshards_in(shard.ranges))
        )
        raise Refused(
            Why.REFUSED,
            f"microshards {described_ranges(ranges_of(strange))} are not in shard {source.id}, which has "
            f"{described_ranges(source.ranges)}; {min(strange)} is in shard {owner}",
        )
    return ranges_of(wanted)


def _check_room(target: Shard, size: int, situation: Situation) -> None:
    for node in target.replicas:
        status = situation.observed.fresh(node)
        if status is None:
            continue
        if status.not_writable:
            raise Refused(
                Why.REFUSED, f"node {node}, which has shard {target.id}, takes no writes: {status.not_writable}"
            )
        if size * ROOM > status.disk_free_bytes:
            raise Refused(
                Why.REFUSED,
                f"node {node}, which has shard {target.id}, has {status.disk_free_bytes} bytes free, and about {size} are "
                "to come: choose another target, or move its replica first",
            )


def _size(source: Shard, ranges: tuple[MicroshardRange, ...], situation: Situation) -> int:
    """Return about how many bytes microshards have: their part of the shard's."""
    held = sum(span.end - span.first for span in source.ranges)
    moving = sum(span.end - span.first for span in ranges)
    return situation.loads.of(source.id, source.replicas).bytes * moving // held


def _steps(source: Shard, target: Shard, ranges: tuple[MicroshardRange, ...], situation: Situation) -> tuple[str, ...]:
    from_node, to_node = known_leader(situation, source.id).node, known_leader(situation, target.id).node
    return (
        f"copy the rows of microshards {described_ranges(ranges)} from {from_node} (shard {source.id}) to {to_node} "
        f"(shard {target.id}), then what has changed since; until then it can be cancelled",
        f"seal them on shard {source.id}, copy the last changes, and let shard {target.id} serve them: milliseconds",
        "every node hears of it",
        f"shard {source.id} deletes their rows",
    )
