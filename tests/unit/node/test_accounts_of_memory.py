"""What a node holds for others is taken from its accounts, refused where one is full, and given back: each of them."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from typing import Any, cast

import pytest
from shoal.errors import ErrorCode
from shoal.priorities import OverloadReason
from shoal.protocol.frames import FrameReader, encode_frame, encode_operations
from shoal.protocol.messages import (
    Atomic,
    Delete,
    Failure,
    Freshness,
    GetStatus,
    Hello,
    OpenSession,
    Operation,
    Put,
    Read,
    Rows,
    Scan,
    SessionOpened,
    TransferLeader,
    ValueEquals,
    Welcome,
    Write,
    Written,
)
from shoal.protocol.node_memory import MemoryUse
from shoal.shardmap import MicroshardRange, ShardMap
from shoal_server.node import reads, replica
from shoal_server.node.held_reads import HeldReads
from shoal_server.node.memory import LEAST_BYTES, Account, MemoryBudget
from shoal_server.node.outbox import Outbox
from shoal_server.node.replica import Replica
from shoal_server.node.replica_memory import GRAIN_BYTES, SESSIONS_LEAST
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.process.peer_links import PeerLinks
from shoal_server.raft.config import RaftConfig, Timing
from shoal_server.raft.liveness import Liveness
from shoal_server.raft.messages import AppendEntries, EntryKind, sealed
from shoal_server.shard.sessions import SESSION_BYTES

MIB = 1 << 20
SMALL = NodeSettings(memory_bytes=LEAST_BYTES)
STRONG = Freshness(True)


def memory_of(nodes: Any, name: str) -> MemoryBudget:
    memory: MemoryBudget = nodes.nodes[name].memory
    return memory


def refused(answer: object, reason: OverloadReason = OverloadReason.MEMORY) -> bool:
    return isinstance(answer, Failure) and (answer.code, answer.reason, answer.maybe_applied) == (
        ErrorCode.OVERLOADED,
        reason.value,
        False,
    )


DENSE: list[Operation] = [Delete(b"%02x" % (number % 256)) for number in range(3000)]


def test_what_is_decoded_of_an_entry_counts_until_it_is_applied(
    make_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries of small deletes that waited for a majority were booked at a fifteenth of what they took."""
    nodes = make_nodes(SMALL)
    nodes.answer(nodes.write(Put(b"key", b"value")))
    memory = memory_of(nodes, nodes.leader)
    for name in nodes.others:
        nodes.isolate(name)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    requests = [nodes.write(*DENSE) for _ in range(10)]
    for _ in range(3):
        nodes.step()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.7 * held < memory.used(Account.ENTRIES) < 2 * held
    with monkeypatch.context() as patched:
        patched.setattr(Replica, "apply", lambda *_: 0)
        nodes.heal()
        leadership = nodes.replica(nodes.leader).group.leadership
        nodes.until(lambda: not leadership.uncommitted_bytes)
        assert memory.used(Account.ENTRIES) > 0.6 * held
    assert all(isinstance(nodes.answer(request), Written) for request in requests)
    assert memory.used(Account.ENTRIES) == 0


def test_what_there_is_no_room_for_is_decoded_again_when_it_is_applied(make_nodes: Any) -> None:
    nodes = make_nodes(SMALL)
    nodes.answer(nodes.write(Put(b"00", b"value")))
    memory, proposals = memory_of(nodes, nodes.leader), nodes.replica(nodes.leader).proposals
    memory.squeeze(0.25)
    for name in nodes.others:
        nodes.isolate(name)
    requests = []
    while all(decoded for each in proposals.prepared.values() for decoded in each.operations):
        requests.append(nodes.write(*DENSE))
        nodes.step()
    assert memory.used(Account.ENTRIES) <= memory.bound(Account.ENTRIES)
    nodes.heal()
    assert all(isinstance(nodes.answer(request), Written) for request in requests)
    assert nodes.stored_keys(nodes.leader) == []
    assert memory.used(Account.ENTRIES) == 0


def test_entries_that_are_not_committed(make_nodes: Any) -> None:
    nodes = make_nodes(SMALL)
    nodes.answer(nodes.write(Put(b"key", b"value")))
    leader, others = nodes.leader, nodes.others
    memory = memory_of(nodes, leader)
    assert memory.used(Account.ENTRIES) == 0
    memory.squeeze(0.25)
    for name in others:
        nodes.isolate(name)
    bound = memory.bound(Account.ENTRIES)
    sent = []
    for number in range(2 * bound // MIB + 2):
        sent.append(nodes.write(Put(b"key-%d" % number, b"x" * MIB)))
        nodes.step()
        assert memory.used(Account.ENTRIES) <= bound
    assert memory.used(Account.ENTRIES) > bound - 2 * MIB
    turned_away = [number for number in sent if number in nodes.answers]
    assert turned_away
    assert all(refused(nodes.answer(number), OverloadReason.UNCOMMITTED) for number in turned_away)
    nodes.heal()
    assert all(isinstance(nodes.answer(number), Written) for number in sent if number not in turned_away)
    assert memory.used(Account.ENTRIES) == 0


def test_writes_that_wait_for_a_leadership_to_be_handed_over(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a second 2.8 GiB of them were held, and in no account."""
    monkeypatch.setattr(replica, "HELD_BYTES", MIB)
    leader, target = nodes.leader, nodes.others[0]
    memory = memory_of(nodes, leader)
    opened = nodes.ask_and_wait(leader, lambda request: OpenSession(request, 1))
    body = encode_operations([Put(b"key", b"x" * (MIB // 4))])

    def write(number: int) -> int:
        sent: int = nodes.ask(leader, lambda request: Write(request, 1, 1, opened.session, number, 5000, body))
        return sent

    nodes.ask(leader, lambda request: TransferLeader(request, 1, target, 5000))
    nodes.cut.add((leader, target))
    nodes.until(lambda: nodes.replica(leader).group.transferring)
    sent = [write(number + 1) for number in range(20)]
    held = []
    while nodes.replica(leader).group.transferring:
        held.append(memory.used(Account.ENTRIES))
        nodes.step()
    turned_away = [number for number in sent if number in nodes.answers]
    assert all(refused(nodes.answer(number), OverloadReason.UNCOMMITTED) for number in turned_away)
    assert turned_away
    assert MIB // 2 < max(held) <= MIB
    nodes.heal()
    assert all(isinstance(nodes.answer(number), Written) for number in sent if number not in turned_away)
    assert memory.used(Account.ENTRIES) == 0


def test_entries_of_a_leader_that_is_none_any_more(nodes: Any) -> None:
    nodes.answer(nodes.write(Put(b"key", b"value")))
    leader = nodes.leader
    nodes.isolate(leader)
    nodes.write(Put(b"key", b"o" * GRAIN_BYTES))
    nodes.step()
    assert memory_of(nodes, leader).used(Account.ENTRIES) > 0
    nodes.until(lambda: any(nodes.replica(name).group.is_leader for name in nodes.nodes if name != leader))
    nodes.heal()
    nodes.until(lambda: not nodes.replica(leader).group.is_leader)
    nodes.pass_time(20)
    assert memory_of(nodes, leader).used(Account.ENTRIES) == 0


def test_the_logs_cache(make_nodes: Any) -> None:
    nodes = make_nodes(NodeSettings(memory_bytes=LEAST_BYTES, raft=RaftConfig(cache_bytes=1 << 30)))
    for name in nodes.nodes:
        memory_of(nodes, name).squeeze(0.25)
    for number in range(12):
        nodes.answer(nodes.write(Put(b"key-%d" % number, b"x" * (MIB // 2))))
        nodes.pass_time(10)
        for name in nodes.nodes:
            memory = memory_of(nodes, name)
            held = nodes.replica(name).group.log.cached_bytes
            assert abs(memory.used(Account.LOG_CACHE) - held) < GRAIN_BYTES
            assert held <= memory.bound(Account.LOG_CACHE) + MIB
            if not number:
                assert held > MIB // 2
    assert isinstance(nodes.answer(nodes.read(nodes.leader, b"key-11", freshness=STRONG)), Rows)


def test_results_that_are_remembered(nodes: Any) -> None:
    operation = Atomic([ValueEquals(b"key", b"another")], [Put(b"key", b"x")])
    nodes.answer(nodes.write(Put(b"key", b"v" * 1000)))
    nodes.answer(nodes.write(operation))
    nodes.pass_time(20)
    for name in nodes.nodes:
        memory, replica = memory_of(nodes, name), nodes.replica(name)
        sessions = replica.machine.sessions
        assert memory.used(Account.RESULTS) == len(sessions) * SESSION_BYTES + sessions.results_bytes
        assert len(sessions) * sessions.results_bytes > 0
        nodes.nodes[name].replica_set.forget(1)
        assert memory.used(Account.RESULTS) == memory.used(Account.LOG_CACHE) == 0


def test_sessions_become_fewer_by_openings_where_a_node_remembers_too_much(nodes: Any) -> None:
    def opened(count: int) -> int:
        for _ in range(count):
            number = nodes.ask(nodes.leader, lambda request: OpenSession(request, 1))
            assert isinstance(nodes.answer(number), SessionOpened)
        nodes.pass_time(20)
        [sessions] = {len(nodes.replica(name).machine.sessions) for name in nodes.nodes}
        return int(sessions)

    before = opened(SESSIONS_LEAST + 20)
    memory = memory_of(nodes, nodes.leader)
    others = memory.bound(Account.RESULTS) - memory.used(Account.RESULTS) - SESSION_BYTES
    memory.add(Account.RESULTS, others)
    assert opened(1) == before + 1, "one more has room"
    assert opened(10) <= before + 1
    memory.add(Account.RESULTS, others)
    assert opened(10) == before - 9
    assert memory.refused[Account.RESULTS] >= 10
    assert opened(60) == SESSIONS_LEAST
    memory.give_back(Account.RESULTS, 2 * others)
    assert opened(5) == SESSIONS_LEAST + 5


@pytest.fixture
def transfer(make_nodes: Any) -> Callable[[], tuple[Any, str, str]]:
    def begin() -> tuple[Any, str, str]:
        """Return nodes of which the second is to get a snapshot of the first."""
        nodes = make_nodes(NodeSettings(log_retain_bytes=300, log_checkpoint_bytes=100, snapshot_chunk_bytes=500))
        behind, leader = nodes.others[0], nodes.leader
        nodes.isolate(behind)
        for number in range(60):
            nodes.answer(nodes.write(Put(b"key-%d" % number, b"x" * 100)))
        nodes.until(lambda: nodes.replica(leader).group.log.first_index > 20)
        return nodes, leader, behind

    return begin


def reconnect(nodes: Any, leader: str, behind: str) -> None:
    nodes.heal()
    nodes.nodes[leader].peer_connected(behind)


def test_snapshots_on_their_way(transfer: Callable[[], tuple[Any, str, str]]) -> None:
    nodes, leader, behind = transfer()
    reconnect(nodes, leader, behind)
    most = 0
    while not nodes.nodes[behind].counters.snapshots_adopted:
        nodes.step()
        most = max(most, memory_of(nodes, leader).used(Account.SNAPSHOTS))
    assert 300 <= most < 5000
    nodes.pass_time(50)
    assert memory_of(nodes, leader).used(Account.SNAPSHOTS) == memory_of(nodes, behind).used(Account.SNAPSHOTS) == 0


def test_a_snapshot_that_its_receiver_has_no_room_for_comes_later(transfer: Callable[[], tuple[Any, str, str]]) -> None:
    nodes, leader, behind = transfer()
    memory = memory_of(nodes, behind)
    bound = memory.bound(Account.SNAPSHOTS)
    assert memory.take(Account.SNAPSHOTS, bound)
    reconnect(nodes, leader, behind)
    nodes.until(lambda: nodes.nodes[leader].counters.snapshots_failed > 0, 20_000)
    assert not nodes.nodes[behind].counters.snapshots_adopted
    assert memory.refused[Account.SNAPSHOTS]
    assert memory.used(Account.SNAPSHOTS) == bound
    memory.give_back(Account.SNAPSHOTS, bound)
    nodes.until(lambda: nodes.nodes[behind].counters.snapshots_adopted > 0, 20_000)


def test_a_snapshot_that_its_sender_has_no_room_for_is_sent_later(
    transfer: Callable[[], tuple[Any, str, str]],
) -> None:
    nodes, leader, behind = transfer()
    memory = memory_of(nodes, leader)
    bound = memory.bound(Account.SNAPSHOTS)
    assert memory.take(Account.SNAPSHOTS, bound)
    reconnect(nodes, leader, behind)
    nodes.pass_time(500)
    assert nodes.nodes[leader].counters.snapshots_started == 0
    memory.give_back(Account.SNAPSHOTS, bound)
    nodes.until(lambda: nodes.nodes[behind].counters.snapshots_adopted > 0, 20_000)


def test_answers_that_are_being_made(make_nodes: Any) -> None:
    nodes = make_nodes(NodeSettings(page_piece_us=40))
    nodes.answer(nodes.write(*(Put(b"key-%03d" % number, b"x" * 100) for number in range(100))))
    leader = nodes.leader
    memory = memory_of(nodes, leader)

    def scan(number: int) -> Scan:
        return Scan(number, 1, 1, 0, (MicroshardRange(0, 4),), b"", b"", False, False, 1000)

    number = nodes.ask(leader, scan)
    nodes.until(lambda: memory.used(Account.ANSWERS) > 1000)
    nodes.answer(number)
    assert memory.used(Account.ANSWERS) == 0
    nodes.ask(leader, scan)
    nodes.until(lambda: memory.used(Account.ANSWERS) > 1000)
    nodes.nodes[leader].client_gone(1)
    assert memory.used(Account.ANSWERS) == 0


def test_reads_whose_answers_there_is_no_memory_for(nodes: Any) -> None:
    nodes.answer(nodes.write(Put(b"key", b"value")))
    leader = nodes.leader
    memory = memory_of(nodes, leader)
    bound = memory.bound(Account.ANSWERS)
    assert memory.take(Account.ANSWERS, bound)
    assert refused(nodes.ask_and_wait(leader, lambda number: Read(number, 1, 1, 0, [b"key"])))
    assert memory.refused[Account.ANSWERS]
    assert isinstance(nodes.answer(nodes.write(Put(b"key", b"value"))), Written)
    memory.give_back(Account.ANSWERS, bound)
    assert isinstance(nodes.ask_and_wait(leader, lambda number: Read(number, 1, 1, 0, [b"key"])), Rows)


# -- peers


class SlowPeer(asyncio.Protocol):
    """Welcomes whoever connects, and then reads nothing."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._reader.feed(data) and self._transport is not None:
            shard_map = ShardMap(1, "c", (), (), ())
            self._transport.write(encode_frame([Welcome(1, "c", "n2", "i", MIB, 4096, MIB, MIB, shard_map)]))
            self._transport.pause_reading()


async def test_what_peers_have_not_taken_yet() -> None:
    loop = asyncio.get_running_loop()
    memory = MemoryBudget(LEAST_BYTES)
    memory.squeeze(0.25)
    server = await loop.create_server(SlowPeer, "127.0.0.1", 0)
    connected, lost = asyncio.Event(), asyncio.Event()
    identity = NodeIdentity("c", "n1", "i", 1)
    links = PeerLinks(
        lambda: Hello("peer", 1, 1, "c", "n1", "i"),
        max_frame_bytes=8 * MIB,
        check=lambda _peer, _welcome: "",
        connected=lambda _: connected.set(),
        lost=lambda _: lost.set(),
        failed=lambda _: None,
        liveness=Liveness(identity.node, identity.epoch, Timing(), 1, 0),
        clock=lambda: int(loop.time() * 1e9),
        support_ns=60 * 10**9,
        memory=memory,
    )
    links.update({"n2": f"127.0.0.1:{server.sockets[0].getsockname()[1]}"})
    async with asyncio.timeout(10):
        await connected.wait()
        entry = sealed(1, 1, 2, EntryKind.COMMAND, b"x" * MIB)
        while not memory.refused[Account.PEERS]:
            links.send({"n2": [AppendEntries(1, 1, 1, 1, 0, [entry], 1)]})
            if not memory.refused[Account.PEERS]:
                assert memory.used(Account.PEERS) == links.unsent_bytes()["n2"] <= memory.bound(Account.PEERS)
            await asyncio.sleep(0)
        assert memory.used(Account.PEERS) == 0
        await lost.wait()
    await links.close()
    server.close()


def test_a_nodes_status_has_its_accounts(nodes: Any) -> None:
    leader = nodes.leader
    assert memory_of(nodes, leader).take(Account.FRAMES, 700)
    status = nodes.ask_and_wait(leader, GetStatus)
    uses = {use.account: use for use in status.memory}
    assert set(uses) == {account.label for account in Account}
    assert uses["frames"] == MemoryUse("frames", 700, memory_of(nodes, leader).bound(Account.FRAMES), 0)


LARGE_KEYS = [b"%04d" % number + bytes(1000) for number in range(1000)]


def test_reads_that_wait_for_a_lease_are_booked_until_they_are_answered(make_nodes: Any) -> None:
    nodes = make_nodes(SMALL)
    leader = nodes.leader
    memory, group = memory_of(nodes, leader), nodes.replica(leader).group
    nodes.isolate(leader)
    nodes.until(lambda: group.read_index(nodes.now) is None)
    assert group.is_leader
    before = memory.used(Account.REQUESTS)
    asked = [nodes.read(leader, *LARGE_KEYS, freshness=STRONG) for _ in range(5)]
    nodes.pass_time(3)
    assert not nodes.answers.keys() & set(asked)
    assert memory.used(Account.REQUESTS) > before + 5 * MIB * 9 // 10
    while not memory.is_full(Account.REQUESTS):
        asked.append(nodes.read(leader, *LARGE_KEYS, freshness=STRONG))
        nodes.step()
    refused = 1 << 20
    nodes.nodes[leader].receive_client(1, [Read(refused, 1, 1, 1000, LARGE_KEYS)], MIB)
    nodes.step()
    [answer] = nodes.answers[refused]
    assert isinstance(answer, Failure)
    assert answer.reason == OverloadReason.MEMORY
    nodes.heal()
    for request in asked:
        nodes.answer(request)
    assert memory.used(Account.REQUESTS) == before


def test_weak_reads_that_wait_for_a_replica_to_be_fresh_are_booked_until_they_are_answered(nodes: Any) -> None:
    name = nodes.others[0]
    memory = memory_of(nodes, name)
    before = memory.used(Account.REQUESTS)
    asked = nodes.read(name, *LARGE_KEYS, freshness=Freshness(strong=False, min_seq=1 << 60))
    nodes.step()
    held = memory.used(Account.REQUESTS) - before
    assert held > MIB * 9 // 10
    nodes.step()
    assert memory.used(Account.REQUESTS) - before == held
    assert isinstance(nodes.answer(asked), Failure)
    assert memory.used(Account.REQUESTS) == before


def test_reads_that_wait_at_a_replica_that_goes_are_booked_no_more(nodes: Any) -> None:
    leader, name = nodes.leader, nodes.others[0]
    nodes.read(name, *LARGE_KEYS, freshness=Freshness(strong=False, min_seq=1 << 60))
    nodes.step()
    nodes.isolate(leader)
    nodes.until(lambda: nodes.replica(leader).group.read_index(nodes.now) is None)
    nodes.read(leader, *LARGE_KEYS, freshness=STRONG)
    nodes.read(name, *LARGE_KEYS, freshness=Freshness(strong=False, min_seq=1 << 60))
    nodes.step()
    for each in (leader, name):
        assert memory_of(nodes, each).used(Account.REQUESTS) > 0
        nodes.replica(each).reads.fail_all(Outbox(1))
        assert memory_of(nodes, each).used(Account.REQUESTS) == 0


def test_a_read_that_is_served_at_once_books_nothing(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes.answer(nodes.write(Put(b"k", b"v")))
    monkeypatch.delattr(HeldReads, "hold")
    assert isinstance(nodes.answer(nodes.read(nodes.leader, b"k", freshness=STRONG)), Rows)


def test_reads_that_a_turn_has_no_time_for_are_booked_again(make_nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = make_nodes(SMALL)
    leader = nodes.leader
    monkeypatch.setattr(reads, "SERVE_NS", -(1 << 40))
    memory = memory_of(nodes, leader)
    request = nodes.read(leader, *LARGE_KEYS, freshness=STRONG)
    nodes.step()
    assert memory.used(Account.REQUESTS) > MIB * 9 // 10
    monkeypatch.undo()
    nodes.answer(request)
    assert memory.used(Account.REQUESTS) == 0
