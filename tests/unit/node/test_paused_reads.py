"""A page that a turn has no time for goes on in others: of the state when it was begun, and for no longer than it may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from shoal.errors import ErrorCode
from shoal.protocol.messages import Failure, Freshness, Put, Read, Rows, Scan, ScanPage, TransferLeader
from shoal.shardmap import MicroshardRange
from shoal_server.node.paused_reads import HELD_NS, OPEN_OF_CLIENT, OPEN_OF_NODE
from shoal_server.node.settings import NodeSettings
from shoal_server.storage.replica_failure import FailureKind, ReplicaFailure

from .conftest import OneNode

MS = 1_000_000
ROWS = 300
EVERYTHING = (MicroshardRange(0, 4),)
WEAK = Freshness(strong=False)


def scan(number: int, timeout_ms: int = 0, freshness: Freshness | None = None, *, reverse: bool = False) -> Scan:
    level = {} if freshness is None else {"freshness": freshness}
    return Scan(number, 1, 1, timeout_ms, EVERYTHING, b"", b"", reverse, False, 1000, **level)


def read(number: int) -> Read:
    return Read(number, 1, 1, 0, [b"key0000"])


class Served(OneNode):
    """A node on which pages are made in small pieces; other nodes stand still."""

    def __init__(self, make_nodes: Any, name: Callable[[Any], str] = lambda nodes: str(nodes.leader)) -> None:
        # Several rows a turn: there would be thousands of turns otherwise.
        nodes = make_nodes(NodeSettings(page_piece_us=40))
        for at in range(0, ROWS, 100):
            nodes.answer(nodes.write(*(Put(b"key%04d" % number, b"old") for number in range(at, at + 100))))
        super().__init__(nodes, name(nodes))

    def turn(self, milliseconds: int = 1) -> bool:
        """Take a turn of this node alone; return whether it answered anybody."""
        return bool(self.take_turn(milliseconds))

    def page(self, client: int, turns: int = 2000) -> ScanPage:
        """Take turns until a client has the page that it asked for."""
        for _ in range(turns):
            if client in self.answers:
                [page] = self.answers.pop(client)
                assert isinstance(page, ScanPage), page
                return page
            assert self.turn() or self.wake_at <= self.nodes.now, "the next turn goes on at once"
        raise AssertionError("there is no page")

    @property
    def open(self) -> int:
        length, _ = self.node.queues()["reads_open"]
        return length


@pytest.fixture
def served(make_nodes: Any) -> Served:
    return Served(make_nodes)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_page_takes_many_turns_in_each_of_which_others_are_served(served: Served, reverse: bool) -> None:
    served.send(7, scan(1, reverse=reverse))
    turns = 0
    while 7 not in served.answers:
        served.send(8, read(turns))
        served.turn()
        turns += 1
        assert len(served.answers[8]) == turns
    assert turns > 10
    [page] = served.answers[7]
    assert isinstance(page, ScanPage)
    assert page.keys == sorted((b"key%04d" % number for number in range(ROWS)), reverse=reverse)
    assert served.open == 0


def test_a_page_is_of_the_state_when_it_was_begun_and_has_its_seq(served: Served) -> None:
    nodes = served.nodes
    before = nodes.answer(nodes.write(Put(b"key0001", b"old"))).seq
    served.send(7, scan(1))
    served.turn()
    later = nodes.answer(nodes.write(*(Put(b"key%04d" % number, b"new") for number in range(ROWS)))).seq
    assert nodes.nodes[served.name] is served.node
    # The turns of those writes have gone on with it, too.
    page = served.page(7) if 7 in served.answers else nodes_page(served)
    assert page.values == [b"old"] * ROWS
    assert page.seq == before < later
    served.send(7, scan(2))
    page = served.page(7)
    assert page.values == [b"new"] * ROWS
    assert page.seq == later


def nodes_page(served: Served) -> ScanPage:
    """Return the page that a client got in turns of all nodes, or has it made."""
    for answers in served.nodes.answers.values():
        for answer in answers:
            if isinstance(answer, ScanPage):
                return answer
    return served.page(7)


def test_one_client_has_its_gets_beside_its_own_pages(served: Served) -> None:
    served.send(7, scan(1))
    served.turn()
    served.send(7, read(2))
    served.turn()
    assert isinstance(served.answers[7][0], Rows)


def test_what_its_caller_does_not_wait_for_any_more_ends(served: Served) -> None:
    served.send(7, scan(1, timeout_ms=5))
    served.turn()
    assert served.open == 1
    served.turn(6)
    [answer] = served.answers[7]
    assert isinstance(answer, Failure)
    assert (answer.code, answer.maybe_applied) == (ErrorCode.DEADLINE_EXCEEDED, False)
    assert served.open == 0


def test_what_a_client_asked_who_is_gone_ends(served: Served) -> None:
    served.send(7, scan(1))
    served.turn()
    served.node.client_gone(7)
    assert served.open == 0
    served.turn()
    assert not served.answers
    assert served.node.queues()["client_requests_waiting"] == (0, 0)


def test_readers_that_are_open_are_few_for_each_client_and_for_all(served: Served) -> None:
    clients = range(100, 100 + OPEN_OF_NODE // OPEN_OF_CLIENT + 5)
    most = 0
    for client in clients:
        served.send(client, *(scan(number) for number in range(OPEN_OF_CLIENT + 3)))
        served.turn()
        most = max(most, served.open)
        if client == clients[0]:
            assert served.open <= OPEN_OF_CLIENT
    assert most <= OPEN_OF_NODE
    for _ in range(20_000):
        if sum(map(len, served.answers.values())) == len(clients) * (OPEN_OF_CLIENT + 3):
            break
        served.turn(0)
        assert served.open <= OPEN_OF_NODE
    for client in clients:
        assert all(len(page.keys) == ROWS for page in served.answers[client] if isinstance(page, ScanPage))
        assert len(served.answers[client]) == OPEN_OF_CLIENT + 3


def test_a_reader_that_was_open_for_too_long_is_closed_and_the_page_ends_where_it_is(served: Served) -> None:
    served.send(7, scan(1))
    for _ in range(5):
        served.turn()
    served.turn(HELD_NS // MS)
    assert served.open == 0
    page = served.page(7)
    assert 0 < len(page.keys) < ROWS
    assert page.resume == page.keys[-1] + b"\0"


def test_a_page_that_was_begun_in_vain_is_begun_anew(make_nodes: Any) -> None:
    served = Served(make_nodes)
    served.send(7, scan(1))
    served.turn()
    # Nothing is merged before every microshard's first row is known: so far there is nothing to give.
    [paused] = [waiting.paused for waiting in all_paused(served)]
    paused.let_go()
    assert paused.page is None or paused.page.keys
    assert served.page(7).keys


def all_paused(served: Served) -> list[Any]:
    queue = served.node._client_input.queue.data
    return [waiting for flows in queue._by_client.values() for flow in flows.values() for waiting in flow.paused]


def test_a_client_that_reads_no_answers_holds_nothing_open(served: Served) -> None:
    served.send(7, scan(1))
    for _ in range(5):
        served.turn()
    assert served.open == 1
    served.node.client_is_behind(7, True)
    assert served.open == 0
    served.turn()
    assert 7 not in served.answers
    served.node.client_is_behind(7, False)
    assert 0 < len(served.page(7).keys) < ROWS


def test_a_page_of_a_replica_that_has_failed_is_refused(served: Served) -> None:
    served.send(7, scan(1))
    served.turn()
    replica = served.node.replicas[1]
    served.node.failing.fail(replica, ReplicaFailure(FailureKind.DIVERGED, "it has other rows", 1), served.nodes.now)
    while 7 not in served.answers:
        served.turn(50)
    [answer] = served.answers[7]
    assert isinstance(answer, Failure)
    assert served.open == 0


def test_a_page_that_was_begun_is_finished_by_one_that_leads_no_more(served: Served) -> None:
    nodes = served.nodes
    served.send(7, scan(1))
    served.turn()
    nodes.ask(served.name, lambda number: TransferLeader(number, 1, nodes.others[0], 5_000))
    nodes.until(lambda: not served.node.groups[1].is_leader)
    assert served.open == 1
    assert len(served.page(7).keys) == ROWS


def test_a_weak_page_pauses_where_the_replica_follows(make_nodes: Any) -> None:
    served = Served(make_nodes, lambda nodes: str(nodes.others[0]))
    served.nodes.ask_and_wait(served.name, lambda number: Read(number, 1, 1, 0, [b"key0000"], WEAK))
    served.send(7, scan(1, freshness=WEAK))
    served.turn()
    assert served.open == 1
    assert len(served.page(7).keys) == ROWS
