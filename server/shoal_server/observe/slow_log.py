"""The log of slow requests: one event each, with where the time went, and no more of them than somebody can read."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from shoal_server.node.counters import LABELS, NS_PER_MS, TimedRequest, parts_of

log = structlog.get_logger("shoal.node")

EVENTS_PER_WINDOW = 20
WINDOW_NS = 1_000_000_000


class SlowLog:
    """Logs slow requests as `slow_request`, at most `EVENTS_PER_WINDOW` of them a second.

    `seen` is how many there were, logged or not.
    """

    def __init__(self, node: str, address_of: Callable[[int], str]) -> None:
        """
        Args:
            address_of: says where a client's connection comes from, "" where that is over.
        """
        self.seen = 0
        self._node = node
        self._address_of = address_of
        self._window_began = 0
        self._logged = 0
        self._left_out = 0

    def take(self, slow: list[TimedRequest], ended: int) -> None:
        """Log what a turn that ended at `ended` (ns) has answered too late."""
        if ended - self._window_began >= WINDOW_NS:
            if self._left_out:
                log.warning("slow_requests_left_out", node=self._node, requests=self._left_out)
            self._window_began, self._logged, self._left_out = ended, 0, 0
        for request in slow:
            self.seen += request.requests
            if self._logged < EVENTS_PER_WINDOW:
                self._logged += 1
                self._log(request, ended)
            else:
                self._left_out += request.requests

    def _log(self, slow: TimedRequest, ended: int) -> None:
        operation, consistency = LABELS[slow.served]
        optional = {
            "session": slow.session,
            "number": slow.number,
            "index": slow.index,
            "term": slow.term,
            "outcome": slow.outcome,
        }
        log.warning(
            "slow_request",
            node=self._node,
            shard=slow.shard,
            operation=operation,
            consistency=consistency,
            client=slow.client,
            address=self._address_of(slow.client),
            request=slow.request,
            requests=slow.requests,
            total_ms=_ms(ended - slow.arrived),
            **{name: _ms(value) for name, value in parts_of(slow, slow.arrived, ended).items()},
            **{name: value for name, value in optional.items() if value},
        )


def _ms(ns: int) -> float:
    return round(ns / NS_PER_MS, 1)
