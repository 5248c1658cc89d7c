"""Turning calls away here that would be asked of a node which turns much away: which of them, and what callers hear.

Only what is sent for the first time, or was surely not done, is turned away. A batch that may have been applied goes on: its
number is what tells the outcome.
"""

from __future__ import annotations

from random import Random
from typing import Any, Generic

from shoal.priorities import OverloadReason, known_reason
from shoal.protocol.messages import Failure
from shoal.routing.call_errors import throttled
from shoal.routing.calls import AnyCall, W
from shoal.routing.counters import ClientCounters
from shoal.routing.endings import Endings
from shoal.routing.links import Link
from shoal.routing.shard_queue import AnyRequest, ShardQueue
from shoal.routing.throttle import Throttle


class Throttling(Generic[W]):
    """See the module's first lines. What counts is kept at the links, by keyspace."""

    def __init__(self, random: Random, endings: Endings[W], counters: ClientCounters) -> None:
        self._random = random
        self._endings = endings
        self._counters = counters

    def accepted(self, link: Link[W], request: AnyRequest[W], now: float) -> None:
        """A node has served a request."""
        keyspace = request.shard_queue.shard.keyspace
        throttle = link.throttles.get(keyspace)
        if throttle is None:
            throttle = link.throttles[keyspace] = Throttle(now)
        throttle.accepted(request.share, now)

    def refused(self, link: Link[W], request: AnyRequest[W], failure: Failure, now: float) -> None:
        """A node has refused a request as overloaded."""
        keyspace = request.shard_queue.shard.keyspace
        throttle = link.throttles.get(keyspace)
        if throttle is None:
            throttle = link.throttles[keyspace] = Throttle(now)
        throttle.refusal = failure.message
        throttle.reason = known_reason(failure.reason) or OverloadReason.NODE_BUSY.value
        throttle.retry_after = failure.retry_after_ms / 1000 if failure.retry_after_ms else None
        throttle.refused(request.share, now)
        self._counters.overloads[throttle.reason] = self._counters.overloads.get(throttle.reason, 0) + 1

    def probability(self, link: Link[W], shard_queue: ShardQueue[W], now: float) -> float:
        """Return the probability with which calls of a shard are not to be asked of a node now."""
        throttle = link.throttles.get(shard_queue.shard.keyspace)
        return 0.0 if throttle is None else throttle.probability(now)

    def hits(self, link: Link[W], shard_queue: ShardQueue[W], now: float) -> bool:
        """Say whether a whole request, which may be made of another node, is not to be made of this one."""
        probability = self.probability(link, shard_queue, now)
        if not probability or self._random.random() >= probability:
            return False
        link.throttles[shard_queue.shard.keyspace].turned_away(1.0, now)
        return True

    def pass_on(
        self, link: Link[W], shard_queue: ShardQueue[W], calls: list[Any], now: float
    ) -> tuple[list[Any], float]:
        """Return those of a request's calls that are to be sent, and which share of all they are; the others are over."""
        probability = self.probability(link, shard_queue, now)
        if not probability:
            return calls, 1.0
        throttle = link.throttles[shard_queue.shard.keyspace]
        random = self._random.random
        kept: list[AnyCall[W]] = []
        for call in calls:
            if random() < probability:
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
