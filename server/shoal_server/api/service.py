"""The calls with one request and one answer: each is a call of the client library."""

from __future__ import annotations

from collections.abc import Sequence
from time import time
from typing import TypeVar

from shoal.errors import ConditionFailed, InvalidArgument, TooLarge

from shoal_server.api.convert import (
    DURABILITY_NUMBERS,
    condition_of,
    consistency_of,
    durability_of,
    entry_message,
    expected_of,
    max_staleness_of,
    operation_of,
    step_of,
    ttl_of,
)
from shoal_server.api.errors import Mismatched
from shoal_server.api.gateway import Gateway, token_of
from shoal_server.api.generated import shoal_pb2 as pb

T = TypeVar("T")

KEYS_MAX = 10_000
"""The most keys of one call."""
ROUND_KEYS = 128
"""So many keys are read at once: their values are as large as they like, and all in memory."""


class DataService:
    """See the module's first line. The methods are those of proto/shoal/v1; `seconds` is the time that is left for a call."""

    def __init__(self, gateway: Gateway, answer_bytes_max: int) -> None:
        """
        Args:
            answer_bytes_max: the most that the values of one answer may have.
        """
        self._gateway = gateway
        self._answer_bytes_max = answer_bytes_max

    # -- one key

    async def get(self, request: pb.GetRequest, seconds: float | None) -> pb.GetReply:
        """Read a key."""
        client = await self._gateway.client(request, seconds)
        entry = await client.get_entry(
            request.key, consistency=consistency_of(request), max_staleness=max_staleness_of(request), timeout=seconds
        )
        return pb.GetReply(entry=None if entry is None else entry_message(entry), session=token_of(request, client))

    async def exists(self, request: pb.ExistsRequest, seconds: float | None) -> pb.ExistsReply:
        """Say whether a key has a value."""
        client = await self._gateway.client(request, seconds)
        there = await client.exists(
            request.key, consistency=consistency_of(request), max_staleness=max_staleness_of(request), timeout=seconds
        )
        return pb.ExistsReply(exists=there, session=token_of(request, client))

    async def ttl(self, request: pb.TtlRequest, seconds: float | None) -> pb.TtlReply:
        """Say how long a key has to live."""
        client = await self._gateway.client(request, seconds)
        entry = await client.get_entry(request.key, consistency="strong", timeout=seconds)
        left = None
        if entry is not None and entry.expires_at is not None:
            left = max(0, round((entry.expires_at - time()) * 1000))
        return pb.TtlReply(exists=entry is not None, ttl_ms=left, session=token_of(request, client))

    async def put(self, request: pb.PutRequest, seconds: float | None) -> pb.WriteReply:
        """Write a key."""
        client = await self._gateway.client(request, seconds)
        result = await client.put(
            request.key,
            request.value,
            ttl=ttl_of(request),
            durability=durability_of(request.durability),
            timeout=seconds,
        )
        return pb.WriteReply(
            seq=result.seq, durability=DURABILITY_NUMBERS[result.durability], session=token_of(request, client)
        )

    async def delete(self, request: pb.DeleteRequest, seconds: float | None) -> pb.WriteReply:
        """Remove a key."""
        client = await self._gateway.client(request, seconds)
        result = await client.delete(request.key, durability=durability_of(request.durability), timeout=seconds)
        return pb.WriteReply(
            seq=result.seq, durability=DURABILITY_NUMBERS[result.durability], session=token_of(request, client)
        )

    async def touch(self, request: pb.TouchRequest, seconds: float | None) -> pb.TouchReply:
        """Give a key another time to live."""
        client = await self._gateway.client(request, seconds)
        there = await client.touch(request.key, ttl_of(request), timeout=seconds)
        return pb.TouchReply(exists=there, session=token_of(request, client))

    async def increment(self, request: pb.IncrementRequest, seconds: float | None) -> pb.IncrementReply:
        """Add to a number."""
        client = await self._gateway.client(request, seconds)
        value = await client.increment(request.key, step_of(request), ttl=ttl_of(request), timeout=seconds)
        return pb.IncrementReply(value=value, session=token_of(request, client))

    async def put_if_absent(self, request: pb.PutIfAbsentRequest, seconds: float | None) -> pb.ExchangeReply:
        """Write a key that has no value."""
        client = await self._gateway.client(request, seconds)
        done = await client.put_if_absent(request.key, request.value, ttl=ttl_of(request), timeout=seconds)
        return pb.ExchangeReply(done=done, session=token_of(request, client))

    async def compare_and_set(self, request: pb.CompareAndSetRequest, seconds: float | None) -> pb.ExchangeReply:
        """Write a key that has a certain value."""
        client = await self._gateway.client(request, seconds)
        done = await client.compare_and_set(
            request.key, expected_of(request), request.value, ttl=ttl_of(request), timeout=seconds
        )
        return pb.ExchangeReply(done=done, session=token_of(request, client))

    async def write(self, request: pb.WriteRequest, seconds: float | None) -> pb.WriteReply:
        """Do several operations of one shard in one step, on conditions."""
        client = await self._gateway.client(request, seconds)
        conditions = [condition_of(condition) for condition in request.conditions]
        operations = [operation_of(operation) for operation in request.operations]
        try:
            result = await client.write(operations, when=conditions, timeout=seconds)
        except ConditionFailed as failed:
            raise Mismatched(failed, conditions) from failed
        return pb.WriteReply(
            seq=result.seq,
            durability=DURABILITY_NUMBERS[result.durability],
            results=result.results,
            session=token_of(request, client),
        )

    # -- many keys

    async def get_many(self, request: pb.GetManyRequest, seconds: float | None) -> pb.GetManyReply:
        """Read many keys."""
        client = await self._gateway.client(request, seconds)
        keys = _few_enough(request.keys)
        level, bound = consistency_of(request), max_staleness_of(request)
        values: list[pb.Value] = []
        size = 0
        for first in range(0, len(keys), ROUND_KEYS):
            part = keys[first : first + ROUND_KEYS]
            for value in await client.get_many(part, consistency=level, max_staleness=bound, timeout=seconds):
                values.append(pb.Value(value=value))
                size += len(value or b"")
            if size > self._answer_bytes_max:
                raise TooLarge(
                    f"the values of the first {first + len(part)} of {len(keys)} keys have {size} bytes; an answer has "
                    f"at most {self._answer_bytes_max}: ask for fewer keys at once, or use Batch"
                )
        return pb.GetManyReply(values=values, session=token_of(request, client))

    async def put_many(self, request: pb.PutManyRequest, seconds: float | None) -> pb.WriteManyReply:
        """Write many keys."""
        client = await self._gateway.client(request, seconds)
        _few_enough(request.rows)
        items = {row.key: row.value for row in request.rows}
        if len(items) != len(request.rows):
            raise InvalidArgument(f"{len(request.rows)} rows have {len(items)} keys; which one of a key is to stay?")
        results = await client.put_many(
            items, ttl=ttl_of(request), durability=durability_of(request.durability), timeout=seconds
        )
        return pb.WriteManyReply(seqs=[result.seq for result in results], session=token_of(request, client))

    async def delete_many(self, request: pb.DeleteManyRequest, seconds: float | None) -> pb.WriteManyReply:
        """Remove many keys."""
        client = await self._gateway.client(request, seconds)
        results = await client.delete_many(
            _few_enough(request.keys), durability=durability_of(request.durability), timeout=seconds
        )
        return pb.WriteManyReply(seqs=[result.seq for result in results], session=token_of(request, client))

    async def delete_prefix(self, request: pb.DeletePrefixRequest, seconds: float | None) -> pb.DeleteRangeReply:
        """Remove the keys with a prefix."""
        client = await self._gateway.client(request, seconds)
        touched = await client.delete_prefix(request.prefix, timeout=seconds)
        return pb.DeleteRangeReply(microshards=touched, session=token_of(request, client))

    async def delete_range(self, request: pb.DeleteRangeRequest, seconds: float | None) -> pb.DeleteRangeReply:
        """Remove the keys of a range."""
        client = await self._gateway.client(request, seconds)
        touched = await client.delete_range(request.start, request.end, timeout=seconds)
        return pb.DeleteRangeReply(microshards=touched, session=token_of(request, client))


def _few_enough(given: Sequence[T]) -> Sequence[T]:
    if len(given) > KEYS_MAX:
        raise TooLarge(f"a call takes at most {KEYS_MAX} keys, not {len(given)}: make several, or use Batch")
    return given
