"""When a link that nothing has broken has to be taken for dead: its peer answers no heartbeat. Pure: times are passed in.

A connection whose other end is gone, or whose packets vanish, may stay open for ever: what is written into it is lost
without an error. What shows that a link works is that the peer answers what it carries: heartbeats, or anything else. So a
link is dead when no answer has come for a while, and dialled anew. What bounds this:

- only time counts in which this node itself was running (`look` is called), not that in which it was stopped: answers may
  wait to be read;
- what was sent since the last answer has time to arrive at `SLOWEST_BYTES_PER_SECOND`;
- no time counts in which bytes of the peer arrive without a heartbeat among them, of which it sends several a second: its
  answers wait behind those bytes, on a link that is too narrow for them;
- each link that was made anew in vain is given twice the patience of the one before, up to `PATIENCE_MOST`: answers come by
  the peer's own link, and it may be that one which cannot be made.
"""

from __future__ import annotations

from typing import NamedTuple

SECOND = 1_000_000_000
LOOK_NS = SECOND // 4
SLOWEST_BYTES_PER_SECOND = 100_000
SUPPORT_PERIODS = 2
PATIENCE_MOST = 16
"""In support periods."""


class Signs(NamedTuple):
    """What has come of a peer so far, each as a number that changes when more does.

    Args:
        answers: to what this node has sent it.
        heartbeats: of its own.
        received: bytes, of whatever it sends.
    """

    answers: int
    heartbeats: int
    received: int


NO_SIGNS = Signs(0, 0, 0)


class SilenceWatch:
    """Judges one peer's links, one after another. All times are in nanoseconds."""

    __slots__ = ("_counted", "_looked_at", "_patience", "_signs", "_support", "_unanswered_bytes")

    def __init__(self, support_ns: int) -> None:
        self._support = support_ns
        self._patience = SUPPORT_PERIODS * support_ns
        self._signs = NO_SIGNS
        self._looked_at = self._counted = self._unanswered_bytes = 0

    def opened(self, now: int) -> None:
        """A link is there, and heartbeats are on their way."""
        self._looked_at = now
        self._counted = self._unanswered_bytes = 0

    def sent(self, size: int) -> None:
        """So many bytes have gone into the link."""
        self._unanswered_bytes += size

    def look(self, signs: Signs, now: int) -> bool:
        """Say whether the link is dead. To be asked every `LOOK_NS`."""
        elapsed, self._looked_at = now - self._looked_at, now
        before, self._signs = self._signs, signs
        if signs.answers != before.answers:
            self._counted = self._unanswered_bytes = 0
            self._patience = SUPPORT_PERIODS * self._support
            return False
        if signs.received != before.received and signs.heartbeats == before.heartbeats:
            return False
        self._counted += min(elapsed, 2 * LOOK_NS)
        most = PATIENCE_MOST * self._support
        on_its_way = self._unanswered_bytes * SECOND // SLOWEST_BYTES_PER_SECOND
        if self._counted < min(self._patience + on_its_way, most):
            return False
        self._patience = min(2 * self._patience, most)
        return True

    @property
    def silent_seconds(self) -> float:
        """For how long the peer has answered nothing, as far as it counts."""
        return self._counted / SECOND
