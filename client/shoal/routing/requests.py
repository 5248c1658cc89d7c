"""From what is to be asked of a shard to the request that asks it, now."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.protocol.messages import Freshness, OpenSession, Read, Request, Scan, Write
from shoal.routing.calls import Exchange, ReadBatch, ReadCall, ScanCall, ScanPageRead, W, WriteBatch
from shoal.routing.shard_queue import ShardQueue


def to_request(exchange: Exchange[W], request: int, now: float) -> Request:
    """Return request number `request`, of the shard queue's present shard."""
    shard = exchange.shard_queue.shard
    if isinstance(exchange, WriteBatch):
        return Write(
            request,
            shard.id,
            shard.keyspace,
            exchange.session,
            exchange.number,
            _remaining_ms(exchange.latest, now),
            exchange.operations,
            exchange.fast,
        )
    if isinstance(exchange, ReadBatch):
        keys = [call.key for call in exchange.calls]
        timeout_ms = _remaining_ms(exchange.latest, now)
        return Read(request, shard.id, shard.keyspace, timeout_ms, keys, exchange.freshness)
    if isinstance(exchange, ScanPageRead):
        call = exchange.calls[0]
        return Scan(
            request,
            shard.id,
            shard.keyspace,
            _remaining_ms(exchange.latest, now),
            call.ranges,
            call.start,
            call.end,
            call.reverse,
            call.keys_only,
            call.max_rows,
            exchange.freshness,
        )
    return OpenSession(request, shard.id)


def freshness_of(
    shard_queue: ShardQueue[W], calls: Sequence[ReadCall[W] | ScanCall[W]], max_staleness_ms: int
) -> Freshness:
    """Return what all of `calls`, which accept this staleness, ask of a replica."""
    marks = {id(call.marks): call.marks for call in calls if call.marks is not None}
    min_seq = max((each.floor(shard_queue.shard.ranges) for each in marks.values()), default=0)
    return Freshness(False, min_seq, max_staleness_ms)


def _remaining_ms(deadline: float, now: float) -> int:
    return max(1, int((deadline - now) * 1000))
