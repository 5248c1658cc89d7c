"""How much clients may write to a node whose disk falls behind: less, the further it does, and at last nothing.

RocksDB takes writes into memory and puts them on disk behind. Where the disk is slower than clients, full memtables, files of
the first level and bytes to be compacted pile up, and RocksDB then holds writes up by itself, within the call, for as long
as it takes: nothing else of the node would run meanwhile, heartbeats neither (docs/decisions/0012-slow-disks.md).
So the node looks at these before, some times a second, and lets writes of clients through at a rate that falls from what it was
lately to nothing, on the way from the lower to the upper bound of whichever is worst.

Pure: what was found comes in, with the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from shoal_server.node.token_bucket import TokenBucket

RATE_LEAST = 1024 * 1024
"""Bytes a second: of a node that nobody has written to lately, at the lower bound."""
FADE_SHARE = 0.98
"""Of the most that was let through between two looks, a look later: a minute later nothing is left of it."""
REFUSED_MS = 1000
"""Who is refused because nothing goes through asks again after this."""


@dataclass(frozen=True, slots=True)
class EngineState:
    """How far an engine's disk is behind.

    Args:
        memtables: how many are full, and how far the present one is, of the column family with most of them.
        first_level_files: of the family with most of them. pending_bytes: to be compacted.
        delayed_rate: to what the engine holds writes up (bytes a second), 0: it does not.
        stopped_ns: for how long it has been found taking no writes at all, 0: it takes them.
    """

    memtables: float = 0.0
    first_level_files: int = 0
    pending_bytes: int = 0
    delayed_rate: int = 0
    stopped_ns: int = 0


MEMTABLES = (1.5, 2.5)
"""One being written while another is filled is usual. RocksDB stops at 3 full ones (storage/rocks.py)."""
FIRST_LEVEL_FILES = (12, 32)
"""From 4 on they are compacted. RocksDB stops at 48; each makes reads slower."""
PENDING_BYTES = (32 << 30, 128 << 30)
"""RocksDB stops at 256 GiB."""


def pressure_of(state: EngineState) -> tuple[float, str]:
    """Return how far an engine is on the way from lower to upper bound (0 to 1, 1: beyond), and by what, in words."""
    if state.stopped_ns:
        return 1.0, "RocksDB takes no writes until its disk has caught up"
    measured = (
        (
            state.memtables,
            MEMTABLES,
            f"{state.memtables:.1f} memtables wait to be written to disk, or are being filled",
        ),
        (
            state.first_level_files,
            FIRST_LEVEL_FILES,
            f"{state.first_level_files} files of the first level are not compacted",
        ),
        (state.pending_bytes, PENDING_BYTES, f"{state.pending_bytes >> 20} MiB are to be compacted"),
    )
    found = [((value - low) / (high - low), words) for value, (low, high), words in measured]
    worst, words = max(found)
    if worst <= 0:
        return (0.01, "RocksDB holds writes up") if state.delayed_rate else (0.0, "")
    return min(worst, 1.0), words


class WriteBudget:
    """Lets writes of clients through, as fast as the disk's state allows.

    Attributes:
        pressure: 0, or how far the disk is behind, up to 1.
        rate: bytes a second, or None for as many as come.
        words: "" or why it is bounded.
        refused: writes.
    """

    __slots__ = ("_bucket", "_let_through", "_looked_at", "_usual", "pressure", "rate", "refused", "words")

    def __init__(self, now: int) -> None:
        self.pressure = 0.0
        self.rate: float | None = None
        self.words = ""
        self.refused = 0
        self._bucket = TokenBucket(now)
        self._let_through = 0
        self._looked_at = now
        self._usual = 0.0

    def judge(self, state: EngineState, now: int) -> None:
        """Take in what was found of the engine just now."""
        elapsed = now - self._looked_at
        if elapsed > 0:
            self._usual = max(self._let_through * 1e9 / elapsed, FADE_SHARE * self._usual)
            self._let_through, self._looked_at = 0, now
        self.pressure, why = pressure_of(state)
        if not self.pressure:
            self.rate, self.words = None, ""
            self._bucket.set_rate(0.0, 0.0, now)
            return
        rate = max(self._usual, RATE_LEAST) * (1.0 - self.pressure)
        if state.delayed_rate:
            # What a client writes is written to the log and to the rows, and the engine counts both.
            rate = min(rate, state.delayed_rate / 3)
        self.rate = rate
        self.words = f"{why}: writes are let through at {rate / 1e6:.1f} MB/s"
        self._bucket.set_rate(rate, rate / 4, now)

    def admit(self, size: int, now: int) -> int:
        """Let a write of so many bytes through, and return 0; or when to ask again (ms)."""
        if self.rate is not None:
            wait = self._bucket.take(size, now) if self.rate else REFUSED_MS
            if wait:
                self.refused += 1
                return wait
        self._let_through += size
        return 0

    def give_back(self, size: int) -> None:
        """Writes of so many bytes were let through, in this turn or a little before, and then refused for another reason."""
        self._let_through = max(0, self._let_through - size)
        if self.rate is not None:
            self._bucket.level += size
