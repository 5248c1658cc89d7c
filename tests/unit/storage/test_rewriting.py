"""Families with damaged tables are written anew at a start: with what replicas own, whatever else is near the damage."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.raft.messages import Entry, HardState, Membership, entry_checksum
from shoal_server.storage import rewriting
from shoal_server.storage.applied_state import AppliedState, applied_state_row, load_applied_state
from shoal_server.storage.engine import Damaged, Engine
from shoal_server.storage.layout import (
    applied_state_key,
    data_prefix,
    expiry_prefix,
    log_key,
    prefix_end,
    sessions_prefix,
    value_header,
)
from shoal_server.storage.log_store import GroupLogStore
from shoal_server.storage.node_rows import save_shard_map
from shoal_server.storage.replica_failure import FailureKind, ReplicaFailure, load_failure, load_lost_to, put_failure
from shoal_server.storage.replica_rows import drop_own_rows, drop_rows
from shoal_server.storage.rewriting import write_anew
from shoal_server.storage.rocks import RocksEngine

MIB = 1 << 20
SHARDS = 32
MICROSHARDS = 1024
PER_SHARD = MICROSHARDS // SHARDS
ROWS = 20
ENTRIES = 10
KEYSPACE = 1
SIZES = {"data": (2 * MIB, 8 * MIB), "log": (MIB // 4, MIB)}
"""About those of the tables."""
VOTERS = ("n1", "n2", "n3")


def shard_map(voters: tuple[str, ...]) -> ShardMap:
    return ShardMap(
        version=1,
        cluster="test",
        nodes=tuple(NodeAddress(node, "127.0.0.1:1") for node in voters),
        keyspaces=(Keyspace(KEYSPACE, "default", MICROSHARDS, b""),),
        shards=tuple(
            Shard(number, KEYSPACE, (MicroshardRange((number - 1) * PER_SHARD, number * PER_SHARD),), voters)
            for number in range(1, SHARDS + 1)
        ),
    )


def state_of(shard: int, voters: tuple[str, ...], generation: int) -> AppliedState:
    ranges = (MicroshardRange((shard - 1) * PER_SHARD, shard * PER_SHARD),)
    return AppliedState(ENTRIES, 1, 0, generation, Membership(1, voters), 0, ranges=ranges)


def put_rows(engine: Engine, state: AppliedState, shard: int, rows: Callable[[], bytes]) -> None:
    batch = engine.batch()
    for microshard, generation in state.generations(state.ranges).items():
        for number in range(ROWS):
            key = data_prefix(KEYSPACE, microshard, generation) + b"k%03d" % number
            batch.put(key, value_header(1) + rows(), engine.data)
        batch.put(expiry_prefix(KEYSPACE, microshard, generation) + bytes(8), b"", engine.data)
    batch.put(sessions_prefix(shard, state.generation) + bytes(18), b"slot", engine.data)
    batch.put(applied_state_key(shard), applied_state_row(state), engine.data)
    engine.write(batch)


def put_log(engine: Engine, shard: int) -> None:
    batch = engine.batch()
    store = GroupLogStore(engine, shard)
    store.save_hard_state(batch, HardState(1, ""))
    entries = []
    for index in range(1, ENTRIES + 1):
        payload = os.urandom(2000)
        entries.append(Entry(1, index, 0, payload, entry_checksum(shard, 1, index, 0, payload)))
    store.append(batch, entries)
    engine.write(batch)


def open_at(path: Path) -> RocksEngine:
    return RocksEngine(path, block_cache_bytes=MIB, write_buffer_bytes=64 * MIB)


def damage(path: Path, family: str) -> None:
    """Damage 128 bytes in the middle of the only table of a family."""
    open_at(path).close()
    least, most = SIZES[family]
    [table] = [file for file in path.glob("*.sst") if least < file.stat().st_size < most]
    with table.open("r+b") as file:
        file.seek(table.stat().st_size // 2)
        file.write(os.urandom(128))


@dataclass
class Database:
    """A node's, whose every replica was written once; and what was in each."""

    path: Path
    voters: tuple[str, ...]
    rows: dict[int, dict[bytes, bytes]]


def rows_of(engine: Engine, shard: int) -> dict[bytes, bytes]:
    state = load_applied_state(engine, shard)
    assert state is not None
    return {
        key: row
        for microshard, generation in state.generations(state.ranges).items()
        for make in (data_prefix, expiry_prefix)
        for key, row in engine.scan(
            engine.data, make(KEYSPACE, microshard, generation), prefix_end(make(KEYSPACE, microshard, generation))
        )
    }


def make_database(path: Path, voters: tuple[str, ...]) -> Database:
    engine = open_at(path)
    save_shard_map(engine, shard_map(voters))
    for shard in range(1, SHARDS + 1):
        put_rows(engine, state_of(shard, voters, shard), shard, lambda: os.urandom(200))
        put_log(engine, shard)
    rows = {shard: rows_of(engine, shard) for shard in range(1, SHARDS + 1)}
    engine.close()
    return Database(path, voters, rows)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return make_database(tmp_path, VOTERS)


def meet_damage(engine: RocksEngine) -> set[int]:
    """Read all rows, and return the shards that are damaged."""
    unreadable = set()
    for shard in range(1, SHARDS + 1):
        try:
            rows_of(engine, shard)
        except Damaged:
            unreadable.add(shard)
    return unreadable


def opened(database: Database) -> RocksEngine:
    """Open the data family's damaged table and have its damage met."""
    damage(database.path, "data")
    engine = open_at(database.path)
    assert meet_damage(engine)
    assert engine.damaged_families == ("data",)
    return engine


def check_whole(engine: RocksEngine, database: Database, failed: set[int]) -> None:
    """Everything that has not failed is there, nothing is damaged, and all is compacted."""
    assert engine.damaged_families == ()
    for shard, rows in database.rows.items():
        if shard in failed:
            failure = load_failure(engine, shard)
            assert failure is not None
            assert failure.kind is FailureKind.DAMAGED
        else:
            assert load_failure(engine, shard) is None
            assert rows_of(engine, shard) == rows
            assert list(engine.scan(engine.data, sessions_prefix(shard, shard), sessions_prefix(shard, shard + 1)))
        assert len(GroupLogStore(engine, shard).entries(1, ENTRIES + 1, 1 << 30)) == ENTRIES
    engine._by_name["data"].compact_range(None, None)
    engine._by_name["log"].compact_range(None, None)
    assert meet_damage(engine) == set()


def test_replicas_that_cannot_be_read_begin_as_failed_ones_and_all_others_are_as_they_were(database: Database) -> None:
    engine = opened(database)
    unreadable = meet_damage(engine)
    assert 0 < len(unreadable) <= 2, "whose rows are in the damaged block"
    engine.close()
    again = open_at(database.path)
    report = write_anew(again, "n1")
    assert report.failed.keys() == unreadable
    assert not report.reason
    assert all(failure.at_index == ENTRIES and not failure.log_lost_to for failure in report.failed.values())
    assert again.rewritten == ("data",)
    check_whole(again, database, unreadable)
    again.close()
    third = open_at(database.path)
    assert write_anew(third, "n1").failed == {}
    assert third.rewritten == ()
    check_whole(third, database, unreadable)


def test_rows_that_a_rebuilt_replica_has_deleted_do_not_keep_a_family_from_being_compacted(database: Database) -> None:
    engine = opened(database)
    unreadable = meet_damage(engine)
    for shard in unreadable:
        old = state_of(shard, VOTERS, shard)
        put_rows(engine, state_of(shard, VOTERS, SHARDS + shard), shard, lambda: b"rebuilt")
        batch = engine.batch()
        drop_rows(batch, engine, KEYSPACE, old.generations(old.ranges))
        drop_own_rows(batch, engine, shard, old.generation)
        engine.write(batch)
    engine.close()
    again = open_at(database.path)
    report = write_anew(again, "n1")
    # Who seeks its new rows may have to read the block of the old ones.
    assert report.failed.keys() <= unreadable
    for shard in unreadable - report.failed.keys():
        assert {row[9:] for row in rows_of(again, shard).values()} == {b"rebuilt", b""}
        database.rows[shard] = rows_of(again, shard)
        assert not list(again.scan(again.data, data_prefix(KEYSPACE, 0, shard), data_prefix(KEYSPACE, 0, shard + 1)))
    assert again.damaged_families == ()
    again._by_name["data"].compact_range(None, None)
    assert meet_damage(again) == set()
    for shard in database.rows.keys() - unreadable:
        assert rows_of(again, shard) == database.rows[shard]


def test_of_the_only_copy_nothing_is_left_behind(tmp_path: Path) -> None:
    database = make_database(tmp_path, ("n1",))
    engine = opened(database)
    readable = database.rows.keys() - meet_damage(engine)
    engine.close()
    again = open_at(tmp_path)
    report = write_anew(again, "n1")
    assert "only copy" in report.reason
    assert report.failed == {}
    assert again.damaged_families == ("data",)
    for shard in readable:
        assert rows_of(again, shard) == database.rows[shard]


def test_a_replica_that_the_shard_map_does_not_know_is_not_left_behind(database: Database) -> None:
    engine = opened(database)
    known = shard_map(VOTERS)
    save_shard_map(engine, msgspec.structs.replace(known, version=2, shards=known.shards[1:]))
    engine.close()
    again = open_at(database.path)
    assert "shard 1 is not on the shard map" in write_anew(again, "n1").reason
    assert rows_of(again, 1) == database.rows[1]


def test_a_replica_whose_applied_state_cannot_be_read_begins_anew(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(database)
    unreadable = meet_damage(engine)

    def load(engine: Engine, group: int) -> AppliedState | None:
        if group == 7:
            raise Damaged("data", "not to be read")
        return load_applied_state(engine, group)

    monkeypatch.setattr(rewriting, "load_applied_state", load)
    report = write_anew(engine, "n1")
    assert report.failed.keys() == unreadable | {7}
    assert report.failed[7].log_lost_to == ENTRIES
    assert load_lost_to(engine, 7) == ENTRIES
    assert not list(
        engine.scan(engine.data, data_prefix(KEYSPACE, 6 * PER_SHARD, 7), data_prefix(KEYSPACE, 6 * PER_SHARD, 8))
    )


def test_a_damaged_log_is_written_anew_too(database: Database) -> None:
    damage(database.path, "log")
    engine = open_at(database.path)
    unreadable = set()
    for shard in database.rows:
        try:
            GroupLogStore(engine, shard).entries(1, ENTRIES + 1, 1 << 30)
        except Damaged:
            unreadable.add(shard)
    assert unreadable
    assert engine.damaged_families == ("log",)
    engine.close()
    again = open_at(database.path)
    report = write_anew(again, "n1")
    assert report.failed.keys() == unreadable
    for shard, failure in report.failed.items():
        assert failure.log_lost_to >= ENTRIES
        assert load_lost_to(again, shard) == failure.log_lost_to
    assert again.damaged_families == ()
    again._by_name["log"].compact_range(None, None)
    for shard in database.rows.keys() - unreadable:
        assert len(GroupLogStore(again, shard).entries(1, ENTRIES + 1, 1 << 30)) == ENTRIES
        assert again.get(again.log, log_key(shard, ENTRIES)) is not None
    assert {shard: rows_of(again, shard) for shard in database.rows} == database.rows


def test_a_failure_that_is_known_stays(database: Database) -> None:
    engine = opened(database)
    (first, *_) = sorted(meet_damage(engine))
    batch = engine.batch()
    stored = ReplicaFailure(FailureKind.DAMAGED, "met before", ENTRIES)
    put_failure(batch, engine, first, stored)
    engine.write(batch)
    assert first not in write_anew(engine, "n1").failed
    assert load_failure(engine, first) == stored


CRASHING = """
import os, sys
from pathlib import Path
from shoal_server.storage.mending import DamagedFamilies
from shoal_server.storage.rewriting import write_anew
from shoal_server.storage.rocks import Rewriting, RocksEngine
path, owner, name, calls, before = sys.argv[1:]
owner, left = globals()[owner], [int(calls)]
real = getattr(owner, name)

def crash(*args):
    left[0] -= 1
    if left[0] or before == "after":
        done = real(*args)
        if left[0]:
            return done
    os._exit(7)

setattr(owner, name, crash)
write_anew(RocksEngine(Path(path), block_cache_bytes=1 << 20, write_buffer_bytes=1 << 20), "n1")
"""

STEPS = {
    "the copy has begun": ("Rewriting", "copy", 1, "before"),
    "half is copied": ("Rewriting", "copy", 1000, "before"),
    "all is copied": ("RocksEngine", "sync", 1, "before"),
    "failures are stored": ("RocksEngine", "sync", 1, "after"),
    "the copy is on disk": ("RocksEngine", "_replace_column", 1, "before"),
    "the old rows are gone": ("DamagedFamilies", "remove", 1, "before"),
    "it is noted": ("DamagedFamilies", "remove", 1, "after"),
}


@pytest.mark.parametrize("step", STEPS)
def test_wherever_the_process_ends_the_next_start_goes_on(step: str, database: Database) -> None:
    engine = opened(database)
    unreadable = meet_damage(engine)
    engine.close()
    arguments = [str(database.path), *map(str, STEPS[step])]
    ended = subprocess.run([sys.executable, "-c", CRASHING, *arguments], timeout=60, check=False)
    assert ended.returncode == 7
    again = open_at(database.path)
    write_anew(again, "n1")
    assert (again.rewritten == ("data",)) is (step != "it is noted")
    check_whole(again, database, unreadable)
