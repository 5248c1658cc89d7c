"""A MANIFEST that lost an end that was once confirmed is refused: without it, whole tables are forgotten without a word."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from shoal_server.storage.engine import StorageDamaged, StorageFailed
from shoal_server.storage.manifest import MANIFEST_NOTE_FILE, records_end
from shoal_server.storage.rocks import RocksEngine

MIB = 1 << 20
LIVES = 3
ROWS = 20


def open_engine(path: Path) -> RocksEngine:
    path.mkdir(exist_ok=True)
    return RocksEngine(path, block_cache_bytes=MIB, write_buffer_bytes=MIB)


def write(engine: RocksEngine, life: int) -> None:
    for number in range(ROWS):
        batch = engine.batch()
        batch.put(b"row-%d-%03d" % (life, number), b"x" * 100, engine.log)
        batch.put(b"row-%d-%03d" % (life, number), b"x" * 100, engine.meta)
        engine.write(batch)
    engine.sync()


def rows(engine: RocksEngine) -> int:
    return sum(1 for family in (engine.log, engine.meta) for _ in engine.scan(family, b"row-", b"row."))


def manifest_of(path: Path) -> Path:
    return path / (path / "CURRENT").read_text().strip()


def headers_of(manifest: Path) -> list[int]:
    """Where the records of a MANIFEST that is shorter than a block begin."""
    content, at, found = manifest.read_bytes(), 0, list[int]()
    while at + 7 <= len(content):
        found.append(at)
        at += 7 + int.from_bytes(content[at + 4 : at + 6], "little")
    assert at == len(content), "of a database that was closed every record is whole"
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that was opened and closed some times, with rows of each life."""
    path = tmp_path_factory.mktemp("manifest") / "database"
    for life in range(LIVES):
        engine = open_engine(path)
        write(engine, life)
        engine.close()
    return path


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "copy")


def opened_rows(path: Path) -> int:
    engine = open_engine(path)
    try:
        return rows(engine)
    finally:
        engine.close()


def flip(manifest: Path, at: int, bit: int) -> None:
    content = bytearray(manifest.read_bytes())
    content[at] ^= 1 << bit
    manifest.write_bytes(content)


def test_where_records_end_is_where_the_file_does_once_a_database_is_closed(written: Path) -> None:
    manifest = manifest_of(written)
    with manifest.open("rb") as file:
        assert records_end(file) == manifest.stat().st_size == records_end(file, headers_of(manifest)[2])


def test_no_bit_of_any_records_header_costs_rows_without_a_word(written: Path, tmp_path: Path) -> None:
    """The length is what matters: one that goes beyond the file looks like a torn end."""
    refused = harmless = 0
    for header in headers_of(manifest_of(written)):
        for at, bit in [(header + 4, 7), (header + 5, 0), (header + 5, 1), (header + 5, 6), (header + 6, 0)]:
            path = shutil.copytree(written, tmp_path / "flipped")
            flip(manifest_of(path), at, bit)
            try:
                assert opened_rows(path) == LIVES * ROWS * 2
                harmless += 1
            except StorageFailed:
                refused += 1
            shutil.rmtree(path)
    assert refused > 10
    assert not harmless


def test_a_damaged_end_is_refused_with_a_way_on(copy: Path) -> None:
    manifest = manifest_of(copy)
    flip(manifest, headers_of(manifest)[-1] + 5, 6)
    with pytest.raises(
        StorageDamaged, match=r"has lost what was confirmed to be on disk.*had them up to byte"
    ) as refused:
        open_engine(copy)
    assert f"remove {copy / MANIFEST_NOTE_FILE} to start with what is there" in str(refused.value)
    (copy / MANIFEST_NOTE_FILE).unlink()
    open_engine(copy).close()


def test_a_damaged_end_is_refused_after_a_kill_too(written: Path, tmp_path: Path) -> None:
    running, left = shutil.copytree(written, tmp_path / "running"), tmp_path / "left"
    engine = open_engine(running)
    write(engine, LIVES)
    shutil.copytree(running, left)
    engine.close()
    manifest = manifest_of(left)
    flip(manifest, headers_of(manifest)[-1] + 5, 6)
    with pytest.raises(StorageDamaged, match="confirmed to be on disk"):
        open_engine(left)


def test_a_torn_record_behind_what_was_confirmed_is_a_crashs(copy: Path) -> None:
    manifest = manifest_of(copy)
    with manifest.open("ab") as file:
        file.write(b"\1\2\3\4\100\0\1half of it")
    assert opened_rows(copy) == LIVES * ROWS * 2


def test_no_database_is_begun_where_the_name_of_the_manifest_is_gone(copy: Path) -> None:
    (copy / "CURRENT").unlink()
    with pytest.raises(StorageDamaged, match="CURRENT is gone"):
        open_engine(copy)


def test_an_older_manifest_in_place_of_the_confirmed_one_is_refused(copy: Path, written: Path, tmp_path: Path) -> None:
    open_engine(copy).close()
    older = manifest_of(written)
    manifest_of(copy).unlink()
    shutil.copy(older, copy / older.name)
    (copy / "CURRENT").write_text(f"{older.name}\n")
    with pytest.raises(StorageDamaged, match="confirmed to be on disk"):
        open_engine(copy)


def test_a_note_that_is_damaged_itself_says_nothing(copy: Path) -> None:
    (copy / MANIFEST_NOTE_FILE).write_bytes(b"999 999 00000000\n")
    assert opened_rows(copy) == LIVES * ROWS * 2
