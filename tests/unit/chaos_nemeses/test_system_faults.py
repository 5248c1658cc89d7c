"""The library that makes a process's disk and clocks fail, loaded into real processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from shoal_chaos.clusters.system_faults import Field, LibraryMissing, SystemFaults, library

SECOND_NS = 1_000_000_000

PROGRAM = """
import os, sys, time
def write(name, text):
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
def sync(name):
    file = os.open(name, os.O_WRONLY)
    try:
        os.fdatasync(file)
    finally:
        os.close(file)
def read(name):
    file = os.open(name, os.O_RDONLY)
    try:
        return os.pread(file, 1, 0)
    finally:
        os.close(file)
for line in sys.stdin:
    try:
        print(eval(line), flush=True)
    except OSError as error:
        print("errno", error.errno, flush=True)
"""


class Process:
    """A process that evaluates expressions, in the folder `data`."""

    def __init__(self, folder: Path) -> None:
        (folder / "data").mkdir()
        (folder / "elsewhere").mkdir()
        self.data = folder / "data"
        self.faults = SystemFaults("n1", folder / "faults", self.data)
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=self.data, env={**os.environ, **self.faults.environment},
        )  # fmt: skip

    def does(self, expression: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(expression + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    try:
        library()
    except LibraryMissing as missing:
        pytest.skip(str(missing))
    running = Process(tmp_path)
    yield running
    running.kill()
    running.faults.close()


def test_without_faults_files_and_clocks_are_as_they_are(process: Process) -> None:
    assert process.does("write('a', 'text')") == "None"
    assert process.does("sync('a')") == "None"
    assert process.does("read('a')") == "b't'"
    before = time.time_ns()
    shown = int(process.does("time.time_ns()"))
    assert before <= shown <= time.time_ns()


def test_faults_begin_and_end_at_once_and_are_counted(process: Process) -> None:
    process.does("write('a', 'text')")
    for field, expression, code in (
        (Field.SYNC_ERRNO, "sync('a')", errno.EIO),
        (Field.WRITE_ERRNO, "write('a', 'x')", errno.ENOSPC),
        (Field.READ_ERRNO, "read('a')", errno.EIO),
    ):
        process.faults.set(field, code)
        assert process.does(expression) == f"errno {code}"
        process.faults.heal_disk()
        assert not process.does(expression).startswith("errno")
    injected = process.faults.injected
    assert (injected.syncs_failed, injected.writes_failed, injected.reads_failed) == (1, 1, 1)


def test_files_outside_the_folder_have_no_faults(process: Process) -> None:
    process.faults.set(Field.WRITE_ERRNO, errno.ENOSPC)
    assert process.does("write('../elsewhere/a', 'text')") == "None"


def test_a_held_sync_goes_on_when_it_is_healed(process: Process) -> None:
    process.does("write('a', 'text')")
    process.faults.set(Field.SYNC_DELAY_NS, 50_000_000)
    began = time.monotonic_ns()
    assert process.does("sync('a')") == "None"
    assert time.monotonic_ns() - began >= 50_000_000


def test_a_full_disk_says_so(process: Process) -> None:
    assert int(process.does("os.statvfs('.').f_bavail")) > 0
    process.faults.set(Field.DISK_FULL, 1)
    assert process.does("os.statvfs('.').f_bavail") == "0"


def test_a_loss_of_power_leaves_what_was_synced(process: Process) -> None:
    process.does("write('a', 'kept')")
    process.does("sync('a')")
    process.does("write('a', ' and lost')")
    process.does("write('b', 'never synced')")
    process.kill()
    assert process.faults.lose_power() == len(" and lost") + len("never synced")
    assert (process.data / "a").read_text() == "kept"
    assert (process.data / "b").read_text() == ""


def test_a_sync_that_lies_saves_nothing(process: Process) -> None:
    process.faults.set(Field.SYNC_LIES, 1)
    process.does("write('a', 'text')")
    assert process.does("sync('a')") == "None"
    process.kill()
    assert process.faults.lose_power() == len("text")
    assert process.faults.injected.syncs_lied == 1


def test_the_wall_clock_jumps_and_the_monotonic_one_does_not(process: Process) -> None:
    process.faults.jump(-3600)
    shown = int(process.does("time.time_ns()"))
    assert time.time_ns() - shown >= 3600 * SECOND_NS
    before = time.monotonic_ns()
    assert before <= int(process.does("time.monotonic_ns()")) <= time.monotonic_ns()
    process.faults.jump(0)
    before = time.time_ns()
    assert before <= int(process.does("time.time_ns()")) <= time.time_ns()


@pytest.mark.parametrize("rate_ppm", [500_000, -500_000])
def test_a_monotonic_clock_that_drifts_keeps_what_it_has_gained_and_never_steps_back(
    process: Process, rate_ppm: int
) -> None:
    process.faults.drift_monotonic(rate_ppm)
    shown = [int(process.does("time.monotonic_ns()")) for _ in range(500)]
    process.faults.drift_monotonic(0)
    gained = int(process.does("time.monotonic_ns()")) - time.monotonic_ns()
    assert shown == sorted(shown)
    assert (gained > 0) == (rate_ppm > 0)
    shown = [int(process.does("time.monotonic_ns()")) for _ in range(2)]
    assert shown == sorted(shown)


def test_threads_wait_as_long_as_they_are_told_however_far_behind_their_clock_is(process: Process) -> None:
    process.faults.drift_monotonic(-500_000)
    while time.monotonic_ns() - int(process.does("time.monotonic_ns()")) < 100_000_000:
        pass
    process.faults.drift_monotonic(0)
    process.does("exec('import threading; lock = threading.Lock(); lock.acquire()', globals())")
    began = time.monotonic_ns()
    assert process.does("lock.acquire(timeout=0.05)") == "False"
    assert time.monotonic_ns() - began >= 50_000_000


def test_only_faults_of_a_disk_are_set_by_name(process: Process) -> None:
    with pytest.raises(ValueError, match="no fault of a disk"):
        process.faults.set(Field.WALL_OFFSET_NS, 1)


def test_without_a_compiler_it_is_said_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(LibraryMissing, match=r"need a C compiler|need Linux"):
        library()
