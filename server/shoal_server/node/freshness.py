"""How a replica that does not lead knows how stale it can be at most, without comparing clocks.

It asks the leader, and the question carries the time on its own clock. A leader that holds its lease answers with that
time and its commit position: everything acknowledged by then is at or before it. Once the replica has applied that far,
it knows that it was current at that time. It asks only while somebody reads from it: a quiet shard costs nothing.
"""

from __future__ import annotations

from collections import deque

import msgspec
from shoal.bounds import (
    ClockNs,
    LogIndex,
    ShardId,
)

UNKNOWN = -(1 << 62)
"""In place of a time: never known to be current."""

ASK_AGAIN_NS = 20_000_000
"""A question that got no answer for so long is asked again, as long as a read waits for one."""
REFRESH_NS = 100_000_000
"""While it is read from, a replica asks so often."""
IN_USE_NS = 5_000_000_000
"""For so long after a read it counts as being read from."""
MAX_ANSWERS = 8


class FreshnessQuestion(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=62):
    """A replica of `group` asks its leader: how far is the log committed? `asked_at`: the asking node's clock, ns."""

    group: ShardId
    asked_at: ClockNs


class FreshnessAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=63):
    """Everything acknowledged before `asked_at` (the asking node's clock, ns) is at `commit_index` or before it."""

    group: ShardId
    asked_at: ClockNs
    commit_index: LogIndex


class ReplicaFreshness:
    """What one replica knows. `current_at`: the newest instant of its own clock at which it was current, or UNKNOWN."""

    __slots__ = ("_answers", "_asked_at", "_drift_permille", "_read_at", "current_at")

    def __init__(self, drift_permille: int) -> None:
        self.current_at = UNKNOWN
        self._drift_permille = drift_permille
        self._asked_at = UNKNOWN
        self._read_at = UNKNOWN
        self._answers: deque[tuple[int, int]] = deque()

    def read(self, now: int) -> None:
        """Somebody reads from the replica."""
        self._read_at = now

    def in_use(self, now: int) -> bool:
        return now - self._read_at < IN_USE_NS

    def may_ask(self, now: int, *, wanted: bool) -> bool:
        """Say whether to ask the leader now; if so, it counts as asked. `wanted`: a read waits for the answer."""
        if now - self._asked_at < (ASK_AGAIN_NS if wanted else REFRESH_NS):
            return False
        self._asked_at = now
        return True

    def answered(self, answer: FreshnessAnswer, applied_index: int) -> None:
        """Take the leader's answer."""
        if answer.commit_index <= applied_index:
            self.current_at = max(self.current_at, answer.asked_at)
        elif len(self._answers) < MAX_ANSWERS:
            self._answers.append((answer.commit_index, answer.asked_at))

    def applied(self, index: int) -> None:
        """The replica has applied its log up to `index`."""
        answers = self._answers
        while answers and answers[0][0] <= index:
            self.current_at = max(self.current_at, answers.popleft()[1])

    def staleness_ms(self, now: int) -> int | None:
        """Return by how many milliseconds the replica can be behind at most, or None where nobody knows.

        Rounded up, and widened by what the node's clock may run slow.
        """
        if self.current_at == UNKNOWN:
            return None
        elapsed = (now - self.current_at) * (1000 + self._drift_permille) // 1000
        return -(-elapsed // 1_000_000)
