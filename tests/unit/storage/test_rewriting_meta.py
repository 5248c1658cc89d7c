"""A meta family with a damaged table: the replicas fail of which a row was in the damaged block, and it is written anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.raft.messages import HardState
from shoal_server.storage.damaged_meta import LOADERS, set_right
from shoal_server.storage.engine import Damaged
from shoal_server.storage.folder import load_shard_map, save_peer_incarnation, save_shard_map
from shoal_server.storage.generations import next_generation
from shoal_server.storage.layout import (
    LogStart,
    dropped_key,
    encode_hard_state,
    encode_log_start,
    hard_state_key,
    load_hard_state,
    load_log_start,
    log_start_key,
)
from shoal_server.storage.replica_failure import FailureKind, load_failure
from shoal_server.storage.replica_rows import ReplicaOrigin, load_origin, put_origin
from shoal_server.storage.rewriting import write_anew
from shoal_server.storage.rocks import RocksEngine

MIB = 1 << 20
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
        batch.put(hard_state_key(shard), encode_hard_state(HardState(3, vote(shard))), engine.meta)
        batch.put(log_start_key(shard), encode_log_start(LogStart(shard, 2)), engine.meta)
        put_origin(batch, engine, shard, ReplicaOrigin(True, shard))
    engine.write(batch)
    engine.close()
    open_at(tmp_path).close()
    return tmp_path


def damage(path: Path, text: bytes) -> None:
    """Change some bytes of the block in which `text` is."""
    [table] = [file for file in path.glob("*.sst") if text in file.read_bytes()]
    with table.open("r+b") as file:
        file.seek(file.read().index(text))
        file.write(os.urandom(len(text)))


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


def check_whole(engine: RocksEngine, failed: set[int]) -> None:
    for shard in range(1, SHARDS + 1):
        failure = load_failure(engine, shard)
        if shard in failed:
            assert failure is not None
            assert failure.kind is FailureKind.DAMAGED
            assert "replica's term and vote cannot be read" in failure.reason
            assert load_hard_state(engine, shard).term > 1 << 17
        else:
            assert failure is None
            assert load_hard_state(engine, shard) == HardState(3, vote(shard))
        assert load_log_start(engine, shard) == LogStart(shard, 2)
        assert load_origin(engine, shard) == ReplicaOrigin(True, shard)
    assert load_shard_map(engine) == MAP
    assert next_generation(engine) > 1


@pytest.mark.parametrize("opened_between", [True, False], ids=["as a node does", "at once"])
def test_rows_that_cannot_be_read_fail_their_replicas_and_all_others_are_as_they_were(
    path: Path, opened_between: bool
) -> None:
    damage(path, vote(450).encode())
    engine = open_at(path)
    failed = unreadable(engine)
    assert 450 in failed
    assert len(failed) < SHARDS / 2, "whose rows are in the damaged block"
    assert engine.damaged_families == ("meta",)
    if opened_between:
        assert {shard.id for shard in MAP.shards if set_right(engine, "n1", shard) is not None} == failed
        assert unreadable(engine) == set()
        check_whole(engine, failed)
    engine.close()
    again = open_at(path)
    report = write_anew(again, "n1")
    assert report.failed.keys() == (set() if opened_between else failed)
    assert not report.reason
    assert again.rewritten == ("meta",)
    assert again.damaged_families == ()
    check_whole(again, failed)
    again._by_name["meta"].compact_range(None, None)
    again.close()
    third = open_at(path)
    assert write_anew(third, "n1").failed == {}
    check_whole(third, failed)


def test_what_is_remembered_of_shards_that_are_not_on_the_map_stays_where_it_can_be_read(path: Path) -> None:
    engine = open_at(path)
    batch = engine.batch()
    batch.put(dropped_key(7000), b"remembered", engine.meta)
    engine.write(batch)
    engine.close()
    damage(path, vote(450).encode())
    engine = open_at(path)
    unreadable(engine)
    engine.close()
    again = open_at(path)
    write_anew(again, "n1")
    assert again.get(again.meta, dropped_key(7000)) == b"remembered"


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
