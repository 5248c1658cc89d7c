"""Did each session read its own writes, and never read an older state than it had read before?

The guarantees are Terry et al., "Session guarantees for weakly consistent replicated data" (1994), told by the sequence
numbers of a shard: what a session knows to be applied is a floor that rises as its calls complete, and every later read
must be at or above it. One sweep over the session by time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Literal


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """A call of a session, from `invoked` to `completed` in nanoseconds of the history's clock (None: no answer came).

    Attributes:
        seq: of a write or deletion, the sequence number it got (0: outcome unknown); of a read, the one stored with the
            value (0: absent).
        shard_seq: of a read, the sequence number up to which the replica that answered had applied the shard; where only
            bounds of that are known, the lower one.
        shard: sequence numbers are compared within a shard only.
        shard_seq_most: the upper one, None where `shard_seq` is exact.
    """

    session: str
    key: bytes
    kind: Literal["read", "write"]
    seq: int
    invoked: int
    completed: int | None
    shard_seq: int = 0
    shard: int = 0
    shard_seq_most: int | None = None


@dataclass(frozen=True, slots=True)
class SessionViolation:
    """The read `later` was invoked after `earlier` had completed, and does not know of it."""

    guarantee: Literal["read your writes", "monotonic reads"]
    earlier: SessionEvent
    later: SessionEvent
    sentence: str


def find_violations(history: Iterable[SessionEvent]) -> list[SessionViolation]:
    """Return what broke a guarantee, by the time of the reads; at most one for each read and guarantee.

    A call is after another if it was invoked, in nanoseconds, later than the other completed: calls that touch at one
    instant count as concurrent. That a key is absent breaks nothing unless the replica had applied too little: the key
    may have been deleted. But a value that was absent once must not come back.

    Args:
        history: events of any number of sessions, in any order.
    """
    sessions: dict[str, list[SessionEvent]] = {}
    for event in history:
        sessions.setdefault(event.session, []).append(event)
    found = [violation for events in sessions.values() for violation in _check(events)]
    return sorted(found, key=lambda violation: violation.later.invoked)


class _Floors:
    """The least sequence number that later reads must reach, for a shard or a key of one, and the event that says so."""

    __slots__ = ("_floors",)

    def __init__(self) -> None:
        self._floors: dict[tuple[int, bytes | None], tuple[int, SessionEvent]] = {}

    def lift(self, shard: int, key: bytes | None, seq: int, because: SessionEvent) -> None:
        if seq > self.least(shard, key):
            self._floors[shard, key] = (seq, because)

    def least(self, shard: int, key: bytes | None) -> int:
        floor = self._floors.get((shard, key))
        return 0 if floor is None else floor[0]

    def broken_by(self, read: SessionEvent) -> tuple[SessionEvent, str] | None:
        """Return the event whose floor the read is below, and what the read knew instead."""
        floor = self._floors.get((read.shard, None))
        position = read.shard_seq if read.shard_seq_most is None else read.shard_seq_most
        if floor is not None and position < floor[0]:
            return floor[1], f"was answered from a replica at {position}, which is before {floor[0]}"
        floor = self._floors.get((read.shard, read.key))
        if floor is not None and 0 < read.seq < floor[0]:
            return floor[1], f"saw version {read.seq}, and nothing before {floor[0]} was left to see"
        return None


def _check(events: list[SessionEvent]) -> Iterator[SessionViolation]:
    written, seen = _Floors(), _Floors()
    # What completed, by when: (completed, number, event, the least version of the key that may be seen from then on).
    completions = [
        (event.completed, number, event, event.seq)
        for number, event in enumerate(events)
        if event.kind == "write" and event.completed is not None and event.seq > 0
    ]
    heapify(completions)
    known: dict[tuple[int, bytes], int] = {}
    reads = [(number, event) for number, event in enumerate(events) if event.kind == "read"]
    for number, read in sorted(reads, key=lambda item: item[1].invoked):
        if read.completed is None:
            continue
        while completions and completions[0][0] < read.invoked:
            _, _, event, least = heappop(completions)
            floors, applied = (written, event.seq) if event.kind == "write" else (seen, event.shard_seq)
            floors.lift(event.shard, None, applied, event)
            floors.lift(event.shard, event.key, least, event)
            place = (event.shard, event.key)
            known[place] = max(known.get(place, 0), event.seq)
        broken = written.broken_by(read)
        if broken is not None:
            yield SessionViolation("read your writes", broken[0], read, _sentence(broken[0], read, broken[1]))
        broken = seen.broken_by(read)
        if broken is not None:
            yield SessionViolation("monotonic reads", broken[0], read, _sentence(broken[0], read, broken[1]))
        # A key that was known and is absent was deleted since: what is seen of it from now on is newer than what was.
        before = known.get((read.shard, read.key), 0)
        gone = before + 1 if before else 0
        heappush(completions, (read.completed, number, read, read.seq or gone))


def _sentence(earlier: SessionEvent, later: SessionEvent, what: str) -> str:
    if earlier.kind == "write":
        told = f"its write {earlier.seq} of {earlier.key!r}"
    elif earlier.seq:
        told = f"its read of {earlier.key!r}, version {earlier.seq} from a replica at {earlier.shard_seq},"
    else:
        told = f"its read of {earlier.key!r}, absent from a replica at {earlier.shard_seq},"
    return (
        f"Session {later.session} on shard {later.shard}: {told} completed at {earlier.completed} ns, "
        f"but its read of {later.key!r} invoked at {later.invoked} ns {what}."
    )
