"""The rows of a shard as applying sees them: the engine's, under what the entries applied just now have changed.

What is applied in one turn reaches the engine in one batch at the end of it; conditions, increments and range reads of
later entries must see it before. Later changes of a key replace earlier ones here, so the batch names each key once.

Whatever is done with a range takes as long as there are rows in it, however many were changed elsewhere: the keys of changed
rows are kept in order from when somebody first asks for a range on. Plain writes pay nothing for it. And what the engine
has in a range that is of no more interest, since it is changed here or was removed there, is passed over once a turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from sortedcontainers import SortedSet

from shoal_server.shard.spans import Spans
from shoal_server.shard.work import Work
from shoal_server.storage.engine import CHUNK_BYTES, CHUNK_ROWS, FIRST_ROWS, Batch, Engine, Piece, Reader
from shoal_server.storage.layout import whole_row

FEW_PASSED = 4
"""The engine's rows between two that count: more are passed over once, and then known to be of no interest."""

PATIENCE_PASSED = 6 * 1024
"""Removed rows that one turn passes over for an entry that may pause: some milliseconds."""
WORTH_REMEMBERING = 32
"""Of them in a piece that is not read again after a pause: to pass fewer is what finding a place is reckoned for."""
REMEMBERED_BYTES = 16 * 1024 * 1024
"""Of such pieces: with more, an entry does not pause any more."""

FEW_ROWS = 64
"""Where no more are removed with a range, they are removed one by one: the engine has nothing to do with the range later."""
ROWS_REMOVED = 2048
"""So many of a turn, and no more."""

_ABSENT = object()


class Paused(Exception):
    """So many removed rows are in the way of an entry that a turn is not to pass over all of them."""


class RecordedRows(dict[bytes, "bytes | None"]):
    """Rows that list which keys were set, in order, one as often as it was.

    `before`: what was under those that were changed since an attempt began; None: none was begun.
    """

    __slots__ = ("before", "keys_set")

    def __init__(self, rows: dict[bytes, bytes | None]) -> None:
        super().__init__(rows)
        self.keys_set: list[bytes] = []
        self.before: dict[bytes, object] | None = None

    def __setitem__(self, key: bytes, row: bytes | None) -> None:
        self.keys_set.append(key)
        if self.before is not None:
            self.before.setdefault(key, self.get(key, _ABSENT))
        super().__setitem__(key, row)

    def remove(self, key: bytes) -> None:
        """Have nothing under a key."""
        if self.before is not None:
            self.before.setdefault(key, self.get(key, _ABSENT))
        super().pop(key, None)

    def undo(self, changed: dict[bytes, object]) -> None:
        """Have again what was there before."""
        for key, row in changed.items():
            if row is _ABSENT:
                super().pop(key, None)
            else:
                super().__setitem__(key, row)  # type: ignore[assignment]  # what was there


class PassedPieces:
    """Pieces of an engine's rows that lie among removed ones, read for an entry whose applying paused: they are not read again.

    As long as nothing is written they are what would be read. `pieces`: by what was asked for.
    """

    __slots__ = ("bytes", "pieces")

    def __init__(self) -> None:
        self.pieces: dict[tuple[bytes, bytes, int], Piece] = {}
        self.bytes = 0

    def add(self, asked: tuple[bytes, bytes, int], piece: Piece) -> None:
        """Remember a piece."""
        self.pieces[asked] = piece
        self.bytes += piece.size


class Attempt:
    """What an overlay was like before an entry that may pause; `patience`: how many removed rows may still be passed over."""

    __slots__ = ("cleared", "keys_set", "patience", "spans_cleared")

    def __init__(self, cleared: Spans, keys_set: int, spans_cleared: int) -> None:
        self.cleared = cleared
        self.keys_set = keys_set
        self.spans_cleared = spans_cleared
        self.patience = PATIENCE_PASSED


class Overlay:
    """Changes to the data family, in memory until `write_to`. Keys and rows as stored (see `storage.layout`).

    `_cleared`: ranges of which the engine's rows are removed. `_hidden`: those, and others of which the engine has no rows, or
    only rows that `rows` has instead; None: nobody has scanned yet. `_present`: the keys of `rows` that have one, in order, as
    they were when `_indexed` keys had been set; None: no range was asked for yet.

    Nothing may be written to the engine before `write_to`. `work`: what was read of ranges of it. `passed`: what of that is not
    read again, should the entry pause that is applied now.
    """

    __slots__ = (
        "_attempt",
        "_cleared",
        "_engine",
        "_hidden",
        "_indexed",
        "_known",
        "_present",
        "_reader",
        "_recorded",
        "_spans_cleared",
        "passed",
        "rows",
        "work",
    )

    def __init__(self, engine: Engine, passed: PassedPieces | None = None) -> None:
        """`passed`: what was read of the engine for an entry that is to be applied now, since nothing was written."""
        self.rows: dict[bytes, bytes | None] = {}
        self.passed = passed or PassedPieces()
        self._attempt: Attempt | None = None
        self._spans_cleared: list[tuple[bytes, bytes]] | None = None
        self._recorded = 0
        self._engine = engine
        self._reader: Reader | None = None
        self._cleared = Spans()
        self._hidden: Spans | None = None
        self._present: SortedSet | None = None
        self._indexed = 0
        self._known: dict[bytes, bytes | None] = {}
        self.work = Work()

    # -- changing

    def clear(self, spans: list[tuple[bytes, bytes]]) -> None:
        """Remove every row of the ranges [start, end): in order, and none empty (engines refuse an end before its start)."""
        if not spans:
            return
        if self._spans_cleared is not None:
            self._spans_cleared += spans
        if self.rows:
            present, rows = self._keys_present(), self._recording()
            if next(present.irange(spans[0][0], spans[-1][1]), None) is not None:
                for start, end in spans:
                    gone = list(present.irange(start, end, (True, False)))
                    for key in gone:
                        rows.remove(key)
                    present.difference_update(gone)
        hidden = self._hidden
        for start, end in spans:
            self._cleared.add(start, end)
            if hidden is not None:
                hidden.add(start, end)

    def savepoint(self, keys: Iterable[bytes]) -> dict[bytes, object]:
        """Return what is needed to take back changes of `keys` that follow."""
        rows = self.rows
        return {key: rows.get(key, _ABSENT) for key in keys}

    def take_back(self, savepoint: dict[bytes, object]) -> None:
        """Undo the changes made to the keys of `savepoint` since. No range may have been asked for since."""
        for key, row in savepoint.items():
            if row is _ABSENT:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row  # type: ignore[assignment]  # what `rows` held

    # -- attempts

    def attempt(self) -> None:
        """Begin what may pause: see `Paused`. It ends with `done` or with `give_up`."""
        rows, spans = self._recording(), self._spans_cleared
        rows.before = {}
        self._attempt = Attempt(self._cleared.copy(), len(rows.keys_set), 0 if spans is None else len(spans))

    def done(self) -> None:
        """What was begun was done."""
        self._recording().before = self._attempt = None
        self.passed = PassedPieces()

    def give_up(self) -> None:
        """Undo what was changed since the attempt began."""
        rows, attempt = self._recording(), self._attempt
        assert attempt is not None
        assert rows.before is not None
        rows.undo(rows.before)
        rows.before = self._attempt = None
        del rows.keys_set[attempt.keys_set :]
        if self._spans_cleared is not None:
            del self._spans_cleared[attempt.spans_cleared :]
        self._cleared = attempt.cleared
        self._hidden = self._present = None

    # -- recording

    def record(self) -> None:
        """From now on, remember what is changed, for `take_changes`."""
        self._recorded = len(self._recording().keys_set)
        self._spans_cleared = []

    def _recording(self) -> RecordedRows:
        if not isinstance(self.rows, RecordedRows):
            self.rows = RecordedRows(self.rows)
        return self.rows

    def take_changes(self) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        """Return the keys set, and the ranges cleared, since the last time, while changes are recorded."""
        rows, spans = self.rows, self._spans_cleared
        if spans is None or not isinstance(rows, RecordedRows):
            return [], []
        keys = list(dict.fromkeys(rows.keys_set[self._recorded :]))
        self._recorded = len(rows.keys_set)
        self._spans_cleared = []
        return keys, spans

    def _keys_present(self) -> SortedSet:
        """Return the keys of `rows` that have one, in order."""
        rows, present = self._recording(), self._present
        if present is None:
            present = self._present = SortedSet([key for key, row in rows.items() if row is not None])
        else:
            for key in rows.keys_set[self._indexed :]:
                if rows.get(key) is None:
                    present.discard(key)
                else:
                    present.add(key)
        self._indexed = len(rows.keys_set)
        return present

    # -- reading

    def fetch(self, keys: Iterable[bytes]) -> None:
        """Read rows that are about to be asked for, all at once."""
        missing = [key for key in keys if key not in self.rows and key not in self._known]
        if missing:
            for key, row in zip(missing, self._engine.get_many(self._engine.data, missing), strict=True):
                self._known[key] = None if row is None else whole_row(key, row)

    def forget(self, key: bytes) -> None:
        """Keep a row of the engine no longer in memory: nobody uses it."""
        self._known.pop(key, None)

    def get(self, key: bytes) -> bytes | None:
        """Return the row under `key`, or None."""
        row = self.rows.get(key, _ABSENT)
        if row is not _ABSENT:
            return row  # type: ignore[return-value]  # what `rows` held
        if self._cleared and key in self._cleared:
            return None
        if key not in self._known:
            row = self._engine.get(self._engine.data, key)
            self._known[key] = None if row is None else whole_row(key, row)
        return self._known[key]

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows of [start, end) in key order. Nothing may be changed meanwhile."""
        if self.rows:
            keys = self._keys_present().irange(start, end, (True, False))
            first = next(keys, None)
            if first is not None:
                return self._merged(chain((first,), keys), start, end)
        return self._stored(start, end)

    def _merged(self, keys: Iterable[bytes], start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the changed rows of `keys`, and the engine's of [start, end), in order."""
        rows = self.rows
        stored = self._stored(start, end)
        other = next(stored, None)
        for key in keys:
            while other is not None and other[0] < key:
                yield other
                other = next(stored, None)
            row = rows[key]
            assert row is not None, "it is among those that are present"
            yield key, row
        if other is not None:
            yield other
            yield from stored

    def _stored(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the engine's rows of [start, end) that nothing was changed about."""
        if self._hidden is None:
            self._hidden = self._cleared.copy()
        hidden, rows = self._hidden, self.rows
        max_rows = FIRST_ROWS
        # What lies between `since` and the next row that is given is of no interest: so much of it was passed over.
        since, passed = start, FEW_PASSED
        at = hidden.behind(start)
        while at < end:
            until = hidden.next_start(at, end)
            piece = self._piece(at, until, max_rows)
            passed += piece.seeks
            for key, row in piece.rows:
                if key in rows:
                    passed += 1
                    continue
                if passed > FEW_PASSED and since < key:
                    hidden.add(since, key)
                yield key, whole_row(key, row)
                since, passed = key + b"\0", 0
            at = hidden.behind(until if piece.resume is None else piece.resume)
            max_rows = min(4 * max_rows, CHUNK_ROWS)
        if passed > FEW_PASSED and since < end:
            hidden.add(since, end)

    def _piece(self, start: bytes, end: bytes, max_rows: int) -> Piece:
        """Return the engine's first rows of [start, end).

        Raises:
            Paused: this turn has passed over as many removed rows as it may.
        """
        asked, attempt = (start, end, max_rows), self._attempt
        if attempt is not None:
            piece = self.passed.pieces.get(asked)
            if piece is not None:
                return piece
            if attempt.patience <= 0 and self.passed.bytes < REMEMBERED_BYTES:
                raise Paused
        piece = self._reading().read(start, end, max_rows, CHUNK_BYTES)
        self.work.add(piece)
        if attempt is not None and piece.passed > WORTH_REMEMBERING:
            attempt.patience -= piece.passed
            self.passed.add(asked, piece)
        return piece

    def close(self) -> None:
        """Read no more."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _reading(self) -> Reader:
        if self._reader is None:
            self._reader = self._engine.reader(self._engine.data)
        return self._reader

    # -- the end

    def write_to(self, batch: Batch) -> None:
        """Put the changes into `batch`."""
        if self._cleared:
            self._write_cleared(batch)
        self.close()
        family = self._engine.data
        put = batch.put
        for key, row in self.rows.items():
            if row is None:
                batch.delete(key, family)
            else:
                put(key, row, family)

    def _write_cleared(self, batch: Batch) -> None:
        """Remove the engine's rows of the ranges cleared: each replica in its own way, since only what is left counts."""
        family, rows = self._engine.data, self.rows
        spans = list(self._cleared)
        many: list[tuple[bytes, bytes]] = []
        left = ROWS_REMOVED
        for span, keys in zip(spans, self._reading().few_keys(spans, FEW_ROWS), strict=True):
            if keys is None or len(keys) > left:
                many.append(span)
                continue
            left -= len(keys)
            for key in keys:
                if key not in rows:
                    batch.delete(key, family)
        if many:
            self._engine.before_clearing()
            for start, end in many:
                batch.delete_range(start, end, family)
