"""The log of slow requests: one event each, with where the time went, and no more of them than somebody can read."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from shoal_server.observe.tally import LABELS, SlowRequest

log = structlog.get_logger("shoal.node")

EVENTS_PER_WINDOW = 20
WINDOW_NS = 1_000_000_000
NS_PER_MS = 1_000_000


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

    def take(self, slow: list[SlowRequest], ended: int) -> None:
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

    def _log(self, slow: SlowRequest, ended: int) -> None:
        operation, consistency = LABELS[slow.served]
        began = slow.proposed or slow.arrived
        parts = {"queue_ms": began - slow.arrived} if slow.proposed else {}
        if slow.synced:
            parts["own_disk_ms"] = slow.synced - began
        if slow.settled:
            parts["commit_ms" if slow.proposed else "wait_ms"] = slow.settled - began
            parts["apply_ms"] = ended - slow.settled
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
            **{name: _ms(value) for name, value in parts.items()},
            **{name: value for name, value in optional.items() if value},
        )


def _ms(ns: int) -> float:
    return round(ns / NS_PER_MS, 1)
