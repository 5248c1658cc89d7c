"""What the machine, or the container, gives to this process: memory; and how much of it the process has taken."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60
"""What stands for no limit at all, in the older kind of cgroups."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def memory_bytes(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the memory that there is: the machine's, or less where a control group allows less.

    Args:
        cgroups: where they are mounted; `own`: says which is this process's.
    """
    physical = os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES
    return min([physical, *_limits(cgroups, own)])


def resident_bytes() -> int:
    """Return what this process has of it now. It takes no descriptor but once: it is asked when there may be none left."""
    return int(os.pread(_statm(os.getpid()), 256, 0).split()[1]) * _PAGE_BYTES


@cache
def _statm(process: int) -> int:
    return os.open(f"/proc/{process}/statm", os.O_RDONLY | os.O_CLOEXEC)


def _limits(cgroups: Path, own: Path) -> list[int]:
    """Return the limits of this process's control groups, of both kinds, and of those that they are in."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = cgroups / controllers if controllers else cgroups
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        group = root / path.strip("/")
        # In a container the path is often that of outside, where nothing is; the limit stands at the root then.
        for each in (group, *group.parents):
            if not each.is_relative_to(root):
                break
            limit = _read(each / name)
            if limit is not None:
                found.append(limit)
    return found


def _read(path: Path) -> int | None:
    try:
        limit = int(path.read_text())
    except (OSError, ValueError):  # there is none: no such file, or the word "max"
        return None
    return limit if 0 < limit < UNLIMITED else None
