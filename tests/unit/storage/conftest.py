"""Engines for tests: the same tests run on both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from shoal_server.storage.engine import Engine
from shoal_server.storage.memory import MemoryEngine
from shoal_server.storage.rocks import RocksEngine

MIB = 1 << 20


@pytest.fixture(params=["memory", "rocks"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    opened: Engine
    if request.param == "memory":
        opened = MemoryEngine()
    else:
        (tmp_path / "database").mkdir()
        opened = RocksEngine(tmp_path / "database", block_cache_bytes=MIB, write_buffer_bytes=MIB)
    yield opened
    opened.close()
