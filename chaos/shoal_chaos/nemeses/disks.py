"""Disks that are slow, fail, lie or are full, and files that are damaged while nobody looks."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from random import Random
from typing import ClassVar, Literal

from shoal_chaos.clusters.faulty_cluster import FaultyCluster
from shoal_chaos.clusters.system_faults import Field
from shoal_chaos.nemeses.base import Nemesis
from shoal_chaos.nemeses.choosing import Who, choose

SUFFIXES = (".sst", ".log")
"""The files that are damaged: tables, and the write-ahead log."""
DAMAGED_BYTES = 128
TABLE_BYTES_LEAST = 8 * 1024
"""The middle of a smaller one is not among its rows."""


class BadDisk(Nemesis):
    """Some fault of a disk, as its file system shows it. A node may end itself: then it is started again."""

    name: ClassVar[str] = "bad-disk"

    def __init__(self, words: str, faults: dict[Field, int], who: Who = Who.LEADER, *, fatal: bool = False) -> None:
        """
        Args:
            fatal: the node may end itself.
        """
        self._words = words
        self._faults = faults
        self._who = who
        self._fatal = fatal
        self._names: list[str] = []

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        self._names = await choose(cluster, self._who, random)
        if self._fatal:
            cluster.excuse(self._names)
        for name in self._names:
            for field, value in self._faults.items():
                cluster.system(name).set(field, value)
        return f"{self._words} at {', '.join(self._names)}"

    async def heal(self, cluster: FaultyCluster) -> None:
        for name in self._names:
            cluster.system(name).heal_disk()
        if self._fatal:
            cluster.restart(self._names)


def slow_sync(seconds: float) -> BadDisk:
    """Every sync takes so much longer."""
    return BadDisk(f"a sync takes {seconds:g} s longer", {Field.SYNC_DELAY_NS: round(seconds * 1e9)})


def failing_sync() -> BadDisk:
    """Every sync fails."""
    return BadDisk("every sync fails (EIO)", {Field.SYNC_ERRNO: errno.EIO}, fatal=True)


def failing_reads() -> BadDisk:
    """Every read of a file fails."""
    return BadDisk("every read fails (EIO)", {Field.READ_ERRNO: errno.EIO}, fatal=True)


def full_disk() -> BadDisk:
    """No byte can be written any more, and the file system says so."""
    faults = {Field.WRITE_ERRNO: errno.ENOSPC, Field.DISK_FULL: 1}
    return BadDisk("the disk is full (ENOSPC)", faults, fatal=True)


def nearly_full_disk() -> BadDisk:
    """The file system says that nothing is left, though writes still succeed."""
    return BadDisk("the disk is nearly full", {Field.DISK_FULL: 1})


class LyingDisk(Nemesis):
    """Syncs do nothing and say that they have; then the power is lost, and with it what the syncs were asked for.

    A node may find its database damaged by that, and refuse to start: it is given up, and no further disk lies, since what the
    others have is all that there is.
    """

    name: ClassVar[str] = "lying-disk"

    def __init__(self, who: Who) -> None:
        self._who = who
        self._names: list[str] = []

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        if cluster.lost:
            self._names = []
            return f"no disk lies any more, since {', '.join(sorted(cluster.lost))} has refused to start"
        self._names = await choose(cluster, self._who, random)
        for name in self._names:
            cluster.system(name).set(Field.SYNC_LIES, 1)
        return f"syncs at {', '.join(self._names)} do nothing, and then the power is lost there"

    async def heal(self, cluster: FaultyCluster) -> None:
        await cluster.kill(self._names)
        for name in self._names:
            cluster.system(name).lose_power()
            cluster.system(name).heal_disk()
        cluster.restart(self._names)
        for name in self._names:
            if not await cluster.decided(name):
                cluster.give_up(name)


class DamagedFiles(Nemesis):
    """A node is killed, one of its files is damaged, and it is started again.

    It may refuse to start, or end when it finds the damage: it then gets its files back as they were if it had never
    come up on the damaged ones, since it has promised nothing meanwhile; else it is given up.
    """

    name: ClassVar[str] = "damaged-files"

    def __init__(self, how: Literal["cut", "flip"], who: Who = Who.ANY) -> None:
        """
        Args:
            how: the end of a file is cut off, or one bit in it is turned over.
        """
        self._how = how
        self._who = who
        self._node = ""
        self._copy: Path | None = None

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        (self._node,) = await choose(cluster, self._who, random)
        await cluster.kill([self._node])
        data = cluster.system(self._node).data
        self._copy = data.with_name(f"{data.name}.whole")
        shutil.copytree(data, self._copy)
        files = sorted(path for path in data.rglob("*") if path.suffix in SUFFIXES and path.stat().st_size)
        damaged = random.choice(files)
        place = _damage(damaged, self._how, random)
        cluster.restart([self._node])
        return f"{damaged.name} of {self._node}: {place}"

    async def heal(self, cluster: FaultyCluster) -> None:
        if self._copy is None:
            return
        started = await cluster.decided(self._node)
        if self._node not in cluster.running:
            if started:
                cluster.give_up(self._node)
            else:
                data = cluster.system(self._node).data
                shutil.rmtree(data)
                self._copy.rename(data)
                cluster.restart([self._node])
        shutil.rmtree(self._copy, ignore_errors=True)


class DamagedWhileRunning(Nemesis):
    """Bytes in the middle of a table file are overwritten under a node that has it open.

    The node goes on: whichever of its replicas meets the damage fails, and is rebuilt. It may end once, where a compaction
    meets it first, and is started again; only where the table holds the node's own rows does it refuse to start.
    """

    name: ClassVar[str] = "damaged-while-running"

    def __init__(self, who: Who = Who.ANY) -> None:
        self._who = who
        self._node = ""

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        (self._node,) = await choose(cluster, self._who, random)
        nodes = sorted({node for voters in (await cluster.voters()).values() for node in voters})
        before = [node for node in nodes if _damaged_before(cluster, node).exists()]
        if before:
            # Of a row whose damage nobody has met yet there must stay a copy: it is always the same disk.
            self._node = before[0]
        _damaged_before(cluster, self._node).touch()
        if not self._tables(cluster):
            # What was recovered at a start is in tables; what was written since may be in memory only.
            await cluster.kill([self._node])
            cluster.restart([self._node])
            await cluster.decided(self._node)
        tables = self._tables(cluster)
        if not tables:
            return f"{self._node} has no table to damage"
        cluster.excuse([self._node])
        damaged = random.choice(tables)
        with damaged.open("r+b") as file:
            at = (damaged.stat().st_size - DAMAGED_BYTES) // 2
            file.seek(at)
            file.write(random.randbytes(DAMAGED_BYTES))
        return f"{DAMAGED_BYTES} bytes of {damaged.name} of {self._node} overwritten at byte {at:,}, while it runs"

    def _tables(self, cluster: FaultyCluster) -> list[Path]:
        tables = cluster.system(self._node).data.rglob("*.sst")
        return sorted(path for path in tables if path.stat().st_size >= TABLE_BYTES_LEAST)

    async def heal(self, cluster: FaultyCluster) -> None:
        if self._node not in cluster.running:
            cluster.restart([self._node])
            if not await cluster.decided(self._node):
                cluster.give_up(self._node)


def _damaged_before(cluster: FaultyCluster, node: str) -> Path:
    data = cluster.system(node).data
    return data.with_name(f"{data.name}.damaged")


def _damage(path: Path, how: Literal["cut", "flip"], random: Random) -> str:
    content = bytearray(path.read_bytes())
    at = random.randrange(len(content))
    if how == "cut":
        path.write_bytes(content[:at])
        return f"cut from {len(content):,} to {at:,} bytes"
    content[at] ^= 1 << random.randrange(8)
    path.write_bytes(content)
    return f"a bit of byte {at:,} turned over"
