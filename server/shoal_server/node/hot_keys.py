"""Which keys of a replica clients ask for most lately: a space-saving table, fed by a sample of what they ask.

Of about every 64th batch the keys are counted, each for 64. The table (Metwally, Agrawal, El Abbadi, 2005) has 256 keys at
the most. One that is not in it takes the place of those that were asked for least, and their count as its error: it may have
been asked for so much before. So whatever was asked for more often than any that had to go is in it. Counts fade, so that
they are of about the last ten seconds.

A key that was met by chance once or twice may have been asked for no more often than that: what is told has a deviation
(of a sum of samples, each with its weight: Kish, Survey Sampling, 1965, section 11.7), and keys whose count rests on fewer than
`SAMPLES_LEAST` samples are not told of.

Batches are chosen by chance, or what comes in a rhythm would be missed, or counted each time. Pure: times are passed in.
"""

from __future__ import annotations

import math

SAMPLED_ONE_IN = 64
TABLE_KEYS = 256
TABLE_BYTES = 32 * 1024
"""Of the keys in a table, however long each is."""
BATCH_KEYS = 64
"""Of a sampled batch so many are counted, evenly spaced, and stand for the others: a large one must not take long."""
FADE_SECONDS = 10.0
ROLL_NS = 1_000_000_000
SAMPLES_LEAST = 3.0
FORGOTTEN = 1.0
"""A key whose count has faded below this is forgotten."""


class KeyCount:
    """A key's counts: of reads and writes since it is in the table, and by how much it may have been asked for more before.

    `most`: what it may come to at the most, the sum of the three. `squares`: of the weights of its samples.
    """

    __slots__ = ("error", "most", "reads", "squares", "writes")

    def __init__(self, error: float) -> None:
        self.reads = self.writes = self.squares = 0.0
        self.error = self.most = error

    @property
    def samples(self) -> float:
        """On how many samples of equal weight its count rests."""
        return (self.reads + self.writes) ** 2 / self.squares if self.squares else 0.0

    @property
    def deviation(self) -> float:
        """Twice the standard deviation of its count: 19 of 20 are off by less."""
        return 2 * math.sqrt(self.squares)


class HotKeys:
    """See the module's first lines.

    Attributes:
        left: batches until one is counted, for whoever takes them to count down.
        keys: the table. `total`: what was asked for in all, in or out of the table.
    """

    __slots__ = ("_bytes", "_chance", "_faded_at", "_missed", "keys", "left", "total")

    def __init__(self, seed: int = 1) -> None:
        self.keys: dict[bytes, KeyCount] = {}
        self.total = 0.0
        self._missed = 0.0
        """Nothing that is not in the table was asked for more often."""
        self._bytes = 0
        self._faded_at = 0
        self._chance = seed
        self.left = 1
        self._draw()

    def _draw(self) -> None:
        """Say how many batches are passed over: 64 in the mean."""
        self._chance = (self._chance * 1_103_515_245 + 12_345) & 0x7FFF_FFFF
        self.left = 1 + (self._chance >> 8) % (2 * SAMPLED_ONE_IN - 1)

    def take(self, keys: list[bytes], now: int, *, writes: bool) -> None:
        """Count the keys of a batch whose turn it was (`left` is 0)."""
        self._draw()
        self.fade(now)
        if not keys:
            return
        counted = keys if len(keys) <= BATCH_KEYS else keys[:: -(-len(keys) // BATCH_KEYS)]
        weight = SAMPLED_ONE_IN * len(keys) / len(counted)
        self.total += weight * len(counted)
        table = self.keys
        for key in counted:
            hot = table.get(key)
            if hot is None:
                if len(key) > TABLE_BYTES:
                    continue
                if len(table) == TABLE_KEYS or self._bytes + len(key) > TABLE_BYTES:
                    self._make_room(len(key))
                hot = table[key] = KeyCount(self._missed)
                self._bytes += len(key)
            hot.most += weight
            hot.squares += weight * weight
            if writes:
                hot.writes += weight
            else:
                hot.reads += weight

    def _make_room(self, size: int) -> None:
        """Take out the quarter of the keys that were asked for least, or more of them where they are long.

        One at a time would be exact, and take a look at all of them for each.
        """
        table = self.keys
        ordered = sorted([(count.most, key) for key, count in table.items()])
        enough = len(table) * 3 // 4
        for most, key in ordered:
            if len(table) <= enough and self._bytes + size <= TABLE_BYTES:
                break
            del table[key]
            self._bytes -= len(key)
            self._missed = max(self._missed, most)

    def total_at(self, now: int) -> float:
        """Return what `total` has faded to by now."""
        return self.total * math.exp(-(now - self._faded_at) / 1e9 / FADE_SECONDS)

    def fade(self, now: int) -> None:
        """Let time go by."""
        elapsed = now - self._faded_at
        if elapsed < ROLL_NS:
            return
        self._faded_at = now
        kept = math.exp(-elapsed / 1e9 / FADE_SECONDS)
        self.total *= kept
        self._missed *= kept
        for key, hot in list(self.keys.items()):
            hot.reads *= kept
            hot.writes *= kept
            hot.error *= kept
            hot.most *= kept
            hot.squares *= kept * kept
            if hot.most < FORGOTTEN:
                del self.keys[key]
                self._bytes -= len(key)
