"""How far RocksDB's MANIFEST was on disk, noted beside it, so that the loss of its end is noticed.

The MANIFEST says which tables there are. RocksDB takes a last record that is longer than the file for the torn end that a
crash leaves, and goes on without it: without the tables that it named, then, and without a word. A damaged length looks the
same. So how far whole records went is noted, once that is on disk, and again whenever it has grown; a MANIFEST that comes
back with less has lost what was confirmed. The notes of the write-ahead log (wal_watermark.py) do not see this: what is
written after such a start goes on behind the hole.

A MANIFEST is written anew at each start, under a higher number. It has the blocks of 32 KiB and the records of RocksDB's log
files (github.com/facebook/rocksdb/wiki/Write-Ahead-Log-File-Format): checksum, length, type.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shoal_server.storage.folder_sync import replace_file

MANIFEST_NOTE_FILE = "CONFIRMED-MANIFEST"

_CURRENT = "CURRENT"
_PREFIX = "MANIFEST-"
_BLOCK_BYTES = 32 * 1024
_HEADER_BYTES = 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass(frozen=True, slots=True, order=True)
class ManifestMark:
    """Up to which byte the MANIFEST of a number has whole records."""

    number: int
    length: int


def records_end(file: BinaryIO, start: int = 0) -> int:
    """Return where the last whole record ends, of those that follow one another from `start`, an end of one."""
    size = os.fstat(file.fileno()).st_size
    at = end = start
    while True:
        if _BLOCK_BYTES - at % _BLOCK_BYTES < _HEADER_BYTES:
            at += _BLOCK_BYTES - at % _BLOCK_BYTES
        file.seek(at)
        header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES:
            return end
        kind = header[6]
        at += _HEADER_BYTES + int.from_bytes(header[4:6], "little")
        if not _FULL <= kind <= _LAST or at > size:
            return end
        if kind in (_FULL, _LAST):
            end = at


class ManifestWatermark:
    """The note of one database. Its methods belong to one thread at a time."""

    def __init__(self, database: Path) -> None:
        """
        Raises:
            OSError: the note cannot be read.
        """
        self.path = database / MANIFEST_NOTE_FILE
        self._database = database
        self.noted = _read(self.path.read_bytes()) if self.path.exists() else None

    def lost(self) -> str:
        """Return "", or what has been lost that was confirmed, before the database is opened.

        Raises:
            OSError: a file cannot be read.
        """
        noted = self.noted
        if noted is None:
            return ""
        try:
            number, manifest = self._current()
            with manifest.open("rb") as file:
                found = ManifestMark(number, records_end(file))
        except FileNotFoundError as error:
            return f"{error.filename} is gone"
        if found < noted:
            return (
                f"{_PREFIX}{found.number:06d} has whole records up to byte {found.length}, and {_PREFIX}{noted.number:06d} had "
                f"them up to byte {noted.length}"
            )
        return ""

    def note(self) -> None:
        """Note how far the MANIFEST goes, and have it on disk up to there.

        Raises:
            OSError: that cannot be, or cannot be noted.
        """
        noted = self.noted
        try:
            number, manifest = self._current()
            with manifest.open("rb") as file:
                known = noted.length if noted is not None and noted.number == number else 0
                found = ManifestMark(number, records_end(file, known))
                if found == noted:
                    return
                os.fsync(file.fileno())
        except FileNotFoundError:
            return  # it is being written anew, at this moment
        replace_file(self.path, _line(found))
        self.noted = found

    def _current(self) -> tuple[int, Path]:
        """Return the number of the MANIFEST that counts, and where it is."""
        name = (self._database / _CURRENT).read_text().strip()
        digits = name.removeprefix(_PREFIX)
        return int(digits) if digits.isdigit() else 0, self._database / name


def _line(mark: ManifestMark) -> bytes:
    text = b"%d %d" % (mark.number, mark.length)
    return b"%s %08x\n" % (text, zlib.crc32(text))


def _read(line: bytes) -> ManifestMark | None:
    """Return the note of a line, or None where it is damaged."""
    parts = line.split(b" ")
    if len(parts) != 3 or not (parts[0].isdigit() and parts[1].isdigit()):
        return None
    mark = ManifestMark(int(parts[0]), int(parts[1]))
    return mark if line == _line(mark) else None
