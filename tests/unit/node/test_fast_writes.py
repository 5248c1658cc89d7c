"""Writes that are acknowledged when the leader has queued them."""

from __future__ import annotations

from typing import Any

import pytest
from shoal.errors import ErrorCode
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    SESSION_WINDOW,
    Failure,
    Freshness,
    Increment,
    OpenSession,
    Put,
    Read,
    Rows,
    SessionOpened,
    Write,
    Written,
)
from shoal_server.node.settings import NodeSettings

SHARD = 1


def test_a_fast_write_is_answered_before_anybody_else_has_it(nodes: Any) -> None:
    nodes.answer(nodes.write(Put(b"k", b"old")))
    replica = nodes.replica(nodes.leader)
    request = nodes.write(Put(b"k", b"new"), fast=True)
    nodes.step()
    [written] = nodes.answers[request]
    assert isinstance(written, Written)
    assert written.seq == replica.machine.state.seq_base + replica.group.log.last_index
    assert replica.group.log.commit_index < replica.group.log.last_index
    nodes.pass_time(100)
    assert nodes.answers[request] == [written], "it is answered once"
    assert replica.machine.read([b"k"], replica.machine.route([b"k"]), 0)[:2] == ([b"new"], [written.seq])


def test_a_strong_read_behind_a_fast_write_sees_it(nodes: Any) -> None:
    nodes.answer(nodes.write(Put(b"k", b"old")))
    nodes.write(Put(b"k", b"new"), fast=True)
    strong = nodes.read(nodes.leader, b"k", freshness=Freshness())
    weak = nodes.read(nodes.leader, b"k", freshness=Freshness(strong=False))
    for request in (strong, weak):
        rows = nodes.answer(request)
        assert isinstance(rows, Rows)
        assert rows.values == [b"new"]


def test_a_read_that_waits_for_a_fast_write_is_refused_once_leadership_is_lost(nodes: Any) -> None:
    nodes.answer(nodes.write(Put(b"k", b"old")))
    leader = nodes.leader
    nodes.write(Put(b"k", b"new"), fast=True)
    read = nodes.read(leader, b"k", freshness=Freshness())
    nodes.isolate(leader)
    nodes.pass_time(5000)
    [refused] = nodes.answers[read]
    assert isinstance(refused, Failure)
    nodes.heal()
    nodes.pass_time(2000)
    assert nodes.answers[read] == [refused]


def test_a_fast_write_that_will_not_be_applied_is_not_acknowledged(nodes: Any) -> None:
    first = nodes.answer(nodes.write(Put(b"k", b"1"), number=1))
    nodes.answer(nodes.write(Put(b"k", b"2"), number=66))
    again = nodes.answer(nodes.write(Put(b"k", b"2"), number=66, fast=True))
    assert isinstance(again, Written)
    assert again.seq == first.seq + 1, "that of the first attempt"
    late = nodes.answer(nodes.write(Put(b"k", b"1"), number=2, fast=True))
    assert isinstance(late, Failure)
    assert (late.code, late.maybe_applied) == (ErrorCode.OUTCOME_UNKNOWN.value, True)
    nodes.forget_session()
    unknown = nodes.answer(nodes.write(Put(b"k", b"lost"), fast=True))
    assert isinstance(unknown, Failure)
    assert unknown.code == ErrorCode.SESSION_EXPIRED.value


def test_only_puts_and_deletes_may_be_fast(nodes: Any) -> None:
    refused = nodes.answer(nodes.write(Increment(b"n"), fast=True))
    assert isinstance(refused, Failure)
    assert refused.code == ErrorCode.INVALID_ARGUMENT.value


def stored(nodes: Any, key: bytes) -> tuple[bytes | None, int]:
    """The value of a key, read strongly once everything has settled, and its seq."""
    nodes.pass_time(100)
    rows = nodes.answer(nodes.read(nodes.leader, key, freshness=Freshness()))
    assert isinstance(rows, Rows)
    return rows.values[0], rows.seqs[0]


@pytest.mark.parametrize("openings_first", [True, False])
def test_a_fast_write_beside_openings_that_push_its_session_out_is_not_acknowledged_and_lost(
    make_nodes: Any, openings_first: bool
) -> None:
    nodes = make_nodes(NodeSettings(sessions_per_shard=2))
    nodes.answer(nodes.write(Put(b"k", b"before")))
    nodes.pass_time(50)
    for _ in range(2 if openings_first else 0):
        nodes.ask(nodes.leader, lambda request: OpenSession(request, SHARD))
    written = nodes.write(Put(b"k", b"fast"), fast=True)
    for _ in range(0 if openings_first else 2):
        nodes.ask(nodes.leader, lambda request: OpenSession(request, SHARD))
    answer = nodes.answer(written)
    if isinstance(answer, Written):
        assert stored(nodes, b"k") == (b"fast", answer.seq)
    else:
        assert answer.code == ErrorCode.SESSION_EXPIRED.value
        assert stored(nodes, b"k")[0] == b"before"
    assert isinstance(answer, Failure) is openings_first


def test_a_fast_write_that_is_repeated_before_it_is_applied_has_one_seq(nodes: Any) -> None:
    nodes.answer(nodes.write(Put(b"k", b"before")))
    nodes.pass_time(50)
    turns_apart = nodes.write(Put(b"k", b"v"), fast=True, number=2)
    nodes.step()
    again = nodes.write(Put(b"k", b"v"), fast=True, number=2)
    in_one_turn = nodes.write(Put(b"k", b"v"), fast=True, number=2)
    seqs = {nodes.answer(request).seq for request in (turns_apart, again, in_one_turn)}
    assert stored(nodes, b"k") == (b"v", seqs.pop())
    assert not seqs


@pytest.mark.parametrize("fast", [True, False])
def test_a_fast_write_behind_a_queued_one_that_takes_its_slot_is_not_acknowledged(nodes: Any, fast: bool) -> None:
    nodes.answer(nodes.write(Put(b"k", b"before")))
    nodes.pass_time(50)
    newer = nodes.write(Put(b"k", b"newer"), number=2 + SESSION_WINDOW, fast=fast)
    late = nodes.write(Put(b"k", b"late"), number=2, fast=True)
    assert isinstance(nodes.answer(late), Failure)
    assert stored(nodes, b"k") == (b"newer", nodes.answer(newer).seq)


def test_a_queued_write_is_remembered_behind_one_with_a_larger_number_that_is_applied_first(nodes: Any) -> None:
    for number in (1, 3):
        nodes.answer(nodes.write(Put(b"k", b"before"), number=number))
    nodes.pass_time(50)
    nodes.write(Put(b"k", b"last"), number=6)
    for _ in range(3):
        nodes.step()
    first = nodes.write(Put(b"k", b"v"), number=5)
    nodes.step()
    again = nodes.write(Put(b"k", b"v"), fast=True, number=5)
    nodes.step()
    last = nodes.write(Put(b"k", b"v"), fast=True, number=5)
    assert nodes.answer(first).seq == nodes.answer(again).seq == nodes.answer(last).seq


def test_fast_writes_that_follow_each_other_closely_are_all_acknowledged_at_once(nodes: Any) -> None:
    nodes.answer(nodes.write(Put(b"k", b"before")))
    nodes.pass_time(50)
    requests = []
    for turn in range(20):
        requests.append(nodes.write(Put(b"%d" % turn, b"fast"), fast=True))
        nodes.step()
        assert requests[-1] in nodes.answers
    assert all(stored(nodes, b"%d" % turn)[1] == nodes.answer(request).seq for turn, request in enumerate(requests))


def test_what_a_new_leader_has_not_applied_yet_is_certain_to_nobody(nodes: Any) -> None:
    """Its first turn may have a fast write in it, behind entries of the one before that it has still to apply."""
    nodes.answer(nodes.write(Put(b"k", b"before")))
    nodes.pass_time(50)
    old = nodes.leader
    opened = nodes.ask_and_wait(old, lambda request: OpenSession(request, SHARD))
    assert isinstance(opened, SessionOpened)
    body = encode_operations([Put(b"k", b"first")])
    for other in nodes.others:
        # Entries still reach them, but not that they are committed.
        nodes.cut.add((other, old))
    for _ in range(3):
        nodes.ask(old, lambda request: Write(request, SHARD, 1, opened.session, 1, 1000, body))
        nodes.step()
    nodes.isolate(old)
    others = [name for name in nodes.nodes if name != old]
    requests: list[int] = []

    def acknowledged() -> list[Written]:
        answers = [answer for request in requests for answer in nodes.answers.get(request, [])]
        return [answer for answer in answers if isinstance(answer, Written)]

    while not acknowledged():
        requests += [
            nodes.ask(name, lambda request: Write(request, SHARD, 1, opened.session, 1, 1000, body, True))
            for name in others
        ]
        nodes.step()
        assert len(requests) < 100_000
    nodes.pass_time(100)
    [leader] = [name for name in others if nodes.replica(name).group.is_leader]
    rows = nodes.answer(nodes.ask(leader, lambda request: Read(request, SHARD, 1, 1000, [b"k"])))
    assert (rows.values, rows.seqs) == ([b"first"], [acknowledged()[0].seq])
    assert len({answer.seq for answer in acknowledged()}) == 1
