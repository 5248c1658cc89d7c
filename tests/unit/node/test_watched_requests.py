"""The times of requests that somebody watches: they are noted whatever they took, and those of others are not."""

from __future__ import annotations

from typing import Any

from shoal.protocol.messages import Failure, Freshness, Put, Rows, Written
from shoal_server.node.counters import Served, TimedRequest

CLIENT = 1
"""The number that the test's client has at every node."""


class Watched:
    """Whatever comes from the client from now on; `timed` is what is noted of it."""

    def __init__(self, nodes: Any) -> None:
        self.timed: list[TimedRequest] = []
        self._step = nodes.step
        self._nodes = nodes
        for node in nodes.nodes.values():
            node.counters.watched = {(CLIENT, request) for request in range(1, 100)}
        nodes.step = self.step

    def step(self) -> None:
        self._step()
        for node in self._nodes.nodes.values():
            self.timed.extend(node.counters.take_timed())

    def of(self, request: int) -> TimedRequest:
        (timed,) = [each for each in self.timed if each.request == request]
        return timed


def test_a_watched_write_says_when_it_came_to_what_and_its_place_in_the_log(nodes: Any):
    assert isinstance(nodes.answer(nodes.write(Put(b"a", b"1"))), Written)
    watched = Watched(nodes)
    request = nodes.write(Put(b"a", b"2"))
    assert isinstance(nodes.answer(request), Written)
    timed = watched.of(request)
    group = nodes.replica(nodes.leader).group
    assert (timed.client, timed.shard, timed.outcome) == (CLIENT, 1, "")
    assert (timed.index, timed.term) == (group.log.last_index, group.term)
    assert 0 < timed.arrived <= timed.proposed <= timed.synced <= timed.settled <= nodes.now


def test_each_watched_write_of_one_log_entry_is_noted(nodes: Any):
    assert isinstance(nodes.answer(nodes.write(Put(b"a", b"1"))), Written)
    watched = Watched(nodes)
    first, second = nodes.write(Put(b"a", b"2")), nodes.write(Put(b"b", b"2"))
    nodes.answer(first)
    nodes.answer(second)
    assert [watched.of(each).requests for each in (first, second)] == [2, 2]
    assert watched.of(first).index == watched.of(second).index


def test_a_watched_fast_write_is_noted_when_it_is_answered(nodes: Any):
    assert isinstance(nodes.answer(nodes.write(Put(b"a", b"1"))), Written)
    watched = Watched(nodes)
    request = nodes.write(Put(b"a", b"2"), fast=True)
    assert isinstance(nodes.answer(request), Written)
    timed = watched.of(request)
    assert timed.proposed
    assert (timed.synced, timed.settled) == (0, 0)


def test_a_watched_read_is_noted_though_it_is_answered_at_once(nodes: Any):
    watched = Watched(nodes)
    request = nodes.read(nodes.leader, b"a", freshness=Freshness())
    assert isinstance(nodes.answer(request), Rows)
    timed = watched.of(request)
    assert (timed.served, timed.index, timed.settled >= timed.arrived > 0) == (Served.READ_STRONG, 0, True)


def test_a_watched_write_of_a_deposed_leader_is_noted_with_its_end(nodes: Any):
    assert isinstance(nodes.answer(nodes.write(Put(b"a", b"1"))), Written)
    watched = Watched(nodes)
    leader = nodes.leader
    request = nodes.write(Put(b"a", b"2"))
    nodes.isolate(leader)
    nodes.until(lambda: request in nodes.answers, 10_000)
    assert isinstance(nodes.answer(request), Failure)
    assert (watched.of(request).outcome, watched.of(request).settled) == ("not_leader", 0)


def test_what_nobody_watches_is_not_noted(nodes: Any):
    watched = Watched(nodes)
    for node in nodes.nodes.values():
        node.counters.watched = {(CLIENT + 1, request) for request in range(1, 100)}
    assert isinstance(nodes.answer(nodes.write(Put(b"a", b"1"))), Written)
    assert isinstance(nodes.answer(nodes.read(nodes.leader, b"a", freshness=Freshness())), Rows)
    assert watched.timed == []
