"""Carries the rows of microshards from one shard's leader to another's: the migrator of docs/decisions/0011.

A migrator keeps nothing that matters: how far it is, the target's log knows, so one that is begun again goes on there. Until
the source is sealed it copies at its leisure; from the seal to the adoption it waits for nothing but the two leaders.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol

import structlog
from shoal.errors import ShoalError, Unavailable
from shoal.protocol.messages import ReplicaStatus, StatusReply
from shoal.protocol.migration import (
    UNREAD,
    ClearedRange,
    MigrationCursor,
    MigrationEnd,
    MigrationStatus,
    MovedRow,
    MovingRows,
)
from shoal.shardmap import MicroshardRange

from shoal_shardmanager.control.operations.migrate import MigrationProgress
from shoal_shardmanager.control.rows import Migration

log = structlog.get_logger("shoal.manager")

PAGE_BYTES = 512 * 1024
SMALL_ROUND_BYTES = 64 * 1024
"""A round that copies no more than this is followed by the seal: what comes after it is a few milliseconds' work."""
LARGER_ROUND_BYTES = 1024 * 1024
"""That is enough after `PATIENT_ROUNDS`: what is written without a pause makes no smaller one."""
PATIENT_ROUNDS = 8
YIELD_SECONDS_MAX = 1.0
"""So long a page is put off at the most for the sake of clients."""
FIRST_RETRY_SECONDS = 0.1
RETRY_CAP_SECONDS = 5.0


class Leader(Protocol):
    """A connection to a shard's leader: what a migrator uses of `AdminConnection`."""

    async def status(self) -> StatusReply: ...

    async def begin_incoming(
        self, shard: int, migration: int, source: int, ranges: tuple[MicroshardRange, ...]
    ) -> None: ...

    async def begin_outgoing(
        self,
        shard: int,
        migration: int,
        target: int,
        ranges: tuple[MicroshardRange, ...],
        confirmed: MigrationCursor = UNREAD,
    ) -> None: ...

    async def read_moving(
        self, shard: int, migration: int, cursor: MigrationCursor, *, max_bytes: int
    ) -> MovingRows: ...

    async def store_moved(
        self,
        shard: int,
        migration: int,
        number: int,
        cleared: list[ClearedRange],
        rows: list[MovedRow],
        cursor: MigrationCursor,
        behind: MigrationCursor,
    ) -> None: ...

    async def seal_microshards(self, shard: int, migration: int, map_version: int) -> None: ...

    async def adopt_microshards(self, shard: int, migration: int, map_version: int) -> None: ...

    def close(self) -> None: ...


class MigratorHost(Protocol):
    """What a migrator needs of the manager that runs it."""

    async def connect(self, shard: int) -> Leader:
        """Connect to the shard's leader. Raises ShoalError: there is none known, or it does not answer."""
        ...

    async def sealing(self, operation: int) -> int:
        """Write down that from now on it only goes forward; return the version of the map that nodes derive.

        Raises:
            CannotSeal: it was cancelled meanwhile, or this manager has been deposed.
        """
        ...

    async def adopted(self, operation: int, newer_than: int) -> None:
        """Write down that the target has the microshards; nodes may have derived maps up to `newer_than`."""
        ...

    def is_busy(self, shards: tuple[int, int]) -> bool:
        """Say whether clients' requests wait at a node that leads one of the shards."""
        ...

    async def rest(self, seconds: float) -> None:
        """Let time go by."""
        ...


class CannotSeal(Exception):
    """The operation is no longer what the migrator was begun for: it ends, and the controller decides."""


class Migrator:
    """One migration's rows, on their way. `progress` says how far it is."""

    def __init__(
        self,
        operation: int,
        work: Migration,
        host: MigratorHost,
        bytes_per_second: Callable[[], int],
        migration: int = 0,
    ) -> None:
        """
        Args:
            bytes_per_second: is asked before every page; 0: no limit.
            migration: the number under which the shards know it; 0: the operation's.
        """
        self.progress = MigrationProgress("begins")
        self._operation = operation
        self._migration = migration or operation
        self._work = work
        self._host = host
        self._bytes_per_second = bytes_per_second
        self._attempts = 0

    async def run(self) -> None:
        """Copy, seal and have adopted, however often it takes; each time it begins where the target's log stands."""
        while True:
            try:
                await self._trip()
                return
            except CannotSeal as error:
                log.info("migrator_ended", operation=self._operation, reason=str(error))
                return
            except ShoalError as error:
                self._attempts += 1
                self.progress = replace(self.progress, trouble=str(error), attempts=self._attempts)
                log.info("migrator_delayed", operation=self._operation, attempts=self._attempts, reason=str(error))
            pause = min(RETRY_CAP_SECONDS, FIRST_RETRY_SECONDS * 2 ** (self._attempts - 1))
            await self._host.rest(pause)

    async def _trip(self) -> None:
        work, operation, migration = self._work, self._operation, self._migration
        async with (
            _closing(await self._host.connect(work.source)) as source,
            _closing(await self._host.connect(work.target)) as target,
        ):
            of_source, of_target = await source.status(), await target.status()
            if _ended(of_target, work.target, migration) is MigrationEnd.ADOPTED:
                await self._host.adopted(operation, max(of_source.map_version, of_target.map_version))
                return
            if _sealed(of_source, work.source, migration) is None:
                await target.begin_incoming(work.target, migration, work.source, work.ranges)
                await source.begin_outgoing(work.source, migration, work.target, work.ranges)
                of_target = await target.status()
            crossing = _Crossing(self, source, target, _incoming(of_target, work.target, migration))
            self._doing("copying", _bytes_in(of_source, work))
            await crossing.copy()
            version = await self._host.sealing(operation)
            self._doing("handing over")
            await source.seal_microshards(work.source, migration, version)
            await crossing.finish()
            await target.adopt_microshards(work.target, migration, version)
            await self._host.adopted(operation, version)

    # -- what a crossing tells of itself

    def _doing(self, doing: str, bytes_total: int = 0) -> None:
        total = bytes_total or self.progress.bytes_total
        self.progress = replace(self.progress, doing=doing, bytes_total=total)

    def stored(self, rows: int, size: int) -> None:
        """A page has arrived: whatever trouble there was is over."""
        self._attempts = 0
        progress = self.progress
        self.progress = replace(
            progress, rows=progress.rows + rows, bytes=progress.bytes + size, trouble="", attempts=0
        )

    async def pace(self, size: int, lasted_seconds: float) -> None:
        """Wait for as long as `size` bytes are to take; where clients' requests wait, twice as long as they would without that.

        Args:
            lasted_seconds: how long it took to copy them.
        """
        limit = self._bytes_per_second()
        seconds = size / limit if limit else 0.0
        if self._host.is_busy((self._work.source, self._work.target)):
            seconds += max(seconds, min(lasted_seconds, YIELD_SECONDS_MAX))
        if seconds:
            await self._host.rest(seconds)

    @property
    def migration(self) -> tuple[int, Migration]:
        return self._migration, self._work


class _Crossing:
    """The pages of one trip, in request: while one is stored, the next one is read."""

    def __init__(self, migrator: Migrator, source: Leader, target: Leader, begun: MigrationStatus) -> None:
        self._migrator = migrator
        self._source = source
        self._target = target
        self._number = begun.number
        self._cursor = begun.cursor

    async def copy(self) -> None:
        """Copy the rows, and what has changed since, until little is left; nothing at all if the source is sealed."""
        loop = asyncio.get_running_loop()
        rounds = round_bytes = 0
        page = await self._read(self._cursor)
        while not page.sealed:
            size = size_of(page)
            round_bytes += size
            if page.done:
                if round_bytes <= (SMALL_ROUND_BYTES if rounds < PATIENT_ROUNDS else LARGER_ROUND_BYTES):
                    await self._store(page)
                    return
                rounds, round_bytes = rounds + 1, 0
            began = loop.time()
            page = await _while(self._store(page), self._read(page.cursor))
            if rounds and size:
                await self._confirm()
            # What changes meanwhile is caught up with as fast as it goes: at a limit below that it never would be.
            if rounds == 0:
                await self._migrator.pace(size, loop.time() - began)

    async def _confirm(self) -> None:
        """Let the source forget what its journal has of what is stored: changes may come for as long as this copies."""
        migration, work = self._migrator.migration
        await self._source.begin_outgoing(work.source, migration, work.target, work.ranges, self._cursor)

    async def finish(self) -> None:
        """Copy what is left after the seal."""
        while not self._cursor.complete:
            await self._store(await self._read(self._cursor))

    async def _read(self, cursor: MigrationCursor) -> MovingRows:
        migration, work = self._migrator.migration
        return await self._source.read_moving(work.source, migration, cursor, max_bytes=PAGE_BYTES)

    async def _store(self, page: MovingRows) -> None:
        migration, work = self._migrator.migration
        await self._target.store_moved(
            work.target, migration, self._number, page.cleared, page.rows, page.cursor, self._cursor
        )
        self._number += 1
        self._cursor = page.cursor
        self._migrator.stored(len(page.rows), size_of(page))


def size_of(page: MovingRows) -> int:
    """Return about how many bytes a page has."""
    return sum(len(key) + len(row or b"") for _, key, row in page.rows)


async def _while(store: Coroutine[Any, Any, None], read: Coroutine[Any, Any, MovingRows]) -> MovingRows:
    """Do both at once; return what was read once both are done."""
    reading = asyncio.create_task(read)
    try:
        await store
        return await reading
    finally:
        # One connection bears one question at a time, and the caller closes it: nobody may be left waiting on it.
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@asynccontextmanager
async def _closing(leader: Leader) -> AsyncIterator[Leader]:
    try:
        yield leader
    finally:
        leader.close()


def _replica(status: StatusReply, shard: int) -> ReplicaStatus:
    found = next((replica for replica in status.replicas if replica.shard == shard), None)
    if found is None or found.role != "leader":
        raise Unavailable(f"node {status.node} does not lead shard {shard}", shard=shard)
    return found


def _ended(status: StatusReply, shard: int, migration: int) -> MigrationEnd | None:
    ended = _replica(status, shard).migrations_ended
    return next((MigrationEnd(one.end) for one in ended if one.migration == migration), None)


def _sealed(status: StatusReply, shard: int, migration: int) -> MigrationStatus | None:
    outgoing = _replica(status, shard).outgoing
    return outgoing if outgoing is not None and outgoing.migration == migration and outgoing.sealed else None


def _incoming(status: StatusReply, shard: int, migration: int) -> MigrationStatus:
    incoming = _replica(status, shard).incoming
    if incoming is None or incoming.migration != migration:
        raise Unavailable(f"node {status.node} has not applied that shard {shard} takes microshards", shard=shard)
    return incoming


def _bytes_in(status: StatusReply, work: Migration) -> int:
    """Return about how many bytes the microshards have: their part of the shard's."""
    replica = _replica(status, work.source)
    held = sum(span.end - span.first for span in replica.ranges)
    moving = sum(span.end - span.first for span in work.ranges)
    return replica.bytes * moving // held if held else 0
