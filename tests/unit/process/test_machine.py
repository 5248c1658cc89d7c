"""The memory that a machine, or a container, gives to a process."""

from __future__ import annotations

import os
from pathlib import Path

from shoal_server.process.machine import memory_bytes, resident_bytes

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20


def looked(folder: Path, own: str, limits: dict[str, str]) -> int:
    for name, limit in limits.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(limit)
    (folder / "own").write_text(own)
    return memory_bytes(folder, folder / "own")


def test_without_limits_it_is_the_machines(tmp_path: Path):
    assert memory_bytes(tmp_path, tmp_path / "missing") == PHYSICAL
    assert looked(tmp_path, "0::/\n", {"memory.max": "max\n"}) == PHYSICAL


def test_the_narrowest_of_the_groups_that_it_is_in_counts(tmp_path: Path):
    limits = {"a/memory.max": f"{96 * MIB}\n", "a/b/memory.max": "max\n", "c/memory.max": f"{32 * MIB}\n"}
    assert looked(tmp_path, "0::/a/b\n", limits) == 96 * MIB


def test_a_container_sees_its_limit_at_the_root(tmp_path: Path):
    assert looked(tmp_path, "0::/docker/0123\n", {"memory.max": f"{64 * MIB}\n"}) == 64 * MIB


def test_the_older_kind_of_groups_has_limits_too(tmp_path: Path):
    own = "5:cpu:/x\n4:memory:/x\n0::/\n"
    limits = {
        "memory/x/memory.limit_in_bytes": f"{48 * MIB}\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    assert looked(tmp_path, own, limits) == 48 * MIB


def test_a_process_knows_what_it_has():
    assert 10 * MIB < resident_bytes() < PHYSICAL
