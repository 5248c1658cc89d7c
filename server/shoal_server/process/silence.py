"""When a link that nothing has broken has to be taken for dead: its peer answers no heartbeat. Pure: times are passed in.

A connection whose other end is gone, or whose packets vanish, may stay open for ever: what is written into it is lost
without an error. What shows that a link works is that the peer answers the heartbeats that it carries. So a link is dead
when no answer has come for a while, and dialled anew. What bounds this:

- only time counts in which this node itself was running (`look` is called), not that in which it was stopped: answers may
  wait to be read;
- what was sent since the last answer has time to arrive at `SLOWEST_BYTES_PER_SECOND`;
- each link that was made anew in vain is given twice the patience of the one before, up to `PATIENCE_MOST`: answers come by
  the peer's own link, and it may be that one which cannot be made.
"""

from __future__ import annotations

SECOND = 1_000_000_000
LOOK_NS = SECOND // 4
SLOWEST_BYTES_PER_SECOND = 100_000
SUPPORT_PERIODS = 2
PATIENCE_MOST = 16
"""In support periods."""


class SilenceWatch:
    """Judges one peer's links, one after another. All times are in nanoseconds."""

    __slots__ = ("_counted", "_heard", "_looked_at", "_patience", "_support", "_unanswered_bytes")

    def __init__(self, support_ns: int) -> None:
        self._support = support_ns
        self._patience = SUPPORT_PERIODS * support_ns
        self._heard = self._looked_at = self._counted = self._unanswered_bytes = 0

    def opened(self, now: int) -> None:
        """A link is there, and heartbeats are on their way."""
        self._looked_at = now
        self._counted = self._unanswered_bytes = 0

    def sent(self, size: int) -> None:
        """So many bytes have gone into the link."""
        self._unanswered_bytes += size

    def look(self, heard: int, now: int) -> bool:
        """Say whether the link is dead. To be asked every `LOOK_NS`.

        Args:
            heard: when the newest heartbeat was sent that the peer has answered.
        """
        elapsed, self._looked_at = now - self._looked_at, now
        if heard != self._heard:
            self._heard = heard
            self._counted = self._unanswered_bytes = 0
            self._patience = SUPPORT_PERIODS * self._support
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
