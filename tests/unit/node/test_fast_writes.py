"""Writes that are acknowledged when the leader has queued them."""

from __future__ import annotations

from typing import Any

from shoal.errors import ErrorCode
from shoal.protocol.messages import Failure, Freshness, Increment, Put, Rows, Written


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
