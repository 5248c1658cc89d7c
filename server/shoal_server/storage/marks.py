"""Marks: how far the write-ahead log was confirmed to be on disk, noted outside of it, so that a loss is noticed.

Recovery takes what it cannot read at the end of the log for the torn end that a crash leaves, and drops it with all that
follows. Where that had been synced before it was damaged, acknowledged entries would be gone without a word. So now and
then a mark, a number that only rises, is written with a batch; when a sync has confirmed it, it is noted in a file beside
the log. A log that comes back without the mark that was noted last has lost what was confirmed.

The file only grows, a line at a time, so that a torn line leaves the one before; it is written anew when it is long.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import BinaryIO

MARK_SECONDS = 5.0
"""So much at the most is written between two marks, in time: a loss of less may pass unnoticed here."""

NOTES_MOST = 10_000


class SyncedMarks:
    """The file of marks. Its methods belong to one thread at a time, and wait for the disk."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            OSError: the file cannot be read.
        """
        self.path = path
        self.noted = max(map(_read, path.read_bytes().splitlines()), default=0) if path.exists() else 0
        self._notes = 0
        self._file: BinaryIO | None = None

    def note(self, mark: int) -> None:
        """Note, durably, that a sync has confirmed `mark`.

        Raises:
            OSError: it may not be noted.
        """
        if self._file is None or self._notes >= NOTES_MOST:
            self._begin(mark)
        else:
            self._file.write(_line(mark))
            os.fsync(self._file.fileno())
        self._notes += 1
        self.noted = mark

    def _begin(self, mark: int) -> None:
        """Put a new file with one note in place of the old one."""
        self.close()
        new = self.path.with_name(self.path.name + ".new")
        self._file = new.open("wb", buffering=0)
        self._notes = 0
        self._file.write(_line(mark))
        os.fsync(self._file.fileno())
        new.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _line(mark: int) -> bytes:
    return b"%d %08x\n" % (mark, zlib.crc32(b"%d" % mark))


def _read(line: bytes) -> int:
    """Return the mark of a line, or 0 where it is torn or damaged."""
    number = line.partition(b" ")[0]
    return int(number) if number.isdigit() and line + b"\n" == _line(int(number)) else 0
