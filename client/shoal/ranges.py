"""Deleting ranges of keys: in one microshard where the range fixes it, else in every shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.arguments import OfShard
from shoal.errors import InvalidArgument, OutcomeUnknown, ShoalError
from shoal.footprint import microshard_of_range
from shoal.outcomes import ShardChanged
from shoal.protocol.messages import ALL_MICROSHARDS, DeleteRange
from shoal.results import WriteResult
from shoal.steps import all_or_raise, first_result

if TYPE_CHECKING:
    from shoal.aio import AsyncClient


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


async def delete_range(client: AsyncClient, start: bytes, end: bytes, deadline: float, prefix: bytes) -> int:
    """Delete the keys of [start, end), an empty `end` for the last; return the number of microshards.

    Args:
        prefix: of all keys in the range, where there is one.
    """
    if end and end < start:
        raise InvalidArgument(f"a range runs from its start up to its end, not from {start!r} down to {end!r}")
    if start == end and end:
        return 0
    space = await client._admit(deadline)
    microshard = microshard_of_range(space.keyspace, prefix, start, end)
    if microshard != ALL_MICROSHARDS:
        return first_result(await client._run_until(DeleteRange(microshard, start, end), deadline))
    router = client._core.router
    everything = DeleteRange(ALL_MICROSHARDS, start, end)
    shards = [OfShard(everything, shard, router.ranges_of(shard)) for shard in router.shards_of(space)]
    results = await client._run_all(shards, deadline)
    for step, result in zip(shards, results, strict=True):
        expected = sum(span.end - span.first for span in step.ranges)
        if isinstance(result, ShardChanged | OutcomeUnknown) or (
            isinstance(result, WriteResult) and first_result(result) != expected
        ):
            return await _one_by_one(client, start, end, deadline)
        if isinstance(result, ShoalError):
            all_or_raise(shards, results)
    return space.keyspace.microshards


async def _one_by_one(client: AsyncClient, start: bytes, end: bytes, deadline: float) -> int:
    """Delete in each microshard by itself: while shards change, nobody can say what "all of a shard" is."""
    space = await client._admit(deadline)
    steps = [DeleteRange(microshard, start, end) for microshard in range(space.keyspace.microshards)]
    all_or_raise(steps, await client._run_all(steps, deadline))
    return len(steps)
