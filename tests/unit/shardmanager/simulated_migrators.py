"""Migrators of the simulated cluster: all that they do to the two shards' logs and to the rows, without a row copied.

One step a tick, each an event at which the manager may end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace
from shoal.protocol.migration import MigrationEnd, MigrationStatus
from shoal.shardmap import with_ranges, without_ranges
from shoal_shardmanager.control.operations import migrate
from shoal_shardmanager.control.operations.migrate import MigrationProgress
from shoal_shardmanager.control.rows import MergeShards, MoveMicroshards, OperationRow, Step
from shoal_shardmanager.control.state import RowChange, changed

from .model import Group

if TYPE_CHECKING:
    from .simulated import SimulatedCluster

PAGES = 5
"""How many ticks the copying takes."""


class SimulatedMigrators:
    """What the migrators of the manager do, and what the nodes do that they ask."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self.stuck: set[int] = set()

    def go_on(self, wanted: list[int]) -> None:
        for operation in wanted:
            row = self._cluster.state.operations[operation]
            assert isinstance(row.arguments, MoveMicroshards | MergeShards)
            if operation in self.stuck:
                self._cluster.memory.progress[operation] = MigrationProgress(
                    "copying", trouble="made to stand still", attempts=1
                )
                continue
            groups = [self._cluster.groups[shard] for shard in (row.arguments.source, row.arguments.target)]
            if all(self._cluster.nodes[group.leader].runs for group in groups):
                self._go_on(row, row.arguments, *groups)
            else:
                self._cluster.memory.progress[operation] = MigrationProgress(
                    "copying", trouble="a leader is away", attempts=1
                )

    def _go_on(self, row: OperationRow, work: MoveMicroshards | MergeShards, source: Group, target: Group) -> None:
        cluster, number = self._cluster, row.migration
        if target.ended.get(number) is MigrationEnd.ADOPTED:
            self._write(row, migrate.adopted(row, work, cluster.state, cluster.observed().newest_map(), cluster.now_ms))
            return
        assert number not in target.ended, "what was cancelled is not begun again"
        if target.incoming is None:
            assert not set(work.ranges).intersection(target.ranges)
            target.incoming = MigrationStatus(number, work.source, work.ranges)
        elif source.outgoing is None:
            assert not without_ranges(work.ranges, source.ranges), "it has what it gives"
            source.outgoing = MigrationStatus(number, work.target, work.ranges)
        elif target.incoming.number < PAGES:
            target.incoming = replace(target.incoming, number=target.incoming.number + 1)
        elif row.step is Step.COPY:
            self._write(row, migrate.sealing(row, cluster.now_ms))
        elif not source.outgoing.sealed:
            source.outgoing = replace(source.outgoing, sealed=True)
            source.ranges = without_ranges(source.ranges, work.ranges)
            self._derive(source)
        else:
            target.incoming, target.ranges = None, with_ranges(target.ranges, work.ranges)
            target.ended[number] = MigrationEnd.ADOPTED
            self._derive(target)
        cluster.memory.progress[row.id] = MigrationProgress("copying")
        cluster.event()

    def _derive(self, group: Group) -> None:
        for member in group.members:
            self._cluster.derive(member, self._cluster.state.map.version + 1)

    def _write(self, row: OperationRow, changes: tuple[RowChange, ...]) -> None:
        cluster = self._cluster
        cluster.event()
        cluster.state = changed(cluster.state, changes)
        cluster.history += [change for change in changes if isinstance(change, OperationRow)]
        cluster.event()

    # -- what the controller asks of leaders

    def forget(self, group: Group, number: int) -> None:
        if group.outgoing is not None and group.outgoing.migration == number:
            assert group.outgoing.sealed, "what is not given away is not deleted"
            target = self._cluster.groups[group.outgoing.other]
            assert target.ended.get(number) is MigrationEnd.ADOPTED, "only what the target has is deleted"
            group.outgoing = None
        group.ended[number] = MigrationEnd.FORGOTTEN

    def cancel(self, group: Group, number: int) -> None:
        if group.outgoing is not None and group.outgoing.migration == number:
            assert not group.outgoing.sealed, "from the seal on it only goes forward"
            group.outgoing = None
        if group.incoming is not None and group.incoming.migration == number:
            source = self._cluster.groups[group.incoming.other]
            assert number in source.ended, "the source is asked first"
            group.incoming = None
        group.ended[number] = MigrationEnd.CANCELLED
