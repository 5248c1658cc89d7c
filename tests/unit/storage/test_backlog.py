"""RocksDB behind a slow disk: whoever asks before he writes never waits for it, and never for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
from rocksdict import Rdict
from shoal_chaos.clusters.system_faults import Field, LibraryMissing, SystemFaults
from shoal_server.storage.engine_memory import WRITE_BUFFERS
from shoal_server.storage.rocks import RocksEngine
from shoal_server.storage.rocks_backlog import RocksBacklog

BUFFER = 1 << 20


class Numbers:
    """A column family that says of itself what a test wants."""

    def __init__(self, **numbers: int) -> None:
        self.numbers = numbers

    def property_int_value(self, name: str) -> int:
        return self.numbers.get(name.removeprefix("rocksdb.").replace("-", "_"), 0)

    def property_value(self, name: str) -> str:
        return str(self.property_int_value(name))


def backlog(**data: int) -> RocksBacklog:
    families = {"log": Numbers(), "data": Numbers(**data)}
    return RocksBacklog(cast(dict[str, Rdict], families), {"log": BUFFER, "data": BUFFER})


def test_a_write_would_wait_where_the_last_memtable_is_nearly_full() -> None:
    assert WRITE_BUFFERS == 3
    full = int(2.8 * BUFFER)
    assert backlog(cur_size_all_mem_tables=full, num_immutable_mem_table=2).writes_stopped
    assert not backlog(cur_size_all_mem_tables=int(2.6 * BUFFER), num_immutable_mem_table=2).writes_stopped
    # A single batch may be longer than memtables are: nothing is being flushed then, so that nobody may wait for it.
    assert not backlog(cur_size_all_mem_tables=5 * BUFFER, num_immutable_mem_table=0).writes_stopped
    assert not backlog(cur_size_all_mem_tables=5 * BUFFER, num_immutable_mem_table=1).writes_stopped


def test_other_reasons_are_looked_for_where_there_is_pressure() -> None:
    found = backlog(is_write_stopped=1)
    assert not found.writes_stopped
    found.pressed = True
    assert found.writes_stopped


def test_what_is_behind_is_that_of_the_worst_family() -> None:
    found = backlog(
        cur_size_active_mem_table=BUFFER // 2,
        num_immutable_mem_table=1,
        num_files_at_level0=7,
        estimate_pending_compaction_bytes=9,
        actual_delayed_write_rate=5,
    )
    assert (found.memtables, found.first_level_files, found.pending_bytes, found.delayed_rate) == (1.5, 7, 9, 5)


def test_an_engine_that_is_well_takes_writes(tmp_path: Path) -> None:
    engine = RocksEngine(tmp_path, block_cache_bytes=1 << 20, write_buffer_bytes=BUFFER)
    assert not engine.writes_stopped
    batch = engine.batch()
    batch.put(b"k", bytes(100_000), engine.data)
    engine.write_unlogged(batch)
    assert 0 < engine.backlog.memtables < 1
    assert (engine.backlog.first_level_files, engine.backlog.pending_bytes, engine.backlog.delayed_rate) == (0, 0, 0)
    engine.close()


WRITES = """
import os, sys, time
from pathlib import Path
from shoal_server.storage.rocks import RocksEngine
engine = RocksEngine(Path(sys.argv[1]), block_cache_bytes=1 << 20, write_buffer_bytes=1 << 20)
asks, until = sys.argv[2] == "asks", time.monotonic() + 6
slowest, written, waited, value = 0.0, 0, 0, os.urandom(10_000)
while time.monotonic() < until:
    for write, family in ((engine.write, engine.log), (engine.write_unlogged, engine.data)):
        if asks and engine.writes_stopped:
            waited += 1
            time.sleep(0.005)
            continue
        batch = engine.batch()
        for _ in range(10):
            written += 1
            batch.put(b"%012d" % written, value, family)
        began = time.monotonic()
        write(batch)
        slowest = max(slowest, time.monotonic() - began)
    time.sleep(0.002)
print(slowest, written, waited, flush=True)
os._exit(0)
"""


def slowest_write(folder: Path, how: str) -> tuple[float, int, int]:
    """Return how long the slowest write took while each sync takes 0.7 s, how many rows were written, and waits before."""
    data = folder / how
    data.mkdir()
    system = SystemFaults(how, folder / "faults", data)
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(data), how],
        env={**os.environ, **system.environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(1.0)
    system.set(Field.SYNC_DELAY_NS, 700_000_000)
    out: Any = process.communicate(timeout=60)[0]
    system.close()
    slowest, written, waited = out.split()
    return float(slowest), int(written), int(waited)


@pytest.mark.timeout(120)
def test_who_asks_before_he_writes_does_not_wait_in_the_call(tmp_path: Path) -> None:
    try:
        slowest, written, waited = slowest_write(tmp_path, "asks")
    except LibraryMissing as missing:
        pytest.skip(str(missing))
    assert waited > 10, "the disk has to be too slow for this to show anything"
    assert written > 300, "it goes on"
    assert slowest < 0.6
    slowest, _, _ = slowest_write(tmp_path, "does-not")
    assert slowest > 0.9, "and who does not ask does"
