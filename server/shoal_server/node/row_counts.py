"""How many rows one replica's microshards hold, and how many bytes, as counted last (row_counting.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.shardmap import Ranges


@dataclass(slots=True)
class RowCounts:
    """Keys and bytes of one replica's microshards, as counted last. `complete`: all that it has were counted."""

    keys: int = 0
    bytes: int = 0
    complete: bool = False
    _microshards: dict[int, tuple[int, int]] = field(default_factory=dict)
    _ranges: Ranges = ()

    def follow(self, ranges: Ranges, present: Mapping[int, object]) -> None:
        """Be of the microshards `present`, which are `ranges`: those that have gone do not count, nor are new ones counted."""
        if ranges != self._ranges:
            self._ranges = ranges
            self.keep_only(present)
            self.complete = self.complete and self.has_counted(present)

    def has_counted(self, present: Mapping[int, object]) -> bool:
        """Say whether each of the microshards has been counted."""
        return self._microshards.keys() >= present.keys()

    def put(self, microshard: int, keys: int, size: int) -> None:
        """Take in a new count."""
        self.drop(microshard)
        self._microshards[microshard] = (keys, size)
        self.keys += keys
        self.bytes += size

    def drop(self, microshard: int) -> None:
        """Forget a microshard."""
        keys, size = self._microshards.pop(microshard, (0, 0))
        self.keys -= keys
        self.bytes -= size

    def keep_only(self, present: Mapping[int, object]) -> None:
        """Forget the microshards that are no more."""
        for microshard in [microshard for microshard in self._microshards if microshard not in present]:
            self.drop(microshard)

    def bytes_of(self, microshard: int) -> int:
        """Return the bytes of one microshard, 0 where it has not been counted."""
        return self._microshards.get(microshard, (0, 0))[1]
