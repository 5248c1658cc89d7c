"""How long to wait before a retry: capped exponential backoff with full jitter, and a budget for retries.

Randomness is injected, so that equal seeds give equal waits. Full jitter: a wait is drawn evenly from zero to the
exponential bound, which spreads clients that failed together better than a jitter around it does.
"""

from __future__ import annotations

from random import Random

ASKED_FOR_SECONDS = 10.0
"""A node may ask for a wait of so long at the most: whoever means more will say so again."""


class Backoff:
    """Waits for the first, second, ... retry in a row, in seconds."""

    __slots__ = ("_cap", "_first", "_random", "_steps")

    def __init__(self, first: float, cap: float, random: Random) -> None:
        """
        Args:
            first: bound of the first wait; every further one doubles it.
            cap: bound of all waits.
        """
        if not 0 < first <= cap:
            raise ValueError(f"a backoff needs 0 < first <= cap, not first={first}, cap={cap}")
        self._first = first
        self._cap = cap
        self._random = random
        self._steps = 0
        while first * 2**self._steps < cap:
            self._steps += 1

    def delay(self, retry: int) -> float:
        """Return the wait before retry number `retry` (0 for the first)."""
        bound = min(self._cap, self._first * 2 ** min(retry, self._steps))
        return self._random.uniform(0.0, bound)

    def longest(self) -> float:
        """Return a wait of the upper half of the cap: for retries that have no budget left."""
        return self._random.uniform(self._cap / 2, self._cap)

    def stretched(self, asked_for: float) -> float:
        """Return the wait that a node asked for, up to a bound, and up to half as much again: others were told the same."""
        asked_for = min(asked_for, ASKED_FOR_SECONDS)
        return asked_for + self._random.uniform(0.0, asked_for / 2) if asked_for else 0.0


class RetryBudget:
    """A bucket of tokens: a retry takes one, a success puts `refund` of one back, up to `capacity`."""

    __slots__ = ("_capacity", "_refund", "_tokens")

    def __init__(self, capacity: float, refund: float) -> None:
        if capacity < 1 or not 0 < refund <= 1:
            raise ValueError(f"a retry budget needs capacity >= 1 and 0 < refund <= 1, not {capacity} and {refund}")
        self._capacity = capacity
        self._refund = refund
        self._tokens = capacity

    def spend(self) -> bool:
        """Take a token for a retry; False where none is left."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def succeeded(self) -> None:
        """A request was served: retries may go on a little."""
        self._tokens = min(self._capacity, self._tokens + self._refund)
