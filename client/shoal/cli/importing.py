"""`shoal import FILE`: rows of a JSON Lines or CSV file into the database, in batches, with every loss accounted for.

When a row expires is told by this machine's clock: the database is told how long it has still to live.

Rows are written in the order of the file, one batch after another, so that of two rows with the same key the later one
stays, and so that after a failure it can be said exactly up to which line the file is in the database.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from time import time
from typing import Annotated, BinaryIO

import msgspec
import typer

from shoal import Client
from shoal.cli.failures import CommandFailed, ExitCode, exit_code_of
from shoal.cli.options import DEFAULT_URL, JsonOption, PriorityOption, TtlOption, UrlOption, parse_ttl, priority_of
from shoal.cli.output import note, print_json, print_line
from shoal.cli.progress import Progress
from shoal.cli.rows import BadLine, Line, Row, read_csv, read_json_lines
from shoal.errors import InvalidArgument, ShoalError
from shoal.options import parse_url
from shoal.priorities import PriorityName

BATCH_ROWS = 2000
BATCH_BYTES = 1024 * 1024
SKIPPED_SHOWN_MAX = 20


class FileFormat(StrEnum):
    """How a file is written."""

    JSONL = "jsonl"
    CSV = "csv"


class OnError(StrEnum):
    """What to do with a line that cannot be imported."""

    STOP = "stop"
    SKIP = "skip"


class ImportSummary(msgspec.Struct):
    """How an import ended: rows now in the database, rows passed over, and the last line known to be dealt with.

    `expired`: rows that are not brought back, since they have expired meanwhile.
    """

    imported: int = 0
    skipped: int = 0
    expired: int = 0
    through_line: int = 0


_READERS: dict[FileFormat, Callable[[BinaryIO], Iterator[Line]]] = {
    FileFormat.JSONL: read_json_lines,
    FileFormat.CSV: read_csv,
}
_SUFFIXES = {".jsonl": FileFormat.JSONL, ".ndjson": FileFormat.JSONL, ".csv": FileFormat.CSV}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import")(import_file)


def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file; `-` reads standard input.", allow_dash=True)],
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
    file_format: Annotated[
        FileFormat | None, typer.Option("--format", help="How the file is written; else its suffix says so.")
    ] = None,
    on_error: Annotated[
        OnError, typer.Option("--on-error", help="Stop at the first line that cannot be imported, or skip such lines.")
    ] = OnError.STOP,
    ttl: TtlOption = None,
    priority: PriorityOption = None,
) -> None:
    """Import rows from a file.

    JSON Lines: {"key": "k", "value": "v"} on each line; "key_base64" and "value_base64" instead for what is not text.
    CSV: a header that names the same fields. Importing a file twice does no harm. A row may say when it expires:
    "expires_at" (Unix time in seconds), which keeps one that has expired from coming back, or "ttl", seconds or text such
    as "10m"; --ttl is for rows that say neither.
    """
    reader = _READERS[file_format or _format_of(file)]
    summary = ImportSummary()
    seconds = parse_ttl(ttl)
    level: PriorityName = priority_of(priority, parse_url(url)).value
    try:
        with (
            _opened(file) as (stream, size),
            Client(url, priority=level) as db,
            Progress(f"import {file.name}", size) as progress,
        ):

            def moved() -> None:
                progress.update(stream.tell() if size is not None else 0, summary.imported)

            _Import(db, on_error, seconds, summary, moved).take_all(reader(stream))
    finally:
        if as_json:
            print_json(summary)
        else:
            expired = f"; {summary.expired} had expired and were left out" if summary.expired else ""
            print_line(f"imported {summary.imported} rows, up to line {summary.through_line}{expired}")
    if summary.skipped:
        raise CommandFailed(f"{summary.skipped} lines were skipped")


class _Import:
    """Collects rows into batches and writes them."""

    def __init__(
        self, db: Client, on_error: OnError, ttl: float | None, summary: ImportSummary, moved: Callable[[], None]
    ) -> None:
        self.summary = summary
        self._ttl = ttl
        self._db = db
        self._on_error = on_error
        self._moved = moved
        self._batch: list[Row] = []
        self._batch_bytes = 0

    def take_all(self, lines: Iterator[Line]) -> None:
        """Import every line.

        Raises:
            CommandFailed: a line cannot be imported and is not to be skipped; everything before its batch is in.
        """
        for line in lines:
            if isinstance(line, BadLine):
                self._flush()
                self._reject(line.line, line.reason)
                self.summary.through_line = line.line
                continue
            self._batch.append(line)
            self._batch_bytes += len(line.key) + len(line.value)
            if len(self._batch) >= BATCH_ROWS or self._batch_bytes >= BATCH_BYTES:
                self._flush()
        self._flush()

    def _reject(self, line: int, reason: str) -> None:
        reason = f"line {line}: {' '.join(reason.split())}"
        if self._on_error is OnError.STOP:
            raise CommandFailed(reason)
        self.summary.skipped += 1
        if self.summary.skipped <= SKIPPED_SHOWN_MAX:
            note(f"shoal: skipped {reason}")
        elif self.summary.skipped == SKIPPED_SHOWN_MAX + 1:
            note("shoal: further skipped lines are only counted")

    def _flush(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if not batch:
            return
        now = time()
        living = [row for row in batch if not self._has_expired(row, now)]
        try:
            if living:
                self._put(living, now)
        except InvalidArgument:
            self._flush_singly(living)
        except ShoalError as error:
            raise _broken_off(batch, error) from error
        else:
            self.summary.imported += len(living)
        self.summary.expired += len(batch) - len(living)
        self.summary.through_line = batch[-1].line
        self._moved()

    def _put(self, rows: list[Row], now: float) -> None:
        if all(row.expires_at is None and row.ttl is None for row in rows):
            self._db.put_many({row.key: row.value for row in rows}, ttl=self._ttl)
            return
        pipeline = self._db.pipeline()
        for row in rows:
            pipeline.put(row.key, row.value, ttl=self._ttl_of(row, now))
        pipeline.execute()

    def _has_expired(self, row: Row, now: float) -> bool:
        return row.expires_at is not None and row.expires_at <= now

    def _ttl_of(self, row: Row, now: float) -> float | None:
        """Return the seconds that a row has still to live at `now`; 0: for ever; None: the keyspace says."""
        if row.expires_at is not None:
            return row.expires_at - now
        return self._ttl if row.ttl is None else row.ttl

    def _flush_singly(self, batch: list[Row]) -> None:
        """Find the rows of a refused batch that were to blame, and import the others."""
        for row in batch:
            now = time()
            if self._has_expired(row, now):
                self.summary.expired += 1
                continue
            try:
                self._db.put(row.key, row.value, ttl=self._ttl_of(row, now))
            except InvalidArgument as error:
                self._reject(row.line, str(error))
            except ShoalError as error:
                raise _broken_off([row], error) from error
            else:
                self.summary.imported += 1
            self.summary.through_line = row.line


def _broken_off(batch: list[Row], error: ShoalError) -> CommandFailed:
    first, last = batch[0].line, batch[-1].line
    lines = f"line {first}" if first == last else f"lines {first} to {last}"
    return CommandFailed(f"{lines}: not known to be imported; run the import again: {error}", exit_code_of(error))


def _format_of(file: Path) -> FileFormat:
    found = _SUFFIXES.get(file.suffix.lower())
    if found is None:
        raise CommandFailed(
            f"{file}: cannot tell its format by its name (known: {', '.join(_SUFFIXES)}); say --format jsonl or csv",
            ExitCode.USAGE,
        )
    return found


@contextmanager
def _opened(file: Path) -> Iterator[tuple[BinaryIO, int | None]]:
    """Open the file and yield it with its size; standard input, whose size nobody knows, for `-`."""
    if str(file) == "-":
        yield sys.stdin.buffer, None
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise CommandFailed(f"cannot read {file}: {error.strerror}") from error
    with stream:
        yield stream, file.stat().st_size
