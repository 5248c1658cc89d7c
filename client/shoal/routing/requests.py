"""From what is to be asked of a shard to the request that asks it, now."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.protocol.messages import Freshness, OpenSession, Read, Request, Scan, Write
from shoal.routing.calls import ReadCall, ScanCall, W
from shoal.routing.shard_queue import AnyRequest, ReadBatch, ScanPageRead, ShardQueue, WriteBatch


def to_message(request: AnyRequest[W], request_id: int, now: float) -> Request:
    """Return the message of request number `request_id`, of the shard queue's present shard."""
    shard = request.shard_queue.shard
    if isinstance(request, WriteBatch):
        return Write(
            request_id,
            shard.id,
            shard.keyspace,
            request.session,
            request.number,
            _remaining_ms(request.latest, now),
            request.operations,
            request.fast,
        )
    if isinstance(request, ReadBatch):
        keys = [call.key for call in request.calls]
        timeout_ms = _remaining_ms(request.latest, now)
        return Read(request_id, shard.id, shard.keyspace, timeout_ms, keys, request.freshness)
    if isinstance(request, ScanPageRead):
        call = request.calls[0]
        return Scan(
            request_id,
            shard.id,
            shard.keyspace,
            _remaining_ms(request.latest, now),
            call.ranges,
            call.start,
            call.end,
            call.reverse,
            call.keys_only,
            call.max_rows,
            request.freshness,
        )
    return OpenSession(request_id, shard.id)


def freshness_of(
    shard_queue: ShardQueue[W], calls: Sequence[ReadCall[W] | ScanCall[W]], max_staleness_ms: int
) -> Freshness:
    """Return what all of `calls`, which accept this staleness, ask of a replica."""
    vectors = {id(call.session_vector): call.session_vector for call in calls if call.session_vector is not None}
    min_seq = max((each.floor(shard_queue.shard.ranges) for each in vectors.values()), default=0)
    return Freshness(False, min_seq, max_staleness_ms)


def _remaining_ms(deadline: float, now: float) -> int:
    return max(1, int((deadline - now) * 1000))
