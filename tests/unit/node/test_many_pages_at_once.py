"""However many ask for pages that take many turns each: pages are answered, and little is done in vain."""

from __future__ import annotations

from typing import Any

import pytest
from shoal.protocol.messages import Failure, Put, Scan, ScanPage
from shoal.shardmap import MicroshardRange
from shoal_server.node.memory import Account
from shoal_server.node.paused_reads import HELD_NS, OPEN_AT_FIRST, OPEN_OF_NODE, SOON_NS, OpenReads, PausedRead
from shoal_server.node.settings import NodeSettings
from shoal_server.node.waiting import QueuedRead
from shoal_server.shard.merging import HEADS, MergedScan, ScannedPage
from shoal_server.shard.work import SEEK_US

from . import conftest

MS = 1_000_000
MICROSHARDS = 4096
PIECES = 16
"""In so many a page looks for what comes first in its microshards."""
FIRST_CLIENT = 100


class Busy:
    """A leader with a shard of very many microshards, on which each turn lasts long and has time for one piece of a page."""

    def __init__(self, make_nodes: Any, patch: pytest.MonkeyPatch, turn_ms: int) -> None:
        piece_us = MICROSHARDS // PIECES * SEEK_US
        nodes = make_nodes(NodeSettings(page_piece_us=piece_us, memory_bytes=1 << 30), microshards=MICROSHARDS)
        self.nodes = nodes
        self.node = nodes.nodes[nodes.leader]
        nodes.answer(nodes.write(*(Put(b"key%d" % number, b"value") for number in range(20))))
        patch.setattr(conftest, "STEP", turn_ms * MS)
        self.scans: list[MergedScan] = []
        init = MergedScan.__init__

        def begin(scan: MergedScan, *args: Any, **kinds: Any) -> None:
            self.scans.append(scan)
            init(scan, *args, **kinds)

        patch.setattr(MergedScan, "__init__", begin)

    def scan(self, client: int, microshards: int = MICROSHARDS, timeout_ms: int = 0) -> None:
        """Have a client, a caller of its own, ask for a page."""
        if client not in self.node._client_input.queue.clients:
            self.node.client_connected(client, b"", "interactive", f"10.0.0.{client}")
        ranges = (MicroshardRange(0, microshards),)
        self.node.receive_client(
            client, [Scan(10_000 + client, 1, 1, timeout_ms, ranges, b"", b"", False, False, 5)], 40
        )

    def answered(self, *clients: int) -> int:
        found = [answers[0] for client in clients if (answers := self.nodes.answers.get(10_000 + client))]
        assert not any(isinstance(answer, Failure) for answer in found)
        return sum(isinstance(answer, ScanPage) and answer.resume is not None for answer in found)

    @property
    def open_reads(self) -> OpenReads:
        return self.node._client_input.queue.open_reads

    @property
    def work_us(self) -> int:
        return sum(scan.work.us for scan in self.scans)


@pytest.mark.parametrize(("clients", "turn_ms"), [(24, 10), (24, 40), (70, 10)])
def test_all_are_answered_and_hardly_anything_is_done_twice(
    make_nodes: Any, monkeypatch: pytest.MonkeyPatch, clients: int, turn_ms: int
) -> None:
    busy = Busy(make_nodes, monkeypatch, turn_ms)
    busy.scan(FIRST_CLIENT)
    asked = range(FIRST_CLIENT + 1, FIRST_CLIENT + 1 + clients)
    while not busy.answered(FIRST_CLIENT):
        busy.nodes.step()
    alone = busy.work_us
    for client in asked:
        busy.scan(client)
    answered = turns = since = 0
    while answered < clients:
        busy.nodes.step()
        turns, since = turns + 1, since + 1
        if busy.answered(*asked) > answered:
            answered, since = busy.answered(*asked), 0
        assert since <= clients + OPEN_AT_FIRST * (PIECES + 2), "of those that are open one is answered"
    # Each has its first piece, and some have had more when they are found to be too many.
    assert busy.work_us - alone <= 1.5 * clients * alone
    assert turns <= 1.5 * clients * (PIECES + 2)


def test_where_all_want_them_in_time_some_have_them(make_nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Busy(make_nodes, monkeypatch, turn_ms=10)
    asked = range(FIRST_CLIENT, FIRST_CLIENT + 60)
    for client in asked:
        busy.scan(client, timeout_ms=4_000)
    for _ in range(390):
        busy.nodes.step()
    assert busy.answered(*asked) >= OPEN_AT_FIRST


def test_a_short_page_waits_for_none_of_those_that_take_long(make_nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Busy(make_nodes, monkeypatch, turn_ms=10)
    for client in range(FIRST_CLIENT, FIRST_CLIENT + 40):
        busy.scan(client)
    for _ in range(45):
        busy.nodes.step()
    assert busy.open_reads.free <= 0
    busy.scan(FIRST_CLIENT + 50, microshards=HEADS)
    for _ in range(3):
        busy.nodes.step()
    [page] = busy.nodes.answers[10_000 + FIRST_CLIENT + 50]
    assert isinstance(page, ScanPage)


def test_where_memory_for_answers_is_short_there_is_one_at_a_time(
    make_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = Busy(make_nodes, monkeypatch, turn_ms=10)
    memory = busy.node.memory
    memory.add(Account.ANSWERS, memory.bound(Account.ANSWERS) * 9 // 10)
    asked = range(FIRST_CLIENT, FIRST_CLIENT + 5)
    for client in asked:
        busy.scan(client)
    for _ in range(5 * (PIECES + 3)):
        busy.nodes.step()
        assert busy.open_reads.count <= 1
    assert busy.answered(*asked) == 5


# -- how many at a time


class Readers:
    """Open readers of a client each, that have nothing so far."""

    def __init__(self, make_nodes: Any) -> None:
        self.memory = make_nodes().nodes["n1"].memory
        self.open = OpenReads(self.memory)

    def begin(self, client: int, now: int, *, promised: bool = False) -> PausedRead:
        queued = QueuedRead(client, Scan(1, 1, 1, 0, (), b"", b"", False, False, 1), [])
        read = PausedRead(Nobody(), queued, 0, self.open, self.memory)
        read.scan = Pieces()  # type: ignore[assignment]  # as much of one as is asked for here
        read.opened_at = now
        if promised:
            read.needs_place = True
            self.open.promise(read)
        read.pause(others_wait=False)
        return read


class Nobody:
    """Has admitted nothing."""

    def give_back(self, queued: QueuedRead) -> None: ...


class Pieces:
    """A page in the making that has come nowhere, or has rows."""

    def __init__(self, size: int = 0, *, has_rows: bool = False) -> None:
        self.size = size
        self.has_rows = has_rows

    def end(self) -> ScannedPage | None:
        return ScannedPage() if self.has_rows else None


def test_where_memory_for_answers_is_short_pages_end_where_they_have_come_to(make_nodes: Any) -> None:
    readers = Readers(make_nodes)
    bound = readers.memory.bound(Account.ANSWERS)
    reads = [readers.begin(client, now=0) for client in range(3)]
    for read in reads[:2]:
        read.scan = Pieces(bound // 2, has_rows=True)  # type: ignore[assignment]
        read.pause(others_wait=False)
    assert [(read.scan is None, read.page is None) for read in reads] == [(False, True), (True, False), (False, True)]
    assert readers.open.count == 2
    assert readers.memory.used(Account.ANSWERS) == bound // 2 * 2
    for read in reads:
        read.end()
    assert readers.memory.used(Account.ANSWERS) == 0


def test_the_one_that_is_open_for_longest_goes_on_and_half_of_all_let_go(make_nodes: Any) -> None:
    readers = Readers(make_nodes)
    reads = [readers.begin(client, now=client) for client in range(OPEN_AT_FIRST)]
    now = HELD_NS + OPEN_AT_FIRST
    for left in (4, 2, 1, 1, 1):
        readers.open.begin_turn(now)
        assert [read.scan is not None for read in reads] == [client < left for client in range(OPEN_AT_FIRST)]
        assert (readers.open.count, readers.open.places) == (left, left)
        now += HELD_NS
    assert all(read.needs_place for read in reads[1:])


def test_one_that_is_slower_than_others_takes_nobodys_place(make_nodes: Any) -> None:
    readers = Readers(make_nodes)
    slow = readers.begin(0, now=0)
    others = [readers.begin(client, now=HELD_NS - 1) for client in range(1, OPEN_AT_FIRST)]
    readers.open.begin_turn(HELD_NS)
    assert slow.scan is not None
    assert all(read.scan is not None for read in others)
    assert readers.open.places == OPEN_AT_FIRST


def test_there_may_be_more_while_as_many_as_there_may_be_are_answered_soon(make_nodes: Any) -> None:
    readers = Readers(make_nodes)
    reads = [readers.begin(client, now=0) for client in range(OPEN_AT_FIRST)]
    most = OPEN_AT_FIRST
    for number in range(10_000):
        read = reads.pop(0)
        readers.open.answered(read, SOON_NS if number % 2 else SOON_NS + 1)
        read.end()
        while readers.open.free > 0:
            reads.append(readers.begin(number + 100 * len(reads), now=0))
        assert most <= readers.open.places <= most + 1
        most = readers.open.places
    assert readers.open.places == readers.open.count == OPEN_OF_NODE


def test_who_waits_for_a_place_has_it_before_one_that_comes_now(make_nodes: Any) -> None:
    readers = Readers(make_nodes)
    for client in range(OPEN_AT_FIRST - 1):
        readers.begin(client, now=0)
    waits = readers.begin(20, now=0)
    readers.open.let_go_of(20)
    readers.open.promise(waits)
    assert readers.begin(21, now=0).needs_place
    again = readers.begin(20, now=0, promised=True)
    assert again.scan is not None
