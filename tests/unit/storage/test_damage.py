"""Damage is met by whoever reads: no reader of an engine takes the rows before it for all there are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import shoal_server
from shoal_server.storage.engine import Damaged, Engine, StorageFull, rows_of
from shoal_server.storage.mending import DamagedFamilies
from shoal_server.storage.rocks import RocksEngine

MIB = 1 << 20
ROWS = 20_000


def key_of(number: int) -> bytes:
    return b"k%08d" % number


@pytest.fixture
def damaged(tmp_path: Path) -> RocksEngine:
    """An open database, in the middle of one of whose tables 128 bytes are not what was written."""
    engine = RocksEngine(tmp_path, block_cache_bytes=MIB, write_buffer_bytes=64 * MIB)
    batch = engine.batch()
    for number in range(ROWS):
        batch.put(key_of(number), os.urandom(200), engine.data)
    engine.write(batch)
    engine.flush()
    [table] = [path for path in tmp_path.glob("*.sst") if path.stat().st_size > MIB]
    with table.open("r+b") as file:
        file.seek(table.stat().st_size // 2)
        file.write(os.urandom(128))
    return engine


def read_reversed(engine: Engine, start: bytes) -> list[tuple[bytes, bytes]]:
    """Read the rows from `start` on from the last one down."""
    reader, end = engine.reader(engine.data), b"l"
    rows: list[tuple[bytes, bytes]] = []
    while True:
        piece = reader.read(start, end, 500, MIB, reverse=True)
        rows += piece.rows
        if piece.resume is None:
            return rows
        end = piece.resume


READERS: dict[str, Callable[[Engine], object]] = {
    "scan": lambda engine: list(engine.scan(engine.data, b"k", b"l")),
    "reader": lambda engine: list(rows_of(engine.reader(engine.data), b"k", b"l")),
    "reader, uncached": lambda engine: list(rows_of(engine.reader(engine.data, fill_cache=False), b"k", b"l")),
    "reader, reverse": lambda engine: read_reversed(engine, b"k"),
    "get": lambda engine: [engine.get(engine.data, key_of(number)) for number in range(ROWS)],
    "get_many": lambda engine: engine.get_many(engine.data, [key_of(number) for number in range(ROWS)]),
}


@pytest.mark.parametrize("reader", READERS)
def test_no_way_to_read_leaves_rows_out_that_cannot_be_read(damaged: RocksEngine, reader: str) -> None:
    with pytest.raises(Damaged, match=r"data family cannot be read.*Corruption") as raised:
        READERS[reader](damaged)
    assert raised.value.family == "data"


def test_a_scan_says_so_where_it_has_come_to_the_damage_and_rows_elsewhere_are_read(damaged: RocksEngine) -> None:
    seen: list[bytes] = []
    with pytest.raises(Damaged):
        for key, _ in damaged.scan(damaged.data, b"k", b"l"):
            seen.append(key)
    assert seen == [key_of(number) for number in range(len(seen))]
    assert 0.4 * ROWS < len(seen) < 0.6 * ROWS
    assert len(list(damaged.scan(damaged.data, key_of(0), key_of(100)))) == 100
    assert len(read_reversed(damaged, key_of(ROWS - 100))) == 100


def fill(engine: RocksEngine, rows: int, value: bytes) -> None:
    for first in range(0, rows, 1000):
        batch = engine.batch()
        for number in range(first, first + 1000):
            batch.put(b"n%08d" % number, value, engine.data)
        engine.write_unlogged(batch)
        engine.flush()


def test_a_database_in_which_damage_was_met_takes_writes_in_this_life_and_later_ones(
    damaged: RocksEngine, tmp_path: Path
) -> None:
    with pytest.raises(Damaged):
        list(damaged.scan(damaged.data, b"k", b"l"))
    assert damaged.damaged_families == ("data",)
    fill(damaged, 20_000, b"v")
    damaged.close()

    again = RocksEngine(tmp_path, block_cache_bytes=MIB, write_buffer_bytes=MIB)
    assert again.damaged_families == ("data",), "not before it is written anew"
    fill(again, 20_000, b"w")
    again.close()


WRITER = """
import os, sys
from pathlib import Path
from shoal_server.storage.engine import StorageDamaged
from shoal_server.storage.rocks import RocksEngine
engine = RocksEngine(Path(sys.argv[1]), block_cache_bytes=1 << 20, write_buffer_bytes=1 << 20)
try:
    while True:
        batch = engine.batch()
        for key in (b"k", b"k%08d" % 10_000, b"z"):
            batch.put(key, b"v", engine.data)
        engine.write(batch)
        engine.flush()
except StorageDamaged as error:
    print(error, flush=True)
    os._exit(0)
"""


def test_damage_that_a_compaction_meets_ends_the_process_once_and_not_again_after_a_start(
    damaged: RocksEngine, tmp_path: Path
) -> None:
    damaged.close()
    ended = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
    )
    assert "start the node again" in ended.stdout
    again = RocksEngine(tmp_path, block_cache_bytes=MIB, write_buffer_bytes=MIB)
    assert again.damaged_families == ("data", "log", "meta"), "nobody knows which it was"
    fill(again, 20_000, b"v")
    again.close()


def test_rocksdb_is_iterated_in_one_place_which_asks_for_the_status() -> None:
    """What rocksdict offers beside its plain iterator ends at damage as it does behind the last row."""
    folder = Path(shoal_server.__file__).parent
    users = {path: text for path in folder.rglob("*.py") if "rocksdict" in (text := path.read_text())}
    users = {path.name: text for path, text in users.items() if "from rocksdict import" in text}
    reader = users.pop("rocks_reader.py")
    assert set(users) == {"rocks.py", "rocks_backlog.py", "rocks_tidying.py"}
    engine = "".join(users.values())
    assert reader.count(".iter(") == reader.count("iterator.status()") == 1
    assert ".iter(" not in engine
    unchecked = r"_(?:families\[.+?\]|by_name\[.+?\]|database|source)\.(?:items|keys|values|entities)\("
    assert not re.findall(unchecked, engine + reader)


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_marker_that_cannot_be_written_stays_as_it_was_and_the_next_start_goes_on(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the old column family has gone: all rows are in the new one."""
    engine = RocksEngine(tmp_path, block_cache_bytes=MIB, write_buffer_bytes=MIB)
    batch = engine.batch()
    batch.put(b"k", b"v", engine.data)
    engine.write(batch)
    engine._damage.add([("data", "data")])
    rewriting = engine.rewriting("data")
    rewriting.copy(b"", b"\xff")

    def full(*_arguments: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*{"open": (Path, "open"), "fsync": (os, "fsync"), "replace": (Path, "replace")}[step], full)
        with pytest.raises(StorageFull):
            rewriting.finish()
    assert DamagedFamilies(tmp_path).columns == {"data": "data"}
    del rewriting
    engine.close()
    for _ in range(2):
        again = RocksEngine(tmp_path, block_cache_bytes=MIB, write_buffer_bytes=MIB)
        assert (again.get(again.data, b"k"), again.damaged_families) == (b"v", ())
        again.close()
