"""What a node's gRPC API counts: its calls, by how they ended. A stream is one call."""

from __future__ import annotations

from collections.abc import Iterator

from shoal.metrics import Family, gauge, labelled


class ApiCounters:
    """Counters of the API's thread; `families` may be called in any.

    `open` are the calls under way, that included which is just being turned away; `limit` is how many may be.
    """

    __slots__ = ("_ended", "limit", "open")

    def __init__(self, limit: int) -> None:
        """
        Args:
            limit: how many calls may be open.
        """
        self.limit = limit
        self.open = 0
        self._ended: dict[str, int] = {}

    def begun(self) -> None:
        """A call has come."""
        self.open += 1

    def ended(self, code: str) -> None:
        """A call is over, with this status."""
        self.open -= 1
        self._ended[code] = self._ended.get(code, 0) + 1

    def families(self) -> Iterator[Family]:
        """Yield what was counted."""
        ended = list(self._ended.items())
        yield labelled(
            "counter", "shoal_api_calls", "Calls of the gRPC API by the status they ended with", "code", ended
        )
        yield gauge("shoal_api_calls_open", "Calls under way", self.open)
        yield gauge("shoal_api_calls_limit", "How many may be, before further ones are turned away", self.limit)
