"""How much of what would be asked of a node is turned away here, since it turns much away. Pure: times are passed in.

A refusal is cheap for a node, and yet work: clients that go on asking for many times what it can do leave it little time for
what it accepts. So each counts, for a node and a keyspace there, reads and writes apart, how many requests it would have sent
lately and how many of them were accepted, and turns away with the probability `(requests - 2 * accepts) / (requests + 1)`: it
asks for about twice what is accepted, and hears soon when there is room for more ("Handling Overload", in Google's book on
reliability).

Only what was answered counts, as accepted, or refused as overloaded: what is lost, or late, says nothing of the kind. What was
turned away here counts as a request, or the client would ask for more the more it turns away.
"""

from __future__ import annotations

from math import exp

WINDOW_SECONDS = 1.5
"""What happened so long ago counts for a third. So a node that is well again is asked for everything again within seconds."""

STEP_SECONDS = 0.1
ACCEPTS_MULTIPLE = 2.0
LEAST_REQUESTS = 10.0
"""Fewer refusals than that are no reason to turn anything away: they are tried again."""

MOST = 0.9
"""However much was refused, some is asked for: nothing else tells that there is room again."""


class Throttle:
    """What one node has made lately of the requests for one keyspace; a request counts by the share of it that was sent.

    `refusal`: the last one, in words; `reason` and `retry_after` as it had them.
    """

    __slots__ = ("_accepts", "_refused", "_requests", "_stepped_at", "reason", "refusal", "retry_after")

    def __init__(self, now: float = 0.0) -> None:
        self.refusal = ""
        self.reason = ""
        self.retry_after: float | None = None
        self._requests = 0.0
        self._accepts = 0.0
        self._refused = False
        self._stepped_at = now

    def accepted(self, share: float, now: float) -> None:
        """The node has served a request."""
        if now >= self._stepped_at + STEP_SECONDS:
            self._step(now)
        self._requests += share
        self._accepts += share

    def refused(self, share: float, now: float) -> None:
        """It has refused one as overloaded."""
        self._step(now)
        self._requests += share
        self._refused = True

    def turned_away(self, share: float, now: float) -> None:
        """A part of a request was not sent."""
        self._step(now)
        self._requests += share

    def probability(self, now: float) -> float:
        """Return the probability with which a call is to be turned away now."""
        if not self._refused:
            return 0.0
        self._step(now)
        missing = self._requests - ACCEPTS_MULTIPLE * self._accepts
        if self._requests < LEAST_REQUESTS or missing <= 0:
            return 0.0
        return min(MOST, missing / (self._requests + 1))

    def _step(self, now: float) -> None:
        """Let what there was count for less."""
        steps = int((now - self._stepped_at) / STEP_SECONDS)
        if steps > 0:
            factor = exp(-steps * STEP_SECONDS / WINDOW_SECONDS)
            self._requests *= factor
            self._accepts *= factor
            self._stepped_at += steps * STEP_SECONDS
