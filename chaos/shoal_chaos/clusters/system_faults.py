"""Faults of one process's disk and clocks, through a library that is loaded into it (`faulty_system.c`).

The library is compiled at first use, with the machine's C compiler, into a cache folder. Why it and not libfaketime or a
file system of our own: one mechanism that needs neither packages nor privileges, and whose faults begin and end at once.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from enum import IntEnum
from importlib.resources import files
from pathlib import Path

from shoal_server.storage.wal_watermark import WATERMARK_FILE

from shoal_chaos.clusters.possible import NotPossibleHere

SOURCE = "faulty_system.c"
COMPILER_SECONDS = 60.0
NOTE = struct.Struct("=qq")


class Field(IntEnum):
    """The numbers of the mapped file, each of 64 bits, in the order of `struct faults`."""

    VERSION = 0
    WALL_BASE_NS = 1
    WALL_OFFSET_NS = 2
    WALL_RATE_PPM = 3
    MONOTONIC_BASE_NS = 4
    MONOTONIC_OFFSET_NS = 5
    MONOTONIC_RATE_PPM = 6
    SYNC_DELAY_NS = 7
    SYNC_ERRNO = 8
    SYNC_LIES = 9
    WRITE_ERRNO = 10
    READ_ERRNO = 11
    DISK_FULL = 12
    SYNCS = 13
    SYNCS_FAILED = 14
    SYNCS_LIED = 15
    WRITES_FAILED = 16
    READS_FAILED = 17


_NUMBER = struct.Struct("=q")
_CLOCK = struct.Struct("=qqq")
CONTROL_BYTES = len(Field) * _NUMBER.size

DISK_FIELDS = (
    Field.SYNC_DELAY_NS,
    Field.SYNC_ERRNO,
    Field.SYNC_LIES,
    Field.WRITE_ERRNO,
    Field.READ_ERRNO,
    Field.DISK_FULL,
)


class LibraryMissing(NotPossibleHere):
    """The library cannot be had on this machine; the message says why."""


def library() -> Path:
    """Return the compiled library, compiling it where this version of it never was.

    Raises:
        LibraryMissing: this is no Linux, there is no compiler, or it fails.
    """
    if sys.platform != "linux":
        raise LibraryMissing(f"faults of disks and clocks need Linux, and this is {sys.platform}")
    source = files(__package__).joinpath(SOURCE).read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shoal"
    target = cache / f"faulty_system-{hashlib.sha256(source).hexdigest()[:16]}.so"
    if target.exists():
        return target
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        raise LibraryMissing("faults of disks and clocks need a C compiler, and there is no `cc` (Debian: gcc)")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as name:
        written, made = Path(name) / SOURCE, Path(name) / target.name
        written.write_bytes(source)
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(made), str(written), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILER_SECONDS, check=False)
        if done.returncode:
            raise LibraryMissing(f"the library for faults of disks and clocks cannot be compiled: {done.stderr}")
        made.replace(target)
    return target


@dataclass(frozen=True, slots=True)
class Injected:
    """How often faults have struck, since the file was made."""

    syncs: int
    syncs_failed: int
    syncs_lied: int
    writes_failed: int
    reads_failed: int


class SystemFaults:
    """The faults of one process, which may be started again and again with `environment`."""

    def __init__(self, name: str, folder: Path, data: Path) -> None:
        """
        Args:
            folder: where the file that is mapped, and the notes of what was synced, are kept.
            data: the process's data: only files under it have faults.

        Raises:
            LibraryMissing: see `library`.
        """
        self._library = library()
        self.data = data.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self._control_file = folder / f"{name}.faults"
        self._synced_file = folder / f"{name}.synced"
        self._watermarks: dict[Path, bytes] = {}
        self._control_file.write_bytes(bytes(CONTROL_BYTES))
        with self._control_file.open("r+b") as control:
            self._control = mmap.mmap(control.fileno(), CONTROL_BYTES)

    @property
    def environment(self) -> dict[str, str]:
        """What the process has to be started with."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAULTY_SYSTEM_CONTROL": str(self._control_file),
            "FAULTY_SYSTEM_FOLDER": str(self.data),
            "FAULTY_SYSTEM_SYNCED": str(self._synced_file),
        }

    def set(self, field: Field, value: int) -> None:
        """Begin or end (0) a fault of the disk."""
        if field not in DISK_FIELDS:
            raise ValueError(f"{field.name} is no fault of a disk")
        if field is Field.SYNC_LIES and value:
            # It is written in place, so that its length does not say what of it is on disk.
            self._watermarks = {path: path.read_bytes() for path in self.data.rglob(WATERMARK_FILE)}
        self._put(field, value)

    def heal_disk(self) -> None:
        """End all faults of the disk."""
        for field in DISK_FIELDS:
            self._put(field, 0)

    def jump(self, seconds: float) -> None:
        """Have the wall clock show so much more than it should; 0: the right time, at the right rate."""
        self._set_clock(Field.WALL_BASE_NS, (time.time_ns(), round(seconds * 1e9), 0))

    def drift_wall(self, rate_ppm: int) -> None:
        """Let the wall clock run so many millionths too fast from now on."""
        self._drift(Field.WALL_BASE_NS, time.time_ns(), rate_ppm)

    def drift_monotonic(self, rate_ppm: int) -> None:
        """Let the monotonic clock run so many millionths too fast from now on. It stays where it has got to."""
        self._drift(Field.MONOTONIC_BASE_NS, time.monotonic_ns(), rate_ppm)

    @property
    def injected(self) -> Injected:
        """How often faults have struck."""
        return Injected(*(self._get(field) for field in Field if field >= Field.SYNCS))

    def synced_lengths(self) -> dict[int, int]:
        """Return, of each file by its inode, how much of it was put on disk by a sync that did not lie."""
        notes = self._synced_file.read_bytes() if self._synced_file.exists() else b""
        whole = len(notes) - len(notes) % NOTE.size
        return dict(NOTE.iter_unpack(notes[:whole]))

    def lose_power(self) -> int:
        """Cut what was never put on disk; the process must be dead. Return how many bytes are gone.

        That new names of files may be lost, too, is left out: RocksDB syncs its folder.
        """
        lengths = self.synced_lengths()
        lost = 0
        for path in self.data.rglob("*"):
            if not path.is_file():
                continue
            found = path.stat()
            keeps = lengths.get(found.st_ino, found.st_size)
            if keeps < found.st_size:
                os.truncate(path, keeps)
                lost += found.st_size - keeps
        for path, content in self._watermarks.items():
            path.write_bytes(content)
        self._watermarks = {}
        return lost

    def close(self) -> None:
        """Let go of the mapped file; processes keep theirs."""
        self._control.close()

    def _drift(self, clock: Field, real_ns: int, rate_ppm: int) -> None:
        base, offset, rate = _CLOCK.unpack_from(self._control, clock * _NUMBER.size)
        reached = offset + (real_ns - base) * rate // 1_000_000
        self._set_clock(clock, (real_ns, reached, rate_ppm))

    def _set_clock(self, clock: Field, rule: tuple[int, int, int]) -> None:
        """Set base, offset and rate together: a reader that meets an odd version waits for the even one."""
        version = self._get(Field.VERSION)
        self._put(Field.VERSION, version + 1)
        _CLOCK.pack_into(self._control, clock * _NUMBER.size, *rule)
        self._put(Field.VERSION, version + 2)

    def _get(self, field: Field) -> int:
        (value,) = _NUMBER.unpack_from(self._control, field * _NUMBER.size)
        return int(value)

    def _put(self, field: Field, value: int) -> None:
        _NUMBER.pack_into(self._control, field * _NUMBER.size, value)
