"""How much a turn may take of clients, so that it lasts about `TURN_NS`, by how long turns have really lasted lately.

Costs are estimates (request_costs.py): on a slower machine, or a busier one, as much takes longer.
"""

from __future__ import annotations

TURN_NS = 10_000_000
"""What a turn is to last for what clients ask: of data."""
TELLING_NS = 2_000_000
"""A turn that was charged for less says nothing of estimates: what else it did took as long."""
SCALE_GAIN = 0.1
SCALE_LEAST, SCALE_MOST = 0.5, 4.0


class TurnLength:
    """See the module's first line. `charged`: what the last turn has come to, by the estimates (ns)."""

    __slots__ = ("_scale", "charged")

    def __init__(self) -> None:
        self.charged = 0
        self._scale = 1.0

    def budget(self, lasted: int) -> int:
        """Return what the next turn may cost, by the estimates (ns).

        Args:
            lasted: how long the last one took (ns), 0 where nobody knows.
        """
        if lasted and self.charged > TELLING_NS:
            factor = min(max(lasted / self.charged, SCALE_LEAST), SCALE_MOST)
            self._scale += SCALE_GAIN * (factor - self._scale)
        return int(TURN_NS / self._scale)
