"""Deleting ranges of keys: in one microshard where the range fixes it, else in all, shard by shard."""

from __future__ import annotations

from shoal.caller import Caller
from shoal.errors import Internal, InvalidArgument, OutcomeUnknown, Overloaded, ShoalError, Unavailable
from shoal.key_sets import microshards_of_range
from shoal.protocol.messages import DeleteRange
from shoal.routing.call_errors import ShardChanged
from shoal.shardmap import count_in, microshards_in, ranges_of
from shoal.steps import first_result


def check_prefix(prefix: bytes) -> bytes:
    """Return the prefix.

    Raises:
        InvalidArgument: it is empty, and would mean all keys.
    """
    if not prefix:
        raise InvalidArgument(
            'an empty prefix would delete every key of the keyspace: say delete_range("", "") for that'
        )
    return prefix


async def delete_range(caller: Caller, start: bytes, end: bytes, deadline: float, prefix: bytes) -> int:
    """Delete the keys of [start, end), an empty `end` for the last; return the number of microshards.

    Each deletion says which microshards it is for, so that it is done in all of them or in none. Those of a shard that
    has given some of its microshards away since, or of whose deletion nobody knows any more, are deleted in again.

    Args:
        prefix: of all keys in the range, where there is one.
    """
    if end and end < start:
        raise InvalidArgument(f"a range runs from its start up to its end, not from {start!r} down to {end!r}")
    if start == end and end:
        return 0
    routed = await caller.admit(deadline)
    wanted = left = microshards_of_range(routed.keyspace, prefix, start, end)
    touched = False
    while left:
        steps = [DeleteRange(part.ranges, start, end) for part in caller.parts_of(routed, left)]
        results = await caller.run_all(steps, deadline)
        again: list[DeleteRange] = []
        failed: list[ShoalError] = []
        for step, result in zip(steps, results, strict=True):
            if isinstance(result, ShardChanged | OutcomeUnknown):
                again.append(step)
            elif isinstance(result, ShoalError):
                failed.append(result)
            elif first_result(result) != count_in(step.ranges):
                raise Internal(f"a shard deleted in {first_result(result)} microshards of {count_in(step.ranges)}")
            touched = touched or not isinstance(result, ShoalError) or result.maybe_applied
        if failed:
            raise _failure(failed, len(steps), touched)
        left = ranges_of(microshard for step in again for microshard in microshards_in(step.ranges))
    return count_in(wanted)


def _failure(failed: list[ShoalError], shards: int, touched: bool) -> ShoalError:
    """Return the error of a deletion that some of the shards have not done; `touched`: some rows may be gone."""
    first = failed[0]
    if shards == 1 and first.maybe_applied == touched:
        return first
    # Those two say that surely nothing was done.
    kind = OutcomeUnknown if touched and isinstance(first, Unavailable | Overloaded) else type(first)
    error = kind(
        f"{len(failed)} of {shards} shards have not deleted their part of the range; the first: {first}; "
        "to delete it again does no harm",
        maybe_applied=touched,
        retry_after=first.retry_after,
        shard=first.shard,
        request_id=first.request_id,
    )
    error.__cause__ = first
    return error
