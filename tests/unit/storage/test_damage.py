"""Damage is met by whoever reads: no reader of an engine takes the rows before it for all there are."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import shoal_server
from shoal_server.storage.engine import Damaged, Engine
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


READERS: dict[str, Callable[[Engine], object]] = {
    "scan": lambda engine: list(engine.scan(engine.data, b"k", b"l")),
    "scan_reverse": lambda engine: list(engine.scan_reverse(engine.data, b"k", b"l")),
    "count_rows": lambda engine: engine.count_rows(engine.data, b"k", b"l", ROWS + 1),
    "view": lambda engine: list(engine.view().scan(engine.data, b"k", b"l")),
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
    assert len(list(damaged.scan_reverse(damaged.data, key_of(ROWS - 100), b"l"))) == 100


def test_rocksdb_is_iterated_in_one_place_which_asks_for_the_status() -> None:
    """What rocksdict offers beside its plain iterator ends at damage as it does behind the last row."""
    folder = Path(shoal_server.__file__).parent
    users = {path: text for path in folder.rglob("*.py") if "rocksdict" in (text := path.read_text())}
    assert [path.name for path in users if "from rocksdict import" in users[path]] == ["rocks.py"]
    [source] = [text for path, text in users.items() if path.name == "rocks.py"]
    assert source.count(".iter(") == 1
    unchecked = re.findall(r"\.(?:items|keys|values|entities)\(", source.replace("self._families.values()", ""))
    assert unchecked == []
