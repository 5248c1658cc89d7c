"""The WAL watermark: how far the write-ahead log was confirmed to be on disk, noted outside of it, so that a loss is noticed.

Recovery takes what it cannot read at the end of the log for the torn end that a crash leaves, and drops it with all that
follows. Where that had been synced before it was damaged, acknowledged entries would be gone without a word. So every sync
is noted in a file beside the log, before anybody hears of it: the number of the last write that it covered. A log that
comes back with less has lost what was confirmed.

A note is a store to mapped memory, which costs no call and outlives the process. A thread puts it on disk: the first one
after a pause at once, and of many one in `NOTE_SECONDS`. So after a loss of power, and after nothing else, the file may be
behind by that much.

The file has two places, which are written in turn, a sector each, so that a torn one leaves the other.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import BinaryIO

from shoal_server.storage.folder_sync import sync_folder

WATERMARK_FILE = "SYNCED"

NOTE_SECONDS = 1.0
"""Notes are on disk after so long at the latest, and what one fsync takes."""

SECTOR = 512
PLACES = 2
_LINE_BYTES = 30


class WalWatermark:
    """The file of the watermark. `noted` is the newest one. Its methods belong to one thread at a time."""

    def __init__(self, path: Path, beside: Callable[[], None] = lambda: None) -> None:
        """
        Args:
            beside: called in the thread whenever it has put a note on disk; may raise `OSError`, as that may.

        Raises:
            OSError: the file cannot be read.
        """
        self.path = path
        self._beside = beside
        content = path.read_bytes() if path.exists() else b""
        self.noted = max(_read(content[at : at + _LINE_BYTES]) for at in range(0, PLACES * SECTOR, SECTOR))
        self._place = 0
        self._mapped: mmap.mmap | None = None
        self._file: BinaryIO | None = None
        self._thread: Thread | None = None
        self._wanted = Event()
        self._closing = Event()
        self._failed: OSError | None = None

    def note(self, written: int) -> None:
        """Note that a sync has confirmed everything up to the write of number `written`.

        Raises:
            OSError: it cannot be noted, or an earlier one could not be put on disk.
        """
        if self._failed is not None:
            raise self._failed
        mapped = self._mapped
        if mapped is None:
            mapped = self._begin(written)
        at = self._place * SECTOR
        mapped[at : at + _LINE_BYTES] = _line(written)
        self._place = (self._place + 1) % PLACES
        self.noted = written
        if not self._wanted.is_set():
            self._wanted.set()

    def look_again(self) -> None:
        """Have the thread put on disk what there is, though no sync has confirmed more."""
        self._wanted.set()

    def _begin(self, written: int) -> mmap.mmap:
        """Put a new file in place of the old one, and map it."""
        new = self.path.with_name(self.path.name + ".new")
        self._file = new.open("w+b", buffering=0)
        self._file.write(_line(written).ljust(SECTOR, b"\0") * PLACES)
        os.fsync(self._file.fileno())
        new.replace(self.path)
        sync_folder(self.path.parent)
        self._mapped = mmap.mmap(self._file.fileno(), PLACES * SECTOR)
        self._thread = Thread(target=self._keep, args=(self._file.fileno(),), name="shoal-watermark", daemon=True)
        self._thread.start()
        return self._mapped

    def _keep(self, file: int) -> None:
        """In a thread of its own: put on disk what is noted."""
        try:
            while not self._closing.is_set():
                self._wanted.wait()
                self._wanted.clear()
                # Not the map's own `flush`, which holds the interpreter lock while it waits for the disk.
                os.fsync(file)
                self._beside()
                self._closing.wait(NOTE_SECONDS)
            os.fsync(file)
        except OSError as error:
            self._failed = error

    def close(self) -> None:
        """Put the last note on disk.

        Raises:
            OSError: it may not be there.
        """
        if self._thread is not None:
            self._closing.set()
            self._wanted.set()
            self._thread.join()
            self._thread = None
        if self._mapped is not None:
            self._mapped.close()
            self._mapped = None
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._failed is not None:
            raise self._failed


def _line(written: int) -> bytes:
    return b"%020d %08x\n" % (written, zlib.crc32(b"%020d" % written))


def _read(line: bytes) -> int:
    """Return the number in a line, or 0 where it is torn or damaged."""
    number = line.partition(b" ")[0]
    return int(number) if number.isdigit() and line == _line(int(number)) else 0
