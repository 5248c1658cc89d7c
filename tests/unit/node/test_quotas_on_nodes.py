"""Quotas where they bind: a node refuses what is beyond its share of a keyspace's, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from shoal.bounds import WHOLE
from shoal.errors import ErrorCode
from shoal.priorities import OverloadReason
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    Atomic,
    Delete,
    DeleteRange,
    Done,
    Failure,
    Freshness,
    GetStatus,
    Increment,
    InstallShardMap,
    OpenSession,
    Operation,
    Page,
    Put,
    Read,
    ReadPage,
    Rows,
    Scan,
    ScanPage,
    SessionOpened,
    StatusReply,
    Touch,
    TransferLeader,
    Write,
    Written,
)
from shoal.protocol.quotas import QuotaShare, SetQuotaShares
from shoal.shardmap import Keyspace, MicroshardRange, Shard, all_of
from shoal_server.node import replica
from shoal_server.node.keyspace_quota import KeyspaceQuota
from shoal_server.node.request_costs import page_reads
from shoal_server.shard.work import Work

SECOND = 1_000_000_000
STRONG = Freshness()
ALL = (MicroshardRange(0, 4),)


def install(nodes: Any, **quotas: int) -> None:
    """Give the keyspace quotas, on all nodes."""
    shard_map = nodes.shard_map
    [keyspace] = shard_map.keyspaces
    nodes.shard_map = replace(shard_map, version=shard_map.version + 1, keyspaces=(replace(keyspace, **quotas),))
    for name in nodes.nodes:
        asked = nodes.ask_and_wait(name, lambda request: InstallShardMap(request, nodes.shard_map))
        assert isinstance(asked, Done)


def deal(
    nodes: Any,
    name: str,
    reads: int = WHOLE,
    writes: int = WHOLE,
    *,
    full: bool = False,
    epoch: int = 1,
    number: int = 1,
) -> Any:
    share = QuotaShare(1, reads, writes, full)
    return nodes.ask_and_wait(name, lambda request: SetQuotaShares(request, epoch, number, (share,)))


def use(nodes: Any, name: str) -> Any:
    status = nodes.ask_and_wait(name, GetStatus)
    assert isinstance(status, StatusReply)
    [found] = status.quotas
    return found


def assert_refused(answer: Any, *words: str, only_adding: bool = False) -> None:
    assert isinstance(answer, Failure)
    assert (answer.code, answer.reason) == (ErrorCode.OVERLOADED.value, OverloadReason.QUOTA.value)
    assert answer.retry_after_ms > 0
    assert not answer.maybe_applied
    assert answer.only_adding is only_adding
    assert all(word in answer.message for word in words), answer.message


def test_without_quotas_there_is_nothing_to_ask(nodes: Any) -> None:
    leader = nodes.leader
    assert nodes.replica(leader).reads.quota is None
    assert nodes.ask_and_wait(leader, GetStatus).quotas == ()
    assert isinstance(deal(nodes, leader), Done), "shares of what there is not are passed over"
    install(nodes, reads_per_second=5)
    assert nodes.replica(leader).reads.quota is not None
    install(nodes, reads_per_second=0)
    assert nodes.replica(leader).reads.quota is None


@pytest.mark.parametrize("weak", [False, True])
def test_reads_of_all_kinds_count(nodes: Any, weak: bool) -> None:
    leader = nodes.leader
    nodes.answer(nodes.write(*(Put(b"k%d" % number, b"v") for number in range(50))))
    install(nodes, reads_per_second=30)
    deal(nodes, leader)
    name = nodes.others[0] if weak else leader
    deal(nodes, name)
    nodes.pass_time(1000)
    freshness = Freshness(strong=False) if weak else STRONG

    def read(keys: int) -> Any:
        return nodes.answer(nodes.read(name, *(b"k%d" % number for number in range(keys)), freshness=freshness))

    def scan(rows: int) -> Any:
        return nodes.ask_and_wait(
            name,
            lambda request: Scan(
                request, 1, 1, 1000, ALL, b"", b"", reverse=False, keys_only=True, max_rows=rows, freshness=freshness
            ),
        )

    def page(rows: int) -> Any:
        return nodes.ask_and_wait(leader, lambda request: ReadPage(request, 1, 1, 1000, ALL, b"", rows))

    # 21 of 30 leave something, which lets one more request through, however large that is: 12 rows are then owed.
    for ask, kind in ((read, Rows), (scan, ScanPage), *(() if weak else ((page, Page),))):
        assert isinstance(ask(21), kind)
        assert isinstance(ask(21), kind)
        assert_refused(ask(1), "30 reads a second", f"are node {leader if ask is page else name}'s now")
        nodes.pass_time(300)
        assert_refused(ask(1))
        nodes.pass_time(2400)
    assert isinstance(nodes.answer(nodes.write(Put(b"x", b"v"))), Written), "writes have no quota here"


def test_a_read_that_is_answered_in_part_is_paid_for_in_part(nodes: Any) -> None:
    leader = nodes.leader
    for number in range(4):
        nodes.answer(nodes.write(Put(b"k%d" % number, bytes(900_000))))
    install(nodes, reads_per_second=1000)
    deal(nodes, leader)
    answer = nodes.answer(nodes.read(leader, *(b"k%d" % number for number in range(4)), freshness=STRONG))
    assert isinstance(answer, Rows)
    assert len(answer.values) < 4
    assert use(nodes, leader).asked_reads == len(answer.values)


def test_operations_of_writes_count_and_those_within_others_too(nodes: Any) -> None:
    leader = nodes.leader
    install(nodes, writes_per_second=10)
    deal(nodes, leader)
    nodes.pass_time(1000)
    many = Atomic([], [Put(b"a%d" % number, b"v") for number in range(14)])
    opened = use(nodes, leader).asked_writes
    assert isinstance(nodes.answer(nodes.write(many)), Written)
    assert use(nodes, leader).asked_writes in (opened + 14, opened + 15)  # the session, if it had to be opened
    refused = nodes.answer(nodes.write(Put(b"x", b"v"), Delete(b"y")))
    assert_refused(refused, "10 writes a second")
    assert use(nodes, leader).refused == 1
    assert isinstance(nodes.answer(nodes.read(leader, b"a0", freshness=STRONG)), Rows), "reads have no quota here"
    nodes.pass_time(refused.retry_after_ms)
    assert isinstance(nodes.answer(nodes.write(Put(b"x", b"v"))), Written)


def test_sessions_are_writes(nodes: Any) -> None:
    leader = nodes.leader
    install(nodes, writes_per_second=10)
    answers = [nodes.ask_and_wait(leader, lambda request: OpenSession(request, 1)) for _ in range(30)]
    assert sum(isinstance(answer, SessionOpened) for answer in answers) < 10
    assert_refused(answers[-1], "3.3 are node")


def test_what_is_refused_was_not_decoded(nodes: Any) -> None:
    leader = nodes.leader
    install(nodes, writes_per_second=1)
    nodes.answer(nodes.write(Put(b"k", b"v")))
    garbage, session = msgspec.msgpack.encode([1, 2, 3]), b"s" * 16
    answer = nodes.ask_and_wait(leader, lambda request: Write(request, 1, 1, session, 1, 1000, garbage))
    assert_refused(answer)


ADD_NOTHING: list[Operation] = [
    Delete(b"k"),
    Touch(b"k", 5000),
    DeleteRange(ALL, b"", b""),
    Atomic([], [Delete(b"k"), Touch(b"k")]),
]


@pytest.mark.parametrize("operation", ADD_NOTHING, ids=lambda each: type(each).__name__)
def test_a_full_keyspace_takes_what_adds_nothing(nodes: Any, operation: Operation) -> None:
    nodes.answer(nodes.write(Put(b"k", b"v")))
    install(nodes, max_bytes=1)
    deal(nodes, nodes.leader, full=True)
    for adding in (Put(b"k", b"v"), Increment(b"n"), Atomic([], [Put(b"k", b"v")])):
        refused = nodes.answer(nodes.write(operation, adding))
        assert_refused(refused, "quota of 1 bytes", "deletes are not", only_adding=True)
    assert isinstance(nodes.answer(nodes.write(operation)), Written)
    assert isinstance(nodes.answer(nodes.read(nodes.leader, b"k", freshness=STRONG)), Rows)
    deal(nodes, nodes.leader, full=False)
    assert isinstance(nodes.answer(nodes.write(Put(b"k", b"v"))), Written)


def test_a_write_that_was_done_before_the_keyspace_was_full_is_answered_again(nodes: Any) -> None:
    nodes.answer(nodes.write(Put(b"k", b"v"), number=1))
    done = nodes.answer(nodes.write(Increment(b"n", 5), number=2))
    install(nodes, max_bytes=1)
    deal(nodes, nodes.leader, full=True)
    again = nodes.answer(nodes.write(Increment(b"n", 5), number=2))
    assert isinstance(again, Written)
    assert (again.seq, again.results) == (done.seq, done.results)
    assert_refused(nodes.answer(nodes.write(Increment(b"n", 5), number=3)), only_adding=True)


def test_shares_of_a_manager_that_was_deposed_are_refused(nodes: Any) -> None:
    leader = nodes.leader
    install(nodes, reads_per_second=9)
    deal(nodes, leader, 500_000, 500_000, epoch=7)
    late = deal(nodes, leader, WHOLE, WHOLE, epoch=6)
    assert isinstance(late, Failure)
    assert "number 1 of leadership 6, came after 1 of 7" in late.message
    deal(nodes, leader, 500_000, 500_000, epoch=7, number=5)
    assert isinstance(deal(nodes, leader, epoch=7, number=4), Failure)
    assert isinstance(deal(nodes, leader, 500_000, 500_000, epoch=7, number=5), Done), "the same again"
    assert use(nodes, leader).reads == 500_000
    assert nodes.ask_and_wait(leader, GetStatus).quota_epoch == 7
    # Managers that begin anew count from 1; what comes so much later is no late message.
    nodes.pass_time(10_000)
    assert isinstance(deal(nodes, leader, 400_000, 400_000, epoch=1), Done)
    assert use(nodes, leader).reads == 400_000


def test_replicas_that_come_later_have_the_quotas_of_their_keyspace(make_nodes: Any) -> None:
    shards = (Shard(1, 1, (MicroshardRange(0, 2),), ("n1", "n2", "n3")),)
    rest = Shard(2, 1, (MicroshardRange(2, 4),), ("n1", "n2"))
    nodes = make_nodes(shards=(*shards, rest))
    install(nodes, reads_per_second=100, writes_per_second=100)
    assert use(nodes, "n3").reads == WHOLE // 3
    assert use(nodes, "n3").writes == WHOLE // 3
    other = Shard(3, 2, all_of(Keyspace(2, "other", 1, b"")), ("n1", "n2"))
    before = nodes.shard_map
    keyspaces = (*before.keyspaces, Keyspace(2, "other", 1, b"", writes_per_second=7))
    after = replace(before, version=before.version + 1, keyspaces=keyspaces, shards=(*before.shards, other))
    for name in nodes.nodes:
        assert isinstance(nodes.ask_and_wait(name, lambda request: InstallShardMap(request, after, [3])), Done)
    node = nodes.nodes["n1"]
    quota = node.replicas[3].reads.quota
    assert quota is not None
    assert quota is not node.replicas[1].reads.quota
    assert quota.write_share == WHOLE // 2
    assert node.replicas[1].reads.quota is node.replicas[2].reads.quota
    assert 3 not in nodes.nodes["n3"].replicas
    assert [each.keyspace for each in nodes.nodes["n3"].quotas.uses(nodes.now)] == [1, 2]


def test_a_read_that_a_replica_declines_is_not_paid_for(nodes: Any) -> None:
    name = nodes.others[0]
    install(nodes, reads_per_second=1000)
    nodes.isolate(name)
    nodes.pass_time(3000)
    request = nodes.ask(
        name, lambda number: Read(number, 1, 1, 1000, [b"k"] * 40, Freshness(strong=False, max_staleness_ms=10))
    )
    answer = nodes.answer(request)
    assert isinstance(answer, Failure)
    assert answer.code == ErrorCode.TOO_STALE
    assert use(nodes, name).asked_reads == 0


class Tally:
    """What the quotas of all nodes have taken of reads and writes, together, less what they gave back."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.reads = self.writes = 0
        admit, charge = KeyspaceQuota.admit, KeyspaceQuota.charge

        def admitted(quota: KeyspaceQuota, reads: int, writes: int, now: int) -> Any:
            refusal = admit(quota, reads, writes, now)
            if refusal is None:
                self.note(reads, writes)
            return refusal

        def charged(quota: KeyspaceQuota, reads: int = 0, writes: int = 0) -> None:
            charge(quota, reads, writes)
            self.note(reads, writes)

        patch.setattr(KeyspaceQuota, "admit", admitted)
        patch.setattr(KeyspaceQuota, "charge", charged)

    def note(self, reads: int, writes: int) -> None:
        self.reads += reads
        self.writes += writes


NEVER = Freshness(strong=False, min_seq=1 << 60)


@pytest.mark.parametrize("keys", [[], [b"k"], [b"k"] * 40])
def test_a_read_that_is_declined_gives_back_what_it_took(
    nodes: Any, monkeypatch: pytest.MonkeyPatch, keys: list[bytes]
) -> None:
    name = nodes.others[0]
    install(nodes, reads_per_second=1000)
    tally = Tally(monkeypatch)
    answer = nodes.answer(nodes.read(name, *keys, freshness=NEVER))
    assert isinstance(answer, Failure)
    assert answer.code == ErrorCode.TOO_STALE
    assert tally.reads == 0


def test_a_read_of_no_keys_is_one(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    leader = nodes.leader
    install(nodes, reads_per_second=1000)
    tally = Tally(monkeypatch)
    assert isinstance(nodes.answer(nodes.read(leader, freshness=STRONG)), Rows)
    assert tally.reads == 1


def test_what_was_taken_of_no_quota_is_not_given_back_to_one(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    leader, name = nodes.leader, nodes.others[0]
    nodes.answer(nodes.write(Put(b"k", b"v")))
    tally = Tally(monkeypatch)
    declined = nodes.read(name, b"k", freshness=NEVER)
    waiting = nodes.replica(leader)
    # It waits for the end of a transfer, and is refused when that has come.
    nodes.ask(leader, lambda request: TransferLeader(request, 1, name, 5_000))
    nodes.until(lambda: waiting.group.transferring)
    refused = nodes.ask(
        leader, lambda request: Write(request, 1, 1, nodes._session, 1 << 20, 0, encode_operations([Put(b"k", b"w")]))
    )
    nodes.nodes[leader].turn(nodes.now, nodes.wall_ms)
    for node in nodes.nodes.values():
        [keyspace] = nodes.shard_map.keyspaces
        quota = KeyspaceQuota("n", keyspace, nodes.now)
        node.replicas[1].reads.quota = quota
    assert isinstance(nodes.answer(declined), Failure)
    assert isinstance(nodes.answer(refused), Failure)
    assert (tally.reads, tally.writes) == (0, 0)


def ask_scan(nodes: Any, name: str, start: bytes = b"", rows: int = 4096) -> Any:
    return nodes.ask_and_wait(name, lambda request: Scan(request, 1, 1, 1000, ALL, start, b"", False, True, rows))


def ask_page(nodes: Any, name: str, after: bytes = b"", rows: int = 4096) -> Any:
    return nodes.ask_and_wait(name, lambda request: ReadPage(request, 1, 1, 1000, ALL, after, rows))


@pytest.mark.parametrize(("ask", "kind"), [(ask_scan, ScanPage), (ask_page, Page)])
def test_pages_count_the_rows_that_they_come_past_and_one_at_the_least(
    nodes: Any, monkeypatch: pytest.MonkeyPatch, ask: Any, kind: type[Any]
) -> None:
    monkeypatch.setattr(replica, "due_upkeep", lambda *_: None)
    leader = nodes.leader
    install(nodes, reads_per_second=1000)
    tally = Tally(monkeypatch)
    empty = ask(nodes, leader)
    assert (type(empty), empty.keys, tally.reads) == (kind, [], 1)
    nodes.answer(nodes.write(*(Put(b"k%03d" % number, b"v", ttl_ms=1) for number in range(100))))
    nodes.answer(nodes.write(*(Put(b"l%03d" % number, b"v") for number in range(5))))
    nodes.pass_time(10)
    tally.reads = 0
    found = ask(nodes, leader)
    assert len(found.keys) == 5
    assert tally.reads == 105, "with those that have expired, and are not purged yet"


def test_removed_rows_that_are_passed_over_count_less() -> None:
    assert [page_reads(0, 0), page_reads(0, 7), page_reads(0, 8), page_reads(10, 25)] == [1, 1, 1, 13]
    assert Work(passed=1000).us < 1000 * Work(rows=1).us
