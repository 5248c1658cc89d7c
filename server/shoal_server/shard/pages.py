"""Pages of a shard's rows: in key order over all microshards, as a scan wants them, or one microshard after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import merge

from shoal.shardmap import Ranges, microshards_in

from shoal_server.shard.state import ShardState
from shoal_server.storage.engine import Engine
from shoal_server.storage.layout import is_visible, prefix_end, row_expiry, row_seq, row_value, whole_row

MAX_HIDDEN_ROWS = 16
"""A page of a scan ends after so many times the rows asked for, seen or expired: it must not hold up the node."""


@dataclass(slots=True)
class ScannedPage:
    """Rows in key order, and where to go on (None: nothing follows). `values` is empty where only keys were wanted."""

    keys: list[bytes]
    values: list[bytes]
    seqs: list[int]
    resume: bytes | None


@dataclass(slots=True)
class RowsPage:
    """Rows in (microshard, key) order, and whether that was all. `expiries` are as `split_rows` has them."""

    microshards: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    expiries: list[int] = field(default_factory=list)
    done: bool = True


class PageReader:
    """Reads pages of what is applied now and written to the engine."""

    __slots__ = ("_engine", "_state")

    def __init__(self, state: ShardState, engine: Engine) -> None:
        self._state = state
        self._engine = engine

    def scan(
        self,
        ranges: Ranges,
        start: bytes,
        end: bytes,
        *,
        reverse: bool,
        keys_only: bool,
        max_rows: int,
        max_bytes: int,
        now: int,
    ) -> ScannedPage:
        """Return rows of [start, end) (an empty `end`: to the last) in key order, in reverse from the end down.

        Args:
            ranges: microshards that are all here.
        """
        page = ScannedPage([], [], [], None)
        size = 0
        last = b""
        examined = 0
        for key, row in self._in_order(ranges, start, end, reverse):
            if len(page.keys) >= max_rows or size >= max_bytes or examined >= MAX_HIDDEN_ROWS * max_rows:
                # The smallest key greater than another is that with a zero byte behind it.
                page.resume = last if reverse else last + b"\x00"
                return page
            last = key
            examined += 1
            if not is_visible(row, now):
                continue
            page.keys.append(key)
            page.seqs.append(row_seq(row))
            size += len(key)
            if not keys_only:
                page.values.append(row_value(row))
                size += len(row)
        return page

    def _in_order(self, ranges: Ranges, start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        """Yield (user key, row) of microshards, all in one order."""
        prefixes = self._state.prefixes
        chosen = [prefixes[microshard] for microshard in microshards_in(ranges)]
        parts = [self._rows_between(prefix, start, end, reverse) for prefix in chosen]
        return parts[0] if len(parts) == 1 else merge(*parts, key=_key_of, reverse=reverse)

    def _rows_between(self, prefix: bytes, start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        engine = self._engine
        skip = len(prefix)
        scan = engine.scan_reverse if reverse else engine.scan
        for key, row in scan(engine.data, prefix + start, prefix + end if end else prefix_end(prefix)):
            yield key[skip:], whole_row(key, row)

    def read_page(self, ranges: Ranges, after: bytes, max_rows: int, max_bytes: int, now: int) -> RowsPage:
        """Return rows after a cursor.

        Args:
            ranges: microshards that are all here.
            after: the last key already read of the first of them, b"" for none.
        """
        page = RowsPage()
        size = 0
        for current, key, row in self._rows_after(ranges, after):
            if len(page.keys) >= max_rows or size >= max_bytes:
                page.done = False
                break
            if is_visible(row, now):
                page.microshards.append(current)
                page.keys.append(key)
                page.values.append(row_value(row))
                page.expiries.append(row_expiry(row))
                size += len(key) + len(row)
        if not any(page.expiries):
            page.expiries = []
        return page

    def _rows_after(self, ranges: Ranges, after: bytes) -> Iterator[tuple[int, bytes, bytes]]:
        engine = self._engine
        for current in microshards_in(ranges):
            prefix = self._state.prefixes[current]
            start = prefix + after + b"\x00" if after else prefix
            after = b""
            for key, row in engine.scan(engine.data, start, prefix_end(prefix)):
                yield current, key[len(prefix) :], whole_row(key, row)


def _key_of(item: tuple[bytes, bytes]) -> bytes:
    return item[0]
