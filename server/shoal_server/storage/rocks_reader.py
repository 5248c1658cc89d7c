"""The only loops over RocksDB's iterators.

They end at a block that they cannot read as they end behind the last row: whoever does not ask for their status takes half of
the rows for all. These ask.

A reader's work is bounded three times. It reads as many rows and bytes as it is told. It ends after some time, which is
looked at now and then: rows may have to be fetched from a slow disk, with removed ones between them. And one step from a
row to the next passes over so many removed rows and no more; where there are more, see gaps.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter_ns

from rocksdict import Rdict, RdictIter, ReadOptions

from shoal_server.invariants import invariant
from shoal_server.storage.engine import Damaged, Piece, StorageFailed
from shoal_server.storage.gaps import Gap, Tried

MAX_PASSED = 1024
"""Removed rows that one step passes over: a fraction of a millisecond, backwards one or two."""
MAX_PASSED_IN_A_GAP = 8 * 1024
FEW_PASSED = 64
"""Of them where it is to be said quickly which rows there are."""
FEW_NS = 20_000_000
PIECE_NS = 4_000_000
SLOW_NS = 20_000
"""Looking for a place takes a tenth of it, unless ranges that were removed are in the way."""
PASSED_NS = 1_000
"""What it takes to pass over a removed row, about: RocksDB does not say how many they were."""
FOUND_NS = 10_000
READ_NS = 2_000
"""What it takes to find a place, and to read a row, where no removed ones are in the way, at the most."""
_BYTES_SHIFT = 2
"""Four bytes: a nanosecond."""
_CLOCK_ROWS = 4
"""Rows between two looks at the clock."""
_GAVE_UP = "Result incomplete"
"""What RocksDB says where it has passed over as many removed rows as it may."""


class _Iterating:
    """Makes iterators over one family, and says how they have come to their end."""

    __slots__ = ("_failure", "_source")

    def __init__(self, source: Rdict, failure: Callable[[Exception], StorageFailed]) -> None:
        """`failure` says what to raise for what RocksDB raises."""
        self._source = source
        self._failure = failure

    def _iterate(self, options: ReadOptions) -> RdictIter:
        """Return an iterator. Keep options that have bounds for as long: it points to them and does not own them."""
        return self._source.iter(options)

    def _gave_up(self, iterator: RdictIter) -> bool:
        """Say whether an iterator has passed over as many removed rows as it may; otherwise it is at its end.

        Raises:
            Damaged: a row cannot be read, and with it what follows.
        """
        try:
            iterator.status()
        except Exception as error:  # rocksdict raises plain Exception for whatever RocksDB reports
            if _GAVE_UP in str(error):
                return True
            raise self._failure(error) from error
        return False


class RocksScan(_Iterating):
    """One walk through rows, to its end, however many are passed over."""

    __slots__ = ()

    def rows(self, start: bytes, end: bytes, *, fill_cache: bool = True) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows of [start, end) in order.

        Raises:
            Damaged: a row cannot be read, and with it what follows.
        """
        options = ReadOptions()
        options.set_iterate_upper_bound(end)
        if not fill_cache:
            options.fill_cache(False)  # type: ignore[call-arg]  # it takes an argument, whatever the stub says
        iterator = self._iterate(options)
        iterator.seek(start)
        key_of, value_of, step = iterator.key, iterator.value, iterator.next
        while (key := key_of()) is not None:
            if key >= end:
                return
            yield key, value_of()
            step()
        self._gave_up(iterator)


class RocksReader(_Iterating):
    """Implements `Reader`.

    An iterator sees its family as it was when it was made. (rocksdict 0.3.29's snapshots do not: their iterators read
    what is there now.) So what goes by others, made later, is done only while nothing has been written since.
    """

    __slots__ = ("__weakref__", "_fill_cache", "_iterator", "_made_at", "_patient", "_writes")

    def __init__(
        self,
        source: Rdict,
        failure: Callable[[Exception], StorageFailed],
        writes: Callable[[], int],
        *,
        fill_cache: bool,
    ) -> None:
        """`writes` says how many batches were ever written."""
        super().__init__(source, failure)
        self._writes = writes
        self._made_at = writes()
        self._fill_cache = fill_cache
        self._iterator: RdictIter | None = self._iterate(self._reading(MAX_PASSED))
        # Of the same instant: for the case that nothing else comes past removed rows.
        self._patient: RdictIter | None = self._iterate(self._reading(0))

    def _reading(self, max_passed: int) -> ReadOptions:
        options = ReadOptions()
        if not self._fill_cache:
            options.fill_cache(False)  # type: ignore[call-arg]  # it takes an argument, whatever the stub says
        if max_passed:
            options.set_max_skippable_internal_keys(max_passed)
        return options

    @property
    def _is_fresh(self) -> bool:
        """Whether an iterator that is made now sees what this reader does."""
        return self._writes() == self._made_at

    def _within(self, end: bytes) -> ReadOptions:
        """Return how to read up to `end`, without a look at the ranges that were removed behind it.

        RocksDB goes from one removed range to the next as long as it finds no row: past 5,000 in 0.2 ms, for each place that is
        looked for before them.
        """
        options = self._reading(MAX_PASSED)
        options.set_iterate_upper_bound(end)
        return options

    def close(self) -> None:
        self._iterator = self._patient = None

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
        """See `Reader`."""
        iterator, patient = self._iterator, self._patient
        invariant(iterator is not None and patient is not None, "a reader that was closed reads nothing")
        assert iterator is not None
        assert patient is not None
        if start >= end:
            return Piece([], None, 0)
        read = self._backwards if reverse else self._forwards
        if not reverse and self._is_fresh:
            options = self._within(end)
            piece = read(self._iterate(options), start, end, max_rows, max_bytes, keys_only)
        else:
            piece = read(iterator, start, end, max_rows, max_bytes, keys_only)
        if piece is not None:
            return piece
        passed = tries = 0
        if self._is_fresh:
            gap = Gap(self._try, MAX_PASSED_IN_A_GAP)
            place = gap.backwards(start, end) if reverse else gap.forwards(start, end)
            passed, tries = gap.passed, gap.tries
            if place == (start if reverse else end):
                return Piece([], None, 0, tries, passed)
            if place != (end if reverse else start):
                return Piece([], place, 0, tries, passed)
        piece = read(patient, start, end, max_rows, max_bytes, keys_only)
        assert piece is not None, "it passes over as many as there are"
        return piece._replace(seeks=1 + tries, passed=passed + piece.passed)

    def heads(self, spans: Sequence[tuple[bytes, bytes]], *, reverse: bool = False) -> list[bytes | Piece | None]:
        """See `Reader`."""
        iterator = self._iterator
        invariant(iterator is not None, "a reader that was closed reads nothing")
        assert iterator is not None
        found: list[bytes | Piece | None] = []
        seek = iterator.seek_for_prev if reverse else iterator.seek
        key_of = iterator.key
        within = False
        for start, end in spans:
            if within:
                piece = self.read(start, end, 1, 1, keys_only=True)
                found.append(piece.rows[0][0] if piece.rows else None if piece.resume is None else piece)
                continue
            began = perf_counter_ns()
            seek(end if reverse else start)
            within = not reverse and perf_counter_ns() - began > SLOW_NS and self._is_fresh
            key: bytes | None = key_of()
            if reverse and key == end:
                iterator.prev()
                key = key_of()
            if key is not None:
                found.append(key if start <= key < end else None)
            elif self._gave_up(iterator):
                found.append(self.read(start, end, 1, 1, reverse=reverse))
            else:
                found.append(None)
        return found

    def few_keys(self, spans: Sequence[tuple[bytes, bytes]], max_keys: int) -> list[list[bytes] | None]:
        """See `Reader`."""
        if not self._is_fresh:
            return [None] * len(spans)
        until = perf_counter_ns() + FEW_NS
        found: list[list[bytes] | None] = []
        for start, end in spans:
            if perf_counter_ns() > until:
                found.append(None)
                continue
            options = self._reading(FEW_PASSED)
            options.set_iterate_upper_bound(end)
            iterator = self._iterate(options)
            iterator.seek(start)
            key_of, step = iterator.key, iterator.next
            keys: list[bytes] = []
            while (key := key_of()) is not None and len(keys) <= max_keys:
                keys.append(key)
                step()
            found.append(keys if key is None and self._is_at_end(iterator) else None)
        return found

    def _is_at_end(self, iterator: RdictIter) -> bool:
        """Say whether nothing follows for an iterator that has come to an end."""
        try:
            return not self._gave_up(iterator)
        except Damaged:
            return False

    def _forwards(
        self, iterator: RdictIter, start: bytes, end: bytes, max_rows: int, max_bytes: int, keys_only: bool
    ) -> Piece | None:
        """Return a piece; None: there are too many removed rows right at the start."""
        rows: list[tuple[bytes, bytes]] = []
        size = 0
        began = perf_counter_ns()
        iterator.seek(start)
        key_of, value_of, step = iterator.key, iterator.value, iterator.next
        while (key := key_of()) is not None:
            if key >= end:
                return _piece(rows, None, size, began)
            if len(rows) >= max_rows or size >= max_bytes:
                return _piece(rows, key, size, began)
            value = b"" if keys_only else value_of()
            rows.append((key, value))
            size += len(key) + len(value)
            if not len(rows) % _CLOCK_ROWS and perf_counter_ns() - began > PIECE_NS:
                return _piece(rows, key + b"\0", size, began)
            step()
        if not self._gave_up(iterator):
            return _piece(rows, None, size, began)
        return _piece(rows, rows[-1][0] + b"\0", size, began) if rows else None

    def _backwards(
        self, iterator: RdictIter, start: bytes, end: bytes, max_rows: int, max_bytes: int, keys_only: bool
    ) -> Piece | None:
        """Return a piece from the end down; None: there are too many removed rows right at the end."""
        rows: list[tuple[bytes, bytes]] = []
        size = 0
        began = perf_counter_ns()
        # Without bounds in the read options: rocksdict 0.3.29 takes a lower bound for an upper one.
        iterator.seek_for_prev(end)
        key_of, value_of, step = iterator.key, iterator.value, iterator.prev
        if key_of() == end:
            step()
        while (key := key_of()) is not None:
            if key < start:
                return _piece(rows, None, size, began)
            if len(rows) >= max_rows or size >= max_bytes:
                return _piece(rows, rows[-1][0], size, began)
            value = b"" if keys_only else value_of()
            rows.append((key, value))
            size += len(key) + len(value)
            if not len(rows) % _CLOCK_ROWS and perf_counter_ns() - began > PIECE_NS:
                return _piece(rows, key, size, began)
            step()
        if not self._gave_up(iterator):
            return _piece(rows, None, size, began)
        return _piece(rows, rows[-1][0], size, began) if rows else None

    def _try(self, start: bytes, end: bytes, limit: int) -> tuple[bytes | Tried, int]:
        options = self._reading(limit)
        options.set_iterate_upper_bound(end)
        iterator = self._iterate(options)
        began = perf_counter_ns()
        iterator.seek(start)
        passed = min(limit, (perf_counter_ns() - began) // PASSED_NS)
        key: bytes | None = iterator.key()
        if key is not None and key < end:
            return key, passed
        if key is None and self._gave_up(iterator):
            return Tried.TOO_MUCH, limit
        return Tried.NOTHING, passed


def _piece(rows: list[tuple[bytes, bytes]], resume: bytes | None, size: int, began: int) -> Piece:
    """Return what was read since `began`: what has taken longer than that was passing over removed rows."""
    found = FOUND_NS + READ_NS * len(rows) + (size >> _BYTES_SHIFT)
    passed = max(0, perf_counter_ns() - began - found) // PASSED_NS
    return Piece(rows, resume, size, 1, min(passed, MAX_PASSED * (1 + len(rows))))
