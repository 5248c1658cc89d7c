"""Turning calls away here that would be asked of a node which turns much away: which of them, and what callers hear.

Only what is sent for the first time, or was surely not done, is turned away. A batch that may have been applied goes on: its
number is what tells the outcome. And so do many calls that somebody makes at once, when the node said, until their deadline:
of thousands chance would nearly always end some, and all of them would be in vain.
"""

from __future__ import annotations

from random import Random
from typing import Any, Generic, TypeAlias

from shoal.priorities import OverloadReason, known_reason
from shoal.protocol.messages import Failure
from shoal.routing.call_errors import throttled
from shoal.routing.calls import AnyCall, W
from shoal.routing.counters import ClientCounters
from shoal.routing.endings import Endings
from shoal.routing.links import Link
from shoal.routing.shard_queue import AnyRequest, ReadBatch, ShardQueue, WriteBatch
from shoal.routing.throttle import Throttle

Kind: TypeAlias = "type[WriteBatch[Any] | ReadBatch[Any]]"


class Throttling(Generic[W]):
    """See the module's first lines. What counts is kept at the links, by keyspace and kind: a node may have room for writes,
    and a keyspace quota for them, while it refuses reads.

    Pages are asked for few at once, and fewer where they are refused (page_queue.py), so nothing of them is turned away.
    """

    def __init__(self, random: Random, endings: Endings[W], counters: ClientCounters) -> None:
        self._random = random
        self._endings = endings
        self._counters = counters

    def accepted(self, link: Link[W], request: AnyRequest[W], now: float) -> None:
        """A node has served a request."""
        if not request.paged:
            link.throttles[request.shard_queue.shard.keyspace, type(request)].accepted(request.share, now)

    def refused(self, link: Link[W], request: AnyRequest[W], failure: Failure, now: float) -> None:
        """A node has refused a request as overloaded."""
        reason = known_reason(failure.reason) or OverloadReason.NODE_BUSY.value
        self._counters.overloads[reason] = self._counters.overloads.get(reason, 0) + 1
        if request.paged:
            return
        throttle = link.throttles[request.shard_queue.shard.keyspace, type(request)]
        link.refuses = True
        throttle.refusal = failure.message
        throttle.reason = reason
        throttle.retry_after = failure.retry_after_ms / 1000 if failure.retry_after_ms else None
        throttle.refused(request.share, now)

    def hits(self, link: Link[W], shard_queue: ShardQueue[W], now: float) -> bool:
        """Say whether a whole read, which may be made of another node, is not to be made of this one."""
        throttle = link.throttles.get((shard_queue.shard.keyspace, ReadBatch))
        if throttle is None or self._random.random() >= throttle.probability(now):
            return False
        throttle.turned_away(1.0, now)
        return True

    def pass_on(
        self, link: Link[W], shard_queue: ShardQueue[W], kind: Kind, calls: list[Any], now: float
    ) -> tuple[list[Any], float]:
        """Return those of a request's calls that are to be sent, and which share of all they are; the others are over."""
        throttle = link.throttles.get((shard_queue.shard.keyspace, kind))
        probability = 0.0 if throttle is None else throttle.probability(now)
        if throttle is None or not probability:
            return calls, 1.0
        random = self._random.random
        kept: list[Any] = []
        for call in calls:
            if not call.together and random() < probability:
                self._turn_away(call, link, shard_queue, throttle, probability)
            else:
                kept.append(call)
        share = len(kept) / len(calls)
        if share < 1.0:
            throttle.turned_away(1.0 - share, now)
        return kept, share

    def _turn_away(
        self, call: AnyCall[W], link: Link[W], shard_queue: ShardQueue[W], throttle: Throttle, probability: float
    ) -> None:
        if call.waiter is not None:
            self._counters.throttled[throttle.reason] = self._counters.throttled.get(throttle.reason, 0) + 1
            self._endings.fail(call, throttled(call, shard_queue, str(link), throttle, probability))
