"""Families with damaged tables are written anew at a start, with what replicas own and nothing else.

A damaged table goes on to stand in the way when no row of anybody is in it any more: whoever seeks a row near the damage
reads the block that it is in, and so does a compaction. So what is copied is what the replicas own, each of their ranges by
itself. Which cannot be read is its replica's damage: that one begins with a failure and is rebuilt from its leader, in tables
that are whole. It is not waited for: nobody knows before whether a rebuilt replica's rows can be read beside the damage.

Rows of a replica that nobody can rebuild are not left behind: where something of the only copy cannot be read, or a replica
is not on the shard map, everything stays as it is, and the family is not compacted.

The failures are on disk before the old rows go. A crash before that leaves them, and at worst replicas that are rebuilt.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from shoal.shardmap import Shard, ShardMap

from shoal_server.storage.applied_state import AppliedState, load_applied_state
from shoal_server.storage.damaged_meta import set_right
from shoal_server.storage.dropped_replicas import STORED_TWICE
from shoal_server.storage.engine import Damaged, Engine
from shoal_server.storage.journal import journal_prefix
from shoal_server.storage.layout import (
    applied_state_key,
    data_prefix,
    expiry_prefix,
    group_key,
    load_log_start,
    load_split_off,
    log_key,
    peer_key,
    prefix_end,
    sessions_prefix,
    split_off_key,
    stored_groups,
)
from shoal_server.storage.log_store import LAST_INDEX, GroupLogStore
from shoal_server.storage.meta_rows import DamageRule, MetaKind
from shoal_server.storage.node_rows import check_own_rows, load_shard_map
from shoal_server.storage.promises import EVERY_SHARD, has_forgotten, put_forgotten
from shoal_server.storage.replica_failure import (
    FailureKind,
    ReplicaFailure,
    acknowledged_to,
    load_failure,
    put_failure,
)
from shoal_server.storage.rocks import OF_REPLICAS, Rewriting, RocksEngine
from shoal_server.storage.skipped_entries import skipped_keys


@dataclass(frozen=True, slots=True)
class KeyRange:
    """The keys from `start` up to, not with, `end`."""

    start: bytes
    end: bytes


@dataclass(slots=True)
class WrittenAnew:
    """What came of it.

    `failed`: of which replicas something could not be read. `reason`: why families were left as they are.
    """

    failed: dict[int, ReplicaFailure] = field(default_factory=dict)
    reason: str = ""


class _Only(Exception):
    """Nobody could rebuild what would be left behind."""


def write_anew(engine: RocksEngine, node: str) -> WrittenAnew:
    """Write the families of a node that have damaged tables anew. Nothing else may use the engine yet.

    Raises:
        Damaged: the node's own rows cannot be read.
        StorageFailed: the disk or the database fails.
    """
    report = WrittenAnew()
    shard_map = load_shard_map(engine)
    if shard_map is None:
        report.reason = "there is no shard map that says whose its rows are"
        return report
    if engine.damaged_families:
        _mend_copies(engine, shard_map)
    if "meta" in engine.damaged_families:
        report.failed.update(_write_meta_anew(engine, shard_map))
    # Damage of the log may be met with that of the data, when it is asked how far a log was.
    for family in OF_REPLICAS:
        if family in engine.damaged_families:
            rewriting = engine.rewriting(family)
            try:
                failed = _copy(engine, rewriting, family, node, shard_map)
            except _Only as error:
                rewriting.abandon()
                report.reason = str(error)
                continue
            batch = engine.batch()
            for shard, failure in failed.items():
                put_failure(batch, engine, shard, failure)
            engine.write(batch)
            engine.sync()
            if family == "log":
                # Last: what has been lost is among them. And damage may only now have been met there.
                _mend_copies(engine, shard_map)
                for rows in STORED_TWICE:
                    for key in rows.copied_keys(engine, family):
                        rewriting.copy_row(key)
            rewriting.finish()
            report.failed.update(failed)
    return report


def _mend_copies(engine: RocksEngine, shard_map: ShardMap) -> None:
    """Write all copies anew, in the old tables, that cannot be read, of rows that are stored twice.

    What there may have been of shards that are not on the map, and can be found nowhere, is forgotten, which is stored: a row
    in a damaged block of the one family, and in one of the other.
    """
    on_map = {shard.id for shard in shard_map.shards}
    forgotten: set[int] = set()
    for rows in STORED_TWICE:
        groups, complete = rows.stored_groups(engine)
        if not complete:
            forgotten.add(EVERY_SHARD)
        for group in groups | on_map:
            try:
                rows.mend(engine, group)
            except Damaged:
                # What is on the map is looked at when it is opened: see `set_right`.
                forgotten.update({group} - on_map)
    batch = engine.batch()
    for group in sorted(forgotten):
        if not has_forgotten(engine, group):
            put_forgotten(batch, engine, group)
    engine.write(batch)


def _write_meta_anew(engine: RocksEngine, shard_map: ShardMap) -> dict[int, ReplicaFailure]:
    """Write the meta family anew, row by row; return how replicas have failed of which rows could not be read.

    What is not found any more in the new tables counts as never stored. So whatever cannot be read is set right first, in
    the old ones: a row that was written since is found without reading what is damaged, unlike by an iterator.
    """
    check_own_rows(engine, shard_map.nodes)
    failed = {shard.id: failure for shard in shard_map.shards if (failure := set_right(engine, shard)) is not None}
    rewriting = engine.rewriting("meta")
    try:
        for key in _meta_keys(engine, shard_map):
            rewriting.copy_row(key)
    except Damaged:
        rewriting.abandon()
        raise
    rewriting.finish()
    return failed


def _meta_keys(engine: Engine, shard_map: ShardMap) -> Iterator[bytes]:
    """Yield the keys of all rows that the meta family may have: those that can be found, and those that the map speaks of.

    Of nodes and shards that are not on the map nothing has to stay but what was promised: they do not come again, or are new
    then. Of which entries are not to be applied, what cannot be found has been forgotten with the replica's rows (see
    `set_right`).
    """
    for rows in STORED_TWICE:
        yield from rows.copied_keys(engine, "meta")
    for kind in MetaKind:
        if kind.stored_twice:
            continue
        yield from _found(engine, kind)
        if kind is MetaKind.PEER:
            yield from (peer_key(node.id) for node in shard_map.nodes)
        elif kind.rule is DamageRule.NODE_REFUSES:
            yield kind.letter
        elif kind is MetaKind.SKIPPED:
            for shard in shard_map.shards:
                with suppress(Damaged):
                    yield from [key for key, _ in engine.scan(engine.meta, *skipped_keys(shard.id))]
        else:
            yield from (group_key(kind, shard.id) for shard in shard_map.shards)


def _found(engine: Engine, kind: MetaKind) -> list[bytes]:
    """Return the keys of a kind, as far as they can be read."""
    found: list[bytes] = []
    with suppress(Damaged):
        for key, _ in engine.scan(engine.meta, kind.letter, prefix_end(kind.letter)):
            found.append(key)
    return found


def _copy(
    engine: Engine, rewriting: Rewriting, family: str, node: str, shard_map: ShardMap
) -> dict[int, ReplicaFailure]:
    """Copy what replicas own in a family; return how those have failed of which something cannot be read."""
    failed: dict[int, ReplicaFailure] = {}
    known = {shard.id: shard for shard in shard_map.shards}
    for group in stored_groups(engine) - known.keys():
        if _split_off(engine, group) is None:
            raise _Only(f"shard {group} is not on the shard map, and has rows here")
    waiting = list(known.values())
    seen = set(known)
    while waiting:
        shard = waiting.pop()
        store = GroupLogStore(engine, shard.id)
        state: AppliedState | None = None
        try:
            state = load_applied_state(engine, shard.id)
        except Damaged as error:
            failed[shard.id] = ReplicaFailure(FailureKind.DAMAGED, str(error), 0, acknowledged_to(store))
        for child in () if state is None else state.children:
            split_off = None if child in seen else _split_off(engine, child)
            if split_off is not None:
                seen.add(child)
                waiting.append(split_off)
        for keys in _log_ranges(engine, shard.id) if family == "log" else _data_ranges(shard, state):
            try:
                rewriting.copy(keys.start, keys.end)
            except Damaged as error:
                lost_to = acknowledged_to(store) if family == "log" or state is None else 0
                index = 0 if state is None else state.index
                failed.setdefault(shard.id, ReplicaFailure(FailureKind.DAMAGED, str(error), index, lost_to))
        if shard.id in failed:
            voters = shard.voters if state is None else state.membership.voters
            if not set(voters) - {node}:
                raise _Only(f"not all of shard {shard.id} can be read, and this is the only copy of it")
    stored = {shard: load_failure(engine, shard) for shard in failed}
    return {
        shard: failure
        for shard, failure in failed.items()
        if (before := stored[shard]) is None or failure.log_lost_to > before.log_lost_to
    }


def _split_off(engine: Engine, child: int) -> Shard | None:
    """Return what a split has made here that the shard map does not have yet."""
    try:
        split_off = load_split_off(engine, child)
    except Damaged:
        # See `is_split_off`.
        return None
    return None if split_off is None else split_off.child


def _log_ranges(engine: Engine, group: int) -> Iterator[KeyRange]:
    yield KeyRange(log_key(group, load_log_start(engine, group).index + 1), log_key(group, LAST_INDEX))


def _data_ranges(shard: Shard, state: AppliedState | None) -> Iterator[KeyRange]:
    for key in (applied_state_key(shard.id), split_off_key(shard.id)):
        yield KeyRange(key, key + b"\x00")
    if state is None:
        return
    prefixes = [
        make(shard.keyspace, microshard, generation)
        for microshard, generation in state.generations(state.stored_ranges).items()
        for make in (data_prefix, expiry_prefix)
    ]
    for prefix in (*prefixes, *(make(shard.id, state.generation) for make in (sessions_prefix, journal_prefix))):
        yield KeyRange(prefix, prefix_end(prefix))
