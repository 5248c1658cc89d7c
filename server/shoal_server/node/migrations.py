"""What a node does for migrations: it takes their steps from a migrator, reads what is to be moved, and routes anew.

Both shards' nodes derive the new map by themselves, as with splits: the source's when they apply the seal, the target's
when they adopt. So a client that is turned away learns at once where to go, and from whichever node it asks first. A map
of the version that the migrator has named, or of a newer one, knows of it already.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from shoal.errors import ErrorCode
from shoal.map_changes import with_migrated
from shoal.protocol.migration import (
    AdoptMicroshards,
    BeginIncoming,
    BeginOutgoing,
    CancelMigration,
    MigrationStep,
    ReadMoving,
    SealMicroshards,
    StoreMoved,
)
from shoal.shardmap import without_ranges

from shoal_server.node.agenda import Agenda
from shoal_server.node.disk_health import DiskHealth
from shoal_server.node.outbox import Outbox
from shoal_server.node.replica import Replica
from shoal_server.node.replica_set import ReplicaSet
from shoal_server.node.request_rules import refuse_step
from shoal_server.node.waiting import QueuedCommand, QueuedRead
from shoal_server.shard.commands import (
    AdoptCommand,
    BeginIncomingCommand,
    BeginOutgoingCommand,
    CancelCommand,
    ForgetCommand,
    MigrationCommand,
    SealCommand,
    StoreMovedCommand,
)
from shoal_server.shard.microshards import HandOver

log = structlog.get_logger("shoal.node")

STEP_BYTES = 1024
"""About what a step without rows takes in a log entry."""


def command_of(request: MigrationStep) -> MigrationCommand:
    """Return what a step is in the log of its shard."""
    if isinstance(request, BeginIncoming):
        return BeginIncomingCommand(request.migration, request.source, request.ranges)
    if isinstance(request, BeginOutgoing):
        return BeginOutgoingCommand(request.migration, request.target, request.ranges, request.confirmed)
    if isinstance(request, StoreMoved):
        return StoreMovedCommand(
            request.migration, request.number, request.cleared, request.rows, request.cursor, request.behind
        )
    if isinstance(request, SealMicroshards):
        return SealCommand(request.migration, request.map_version)
    if isinstance(request, AdoptMicroshards):
        return AdoptCommand(request.migration, request.map_version)
    if isinstance(request, CancelMigration):
        return CancelCommand(request.migration)
    return ForgetCommand(request.migration)


class Migrations:
    """See the module's first lines."""

    __slots__ = ("_agenda", "_disk", "_replicas")

    def __init__(self, replicas: ReplicaSet, agenda: Agenda, disk: DiskHealth) -> None:
        self._replicas = replicas
        self._agenda = agenda
        self._disk = disk

    def queue_step(self, client: int, request: MigrationStep, replica: Replica, outbox: Outbox) -> None:
        """Have the step become an entry of the shard's log; `replica` leads."""
        problem = refuse_step(request, replica.keyspace, self._replicas.routes.map.version, replica.machine.state.seq)
        if problem:
            outbox.fail(client, request.request, ErrorCode.INVALID_ARGUMENT, problem)
            return
        other = _other_shard(request)
        if other is not None and other not in self._replicas.routes.shards:
            # By a newer map there may be one: then this one comes soon, and whoever drives it asks again.
            where = f"there is no shard {other} in the shard map of this node: give microshards to one that is there"
            outbox.fail(client, request.request, ErrorCode.UNAVAILABLE, where)
            return
        not_writable = self._disk.state.not_writable
        if not_writable and _fills_disk(request):
            reason = f"this node takes no writes now: {not_writable}"
            outbox.fail(client, request.request, ErrorCode.UNAVAILABLE, reason)
            return
        size = STEP_BYTES
        if isinstance(request, StoreMoved):
            size += sum(len(key) + len(row or b"") for _, key, row in request.rows)
        replica.queue_command(QueuedCommand(client, request.request, command_of(request), None, size))
        self._agenda.mark(replica)

    def queue_read(self, client: int, request: ReadMoving, replica: Replica) -> None:
        """Have the read served once this node is sure to lead; `replica` thinks that it does."""
        replica.reads.queue(QueuedRead(client, request, []))
        self._agenda.mark(replica)

    def take_hand_overs(self, replicas: Iterable[Replica], now: int) -> None:
        """Route by what these replicas have applied just now."""
        for replica in replicas:
            for hand_over in replica.machine.microshards.take_hand_overs():
                self._route(hand_over, now)

    def _route(self, hand_over: HandOver, now: int) -> None:
        replicas = self._replicas
        known = replicas.routes.map
        source, target = (replicas.routes.shards.get(shard) for shard in (hand_over.source, hand_over.target))
        if source is None or target is None or known.version >= hand_over.map_version:
            return
        if without_ranges(hand_over.ranges, source.ranges):
            # They have moved on since: this replica has come to an old entry of its log.
            return
        derived = with_migrated(known, source.id, target.id, hand_over.ranges, hand_over.map_version)
        replicas.adopt_derived_map(derived, now)
        log.info(
            "microshards_moved",
            node=replicas.identity.node,
            source=source.id,
            target=target.id,
            map_version=hand_over.map_version,
        )


def _other_shard(request: MigrationStep) -> int | None:
    """Return the shard at the other end of a migration that the request begins; None: it begins none."""
    if isinstance(request, BeginIncoming):
        return request.source
    return request.target if isinstance(request, BeginOutgoing) else None


def _fills_disk(request: MigrationStep) -> bool:
    trims = isinstance(request, BeginOutgoing) and request.confirmed.scanned
    return isinstance(request, BeginIncoming | BeginOutgoing | StoreMoved) and not trims
