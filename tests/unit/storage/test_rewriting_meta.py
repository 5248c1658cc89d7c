"""A meta family with a damaged table: the replicas fail of which a row was in the damaged block, and it is written anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.raft.messages import HardState
from shoal_server.storage.damaged_meta import LOADERS, set_right
from shoal_server.storage.dropped_replicas import (
    STORED_TWICE,
    DroppedReplica,
    has_never_had,
    is_remembered,
    load_dropped,
    put_dropped,
)
from shoal_server.storage.engine import Damaged
from shoal_server.storage.generations import next_generation
from shoal_server.storage.layout import (
    LogStart,
    encode_log_start,
    hard_state_key,
    load_log_start,
    log_start_key,
)
from shoal_server.storage.node_rows import load_shard_map, save_peer_incarnation, save_shard_map
from shoal_server.storage.promises import EVERY_SHARD, has_forgotten, load_hard_state, put_hard_state
from shoal_server.storage.replica_failure import FailureKind, load_failure
from shoal_server.storage.replica_rows import ReplicaOrigin, load_origin, put_origin
from shoal_server.storage.rewriting import write_anew
from shoal_server.storage.rocks import RocksEngine
from shoal_server.storage.twice import COPIES

MIB = 1 << 20
LENGTHS_BYTES = 3
"""Before the first key of a table: of what it shares with the one before, of it, and of its value."""
SHARDS = 900
NODES = ("n1", "n2", "n3")
MAP = ShardMap(
    version=1,
    cluster="test",
    nodes=tuple(NodeAddress(node, "127.0.0.1:1") for node in NODES),
    keyspaces=(Keyspace(1, "default", 1024, b""),),
    shards=tuple(Shard(number, 1, (MicroshardRange(number - 1, number),), NODES) for number in range(1, SHARDS + 1)),
)


def open_at(path: Path) -> RocksEngine:
    return RocksEngine(path, block_cache_bytes=MIB, write_buffer_bytes=MIB)


def vote(shard: int) -> str:
    return f"vote-{shard:05d}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database whose meta family has rows of many replicas in one table."""
    engine = open_at(tmp_path)
    save_shard_map(engine, MAP)
    next_generation(engine)
    save_peer_incarnation(engine, "n2", "incarnation")
    batch = engine.batch()
    for shard in range(1, SHARDS + 1):
        put_hard_state(batch, engine, shard, HardState(3, vote(shard)))
        batch.put(log_start_key(shard), encode_log_start(LogStart(shard, 2)), engine.meta)
        put_origin(batch, engine, shard, ReplicaOrigin(True, shard))
    engine.write(batch)
    engine.close()
    open_at(tmp_path).close()
    return tmp_path


def damage(path: Path, text: bytes, family: str = "meta") -> None:
    """Change some bytes of the block in which `text` is."""
    [table] = [file for file in path.glob("*.sst") if text in file.read_bytes() and is_of(file, family)]
    with table.open("r+b") as file:
        file.seek(file.read().index(text))
        file.write(os.urandom(len(text)))


def is_of(table: Path, family: str) -> bool:
    """Say whether a table is of a family: the copies in that of the log begin with the first of all keys."""
    first = table.read_bytes()[LENGTHS_BYTES:]
    return first.startswith(COPIES) == (family == "log")


def unreadable(engine: RocksEngine) -> set[int]:
    """Return the shards of which a row cannot be read."""
    found = set()
    for shard in range(1, SHARDS + 1):
        for load in LOADERS.values():
            try:
                load(engine, shard)
            except Damaged:
                found.add(shard)
    return found


def check_whole(engine: RocksEngine, forgotten: set[int]) -> None:
    for shard in range(1, SHARDS + 1):
        failure = load_failure(engine, shard)
        assert has_forgotten(engine, shard) == (shard in forgotten)
        if shard in forgotten:
            assert failure is not None
            assert failure.kind is FailureKind.DAMAGED
            assert "replica's term and vote cannot be read" in failure.reason
            assert load_hard_state(engine, shard) == HardState(0, "")
        else:
            assert failure is None
            assert load_hard_state(engine, shard) == HardState(3, vote(shard))
        assert load_log_start(engine, shard) == LogStart(shard, 2)
        assert load_origin(engine, shard) == ReplicaOrigin(True, shard)
    assert load_shard_map(engine) == MAP
    assert next_generation(engine) > 1


@pytest.mark.parametrize("family", ["meta", "log"])
def test_no_replica_fails_for_one_copy_of_what_it_has_promised_and_both_are_written_anew(
    path: Path, family: str
) -> None:
    damage(path, vote(450).encode(), family)
    engine = open_at(path)
    key = hard_state_key(450)
    with pytest.raises(Damaged):
        engine.get(*((engine.meta, key) if family == "meta" else (engine.log, COPIES + key)))
    assert unreadable(engine) == set()
    assert engine.damaged_families == (family,)
    engine.close()
    again = open_at(path)
    report = write_anew(again, "n1")
    assert (report.failed, report.reason) == ({}, "")
    assert again.rewritten == (family,)
    check_whole(again, set())
    for shard in range(1, SHARDS + 1):
        key = hard_state_key(shard)
        assert again.get(again.meta, key) == again.get(again.log, COPIES + key) is not None
    again._by_name[family].compact_range(None, None)
    again.close()
    third = open_at(path)
    assert third.damaged_families == ()
    check_whole(third, set())


@pytest.mark.parametrize("opened_between", [True, False], ids=["as a node does", "at once"])
def test_of_which_no_copy_can_be_read_those_replicas_fail_and_all_others_are_as_they_were(
    path: Path, opened_between: bool
) -> None:
    damage(path, vote(450).encode(), "meta")
    damage(path, vote(450).encode(), "log")
    engine = open_at(path)
    failed = unreadable(engine)
    assert 450 in failed
    assert len(failed) < SHARDS / 2, "whose rows are in the damaged blocks"
    assert engine.damaged_families == ("log", "meta")
    if opened_between:
        assert {shard.id for shard in MAP.shards if set_right(engine, shard) is not None} == failed
        assert unreadable(engine) == set()
        check_whole(engine, failed)
    engine.close()
    again = open_at(path)
    report = write_anew(again, "n1")
    assert report.failed.keys() == (set() if opened_between else failed)
    assert not report.reason
    assert set(again.rewritten) == {"log", "meta"}
    assert again.damaged_families == ()
    check_whole(again, failed)
    again._by_name["meta"].compact_range(None, None)
    again.close()
    third = open_at(path)
    assert write_anew(third, "n1").failed == {}
    check_whole(third, failed)


DROPPED_SHARDS = range(7000, 7800)
"""They are not on the map."""


@pytest.fixture
def dropped(path: Path) -> Path:
    """The database, with what many replicas had promised that were dropped."""
    engine = open_at(path)
    batch = engine.batch()
    for shard in DROPPED_SHARDS:
        put_dropped(batch, engine, shard, of_dropped(shard))
    engine.write(batch)
    engine.close()
    open_at(path).close()
    return path


def of_dropped(shard: int) -> DroppedReplica:
    return DroppedReplica(5, f"dropped-vote-{shard}", 77)


def meet_damage(path: Path) -> None:
    """Meet all there is, as a node would that opened."""
    engine = open_at(path)
    for rows in STORED_TWICE:
        rows.stored_groups(engine)
    engine.close()


@pytest.mark.parametrize("family", ["meta", "log"])
def test_what_dropped_replicas_had_promised_stays_where_one_copy_can_be_read(dropped: Path, family: str) -> None:
    for number in (7300, 7600):
        damage(dropped, of_dropped(number).vote.encode(), family)
    meet_damage(dropped)
    again = open_at(dropped)
    assert again.damaged_families == (family,)
    assert write_anew(again, "n1").failed == {}
    assert again.rewritten == (family,)
    for shard in DROPPED_SHARDS:
        assert load_dropped(again, shard) == of_dropped(shard)
    assert not has_forgotten(again, EVERY_SHARD)


def test_where_no_copy_can_be_read_the_node_knows_that_it_has_forgotten_and_what_is_behind_stays(dropped: Path) -> None:
    for family in ("meta", "log"):
        damage(dropped, of_dropped(7200).vote.encode(), family)
    meet_damage(dropped)
    again = open_at(dropped)
    assert write_anew(again, "n1").failed == {}
    known = {shard for shard in DROPPED_SHARDS if load_dropped(again, shard) == of_dropped(shard)}
    assert {7000, 7799} <= known
    assert 7200 not in known
    again.close()
    third = open_at(dropped)
    assert has_forgotten(third, EVERY_SHARD)
    assert not has_never_had(third, 7200)
    assert not has_never_had(third, 99_999), "nobody knows what else was forgotten"
    assert is_remembered(third, 7200), "and so it founds nothing"


def test_a_node_whose_own_rows_cannot_be_read_leaves_everything_as_it_is(path: Path) -> None:
    damage(path, b"incarnation")
    engine = open_at(path)
    with pytest.raises(Damaged):
        engine.get(engine.meta, b"pn2")
    engine.close()
    again = open_at(path)
    with pytest.raises(Damaged, match="the incarnation that a peer was first met with cannot be read"):
        write_anew(again, "n1")
    assert again.damaged_families == ("meta",)
