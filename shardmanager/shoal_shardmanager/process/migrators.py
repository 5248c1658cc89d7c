"""The migrators of one leadership: begun where the controller wants one, ended where it does not any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from ssl import SSLContext
from typing import Protocol

import structlog
from shoal.admin.connection import AdminConnection
from shoal.errors import Unavailable

from shoal_shardmanager.control.observed import ObservedState
from shoal_shardmanager.control.operations import migrate
from shoal_shardmanager.control.operations.migrate import MigrationProgress
from shoal_shardmanager.control.rows import MergeShards, Migration, MoveMicroshards, OperationRow, Step
from shoal_shardmanager.control.state import ClusterState, RowChange
from shoal_shardmanager.process.migrator import CannotSeal, Leader, Migrator
from shoal_shardmanager.process.store import Deposed

log = structlog.get_logger("shoal.manager")

CONNECTION_TIMEOUT_SECONDS = 10.0
BUSY_US = 10_000
"""Requests that have waited for longer than this are too many, as for what nodes do by themselves (node/pace.py)."""


class Controlled(Protocol):
    """What migrators need of the leadership that they belong to."""

    @property
    def state(self) -> ClusterState: ...

    def observed(self) -> ObservedState: ...

    def address_of(self, node: str) -> str: ...

    async def change(self, made: Callable[[ClusterState, ObservedState], tuple[RowChange, ...]]) -> None:
        """Write rows that are made from the state as it is when nobody else writes."""
        ...


class Migrators:
    """The tasks, by operation. Implements `migrator.MigratorHost`."""

    def __init__(self, leadership: Controlled, open_connection: Callable[[str], Awaitable[Leader]]) -> None:
        self._leadership = leadership
        self._open = open_connection
        self._migrators: dict[int, Migrator] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def progress(self) -> dict[int, MigrationProgress]:
        """Return how far each of them is."""
        return {operation: migrator.progress for operation, migrator in self._migrators.items()}

    def follow(self, wanted: Iterable[int]) -> None:
        """Begin those that are wanted and not at work; end the others."""
        kept = set(wanted)
        for operation in set(self._tasks) - kept:
            self._tasks.pop(operation).cancel()
            del self._migrators[operation]
        for operation in kept:
            task = self._tasks.get(operation)
            if task is None or task.done():
                row = self._leadership.state.operations[operation]
                migrator = Migrator(
                    operation,
                    _migration(row),
                    self,
                    lambda: self._leadership.state.settings.migration_bytes_per_second,
                    row.migration,
                )
                self._migrators[operation] = migrator
                self._tasks[operation] = asyncio.create_task(
                    self._run(operation, migrator), name=f"migrator {operation}"
                )

    async def stop(self) -> None:
        """End all."""
        tasks = list(self._tasks.values())
        self.follow(())
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, operation: int, migrator: Migrator) -> None:
        try:
            await migrator.run()
        except Deposed as error:
            log.info("migrator_ended", operation=operation, reason=str(error))
        except Exception as error:  # the root of the migrator's work: the next look at the operation begins another
            log.critical("migrator_failed", operation=operation, exc_info=error)

    # -- the host

    async def connect(self, shard: int) -> Leader:
        """Connect to the shard's leader, as the nodes report it."""
        leader = self._leadership.observed().leader(shard)
        if leader is None:
            raise Unavailable(f"shard {shard} reports no leader", shard=shard)
        return await self._open(self._leadership.address_of(leader.node))

    async def sealing(self, operation: int) -> int:
        """Write the step `seal`, unless it is written."""

        def made(state: ClusterState, observed: ObservedState) -> tuple[RowChange, ...]:
            row = state.operations.get(operation)
            if row is None or row.step not in migrate.MIGRATOR_STEPS:
                raise CannotSeal(f"operation {operation} is not being copied any more")
            return migrate.sealing(row, observed.wall_ms) if row.step is Step.COPY else ()

        await self._leadership.change(made)
        return self._leadership.state.next_map_version(self._leadership.observed().newest_map())

    async def adopted(self, operation: int, newer_than: int) -> None:
        """Write the map in which the microshards are the target's."""

        def made(state: ClusterState, observed: ObservedState) -> tuple[RowChange, ...]:
            row = state.operations.get(operation)
            if row is None or row.step is not Step.SEAL:
                raise CannotSeal(f"operation {operation} has gone on already")
            newest = max(newer_than, observed.newest_map())
            return migrate.adopted(row, _migration(row), state, newest, observed.wall_ms)

        await self._leadership.change(made)

    def is_busy(self, shards: tuple[int, int]) -> bool:
        """Say whether clients' requests wait at a node that leads one of the shards, as it reported last."""
        observed = self._leadership.observed()
        leading = [leader.node for shard in shards if (leader := observed.leader(shard)) is not None]
        return any((status := observed.fresh(node)) and status.queue_delay_us > BUSY_US for node in leading)

    async def rest(self, seconds: float) -> None:
        """Let time go by."""
        await asyncio.sleep(seconds)


async def open_leader(address: str, tls: SSLContext | None) -> Leader:
    """Connect to a node, as migrators do."""
    return await AdminConnection.open(address, CONNECTION_TIMEOUT_SECONDS, tls)


def _migration(row: OperationRow) -> Migration:
    if not isinstance(row.arguments, MoveMicroshards | MergeShards):
        raise TypeError(f"a {row.kind} moves no microshards")
    return row.arguments
