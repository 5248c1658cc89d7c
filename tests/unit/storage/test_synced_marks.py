"""A write-ahead log that lost what was once synced is refused; one that lost what was not is taken as a crash left it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from shoal_server.storage import marks, rocks
from shoal_server.storage.engine import StorageDamaged
from shoal_server.storage.marks import SyncedMarks
from shoal_server.storage.rocks import MARKS_FILE, RocksEngine

MIB = 1 << 20


@pytest.fixture(autouse=True)
def every_write_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rocks, "MARK_SECONDS", 0.0)


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


def test_where_nothing_else_is_left_the_file_of_marks_may_be_removed(killed: Killed) -> None:
    killed.cut(killed.synced_bytes // 2)
    marks_file = killed.path / MARKS_FILE
    assert f"remove {marks_file}" in killed.refusal()
    marks_file.unlink()
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


# -- the file


def test_a_torn_or_damaged_line_leaves_the_marks_before_it(tmp_path: Path) -> None:
    file = tmp_path / "SYNCED"
    written = SyncedMarks(file)
    for mark in (7, 8, 9):
        written.note(mark)
    written.close()
    whole = file.read_bytes()
    assert SyncedMarks(file).noted == 9
    file.write_bytes(whole[:-3])
    assert SyncedMarks(file).noted == 8
    file.write_bytes(whole.replace(b"9 ", b"5 "))
    assert SyncedMarks(file).noted == 8
    file.write_bytes(b"\xff\x00 what is this\n\n")
    assert SyncedMarks(file).noted == 0


def test_the_file_is_written_anew_when_it_is_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "NOTES_MOST", 3)
    file = tmp_path / "SYNCED"
    written = SyncedMarks(file)
    for mark in range(1, 20):
        written.note(mark)
        assert SyncedMarks(file).noted == mark
        assert len(file.read_bytes().splitlines()) <= 3
    written.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["SYNCED"]
