"""What a killed process and a torn write-ahead log leave: a prefix of whole batches, with all that was synced."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from shoal_server.storage.rocks import RocksEngine
from shoal_server.storage.wal_watermark import WATERMARK_FILE

MIB = 1 << 20

WRITER = """
import sys
from pathlib import Path
from shoal_server.storage.rocks import RocksEngine
engine = RocksEngine(Path(sys.argv[1]), block_cache_bytes=1 << 20, write_buffer_bytes=1 << 20)
for number in range(1, 100_000_000):
    batch = engine.batch()
    for part in range(5):
        batch.put(b"%d" % part, b"%d" % number, engine.data)
    batch.put(b"log-%d" % number, b"x", engine.log)
    engine.write(batch)
    if number % 10 == 0:
        engine.sync()
        print(number, flush=True)
"""


def reopened(path: Path) -> RocksEngine:
    return RocksEngine(path, block_cache_bytes=MIB, write_buffer_bytes=MIB)


def make(path: Path) -> Path:
    path.mkdir()
    return path


def newest(engine: RocksEngine) -> int:
    """Return which batch was the last, having checked that every batch is there whole up to it, and none after."""
    values = engine.get_many(engine.data, [b"%d" % part for part in range(5)])
    assert len(set(values)) == 1, "a batch is there whole or not at all"
    number = int(values[0] or 0)
    logged = sum(1 for _ in engine.scan(engine.log, b"log-", b"log."))
    assert logged == number, "what is there is a prefix of what was written"
    return number


def test_after_sigkill_everything_synced_is_there_and_batches_are_whole(tmp_path: Path) -> None:
    for after in (3, 40, 200):
        path = tmp_path / str(after)
        path.mkdir()
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            synced = 0
            for _ in range(after):
                synced = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().split()
        synced = int(rest[-1]) if rest else synced
        engine = reopened(path)
        assert newest(engine) >= synced
        engine.close()


APPLIER = """
import sys
from pathlib import Path
from threading import Thread
from shoal_server.storage.rocks import RocksEngine
engine = RocksEngine(Path(sys.argv[1]), block_cache_bytes=1 << 20, write_buffer_bytes=1 << 16)
flushing = Thread()
for number in range(1, 100_000_000):
    batch = engine.batch()
    batch.put(b"log-%d" % number, b"x" * 100, engine.log)
    engine.write(batch)
    batch = engine.batch()
    batch.put(b"row-%d" % number, b"x" * 100, engine.data)
    batch.put(b"applied", b"%d" % number, engine.data)
    engine.write_unlogged(batch)
    if number % 100 == 0:
        engine.sync()
        if number % 3000 == 0:
            engine.flush()
            print("flushed", number, flush=True)
        print("synced", number, flush=True)
"""


def test_after_sigkill_what_was_applied_is_a_prefix_that_the_log_covers_and_a_flush_keeps(tmp_path: Path) -> None:
    came_back: list[tuple[int, int]] = []
    for after in (20, 100, 400):
        path = tmp_path / str(after)
        path.mkdir()
        with subprocess.Popen([sys.executable, "-c", APPLIER, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(after)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.read().splitlines()
        marks = [line.split() for line in lines]
        synced = max(int(mark[1]) for mark in marks if mark[0] == "synced")
        flushed = max((int(mark[1]) for mark in marks if mark[0] == "flushed"), default=0)
        engine = reopened(path)
        logged = sum(1 for _ in engine.scan(engine.log, b"log-", b"log."))
        applied = int(engine.get(engine.data, b"applied") or 0)
        assert synced <= logged
        assert flushed <= applied <= logged
        rows = {key for key, _ in engine.scan(engine.data, b"row-", b"row.")}
        assert rows == {b"row-%d" % number for number in range(1, applied + 1)}
        came_back.append((applied, logged))
        engine.close()
    assert any(applied < logged for applied, logged in came_back), "none of the crashes lost anything unlogged"


def test_a_torn_tail_of_the_write_ahead_log_loses_only_whole_last_batches(tmp_path: Path) -> None:
    for torn in (1, 30, 200):
        path = tmp_path / str(torn)
        path.mkdir()
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(5):
                process.stdout.readline()
            process.kill()
        log = max(path.glob("*.log"), key=lambda file: file.stat().st_size)
        whole = log.read_bytes()
        log.write_bytes(whole[:-torn])
        # What is cut off may have been synced, which is refused (test_wal_watermark.py): here it is recovery that counts.
        (path / WATERMARK_FILE).unlink()
        engine = reopened(path)
        first = newest(engine)
        assert first > 0
        engine.close()


def test_a_closed_database_can_be_opened_again_by_the_same_process(tmp_path: Path) -> None:
    for number in range(3):
        engine = reopened(tmp_path)
        assert engine.get(engine.meta, b"lives") == (b"%d" % number if number else None)
        batch = engine.batch()
        batch.put(b"lives", b"%d" % (number + 1), engine.meta)
        engine.write(batch)
        engine.close()


def test_what_recovery_finds_of_a_killed_process_survives_a_loss_of_power_without_another_sync(tmp_path: Path) -> None:
    """A replica counts the entries that it finds as being on its disk. That none was ever synced, it cannot know."""
    writer = reopened(make(tmp_path / "running"))
    for number in range(50):
        batch = writer.batch()
        for family in (writer.log, writer.meta, writer.data):
            batch.put(b"row-%03d" % number, b"x" * 100, family)
        writer.write(batch)
    shutil.copytree(tmp_path / "running", tmp_path / "killed")
    writer.close()
    recovered = reopened(tmp_path / "killed")
    # Power goes: of the write-ahead logs, which nobody synced, nothing is left.
    shutil.copytree(tmp_path / "killed", tmp_path / "dark")
    for file in (tmp_path / "dark").glob("*.log"):
        file.write_bytes(b"")
    left = reopened(tmp_path / "dark")
    for engine in (recovered, left):
        for family in (engine.log, engine.meta, engine.data):
            assert sum(1 for _ in engine.scan(family, b"row-", b"row.")) == 50
        engine.close()
