"""Move microshards from one shard to another; a merge moves all of them, and drops the shard that is left empty.

    queued -> copy   -> seal       -> forget        -> linger       -> spread    -> drop
              a migrator   the last      the source       merges only:    nobody       its replicas
              copies    rows, then    deletes its      repeated        routes to    are gone
              rows      the target    rows             writes are      it
                        has them                       still answered

The state of a migration is in both shards' logs (docs/decisions/0011): the migrator, a task of the manager that runs the
controller, keeps none, and may be begun again at any time. Until `seal` everything can be undone, from then on it goes
forward: `sealing` is written before the source is asked to seal, `adopted` after the target has the microshards.

What is dropped is what the shard's own log says is empty, whatever the map says: it may have come by microshards that no
operation knows of, and their only rows would be deleted with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace
from shoal.map_changes import with_migrated, without_shard
from shoal.protocol.migration import MigrationEnd
from shoal_server.invariants import invariant

from shoal_shardmanager.control.holdings import has_applied_all, still_held
from shoal_shardmanager.control.node_requests import CancelMigration, Forget
from shoal_shardmanager.control.observed import ObservedState, elapsed_ms
from shoal_shardmanager.control.operations.outcome import Note, Outcome, ask, end, go, wait
from shoal_shardmanager.control.rows import MergeShards, Migration, MoveMicroshards, OperationRow, State, Step
from shoal_shardmanager.control.state import ClusterState, RowChange

MIGRATOR_STEPS = frozenset({Step.COPY, Step.SEAL})


@dataclass(frozen=True, slots=True)
class MigrationProgress:
    """How far a migrator is. `trouble`: why it does not go on, tried `attempts` times in a row.

    Args:
        rows, bytes: copied so far, by this migrator.
        bytes_total: that the source had when it began, as far as known; 0: not known.
    """

    doing: str
    rows: int = 0
    bytes: int = 0
    bytes_total: int = 0
    trouble: str = ""
    attempts: int = 0

    @property
    def note(self) -> Note:
        waiting = f"{self.doing}; {self.rows} rows copied"
        if self.trouble:
            waiting += f"; tried {self.attempts} times, the last time: {self.trouble}"
        if not self.bytes_total:
            return Note(waiting)
        return Note(waiting, max(0, self.bytes_total - self.bytes), self.bytes_total, "bytes")


def advance(
    row: OperationRow, work: Migration, state: ClusterState, observed: ObservedState, progress: MigrationProgress | None
) -> Outcome:
    """Return what comes next, once it has left the queue. Not for the steps that `spread` does."""
    match row.step:
        case Step.COPY | Step.SEAL:
            used = _used_number(row, work, observed) if row.step is Step.COPY else ""
            if used:
                return Outcome(changes=(replace(row, step=Step.UNDO, step_ms=observed.wall_ms, undo=used),))
            note = progress.note if progress is not None else Note("the copying begins")
            return Outcome(note=note, migrator=True)
        case Step.UNDO:
            return _undo(row, work, observed)
        case Step.FORGET:
            return _forget(row, work, observed)
        case _:
            assert isinstance(work, MergeShards), "nothing else leaves an empty shard behind"
            return _linger(row, work, state, observed)


def sealing(row: OperationRow, now_ms: int) -> tuple[RowChange, ...]:
    """Return what is written before the source is asked to seal: from here on it only goes forward."""
    return go(row, Step.SEAL, now_ms).changes


def adopted(
    row: OperationRow, work: Migration, state: ClusterState, newer_than: int, now_ms: int
) -> tuple[RowChange, ...]:
    """Return what is written once the target has the microshards; nodes may have maps up to `newer_than` already."""
    version = state.next_map_version(newer_than)
    shard_map = with_migrated(state.map, work.source, work.target, work.ranges, version)
    return go(row, Step.FORGET, now_ms, shard_map, map_version=shard_map.version).changes


def undone(row: OperationRow, reason: str, now_ms: int) -> OperationRow:
    """Return the row of a migration that is undone from now on; its step must be `copy`."""
    invariant(row.step is Step.COPY, "a migration is undone before the seal, or not at all")
    return replace(row, step=Step.UNDO, step_ms=now_ms, undo=reason, cancelled=True)


def _used_number(row: OperationRow, work: Migration, observed: ObservedState) -> str:
    """Return "", or which of the shards is done with a migration of this number: before the seal, it is another one."""
    for shard in (work.source, work.target):
        leader = observed.leader(shard)
        known = None if leader is None else leader.ended(row.migration)
        if known is not None:
            return f"shard {shard} is done with a migration of number {row.migration} already ({known.name.lower()})"
    return ""


def _undo(row: OperationRow, work: Migration, observed: ObservedState) -> Outcome:
    ended_otherwise = False
    # The source first: once it has ended the migration it never seals, and nothing is missed.
    for shard in (work.source, work.target):
        leader = observed.leader(shard)
        if leader is None:
            return wait(f"shard {shard} reports no leader")
        outgoing = leader.replica.outgoing
        if outgoing is not None and outgoing.migration == row.migration and outgoing.sealed:
            # Somebody else drives it, too: what an operation has begun itself is undone before anybody asks for the seal.
            reason = f"shard {shard} has parted with the microshards meanwhile: `shoal settle {shard}` finishes it"
            return end(row, State.FAILED, observed.wall_ms, reason)
        known = leader.ended(row.migration)
        # What the shard is done with is not this operation's, and there is nothing of it to be undone.
        ended_otherwise |= known is not None and known is not MigrationEnd.CANCELLED
        if known is None:
            request = CancelMigration(leader.node, shard, row.migration, row.id)
            return ask(request, waiting=f"shard {shard} gives the migration up")
    settles = isinstance(work, MoveMicroshards) and work.migration > 0
    if ended_otherwise or not (row.cancelled or settles):
        reason = (
            f"{row.undo}: shards {work.source} and {work.target} have what they had, and `shoal doctor` says whether the map "
            "shows that; requested again, it gets another number"
        )
        return end(row, State.FAILED, observed.wall_ms, reason)
    state = State.CANCELLED if row.cancelled else State.DONE
    return end(row, state, observed.wall_ms, f"{row.undo}; all is as it was before")


def _forget(row: OperationRow, work: Migration, observed: ObservedState) -> Outcome:
    leader = observed.leader(work.source)
    if leader is None:
        return wait(f"shard {work.source} reports no leader")
    if leader.ended(row.migration) is not MigrationEnd.FORGOTTEN:
        request = Forget(leader.node, work.source, row.migration, row.id)
        return ask(request, waiting=f"shard {work.source} deletes what it gave away")
    if isinstance(work, MergeShards):
        return go(row, Step.LINGER, observed.wall_ms)
    return end(row, State.DONE, observed.wall_ms, described(work))


def _linger(row: OperationRow, work: MergeShards, state: ClusterState, observed: ObservedState) -> Outcome:
    left_ms = state.settings.merge_linger_ms - elapsed_ms(row.step_ms, observed.wall_ms)
    if left_ms > 0:
        return wait(
            f"shard {work.source} is empty, and still answers writes that are repeated", left=left_ms, unit="ms"
        )
    other = next((other for other in state.running() if other.id != row.id and work.source in other.shards), None)
    if other is not None:
        return wait(f"operation {other.id} ({other.kind}) is on shard {work.source}")
    leader = observed.leader(work.source)
    if leader is None:
        return wait(f"shard {work.source} reports no leader, which would say whether it is empty")
    if not has_applied_all(leader.replica):
        return wait(f"{leader.node}, which leads shard {work.source}, is yet to apply the end of its log")
    held = still_held(leader.replica)
    if held:
        # Were this to wait, the shard would be busy for as long, and nobody could settle it.
        reason = (
            f"{held}, of which this merge knows nothing, and is not dropped: `shoal settle {work.source}`, then merge"
        )
        return end(row, State.FAILED, observed.wall_ms, reason)
    emptied = replace(row, arguments=replace(work, empty_at=leader.replica.applied_index))
    shard_map = without_shard(state.map, work.source, state.map.version + 1)
    counters = replace(state.counters, dropped=(*state.counters.dropped, work.source))
    return go(emptied, Step.SPREAD, observed.wall_ms, shard_map, counters, map_version=shard_map.version)


def described(work: Migration) -> str:
    """Say what was done."""
    count = sum(span.end - span.first for span in work.ranges)
    return f"{count} microshards of shard {work.source} are shard {work.target}'s now"
