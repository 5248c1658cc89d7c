"""The time by which rows expire: the node's monotonic clock, set by its wall clock only as far as other nodes' allow.

Pure: readings come in, with the time of the node's own monotonic clock at which they were taken. A wall clock is kept as
its *base*: what it shows, less the monotonic clock. While it goes right its base stands still, whatever its zone; a wall
clock that is set changes it at once, and so is noticed even by a node that is alone.

Peers' wall clocks come with their answers to heartbeats, and are known to lie between the moment the heartbeat was sent
and the moment the answer came: half of that is the error. Readings age, at the rate at which clocks may drift, and one that
is older than `READING_NS`, or less certain than the tolerance, counts no more.

- The time is *confirmed* while a majority of the cluster's clocks, heard or one's own, are within the tolerance of the median
  of those that are heard; a process without other nodes has nobody to ask, and its own clock confirms itself. Confirmed, the
  time is one's own, if it is within the tolerance of the median; else the median. A step away from what the time was is
  believed when it has lasted for `CONFIRMED_NS`: readings are not all of the same moment.
- Not confirmed, the time goes on with the monotonic clock, drawn towards one's own wall clock no faster than by
  `SLEW_PERMILLE`.
- The same, before any two clocks have agreed: it is one's own where nobody else has been heard; of those that differ it is
  the median, of two the earlier, or the newest stamp among the stored entries where that lies between. No waiting makes
  one of them right.

What cannot be undone, removing rows and setting a shard's clock back, waits for a confirmed time (`settled`). So fewer
than half of a cluster's clocks may be wrong by any amount, from the first moment on, and the time that counts is off by
the tolerance at most. docs/decisions/0023-wall-clocks-are-checked-by-peers.md says why so.
"""

from __future__ import annotations

from dataclasses import dataclass

from shoal_server.shard.commands import CLOCK_MS_MAX

MILLISECOND = 1_000_000
READING_NS = 10_000_000_000
"""A peer that has answered no heartbeat for so long says nothing about the time any more."""
JUDGE_NS = 50_000_000
"""Clocks are compared so often, and no oftener."""
SLEW_PERMILLE = 1
"""By so much of the time that passes, a node that nobody confirms lets its wall clock draw its time."""
CONFIRMED_NS = 1_000_000_000
"""Several heartbeats: by then every reading that counts has been taken anew."""
OFF_LEAST_NS = 10_000_000_000
"""A clock that was found off counts as off for so long at the least, or leaderships would come and go with it."""
BEYOND_TOLERANCES = 5
"""A shard's clock that is so many tolerances ahead was set by a wrong one: two right leaders differ by four at the most."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """A peer's base (ns) as it was at `at`: certainly between `low` and `high`."""

    low: int
    high: int
    at: int


def _said_by(others: int) -> str:
    return f"what the {'clock of 1 other node says' if others == 1 else f'clocks of {others} other nodes say'}"


class WallClock:
    """What this node takes for the time.

    Attributes:
        not_leading: "" or the reason, in words, not to lead: the wall clock is off.
        offset_ms: by how much the wall clock is ahead of what the others' allow, or, while nothing is confirmed, of what
            this node takes for the time; negative: behind.
        due_at: before then `judge` does nothing.
        settled: whether the time is confirmed, or was a few seconds ago: what cannot be undone waits for it.
    """

    __slots__ = (
        "_base",
        "_confirmed_at",
        "_doubted_since",
        "_drift_permille",
        "_floor",
        "_heard",
        "_judged_at",
        "_known",
        "_off_since",
        "_peers",
        "_readings",
        "_tolerance",
        "due_at",
        "not_leading",
        "offset_ms",
        "settled",
    )

    def __init__(self, tolerance_ns: int, drift_permille: int) -> None:
        """
        Args:
            tolerance_ns: by how much wall clocks may differ.
            drift_permille: how much slower or faster than another a monotonic clock may run.
        """
        self.not_leading = ""
        self.offset_ms = 0
        self.due_at = 0
        self.settled = False
        self._tolerance = tolerance_ns
        self._drift_permille = drift_permille
        self._readings: dict[str, _Reading] = {}
        self._base: int | None = None
        self._confirmed_at: int | None = None
        self._known = False
        self._heard = False
        self._doubted_since: int | None = None
        self._floor = 0
        self._judged_at = 0
        self._off_since: int | None = None

    @property
    def beyond_ms(self) -> int:
        """A shard's clock that is ahead of the time by more than this was set by a wrong one."""
        return BEYOND_TOLERANCES * self._tolerance // MILLISECOND

    def stored(self, clock_ms: int, now: int) -> None:
        """Entries stamped `clock_ms` have been applied: a node that knows nothing better does not go back behind that."""
        self._floor = max(self._floor, clock_ms * MILLISECOND - now)

    def stood_still(self, duration_ns: int) -> None:
        """The monotonic clock has stood still for so long, and those of all peers with it, while wall clocks went on."""
        self._floor += duration_ns
        if self._base is not None:
            self._base += duration_ns
        self._readings = {
            peer: _Reading(reading.low + duration_ns, reading.high + duration_ns, reading.at)
            for peer, reading in self._readings.items()
        }

    def heard(self, peer: str, sent_at: int, now: int, wall_ms: int) -> None:
        """A peer's wall clock showed `wall_ms` at some moment between `sent_at` and `now`; what cannot be is passed over."""
        if not (0 < wall_ms <= CLOCK_MS_MAX and sent_at <= now):
            return
        wall = wall_ms * MILLISECOND
        # What it showed is cut off to whole milliseconds.
        low, high = wall - now, wall + MILLISECOND - sent_at
        known = self._readings.get(peer)
        if known is not None:
            known = self._aged(known, now)
            if known is not None and low <= known.high and known.low <= high:
                # The same clock, seen twice: both are right.
                low, high = max(low, known.low), min(high, known.high)
        self._readings[peer] = _Reading(low, high, now)

    def judge(self, now: int, wall_ms: int, *, nodes: int) -> None:
        """Compare the wall clock, which shows `wall_ms`, with the others', where it is time to.

        Args:
            nodes: how many the cluster has, this one among them.
        """
        if self._base is not None and now - self._judged_at < JUDGE_NS:
            return
        elapsed, self._judged_at = now - self._judged_at, now
        self.due_at = now + JUDGE_NS
        own = min(max(wall_ms, 0), CLOCK_MS_MAX) * MILLISECOND - now
        readings = self._current(now)
        count = 1 + len(readings)
        low = sorted([own, *(reading.low for reading in readings)])[(count - 1) // 2]
        high = sorted([own, *(reading.high for reading in readings)])[count // 2]
        reference = min(max(own, low), high)
        first, last = reference - self._tolerance, reference + self._tolerance
        agreeing = (first <= own <= last) + sum(first <= each.low and each.high <= last for each in readings)
        confirmed = agreeing >= nodes // 2 + 1 and nodes > 1
        if (confirmed and self._is_confirmed(reference, now)) or (not self._known and (nodes == 1 or agreeing >= 2)):
            self._known = True
            if confirmed:
                self._confirmed_at = now
            self._judge_own(own - reference, now, _said_by(len(readings)))
            self._base = reference if self.not_leading else own
        elif self._known and self._base is not None:
            step = elapsed * SLEW_PERMILLE // 1000
            self._base += min(max(own - self._base, -step), step)
            self._judge_own(own - self._base, now, "what its monotonic clock makes of the time before")
        else:
            if readings:
                self._base = min(max(self._floor, low), high)
            elif self._base is None or not self._heard:
                self._base = own
            self.offset_ms = int((own - self._base) / MILLISECOND)
        self._heard |= bool(readings)
        self.settled = nodes == 1 or (self._confirmed_at is not None and now - self._confirmed_at <= READING_NS)

    def now_ms(self, now: int) -> int:
        """Return the time (Unix ms). Before the first call of `judge` it is 0."""
        return 0 if self._base is None else max(0, (now + self._base) // MILLISECOND)

    def _is_confirmed(self, reference: int, now: int) -> bool:
        """Say whether what the readings come to is no step, or one that has lasted."""
        if not self._known or self._base is None or abs(reference - self._base) <= self._tolerance:
            self._doubted_since = None
            return True
        if self._doubted_since is None:
            self._doubted_since = now
        return now - self._doubted_since >= CONFIRMED_NS

    def _current(self, now: int) -> list[_Reading]:
        """Return the peers' readings as they still hold; forget those that say nothing any more."""
        current: list[_Reading] = []
        for peer, reading in list(self._readings.items()):
            aged = self._aged(reading, now)
            if aged is None:
                del self._readings[peer]
            else:
                current.append(aged)
        return current

    def _aged(self, reading: _Reading, now: int) -> _Reading | None:
        """Return a reading as it still holds, or None where it says nothing any more."""
        age = now - reading.at
        drift = age * self._drift_permille // 1000
        low, high = reading.low - drift, reading.high + drift
        return None if age > READING_NS or high - low > 2 * self._tolerance else _Reading(low, high, now)

    def _judge_own(self, offset: int, now: int, against: str) -> None:
        self.offset_ms = int(offset / MILLISECOND)
        off = abs(offset)
        if off > self._tolerance:
            if self._off_since is None:
                self._off_since = now
        elif self._off_since is not None and now - self._off_since >= OFF_LEAST_NS and 2 * off <= self._tolerance:
            self._off_since = None
        if self._off_since is None:
            self.not_leading = ""
        elif 2 * off > self._tolerance:
            way = "ahead of" if offset > 0 else "behind"
            still = "" if off > self._tolerance else "still "
            again = f"; it leads again once that is {self._tolerance / 2e9:g} s" if still else ""
            self.not_leading = f"its wall clock is {still}{off / 1e9:.1f} s {way} {against}{again}"
        else:
            left = max(0, OFF_LEAST_NS - (now - self._off_since)) / 1e9
            self.not_leading = f"its wall clock was wrong a moment ago; it leads again in {left:.0f} s"
