"""Readers that end their pieces when they like: early, or before the first row, as RocksDB's do where time or removed rows
stop them. Whoever takes a short piece for the end, or an empty one for nothing, is found out.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from shoal_server.storage.engine import Piece, Reader
from shoal_server.storage.gaps import halfway


class ShortPieces:
    """A reader of another one's rows; `random` says where pieces end."""

    __slots__ = ("_random", "_reader")

    def __init__(self, reader: Reader, random: Random) -> None:
        self._reader = reader
        self._random = random

    def read(
        self,
        start: bytes,
        end: bytes,
        max_rows: int,
        max_bytes: int,
        *,
        reverse: bool = False,
        keys_only: bool = False,
    ) -> Piece:
        kind = self._random.random()
        if kind < 0.3:
            max_rows = min(max_rows, self._random.randint(1, 3))
        if start < end and 0.3 <= kind < 0.5:
            return self._empty(start, end, reverse)
        return self._reader.read(start, end, max_rows, max_bytes, reverse=reverse, keys_only=keys_only)

    def heads(self, spans: Sequence[tuple[bytes, bytes]], *, reverse: bool = False) -> list[bytes | Piece | None]:
        return [
            self._empty(start, end, reverse) if start < end and self._random.random() < 0.1 else head
            for (start, end), head in zip(spans, self._reader.heads(spans, reverse=reverse), strict=True)
        ]

    def few_keys(self, spans: Sequence[tuple[bytes, bytes]], max_keys: int) -> list[list[bytes] | None]:
        return [None if self._random.random() < 0.3 else keys for keys in self._reader.few_keys(spans, max_keys)]

    def _empty(self, start: bytes, end: bytes, reverse: bool) -> Piece:
        """Return a piece without rows that comes further, if only right before the next row."""
        rows = self._reader.read(start, end, 1, 1, reverse=reverse, keys_only=True).rows
        if not rows:
            between = halfway(start, end)
            return Piece([], between, 0, passed=self._passed())
        [(key, _)] = rows
        if reverse:
            place = halfway(key + b"\0", end) or key + b"\0"
            return Piece([], place, 0, passed=self._passed()) if place < end else self._first(start, end, reverse)
        if key == start:
            return self._first(start, end, reverse)
        return Piece([], halfway(start, key) or key, 0, passed=self._passed())

    def _passed(self) -> int:
        """Return how many removed rows there were: some, or as many as an entry pauses for."""
        return self._random.choice([1000, 1000, 10_000])

    def _first(self, start: bytes, end: bytes, reverse: bool) -> Piece:
        return self._reader.read(start, end, 1, 1, reverse=reverse)

    def close(self) -> None:
        self._reader.close()
