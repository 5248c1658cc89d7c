"""Which keys are popular: the zipfian and "latest" distributions of YCSB, drawn in advance so that drawing costs nothing.

Gray and others, "Quickly generating billion-record synthetic databases" (SIGMOD 1994), section 3.2; Cooper and others,
"Benchmarking cloud serving systems with YCSB" (SoCC 2010), from which the constant is.
"""

from __future__ import annotations

from random import Random
from zlib import crc32

THETA = 0.99


class Zipfian:
    """Draws numbers from 0 up to, not with, `items`: 0 is the most popular, the next half as popular, and so on."""

    def __init__(self, items: int, random: Random, theta: float = THETA) -> None:
        self._items = items
        self._random = random
        self._theta = theta
        self._zeta = sum(1.0 / rank**theta for rank in range(1, items + 1))
        zeta_of_two = 1.0 + 0.5**theta
        self._alpha = 1.0 / (1.0 - theta)
        self._eta = (1.0 - (2.0 / items) ** (1.0 - theta)) / (1.0 - zeta_of_two / self._zeta) if items > 2 else 1.0

    def draw(self) -> int:
        """Return the next number."""
        uniform = self._random.random()
        scaled = uniform * self._zeta
        if scaled < 1.0:
            return 0
        if scaled < 1.0 + 0.5**self._theta:
            return min(1, self._items - 1)
        return min(self._items - 1, int(self._items * (self._eta * uniform - self._eta + 1.0) ** self._alpha))


def scattered(rank: int, items: int) -> int:
    """Return the item of a rank, so that popular ones are not neighbours."""
    return crc32(rank.to_bytes(8, "big")) % items
