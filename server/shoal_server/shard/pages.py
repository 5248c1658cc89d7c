"""Pages of a shard's rows: in key order over all microshards, as a scan wants them, or one microshard after another.

A page is a bounded piece of work: by the rows that are looked at, hidden ones included, by the bytes that are read, by the
places that are looked for, and by the removed rows that are passed over. So it may have few rows, or none, and say where
to go on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal.shardmap import Ranges, microshards_in

from shoal_server.shard.merging import HIDDEN_ROWS, PIECE_US, MergedScan
from shoal_server.shard.state import ShardState
from shoal_server.shard.work import Work
from shoal_server.storage.engine import Engine
from shoal_server.storage.layout import is_visible, prefix_end, row_expiry, row_value, whole_row

PAGE_US = 2 * PIECE_US
"""Of work: a page of one microshard after another ends after so much."""


@dataclass(slots=True)
class RowsPage:
    """Rows in (microshard, key) order. `expiries` are as `split_rows` has them; `work`: what it took.

    `resume`: a microshard, and the key up to which its rows were read; None: that was all.
    """

    microshards: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    expiries: list[int] = field(default_factory=list)
    resume: tuple[int, bytes] | None = None
    work: Work = field(default_factory=Work)


class PageReader:
    """Reads pages of what is applied now and written to the engine."""

    __slots__ = ("_engine", "_state")

    def __init__(self, state: ShardState, engine: Engine) -> None:
        self._state = state
        self._engine = engine

    def begin_scan(
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
    ) -> MergedScan:
        """Begin a page of a scan, of what is there now, whatever is written while it is read.

        Of [start, end) (an empty `end`: to the last) in key order, in reverse from the end down.

        Args:
            ranges: microshards that are all here.
        """
        prefixes = self._state.prefixes
        return MergedScan(
            self._engine.reader(self._engine.data),
            [prefixes[microshard] for microshard in microshards_in(ranges)],
            start,
            end,
            reverse=reverse,
            keys_only=keys_only,
            max_rows=max_rows,
            max_bytes=max_bytes,
            now=now,
        )

    def read_page(self, ranges: Ranges, after: bytes, max_rows: int, max_bytes: int, now: int) -> RowsPage:
        """Return rows after a cursor.

        Args:
            ranges: microshards that are all here.
            after: the key up to which the first of them was read, b"" for none of it.
        """
        page = RowsPage()
        work = page.work
        reader = self._engine.reader(self._engine.data)
        for microshard in microshards_in(ranges):
            prefix = self._state.prefixes[microshard]
            skip, end = len(prefix), prefix_end(prefix)
            at: bytes | None = prefix + after + b"\0" if after else prefix
            while at is not None:
                wanted = max_rows - len(page.keys)
                if wanted <= 0 or work.bytes >= max_bytes or work.us >= PAGE_US or work.rows >= max_rows + HIDDEN_ROWS:
                    page.resume = microshard, after
                    break
                piece = reader.read(at, end, wanted, max_bytes - work.bytes)
                work.add(piece)
                for stored, row in piece.rows:
                    whole_row(stored, row)
                    if is_visible(row, now):
                        page.microshards.append(microshard)
                        page.keys.append(stored[skip:])
                        page.values.append(row_value(row))
                        page.expiries.append(row_expiry(row))
                if piece.rows:
                    after = piece.rows[-1][0][skip:]
                at = piece.resume
                if at is not None:
                    after = last_before(at[skip:], after)
            if page.resume is not None:
                break
            after = b""
        reader.close()
        if not any(page.expiries):
            page.expiries = []
        return page


def last_before(place: bytes, after: bytes) -> bytes:
    """Return a key before `place` that is greater than `after`, and greater than most that could be removed in between.

    Where there are no rows between `after` and the place, there are none behind this one either. It has one byte more than the
    longer of the two at the most: however often it is taken for the next `after`, it fits where keys do.
    """
    if place[-1:] == b"\0":
        return place[:-1]
    most = place[:-1] + bytes((place[-1] - 1,))
    return most + b"\xff" * (len(after) - len(most) + 1 if after.startswith(most) else 1)
