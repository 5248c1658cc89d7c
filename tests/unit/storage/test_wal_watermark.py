"""A write-ahead log that lost what was once synced is refused; one that lost what was not is taken as a crash left it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from shoal_server.storage import wal_watermark
from shoal_server.storage.engine import StorageDamaged, StorageFailed
from shoal_server.storage.rocks import RocksEngine
from shoal_server.storage.wal_watermark import WATERMARK_FILE, WalWatermark

MIB = 1 << 20


def open_engine(path: Path) -> RocksEngine:
    path.mkdir(exist_ok=True)
    return RocksEngine(path, block_cache_bytes=MIB, write_buffer_bytes=MIB)


def write(engine: RocksEngine, first: int, count: int) -> None:
    for number in range(first, first + count):
        batch = engine.batch()
        batch.put(b"row-%03d" % number, b"x" * 100, engine.log)
        engine.write(batch)


def rows(engine: RocksEngine) -> int:
    return sum(1 for _ in engine.scan(engine.log, b"row-", b"row."))


def log_of(path: Path) -> Path:
    return max(path.glob("*.log"), key=lambda file: file.stat().st_size)


class Killed:
    """What a process leaves that was killed: 50 batches that were synced, and 50 that were not."""

    def __init__(self, folder: Path) -> None:
        engine = open_engine(folder / "running")
        write(engine, 0, 50)
        engine.sync()
        self.synced_bytes = log_of(folder / "running").stat().st_size
        write(engine, 50, 50)
        self.path = folder / "left"
        shutil.copytree(folder / "running", self.path)
        self.log = log_of(self.path)
        engine.close()

    def flip(self, at: int) -> None:
        content = bytearray(self.log.read_bytes())
        content[at] ^= 1
        self.log.write_bytes(content)

    def cut(self, length: int) -> None:
        self.log.write_bytes(self.log.read_bytes()[:length])

    def refusal(self) -> str:
        with pytest.raises(StorageDamaged) as caught:
            open_engine(self.path)
        return str(caught.value)


@pytest.fixture
def killed(tmp_path: Path) -> Killed:
    return Killed(tmp_path)


def test_what_a_killed_process_left_is_taken(killed: Killed) -> None:
    engine = open_engine(killed.path)
    assert rows(engine) == 100
    engine.close()


def test_a_log_that_ends_behind_what_was_synced_is_what_a_crash_leaves(killed: Killed) -> None:
    killed.cut(killed.synced_bytes + 30)
    engine = open_engine(killed.path)
    assert rows(engine) == 50
    engine.close()


def test_damage_behind_what_was_synced_is_what_a_crash_leaves(killed: Killed) -> None:
    killed.flip(killed.synced_bytes + 300)
    engine = open_engine(killed.path)
    assert 50 <= rows(engine) < 100
    engine.close()


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_log_that_ends_before_what_was_synced_is_refused_and_told_what_to_do(killed: Killed, share: float) -> None:
    killed.cut(int(killed.synced_bytes * share))
    message = killed.refusal()
    assert "has lost what was confirmed to be on disk" in message
    assert "shoal remove-node" in message
    assert "lost what was confirmed" in killed.refusal(), (
        "and so at every start: recovery has dropped the rest for good"
    )


def test_damage_before_what_was_synced_is_refused(killed: Killed) -> None:
    killed.flip(killed.synced_bytes // 2)
    assert "shoal remove-node" in killed.refusal()


def test_where_nothing_else_is_left_the_watermark_may_be_removed(killed: Killed) -> None:
    killed.cut(killed.synced_bytes // 2)
    watermark_file = killed.path / WATERMARK_FILE
    assert f"remove {watermark_file}" in killed.refusal()
    watermark_file.unlink()
    engine = open_engine(killed.path)
    assert 0 < rows(engine) < 50
    write(engine, 200, 1)
    engine.close()
    open_engine(killed.path).close()


def test_a_damaged_table_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    engine = open_engine(tmp_path)
    write(engine, 0, 50)
    engine.close()  # which leaves tables, and nothing that matters in the log
    for table in tmp_path.glob("*.sst"):
        table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(StorageDamaged, match="shoal remove-node"):
        open_engine(tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_a_killed_process_leaves_is_taken_and_a_log_without_its_last_synced_byte_is_not(
    tmp_path: Path, seed: int
) -> None:
    """Writes that are not logged take numbers, too, and are gone after a crash: that is no loss."""
    random = Random(seed)
    running, copied = tmp_path / "running", 0
    engine = open_engine(running)
    for number in range(60):
        batch = engine.batch()
        for place in range(random.randrange(4)):
            batch.put(b"row-%03d-%d" % (number, place), random.randbytes(50), engine.log)
        if random.random() < 0.4:
            unlogged = engine.batch()
            unlogged.put(b"row-%03d" % number, b"x", engine.data)
            engine.write_unlogged(unlogged)
        else:
            engine.write(batch)
        if random.random() < 0.1:
            engine.flush()
        if random.random() < 0.5:
            engine.sync()
        if number % 6 == 5:
            copied += 1
            left = tmp_path / f"left-{copied}"
            shutil.copytree(running, left)
            # Opened twice: what the first one found and put into tables is no loss either.
            open_engine(left).close()
            open_engine(left).close()
    write(engine, 100, 1)
    engine.sync()
    shutil.copytree(running, tmp_path / "cut")
    engine.close()
    log = log_of(tmp_path / "cut")
    log.write_bytes(log.read_bytes()[:-1])
    with pytest.raises(StorageDamaged):
        open_engine(tmp_path / "cut")


def test_what_was_synced_a_moment_before_the_kill_is_guarded_as_anything_older(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "running")
    for number in range(20):
        write(engine, number, 1)
        engine.sync()
        left = tmp_path / f"left-{number}"
        shutil.copytree(tmp_path / "running", left)
        log = log_of(left)
        content = bytearray(log.read_bytes())
        content[-5] ^= 1
        log.write_bytes(content)
        with pytest.raises(StorageDamaged):
            open_engine(left)
    engine.close()


# -- the file


def test_a_torn_or_damaged_place_leaves_the_watermark_before_it(tmp_path: Path) -> None:
    file = tmp_path / "SYNCED"
    written = WalWatermark(file)
    for write in (7, 8, 9):
        written.note(write)
        assert WalWatermark(file).noted == write
    written.close()
    whole = file.read_bytes()
    assert WalWatermark(file).noted == 9
    for at, byte in enumerate(whole):
        if byte:
            file.write_bytes(whole[:at] + bytes([byte ^ 1]) + whole[at + 1 :])
            assert WalWatermark(file).noted in (8, 9)
    file.write_bytes(b"\xff\x00 what is this\n\n")
    assert WalWatermark(file).noted == 0


def test_a_note_is_on_disk_soon_also_when_nothing_follows_and_after_a_pause_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_watermark, "NOTE_SECONDS", 0.2)
    kept: list[int] = []
    original = os.fsync

    def fsync(file: int) -> None:
        original(file)
        kept.append(WalWatermark(path).noted if path.exists() else 0)

    path = tmp_path / "SYNCED"
    monkeypatch.setattr(wal_watermark.os, "fsync", fsync)
    written = WalWatermark(path)
    for write in range(1, 100):
        written.note(write)
    wait_until(lambda: kept[-1] == 99)
    assert len(kept) < 8, "not one for each"
    time.sleep(0.5)
    kept.clear()
    written.note(100)
    wait_until(lambda: kept == [100])
    written.note(101)
    written.close()
    assert kept[-1] == 101


def test_a_note_that_cannot_be_put_on_disk_fails_the_next_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(tmp_path)
    write(engine, 0, 1)
    engine.sync()
    broken = OSError(5, "Input/output error")

    def fsync(_: int) -> None:
        raise broken

    monkeypatch.setattr(wal_watermark.os, "fsync", fsync)
    monkeypatch.setattr(wal_watermark, "NOTE_SECONDS", 0.0)
    with pytest.raises(StorageFailed, match="Input/output error"):
        for number in range(1, 200):
            write(engine, number, 1)
            engine.sync()
            time.sleep(0.02)


def wait_until(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)
