"""Checksums of replicas: equal wherever the rows are, by whatever slices they are read, and no others."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest
from shoal.errors import ErrorCode
from shoal.protocol.checksums import ChecksumCursor, ChecksumSlice, ReadChecksum
from shoal.protocol.messages import Delete, Failure, Put
from shoal.shardmap import MicroshardRange
from shoal_server.node.checksums import MAX_BYTES, MAX_ROWS
from shoal_server.storage.layout import value_header

if TYPE_CHECKING:
    from conftest import Nodes

SHARD = 1
EVERYWHERE = (MicroshardRange(0, 4),)
SETTLED_MS = 1000
KEYS = 40


def slices(nodes: Nodes, node: str, max_rows: int = MAX_ROWS) -> list[ChecksumSlice]:
    """Read one replica to its end."""
    found: list[ChecksumSlice] = []
    cursor: ChecksumCursor | None = ChecksumCursor()
    while cursor is not None:
        make = partial(ReadChecksum, shard=SHARD, ranges=EVERYWHERE, cursor=cursor, max_rows=max_rows)
        answer = nodes.ask_and_wait(node, make)
        assert isinstance(answer, ChecksumSlice)
        found.append(answer)
        cursor = answer.next
    return found


def told(nodes: Nodes, node: str, max_rows: int = MAX_ROWS) -> list[tuple[int, bytes, int, ChecksumCursor | None]]:
    """Return what slices say, without the numbers of the requests."""
    return [(each.index, each.digest, each.rows, each.next) for each in slices(nodes, node, max_rows)]


@pytest.fixture
def filled(nodes: Nodes) -> Nodes:
    """Nodes that have applied the same writes: plain ones, ones that expire, deletions."""
    operations = [Put(b"key-%d" % number, b"v%d" % number) for number in range(KEYS + 1)]
    nodes.answer(nodes.write(*operations))
    nodes.answer(nodes.write(Put(b"key-1", b"expires", 60_000), Delete(b"key-%d" % KEYS)))
    nodes.pass_time(SETTLED_MS)
    return nodes


@pytest.mark.parametrize("max_rows", [1, 3, MAX_ROWS])
def test_replicas_with_equal_rows_have_equal_slices(filled: Nodes, max_rows: int) -> None:
    leader, *others = [told(filled, node, max_rows) for node in filled.nodes]
    assert leader == others[0] == others[1]
    assert sum(rows for _, _, rows, _ in leader) == KEYS
    assert max(rows for _, _, rows, _ in leader) <= max_rows


def test_the_rows_generation_is_the_nodes_own_affair(filled: Nodes) -> None:
    replica = filled.replica("n2")
    assert replica.machine.state.generation == 1
    before = told(filled, "n2")
    replica.machine.state = msgspec.structs.replace(replica.machine.state, generation=2)
    assert told(filled, "n2") == before


@pytest.mark.parametrize("plant", ["missing", "additional", "value", "seq", "expiry"])
def test_one_row_that_differs_shows_in_its_slice(filled: Nodes, plant: str) -> None:
    engine, machine = filled.engines["n2"], filled.replica("n2").machine
    microshard = next(microshard for microshard in sorted(machine.prefixes) if _rows(filled, "n2", microshard))
    key, row = _rows(filled, "n2", microshard)[0]
    batch = engine.batch()
    if plant == "missing":
        batch.delete(key, engine.data)
    elif plant == "additional":
        batch.put(key + b"!", row, engine.data)
    elif plant == "value":
        batch.put(key, row + b"!", engine.data)
    elif plant == "seq":
        batch.put(key, value_header(1_000_000) + b"v", engine.data)
    else:
        batch.put(key, value_header(1, 2_000_000_000_000) + b"v", engine.data)
    engine.write_unlogged(batch)
    whole, others = told(filled, "n2"), told(filled, "n1")
    assert [one[1] for one in whole] != [other[1] for other in others]
    assert [each[0] for each in whole] == [each[0] for each in others]


def test_a_slice_is_bounded_in_rows_and_bytes(nodes: Nodes) -> None:
    nodes.answer(nodes.write(*(Put(b"large-%d" % number, b"v" * (MAX_BYTES // 4)) for number in range(24))))
    nodes.answer(nodes.write(*(Put(b"small-%d" % number, b"") for number in range(MAX_ROWS + 1))))
    found = slices(nodes, nodes.leader, max_rows=10 * MAX_ROWS)
    assert sum(each.rows for each in found) == MAX_ROWS + 25
    assert max(each.rows for each in found) <= MAX_ROWS
    assert len(found) >= 24 // 5


def test_a_node_without_the_replica_says_so(nodes: Nodes) -> None:
    answer = nodes.ask_and_wait("n1", lambda request: ReadChecksum(request, 99, EVERYWHERE, ChecksumCursor(), 1))
    assert isinstance(answer, Failure)
    assert answer.code == ErrorCode.INVALID_ARGUMENT
    assert "n1 has no replica of shard 99" in answer.message


def _rows(nodes: Nodes, node: str, microshard: int) -> list[tuple[bytes, bytes]]:
    engine, machine = nodes.engines[node], nodes.replica(node).machine
    prefix = machine.prefixes[microshard]
    return list(engine.scan(engine.data, prefix, prefix + b"\xff" * 9))
