"""How much a turn may take of clients, so that it lasts about `TURN_NS`, by how long turns have really lasted lately.

Costs are estimates (request_costs.py): on a slower machine, or a busier one, as much takes longer.
"""

from __future__ import annotations

TURN_NS = 10_000_000
"""What a turn is to last for what clients ask: of data."""
PAGES_NS = 1_500_000
"""Of it, for pages: whatever else comes in it waits for its end, and nobody gains by a longer one."""
TELLING_NS = 2_000_000
"""A turn that was charged for less says nothing of estimates: what else it did took as long."""
SCALE_GAIN = 0.1
SCALE_LEAST, SCALE_MOST = 0.5, 4.0


class TurnLength:
    """See the module's first line.

    Attributes:
        budget: what the next turn may cost, by the estimates (ns); `pages`: of that, for pages.
    """

    __slots__ = ("_scale", "budget", "pages")

    def __init__(self) -> None:
        self._scale = 1.0
        self._divide()

    def note(self, charged: int, lasted: int) -> None:
        """Learn from the last turn.

        Args:
            charged: what it has come to by the estimates (ns), more than `TELLING_NS`. lasted: how long it took (ns).
        """
        factor = min(max(lasted / charged, SCALE_LEAST), SCALE_MOST)
        self._scale += SCALE_GAIN * (factor - self._scale)
        self._divide()

    def _divide(self) -> None:
        self.budget = int(TURN_NS / self._scale)
        self.pages = int(PAGES_NS / self._scale)
