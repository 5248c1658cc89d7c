"""The managers' rows: formats, atomic writes, and the fence that keeps a deposed manager from writing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import shoal
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.process.joining import JOINS, JoinRequest
from shoal_shardmanager.control.controller import adopted
from shoal_shardmanager.control.rows import (
    CountersRow,
    Drain,
    NodeRow,
    NodeState,
    OperationRow,
    State,
    Step,
    UnreadableRow,
    decode_row,
    encode_row,
)
from shoal_shardmanager.control.state import ClusterState, ForgetOperation, changed
from shoal_shardmanager.process.store import Deposed, Store

MAP = ShardMap(
    3,
    "c",
    (NodeAddress("n1", "h:1", "eu", "a"),),
    (Keyspace(1, "default", 4, b"/"),),
    (Shard(1, 1, (MicroshardRange(0, 4),), ("n1",)),),
)
DRAIN = OperationRow(1, Drain("n1"), State.RUNNING, Step.WORK, 5, 5)


def first_rows() -> ClusterState:
    return changed(ClusterState(ShardMap(0, "c", (), (), ())), adopted(MAP, {}, 7, {}))


async def test_what_was_written_is_what_the_next_manager_loads(tmp_path: Path) -> None:
    async with shoal.AsyncClient(f"embedded://{tmp_path}/db?microshards=1") as client:
        store = Store(client, "m1")
        assert await store.take_over() == 1
        assert await store.load() is None
        await store.write(adopted(MAP, {}, 7, {}))
        await store.write([CountersRow(2, 2, 2), DRAIN])
        other = Store(client, "m2")
        assert await other.take_over() == 2
        assert await other.load() == changed(first_rows(), [CountersRow(2, 2, 2), DRAIN])


async def test_a_deposed_manager_writes_nothing_more(tmp_path: Path) -> None:
    async with shoal.AsyncClient(f"embedded://{tmp_path}/db?microshards=1") as client:
        first, second = Store(client, "m1"), Store(client, "m2")
        await first.take_over()
        await first.write(adopted(MAP, {}, 7, {}))
        await first.check()
        await second.take_over()
        with pytest.raises(Deposed):
            await first.check()
        with pytest.raises(Deposed):
            await first.write([CountersRow(9, 9, 9)])
        assert await second.load() == first_rows()
        leader = await second.leader()
        assert leader is not None
        assert leader.manager == "m2"


async def test_rows_are_deleted_and_the_last_of_several_counts(tmp_path: Path) -> None:
    async with shoal.AsyncClient(f"embedded://{tmp_path}/db?microshards=1") as client:
        store = Store(client, "m1")
        await store.take_over()
        await store.write([*adopted(MAP, {}, 7, {}), CountersRow(2, 2, 2), DRAIN])
        ended = msgspec.structs.replace(DRAIN, state=State.DONE, ended_ms=9)
        await store.write([ended, ForgetOperation(1), CountersRow(3, 2, 2), CountersRow(4, 2, 2)])
        found = await store.load()
        assert found is not None
        assert not found.operations
        assert found.counters.next_operation == 4


async def test_what_cannot_be_read_of_nodes_that_join_is_told_apart(tmp_path: Path) -> None:
    async with shoal.AsyncClient(f"embedded://{tmp_path}/db?microshards=1") as client:
        store = Store(client, "m1")
        request = JoinRequest("c", "n4", "h:4", "eu", "a", "i")
        await client.put(JOINS + "n4", msgspec.msgpack.encode(request))
        await client.put(JOINS + "n5", b"\xff")
        assert await store.joins() == [("joins/n4", request), ("joins/n5", None)]
        await store.forget_join("joins/n4")
        assert [key for key, _ in await store.joins()] == ["joins/n5"]


def test_a_row_of_another_format_is_refused() -> None:
    row = NodeRow("n1", "h:1", "eu", "a", NodeState.ACTIVE, 1)
    encoded = encode_row(row)
    assert decode_row("nodes/n1", encoded, NodeRow) == row
    with pytest.raises(UnreadableRow, match="format 02"):
        decode_row("nodes/n1", b"\x02" + encoded[1:], NodeRow)
    with pytest.raises(UnreadableRow, match="cannot be read"):
        decode_row("nodes/n1", encoded[:-3], NodeRow)


def test_fields_that_a_newer_manager_has_added_are_passed_over() -> None:
    encoded = b"\x01" + msgspec.msgpack.encode(
        {"id": "n1", "address": "h:1", "region": "", "zone": "", "state": "gone", "since_ms": 1, "colour": "red"}
    )
    assert decode_row("nodes/n1", encoded, NodeRow).state is NodeState.GONE
