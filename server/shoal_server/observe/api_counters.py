"""What a node's gRPC API counts: its calls, by how they ended. A stream is one call."""

from __future__ import annotations

from collections.abc import Iterator

from shoal.metrics import Family, gauge, labelled


class OpenCalls:
    """Calls of a kind, by name of `words`.

    `open` are under way, that included which is just being turned away; `limit` is how many may be.
    """

    __slots__ = ("limit", "open", "words")

    def __init__(self, limit: int, words: str) -> None:
        self.limit = limit
        self.open = 0
        self.words = words


class ApiCounters:
    """Counters of the API's thread; `families` may be called in any."""

    __slots__ = ("_ended", "streams", "unary")

    def __init__(self, unary: int, streams: int) -> None:
        """
        Args:
            unary: how many calls with one request and one answer may be open; streams: how many others.
        """
        self.unary = OpenCalls(unary, "calls")
        self.streams = OpenCalls(streams, "streams")
        self._ended: dict[str, int] = {}

    def ended(self, code: str) -> None:
        """A call is over, with this status."""
        self._ended[code] = self._ended.get(code, 0) + 1

    def families(self) -> Iterator[Family]:
        """Yield what was counted."""
        ended = list(self._ended.items())
        yield labelled(
            "counter", "shoal_api_calls", "Calls of the gRPC API by the status they ended with", "code", ended
        )
        yield gauge("shoal_api_calls_open", "Calls under way, streams not among them", self.unary.open)
        yield gauge("shoal_api_calls_limit", "How many may be, before further ones are turned away", self.unary.limit)
        yield gauge("shoal_api_streams_open", "Streams under way", self.streams.open)
        yield gauge("shoal_api_streams_limit", "How many may be, before idle ones have to give way", self.streams.limit)
