"""An engine that is read where an unwritten batch has changed something refuses, and so finds who would."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from shoal.map_changes import with_members
from shoal.protocol.messages import DropReplica, InstallShardMap, Put
from shoal_server.invariants import InvariantViolated
from shoal_server.node.administration import Administration
from shoal_server.node.snapshot_transfers import SnapshotTransfers
from shoal_server.storage.engine import Batch
from shoal_server.storage.watched import UNWRITTEN, WatchedEngine


def test_what_a_batch_has_changed_is_not_read_before_it_is_written() -> None:
    engine = WatchedEngine()
    data, meta = engine.data, engine.meta
    batch = engine.batch()
    assert engine.get(data, b"b") is None, "it has changed nothing yet"
    batch.put(b"b", b"1", data)
    batch.delete_range(b"m", b"p", data)
    for read in (
        lambda: engine.get(data, b"b"),
        lambda: engine.get_many(data, [b"a", b"n"]),
        lambda: engine.scan(data, b"a", b"c"),
        lambda: engine.reader(data).read(b"o", b"z", 10, 10, reverse=True),
        lambda: engine.reader(data).read(b"a", b"z", 10, 10),
    ):
        with pytest.raises(InvariantViolated, match=UNWRITTEN):
            read()
    assert engine.get(data, b"a") is engine.get(meta, b"b") is None
    assert list(engine.scan(data, b"p", b"z")) == list(engine.scan(data, b"c", b"m")) == []
    engine.write(batch)
    assert list(engine.scan(data, b"", b"z")) == [(b"b", b"1")]
    assert engine.reader(data).read(b"", b"z", 10, 10).rows == [(b"b", b"1")]


def test_what_was_read_from_before_a_batch_was_begun_is_not_what_it_changes() -> None:
    engine = WatchedEngine()
    reader = engine.reader(engine.data)
    batch = engine.batch()
    batch.put(b"b", b"1", engine.data)
    assert reader.read(b"", b"z", 10, 10).rows == []
    engine.write(batch)
    assert reader.read(b"", b"z", 10, 10).rows == []


def test_a_batch_that_nobody_will_write_holds_nobody_up() -> None:
    engine = WatchedEngine()
    batch = engine.batch()
    batch.put(b"b", b"1", engine.data)
    del batch
    assert engine.get(engine.data, b"b") is None


def drops_wait_for_the_turns_batch(patch: pytest.MonkeyPatch) -> None:
    """What a dropped replica had is deleted when the turn's own batch is written."""
    waiting: list[tuple[WatchedEngine, Batch]] = []
    drop, store = Administration._drop, SnapshotTransfers.store

    def _drop(self: Administration, request: DropReplica) -> str:
        engine = self._engine
        assert isinstance(engine, WatchedEngine)
        with pytest.MonkeyPatch.context() as held:
            held.setattr(engine, "write", lambda batch: waiting.append((engine, batch)))
            return drop(self, request)

    def stored(self: SnapshotTransfers, batch: Batch, now: int) -> Any:
        for engine, held in waiting:
            engine.write(held)
        waiting.clear()
        return store(self, batch, now)

    patch.setattr(Administration, "_drop", _drop)
    patch.setattr(SnapshotTransfers, "store", stored)


def test_a_replica_opened_on_rows_that_the_same_turn_deletes_is_found(
    nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.answer(nodes.write(Put(b"k", b"v")))
    drops_wait_for_the_turns_batch(monkeypatch)
    victim, other = nodes.others
    [shard] = nodes.shard_map.shards
    gone = with_members(shard, (nodes.leader, other), (), 2)
    back = replace(gone, followers=(victim,), membership_version=3)
    without, again = (replace(nodes.shard_map, version=2 + n, shards=(each,)) for n, each in enumerate((gone, back)))
    nodes.ask_and_wait(victim, lambda request: InstallShardMap(request, without, []))
    nodes.ask(victim, lambda request: DropReplica(request, 1))
    nodes.ask(victim, lambda request: InstallShardMap(request, again, []))
    with pytest.raises(InvariantViolated, match=UNWRITTEN):
        nodes.step()
