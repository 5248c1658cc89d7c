"""One stored row of one replica is changed: its replica fails and is rebuilt, or serves what is there; its node goes on."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace
from shoal.protocol.checksums import ChecksumCursor, ReadChecksum
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    Freshness,
    GetStatus,
    Increment,
    OpenSession,
    Put,
    Read,
    ReadPage,
    Scan,
    TransferLeader,
    Write,
    Written,
)
from shoal.protocol.migration import BeginOutgoing, MigrationCursor, ReadMoving
from shoal.shardmap import Keyspace, MicroshardRange, Shard
from shoal_server.node.core import Node
from shoal_server.node.outbox import peer_decoder
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.raft.messages import SnapshotHeader
from shoal_server.storage.applied_state import load_applied_state
from shoal_server.storage.journal import journal_prefix
from shoal_server.storage.layout import (
    applied_state_key,
    data_prefix,
    expiry_prefix,
    log_key,
    prefix_end,
    sessions_prefix,
    value_header,
)
from shoal_server.storage.log_store import LAST_INDEX
from shoal_server.storage.session_rows import encode_session_slot
from shoal_server.storage.snapshot import SnapshotChunk, SnapshotRow, chunk_checksum

NODES = ("n1", "n2", "n3")
KEYSPACE = Keyspace(1, "default", 4, b"/")
FIRST, SECOND = MicroshardRange(0, 2), MicroshardRange(2, 4)
SHARDS = (Shard(1, 1, (FIRST,), NODES), Shard(2, 1, (SECOND,), NODES))
KEYS = [key for number in range(40) if KEYSPACE.microshard_of(key := b"k%03d" % number) < FIRST.end]
OTHER = next(key for number in range(40) if KEYSPACE.microshard_of(key := b"k%03d" % number) >= FIRST.end)
MOVING = (MicroshardRange(0, 1),)
MIGRATION = 7
ANY = Freshness(strong=False)
TTL_MS = 60_000


@pytest.fixture
def filled(make_nodes: Any) -> Any:
    """Three nodes with two shards, of which the first has rows, sessions with results, an expiry index and a journal."""
    nodes = make_nodes(NodeSettings(snapshot_chunk_bytes=300), SHARDS)
    for shard in SHARDS:
        nodes.until(lambda shard=shard: bool(leading(nodes, shard.id)))
    asked = nodes.ask(leading(nodes, 1), lambda request: BeginOutgoing(request, 1, MIGRATION, 2, MOVING))
    nodes.answer(asked)
    for place, key in enumerate(KEYS):
        assert isinstance(nodes.answer(nodes.write(Put(key, b"value", TTL_MS if place % 2 else 0))), Written)
    assert isinstance(nodes.answer(nodes.write(Increment(KEYS[0] + b"n", 1))), Written)
    write_beside(nodes)
    nodes.pass_time(100)
    return nodes


def leading(nodes: Any, shard: int) -> str:
    """The node that leads a shard, once there is one: who was well again may just be given it."""

    def leaders() -> list[str]:
        found = nodes.nodes.items()
        return [name for name, node in found if node.replicas[shard].group.read_index(nodes.now) is not None]

    nodes.until(lambda: bool(leaders()), 20_000)
    return leaders()[0]


def write_beside(nodes: Any) -> None:
    """Write in the other shard."""
    nodes.until(lambda: bool(leading(nodes, 2)), 20_000)
    opened = nodes.ask_and_wait(leading(nodes, 2), lambda request: OpenSession(request, 2))
    body = encode_operations([Put(OTHER, b"value")])
    answer = nodes.ask_and_wait(leading(nodes, 2), lambda request: Write(request, 2, 1, opened.session, 1, 1000, body))
    assert isinstance(answer, Written)


def restart(nodes: Any, name: str) -> None:
    """Begin the next life of a node, on what it has stored."""
    epoch = nodes.nodes[name].identity.epoch + 1
    identity = NodeIdentity("test", name, f"{name}-1", epoch)
    node = Node(identity, nodes.shard_map, nodes.engines[name], nodes.settings, Random(epoch), nodes.now)
    nodes.nodes[name] = node
    for other in nodes.nodes:
        if other != name:
            node.peer_connected(other)
            nodes.nodes[other].peer_lost(name)
            nodes.nodes[other].peer_connected(name)


def places(nodes: Any, name: str) -> dict[str, tuple[str, bytes, bytes]]:
    """Return where the rows of each kind lie: family, start, end."""
    state = nodes.nodes[name].replicas[1].machine.state
    generation = state.generation
    ranges = {
        "row": (data_prefix(1, 1, generation), None),
        "expiry index": (expiry_prefix(1, 1, generation), None),
        "session": (sessions_prefix(1, generation), None),
        "journal": (journal_prefix(1, generation), None),
        "applied state": (applied_state_key(1), applied_state_key(1) + b"\0"),
    }
    found = {kind: ("data", start, end or prefix_end(start)) for kind, (start, end) in ranges.items()}
    return found | {"log": ("log", log_key(1, 0), log_key(1, LAST_INDEX))}


KINDS = ("row", "expiry index", "session", "journal", "applied state", "log")
Change = Callable[[bytes, bytes], dict[bytes, bytes | None]]


def flipped(row: bytes, at: int, bit: int) -> bytes:
    at = min(at, len(row) - 1)
    return row[:at] + bytes((row[at] ^ bit,)) + row[at + 1 :] if row else row


CHANGES: dict[str, Change] = {
    "emptied": lambda key, _: {key: b""},
    "cut": lambda key, row: {key: row[: len(row) // 2]},
    "cut to a byte": lambda key, row: {key: row[:1]},
    "extended": lambda key, row: {key: row + b"\xff" * 70},
    "deleted": lambda key, _: {key: None},
    "first bit": lambda key, row: {key: flipped(row, 0, 0x40)},
    "flag": lambda key, row: {key: flipped(row, 0, 1)},
    "second byte": lambda key, row: {key: flipped(row, 1, 0x80)},
    "middle": lambda key, row: {key: flipped(row, len(row) // 2, 0x10)},
    "last byte": lambda key, row: {key: flipped(row, len(row) - 1, 1)},
    "key cut": lambda key, row: {key: None, key[:13]: row},
    "key extended": lambda key, row: {key: None, key + b"\xff" * 3: row},
    "key's number": lambda key, row: {key: None, flipped(key, 12, 0x80): row},
}


def change_rows(nodes: Any, name: str, kind: str, change: Change, picked: int) -> None:
    family, start, end = places(nodes, name)[kind]
    table = nodes.engines[name].tables[family]
    found = table.scan(start, end)
    assert found, "there are such rows"
    for key, row in change(*found[picked % len(found)]).items():
        if row is None:
            table.delete(key)
        else:
            table.put(key, row)


def use_all(nodes: Any, name: str) -> None:
    """Have everything read that a replica may be asked for: as one that follows, and as the leader."""
    for _ in range(2):
        requests = [
            *(lambda request, key=key: Read(request, 1, 1, 1000, [key], ANY) for key in KEYS),
            lambda request: Scan(request, 1, 1, 1000, (FIRST,), b"", b"", False, False, 4096, freshness=ANY),
            lambda request: Scan(request, 1, 1, 1000, (FIRST,), b"", b"", True, True, 4096, freshness=ANY),
            lambda request: ReadPage(request, 1, 1, 1000, (FIRST,), b"", 4096),
            lambda request: ReadChecksum(request, 1, (FIRST,), ChecksumCursor(), 4096),
            lambda request: ReadMoving(request, 1, MIGRATION, MigrationCursor(), 1 << 20),
            lambda request: ReadMoving(request, 1, MIGRATION, MigrationCursor(0, True), 1 << 20),
        ]
        for asked in [nodes.ask(name, make) for make in requests]:
            nodes.answer(asked)
        at = leading(nodes, 1)
        if at and at != name:
            nodes.ask_and_wait(at, lambda request: TransferLeader(request, 1, name, 1000))


def write_over(nodes: Any) -> None:
    for key in KEYS[:1]:
        opened = nodes.ask_and_wait(leading(nodes, 1), lambda request: OpenSession(request, 1))
        body = encode_operations([Put(key, b"1"), Increment(key, 1)])
        nodes.ask_and_wait(
            leading(nodes, 1), lambda request, o=opened, b=body: Write(request, 1, 1, o.session, 1, 1000, b)
        )


@pytest.mark.parametrize("when", ["at a start", "while it runs"])
@pytest.mark.parametrize("way", list(CHANGES))
@pytest.mark.parametrize("kind", KINDS)
def test_one_changed_row_fails_a_replica_at_the_most_and_that_one_is_rebuilt(
    filled: Any, kind: str, way: str, when: str
) -> None:
    nodes = filled
    leader = leading(nodes, 1)
    victim = next(name for name in NODES if name != leader)
    change_rows(nodes, victim, kind, CHANGES[way], len(way))
    if when == "at a start":
        restart(nodes, victim)
        assert nodes.nodes[victim].replicas[2].failure is None
    nodes.pass_time(100)
    use_all(nodes, victim)
    nodes.wall_ms += 2 * TTL_MS
    write_over(nodes)
    write_beside(nodes)
    assert nodes.nodes[victim].replicas[2].failure is None
    nodes.until(lambda: all(node.replicas[1].failure is None for node in nodes.nodes.values()), 30_000)
    write_over(nodes)
    replicas = {name: node.replicas[1] for name, node in nodes.nodes.items()}
    nodes.until(lambda: len({each.machine.state.index for each in replicas.values()}) == 1)
    assert load_applied_state(nodes.engines[victim], 1, 4) is not None
    assert nodes.ask_and_wait(victim, GetStatus)


# -- rows of snapshots


BAD_ROWS: dict[str, SnapshotRow] = {
    "no format": ("d", 0, b"key", b""),
    "cut": ("d", 0, b"key", value_header(1)[:5]),
    "late seq": ("d", 0, b"key", value_header((1 << 62) + 1)),
    "long key": ("d", 0, b"k" * 70_000, value_header(1)),
    "another microshard": ("d", 4, b"key", value_header(1)),
    "index key": ("x", 0, b"key", b""),
    "index row": ("x", 0, bytes(7) + b"\x01key", b"more"),
    "index of never": ("x", 0, bytes(8) + b"key", b""),
    "session key": ("s", 0, b"key", b"row"),
    "session slot alone": ("s", 0, b"s" * 16 + b"\0\x02", encode_session_slot(1, 1, 1)),
    "session slot cut": ("s", 0, b"s" * 16 + b"\0\x02", b"\x10"),
    "session opening cut": ("s", 0, b"s" * 16 + b"\0\0", b"\x10"),
    "session of a microshard": ("s", 1, b"s" * 16 + b"\0\0", b"\x10"),
    "journal": ("j", 0, b"key", b""),
    "journal of what stays": ("j", 0, bytes(7) + b"\x01" + b"\x01" + bytes(4) + b"key", b""),
}


@pytest.mark.parametrize("way", list(BAD_ROWS))
def test_a_snapshot_with_a_row_that_cannot_be_read_is_refused(make_nodes: Any, way: str) -> None:
    nodes = make_nodes()
    nodes.answer(nodes.write(Put(b"key", b"value")))
    leader, (victim, _) = nodes.leader, nodes.others
    node, replica = nodes.nodes[victim], nodes.replica(victim)
    take(nodes, leader, victim, rows=[BAD_ROWS[way]])
    assert (node.counters.snapshots_adopted, node.counters.snapshots_refused) == (0, 1)
    assert not node._transfers.takes(1)
    [problem] = acks(nodes, victim)
    assert problem
    state = replica.machine.state
    restart(nodes, victim)
    again = nodes.replica(victim)
    assert (again.failure, again.machine.state) == (None, state)


@pytest.mark.parametrize("way", ["no voters", "far microshards", "later membership"])
def test_a_snapshot_of_a_state_that_cannot_be_is_refused(make_nodes: Any, way: str) -> None:
    nodes = make_nodes()
    nodes.answer(nodes.write(Put(b"key", b"value")))
    leader, (victim, _) = nodes.leader, nodes.others
    node = nodes.nodes[victim]
    membership = nodes.replica(leader).machine.state.membership
    changes: dict[str, dict[str, Any]] = {
        "no voters": {"membership": replace(membership, voters=())},
        "far microshards": {"ranges": (MicroshardRange(0, 5),)},
        "later membership": {"membership_index": 1 << 40},
    }
    take(nodes, leader, victim, **changes[way])
    assert (node.counters.snapshots_adopted, node.counters.snapshots_refused) == (0, 1)
    assert acks(nodes, victim)[0]


def test_a_whole_snapshot_is_adopted(make_nodes: Any) -> None:
    nodes = make_nodes()
    nodes.answer(nodes.write(Put(b"key", b"value")))
    leader, (victim, _) = nodes.leader, nodes.others
    take(nodes, leader, victim, rows=[("d", 0, b"key", value_header(1))])
    assert nodes.nodes[victim].counters.snapshots_adopted == 1


def take(nodes: Any, leader: str, victim: str, **changes: Any) -> None:
    """Have a node take a snapshot of one chunk, as its leader might send it, with changes and the right checksum."""
    group, state = nodes.replica(leader).group, nodes.replica(leader).machine.state
    chunk = SnapshotChunk(
        header=SnapshotHeader(1, group.term, state.index + 10, group.term, 1),
        transfer=1,
        number=0,
        checksum=0,
        rows=[],
        last=True,
        seq_base=0,
        membership=state.membership,
        membership_index=state.membership_index,
        clock_ms=0,
        ranges=state.ranges,
    )
    chunk = replace(chunk, **changes)
    chunk = replace(chunk, checksum=chunk_checksum(chunk))
    nodes.nodes[victim].receive_peer(leader, peer_decoder.decode(nodes.encoded([chunk])))
    nodes.frames.clear()
    nodes.step()


def acks(nodes: Any, victim: str) -> list[str]:
    messages = [each for frame in nodes.frames if frame[0] == victim for each in peer_decoder.decode(frame[2])]
    return [each.problem for each in messages if type(each).__name__ == "SnapshotAck"]
