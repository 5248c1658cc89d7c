"""A page of a scan, merged from the rows of many microshards: in key order, read from one state of the engine.

Each microshard's rows lie together, in order; which of them has the next key is found by a heap of what comes first in each.
So the first row of every one has to be looked for, whatever becomes of it, and after that only of those that have given
theirs: more of them at a time, the more rows are still wanted of each. Values are read as far as the page could have
them; of what comes behind, only where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace

from shoal_server.shard.work import ROW_US, Work
from shoal_server.storage.engine import Piece, Reader
from shoal_server.storage.layout import prefix_end, split_rows

HIDDEN_ROWS = 1024
"""A page ends when it has passed so many expired rows beside those that it gives."""
READ_BYTES_FACTOR = 4
"""A page ends when so many times the bytes were read that it may give: some values are read and not given."""
PIECE_US = 2_000
"""Of work: a page pauses after so much, where whoever wants it lets it."""
LEAST_ROWS = 2
"""That are read at once, where so many are wanted."""
HEADS = 128
"""First rows that are looked for together."""
ENDS_BYTES = 1 << 20
"""Of the ends of ranges that are put together for that."""

_COMPLEMENT = bytes(range(255, -1, -1))
_BEHIND_ALL = chr(256)


@dataclass(slots=True)
class ScannedPage:
    """Rows in key order, and where to go on (None: nothing follows). `values` is empty where only keys were wanted.

    It may have fewer rows than were asked for, or none, and still be followed by others. `examined`: how many rows it has come
    past, expired ones included. `work`: what it took.
    """

    keys: list[bytes] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    resume: bytes | None = None
    examined: int = 0
    work: Work = field(default_factory=Work)


SOURCE_BYTES = 500
"""What a microshard takes in memory that rows are still to be taken from, besides these."""
ROW_BYTES = 120
"""What a row takes that was read, besides its key and its value."""


class _Source:
    """The rows of one microshard that are in the page's range; those up to `place`, as stored, were read (b"": none).

    `keys` (as users have them), `values` (None: hidden) and `seqs` from `at` on are what was read and is not taken yet; `bare`:
    of the first row it is known where it is, and it is to be read again. `more`: behind them there may be others, of which
    `chunk` are read next. `held`: what all of these take in memory (bytes).
    """

    __slots__ = ("at", "bare", "chunk", "held", "keys", "more", "place", "prefix", "seqs", "values")

    def __init__(self, prefix: bytes, chunk: int) -> None:
        self.prefix = prefix
        self.place = b""
        self.chunk = chunk
        self.keys: list[bytes] = []
        self.values: list[bytes | None] = []
        self.seqs: list[int] = []
        self.at = 0
        self.held = 0
        self.more = True
        self.bare = False


class MergedScan:
    """See the module's first lines. `advance` until it returns the page, or have it `whole`."""

    __slots__ = (
        "_chunk",
        "_end",
        "_examined",
        "_heap",
        "_held",
        "_keys_only",
        "_last",
        "_max_bytes",
        "_max_rows",
        "_now",
        "_opened",
        "_page",
        "_prefixes",
        "_reader",
        "_reverse",
        "_size",
        "_skip",
        "_sources",
        "_start",
        "_until",
    )

    def __init__(
        self,
        reader: Reader,
        prefixes: Sequence[bytes],
        start: bytes,
        end: bytes,
        *,
        reverse: bool,
        keys_only: bool,
        max_rows: int,
        max_bytes: int,
        now: int,
    ) -> None:
        """
        Args:
            reader: of the data family; it is closed with the page.
            prefixes: of the microshards' keys, all of one length.
            start, end: as `PageReader.begin_scan` has them.
        """
        self._reader = reader
        self._reverse = reverse
        self._keys_only = keys_only
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._now = now
        self._page = ScannedPage()
        self._skip = len(prefixes[0]) if prefixes else 0
        self._prefixes = prefixes
        self._start = start
        self._end = end
        # Of each there are likely to be so many in the page, and whether one more follows.
        self._chunk = max_rows // max(1, len(prefixes)) + 2
        # Those that were opened and have rows left: a bound may be as long as a key, and microshards many.
        self._sources: dict[int, _Source] = {}
        self._held = 0
        self._opened = 0
        self._heap: list[tuple[bytes | str, int]] = []
        self._examined = 0
        self._size = 0
        self._last = b""
        self._until = 0

    @property
    def work(self) -> Work:
        """What was done so far."""
        return self._page.work

    @property
    def size(self) -> int:
        """Bytes of the page so far, and of what is kept to go on with it.

        Rows that were taken of what was read together count twice, until the next ones of their microshard are read.
        """
        page = self._size + ROW_BYTES * len(self._page.keys)
        return page + self._held + SOURCE_BYTES * len(self._sources)

    def _hold(self, source: _Source, size: int) -> None:
        """What is in memory of a source is so much now (bytes)."""
        self._held += size - source.held
        source.held = size

    @property
    def has_rows(self) -> bool:
        """Whether it has come anywhere: `end` would return a page."""
        return self._examined > 0

    def advance(self, max_us: int = PIECE_US) -> ScannedPage | None:
        """Do a bounded piece of work; return the page when it is whole.

        Raises:
            Damaged: a row cannot be read.
        """
        self._until = self._page.work.us + max_us
        if self._opened < len(self._prefixes):
            if not self._open():
                return None
            heapify(self._heap)
        if not self._merge():
            return None
        self._reader.close()
        self._page.examined = self._examined
        return self._page

    def end(self) -> ScannedPage | None:
        """Read no more; return the page as far as it has come, or None where that is nowhere."""
        self._reader.close()
        if not self._examined:
            return None
        page = self._page
        page.resume = self._behind_last()
        page.examined = self._examined
        return page

    def _behind_last(self) -> bytes:
        """Return where what follows the last row begins; in reverse, where it ends."""
        # The smallest key greater than another is that with a zero byte behind it.
        return self._last if self._reverse else self._last + b"\0"

    def whole(self) -> ScannedPage:
        """Return the page, without a pause; raise as `advance` does."""
        while (page := self.advance()) is None:
            pass
        return page

    # -- what comes first

    def _open(self) -> bool:
        """Find what comes first in each microshard; return whether that is known of all."""
        prefixes, work, sources, heap = self._prefixes, self._page.work, self._sources, self._heap
        few = self._max_rows < len(prefixes) // 2
        together = max(1, min(HEADS, ENDS_BYTES // (1 + len(self._start) + len(self._end))))
        while self._opened < len(prefixes):
            if work.us >= self._until:
                return False
            first = self._opened
            if few or work.bytes >= self._max_bytes:
                opening = [_Source(prefix, self._chunk) for prefix in prefixes[first : first + together]]
                self._find_heads(opening)
            else:
                opening = [_Source(prefixes[first], self._chunk)]
                self._read(opening[0], self._max_bytes - work.bytes)
            self._opened += len(opening)
            for index, source in enumerate(opening, first):
                if source.keys or source.more:
                    sources[index] = source
                    heap.append(self._entry(source, index))
        return True

    def _find_heads(self, opening: list[_Source]) -> None:
        skip, work = self._skip, self._page.work
        heads = self._reader.heads([self._bounds(source) for source in opening], reverse=self._reverse)
        for source, head in zip(opening, heads, strict=True):
            if isinstance(head, bytes):
                source.keys = [head[skip:]]
                source.bare = True
                source.place = head + b"\0" if self._reverse else head
                work.seeks += 1
                self._hold(source, 2 * len(head))
            elif head is None:
                source.more = False
                work.seeks += 1
            else:
                self._take(source, head)

    def _bounds(self, source: _Source) -> tuple[bytes, bytes]:
        """Return what is still to be read of a microshard, as [start, end) of stored keys."""
        prefix, place = source.prefix, source.place
        if self._reverse:
            start, end = prefix + self._start, place or self._last_of(prefix)
        else:
            start, end = place or prefix + self._start, self._last_of(prefix)
        self._page.work.ends += len(start) + len(end)
        return start, end

    def _last_of(self, prefix: bytes) -> bytes:
        return prefix + self._end if self._end else prefix_end(prefix)

    # -- the rows of a source

    def _read(self, source: _Source, max_bytes: int) -> None:
        """Read rows that follow, in the place of those that were taken."""
        wanted = min(source.chunk, self._max_rows + HIDDEN_ROWS - self._examined)
        # As many as are likely to be read in what is left of the piece, and a few where that is nothing.
        rows = min(wanted, max(LEAST_ROWS, (self._until - self._page.work.us) // ROW_US))
        start, end = self._bounds(source)
        piece = self._reader.read(start, end, max(1, rows), max(1, max_bytes), reverse=self._reverse)
        source.chunk *= 2
        self._take(source, piece)

    def _take(self, source: _Source, piece: Piece) -> None:
        self._page.work.add(piece)
        self._hold(source, piece.size + ROW_BYTES * len(piece.rows))
        skip = self._skip
        stored = [key for key, _ in piece.rows]
        source.keys = [key[skip:] for key in stored]
        source.values, source.seqs, _ = split_rows(stored, [row for _, row in piece.rows], self._now)
        source.at = 0
        source.bare = False
        source.more = piece.resume is not None
        if piece.resume is not None:
            source.place = piece.resume

    # -- the page

    def _merge(self) -> bool:
        """Take rows into the page, in order; return whether it is whole."""
        until = self._until
        page, heap, sources = self._page, self._heap, self._sources
        keys, values, seqs, work = page.keys, page.values, page.seqs, page.work
        max_rows, max_bytes, keys_only = self._max_rows, self._max_bytes, self._keys_only
        max_examined, max_read = max_rows + HIDDEN_ROWS, READ_BYTES_FACTOR * max_bytes
        count = len(self._prefixes)
        while heap:
            if self._examined and (
                len(keys) >= max_rows
                or self._size >= max_bytes
                or self._examined >= max_examined
                or work.bytes >= max_read
            ):
                page.resume = self._behind_last()
                return True
            index = heap[0][1] % count
            source = sources[index]
            if source.bare:
                self._read(source, max_bytes - self._size)
                heapreplace(heap, self._entry(source, index))
                if work.us >= until:
                    return False
                continue
            if not source.keys:
                # Up to here there is nothing; what follows is for the next page.
                page.resume = source.place[self._skip :]
                return True
            at = source.at
            key, value = source.keys[at], source.values[at]
            self._examined += 1
            self._last = key
            if value is not None:
                keys.append(key)
                seqs.append(source.seqs[at])
                self._size += len(key)
                if not keys_only:
                    values.append(value)
                    self._size += len(value)
            at += 1
            if at < len(source.keys):
                source.at = at
                if len(heap) > 1:
                    heapreplace(heap, self._entry(source, index))
                continue
            if not source.more:
                heappop(heap)
                self._hold(sources.pop(index), 0)
                continue
            self._read(source, max_bytes - self._size)
            if source.keys or source.more:
                heapreplace(heap, self._entry(source, index))
            else:
                heappop(heap)
                self._hold(sources.pop(index), 0)
            if work.us >= until:
                return False
        return True

    def _entry(self, source: _Source, index: int) -> tuple[bytes | str, int]:
        """Return what puts a source's next row in its place among those of others: the smallest comes first.

        Where a source was read up to a place only, that place comes instead: before a row with the same key, which belongs to
        what follows; in reverse behind it. The source is the second number, modulo how many there are.
        """
        if source.keys:
            key = source.keys[source.at]
            return (_reversed(key), index) if self._reverse else (key, index)
        place = source.place[self._skip :]
        if self._reverse:
            return _reversed(place), index + len(self._prefixes)
        return place, index - len(self._prefixes)


def _reversed(key: bytes) -> str:
    """Return what is smaller the greater a key is; of two of which one begins with the other, the longer one's is smaller."""
    return key.translate(_COMPLEMENT).decode("latin-1") + _BEHIND_ALL
