"""How fast operations go on, from how much is left at one moment and at the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal_shardmanager.control.operations.outcome import Note

SMOOTHING = 0.3
"""The part of a new measurement in the running mean."""
LEAST_MS = 200
"""Two looks that are nearer than this say nothing about a pace."""


@dataclass(frozen=True, slots=True)
class _Look:
    at_ms: int
    left: int
    unit: str
    per_second: float


@dataclass(slots=True)
class Paces:
    """The paces of the operations that are running."""

    _looks: dict[int, _Look] = field(default_factory=dict)

    def take(self, notes: Mapping[int, Note], now_ms: int) -> None:
        """Take how much is left now into account; operations that are not in `notes` are forgotten."""
        for operation in list(self._looks):
            if operation not in notes:
                del self._looks[operation]
        for operation, note in notes.items():
            before = self._looks.get(operation)
            if note.left < 0:
                continue
            if before is None or before.unit != note.unit:
                self._looks[operation] = _Look(now_ms, note.left, note.unit, 0.0)
            elif now_ms - before.at_ms >= LEAST_MS:
                measured = max(0, before.left - note.left) * 1000 / (now_ms - before.at_ms)
                pace = measured if before.per_second == 0.0 else before.per_second
                pace += SMOOTHING * (measured - pace)
                self._looks[operation] = _Look(now_ms, note.left, note.unit, pace)

    def of(self, operation: int) -> float:
        """Return how many units an operation does per second; 0: not known."""
        look = self._looks.get(operation)
        return 0.0 if look is None else look.per_second
