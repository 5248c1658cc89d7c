"""A bucket of tokens, which may be in debt: how much may be done lately, and when there is room again. Pure."""

from __future__ import annotations

QUEUE_NS = 1_000_000_000
"""Who is refused is sent away for no longer than this for the sake of others who were."""
RETRY_MS_MAX = 5_000


class TokenBucket:
    """Tokens that come at `rate` a second, up to `depth`. `level` is how many there are; negative: a debt."""

    __slots__ = ("_filled_at", "_turn_at", "depth", "level", "rate")

    def __init__(self, now: int) -> None:
        self.rate = self.depth = self.level = 0.0
        self._filled_at = now
        self._turn_at = now
        """When the turn comes of whoever is refused next (ns)."""

    def set_rate(self, rate: float, depth: float, now: int) -> None:
        """Have tokens come faster or slower from now on; a debt stays. A bucket that held nothing begins full."""
        if self.depth > 0:
            self.fill(now)
            self.level = min(self.level, depth)
        else:
            self.level, self._filled_at = depth, now
        self.rate, self.depth = rate, depth

    def fill(self, now: int) -> float:
        """Return how many there are by now."""
        elapsed = now - self._filled_at
        if elapsed > 0:
            self.level = min(self.depth, self.level + self.rate * elapsed / 1e9)
            self._filled_at = now
        return self.level

    def take(self, tokens: int, now: int) -> int:
        """Take tokens, as many as are wanted, if there are any; else return when to ask again (ms)."""
        self.fill(now)
        if self.level > 0:
            self.level -= tokens
            return 0
        if self.rate <= 0:
            return RETRY_MS_MAX
        free_at = now - int(self.level * 1e9 / self.rate)
        turn_at = max(free_at, min(self._turn_at, free_at + QUEUE_NS))
        self._turn_at = turn_at + int(tokens * 1e9 / self.rate)
        # Rounded up, or it would be too early. Nobody waits for less than what it takes to refuse him again.
        return max(1, min(-(now - turn_at) // 1_000_000 + 1, RETRY_MS_MAX))
